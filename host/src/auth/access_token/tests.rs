use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::db::tests::sqlite;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const LIFETIME: Duration = Duration::from_secs(60);

async fn keys() -> (tempfile::TempDir, Db, SigningKeys) {
    let (dir, db) = sqlite().await;
    let keys = SigningKeys::open(&db, &Random::System, NOW).await.unwrap();
    (dir, db, keys)
}

fn claims() -> Claims {
    Claims::new(UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)), NOW, LIFETIME)
}

/// Returns a token signed with our key, with changed header and claims.
fn forge(keys: &SigningKeys, change: impl FnOnce(&mut Header, &mut Value)) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(keys.signing.kid.clone());
    let mut claims = serde_json::to_value(claims()).unwrap();
    change(&mut header, &mut claims);
    jsonwebtoken::encode(&header, &claims, &keys.signing.encoding).unwrap()
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

#[tokio::test]
async fn a_token_is_valid_until_it_expires() {
    let (_dir, _db, keys) = keys().await;
    let token = keys.sign(&claims()).unwrap();
    assert_eq!(keys.verify(&token, NOW).unwrap(), claims());
    assert!(keys.verify(&token, NOW.plus(LIFETIME - Duration::from_secs(1))).is_ok());
    assert!(keys.verify(&token, NOW.plus(LIFETIME)).is_err(), "no leeway");
}

#[tokio::test]
async fn nodes_that_start_together_share_the_first_key() {
    let (_dir, db, keys) = keys().await;
    let (one, two) =
        tokio::join!(SigningKeys::open(&db, &Random::System, NOW), SigningKeys::open(&db, &Random::System, NOW));
    let token = one.unwrap().sign(&claims()).unwrap();
    assert!(keys.verify(&token, NOW).is_ok());
    assert!(two.unwrap().verify(&token, NOW).is_ok());
}

#[tokio::test]
async fn a_token_that_differs_in_any_part_is_refused() {
    let (_dir, _db, keys) = keys().await;
    let good = keys.sign(&claims()).unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let payload = part(&serde_json::to_value(claims()).unwrap());
    let kid = keys.signing.kid.as_str();
    let public = keys.signing.decoding.try_get_as_bytes().unwrap().to_vec();
    let hs256 = {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&public)).unwrap()
    };
    let (_other_dir, _other_db, others) = self::keys().await;
    let none = |alg: &str| format!("{}.{payload}.", part(&json!({ "alg": alg, "typ": TYPE, "kid": kid })));
    let unsigned = format!("{}.{payload}.", part(&json!({ "alg": "EdDSA", "typ": TYPE, "kid": kid })));
    let truncated: String = good.chars().take(good.len() - 4).collect();
    let cases = [
        ("empty", String::new()),
        ("garbage", "a.b.c".to_owned()),
        ("dots", "..".to_owned()),
        ("truncated", truncated),
        ("no signature", head.to_owned()),
        ("empty signature", format!("{head}.")),
        ("the signature of another payload", {
            let mut changed = claims();
            changed.sub = UserId(Uuid::from_u128(9));
            format!("{}.{}.{signature}", head.split('.').next().unwrap(), part(&serde_json::to_value(changed).unwrap()))
        }),
        ("none", none("none")),
        ("None", none("None")),
        ("unsigned", unsigned),
        ("HS256 with the public key", hs256),
        ("another installation's key", others.sign(&claims()).unwrap()),
        ("another installation's key under our kid", {
            let mut header = Header::new(Algorithm::EdDSA);
            header.typ = Some(TYPE.to_owned());
            header.kid = Some(kid.to_owned());
            jsonwebtoken::encode(&header, &claims(), &others.signing.encoding).unwrap()
        }),
        ("no kid", forge(&keys, |header, _| header.kid = None)),
        ("type JWT", forge(&keys, |header, _| header.typ = Some("JWT".to_owned()))),
        ("no type", forge(&keys, |header, _| header.typ = None)),
        ("another audience", forge(&keys, |_, claims| claims["aud"] = json!("reset"))),
        ("no audience", forge(&keys, |_, claims| drop(claims.as_object_mut().unwrap().remove("aud")))),
        ("no expiry", forge(&keys, |_, claims| drop(claims.as_object_mut().unwrap().remove("exp")))),
        ("no session", forge(&keys, |_, claims| drop(claims.as_object_mut().unwrap().remove("sid")))),
        ("a subject that is no identifier", forge(&keys, |_, claims| claims["sub"] = json!("a@example.com"))),
        ("a subject that is no text", forge(&keys, |_, claims| claims["sub"] = json!(7))),
        ("an expiry that is no number", forge(&keys, |_, claims| claims["exp"] = json!("never"))),
        ("endless", "x".repeat(MAX_LEN + 1)),
    ];
    assert!(keys.verify(&forge(&keys, |_, _| {}), NOW).is_ok(), "an unchanged forgery is valid");
    for (name, token) in cases {
        let error = keys.verify(&token, NOW).expect_err(name);
        assert_eq!(error.code(), &crate::error::code::INVALID_TOKEN, "{name}");
    }
}

#[tokio::test]
async fn no_text_makes_verification_panic() {
    let (_dir, _db, keys) = keys().await;
    proptest::proptest!(|(text in "[A-Za-z0-9._=-]{0,200}")| {
        assert!(keys.verify(&text, NOW).is_err());
    });
}
