use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::auth::signing_keys::Key;
use crate::clock::Random;
use crate::db::Db;
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

async fn signer(keys: &SigningKeys) -> Arc<Key> {
    keys.signer(NOW).await.unwrap()
}

/// Returns a token signed with our key, with changed header and claims.
fn forge(key: &Key, change: impl FnOnce(&mut Header, &mut Value)) -> String {
    let (mut header, mut claims) = (header(&key.kid), serde_json::to_value(claims()).unwrap());
    change(&mut header, &mut claims);
    jsonwebtoken::encode(&header, &claims, &key.encoding).unwrap()
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

#[tokio::test]
async fn a_token_is_valid_until_it_expires() {
    let (_dir, _db, keys) = keys().await;
    let token = sign(&keys, &claims(), NOW).await.unwrap();
    assert_eq!(verify(&keys, &token, NOW).await.unwrap(), claims());
    assert!(verify(&keys, &token, NOW.plus(LIFETIME - Duration::from_secs(1))).await.is_ok());
    assert!(verify(&keys, &token, NOW.plus(LIFETIME)).await.is_err(), "no leeway");
}

#[tokio::test]
async fn nodes_that_start_together_share_the_first_key() {
    let (_dir, db, keys) = keys().await;
    let (one, two) =
        tokio::join!(SigningKeys::open(&db, &Random::System, NOW), SigningKeys::open(&db, &Random::System, NOW));
    let token = sign(&one.unwrap(), &claims(), NOW).await.unwrap();
    assert!(verify(&keys, &token, NOW).await.is_ok());
    assert!(verify(&two.unwrap(), &token, NOW).await.is_ok());
}

#[tokio::test]
async fn a_token_that_differs_in_any_part_is_refused() {
    let (_dir, _db, keys) = keys().await;
    let good = sign(&keys, &claims(), NOW).await.unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let payload = part(&serde_json::to_value(claims()).unwrap());
    let key = signer(&keys).await;
    let kid = key.kid.as_str();
    let public = key.decoding.try_get_as_bytes().unwrap().to_vec();
    let hs256 = {
        let header = Header { alg: Algorithm::HS256, ..header(kid) };
        jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&public)).unwrap()
    };
    let (_other_dir, _other_db, others) = self::keys().await;
    let other = signer(&others).await;
    // A key pair of the attacker, in each place in which a token can bring its own key.
    let jwk: Jwk = serde_json::from_value(json!({
        "kty": "OKP", "crv": "Ed25519", "kid": other.kid, "x": URL_SAFE_NO_PAD.encode(other.decoding.try_get_as_bytes().unwrap()),
    }))
    .unwrap();
    let none = |alg: &str| format!("{}.{payload}.", part(&json!({ "alg": alg, "typ": TYPE, "kid": kid })));
    let unsigned = format!("{}.{payload}.", part(&json!({ "alg": "EdDSA", "typ": TYPE, "kid": kid })));
    let renamed =
        |alg: &str| format!("{}.{payload}.{signature}", part(&json!({ "alg": alg, "typ": TYPE, "kid": kid })));
    let truncated: String = good.chars().take(good.len() - 4).collect();
    let now = NOW.as_secs();
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
        ("another installation's key", sign(&others, &claims(), NOW).await.unwrap()),
        ("another installation's key under our kid", forge(&other, |header, _| header.kid = Some(kid.to_owned()))),
        ("a key in the header", forge(&other, |header, _| header.jwk = Some(jwk.clone()))),
        ("a key in the header, under our kid", {
            forge(&other, |header, _| (header.jwk, header.kid) = (Some(jwk.clone()), Some(kid.to_owned())))
        }),
        ("the URL of a key", forge(&other, |header, _| header.jku = Some("http://127.0.0.1:1/jwks.json".to_owned()))),
        ("the URL of a certificate", forge(&other, |header, _| header.x5u = Some("http://127.0.0.1:1/x".to_owned()))),
        ("a certificate", forge(&other, |header, _| header.x5c = Some(vec!["AAAA".to_owned()]))),
        (
            "our key and the URL of another",
            forge(&key, |header, _| header.jku = Some("http://127.0.0.1:1/".to_owned())),
        ),
        ("our key and a critical extension", forge(&key, |header, _| header.crit = Some(vec!["b64".to_owned()]))),
        ("our key and an unknown member", forge(&key, |header, _| header.extras.insert("b64", false))),
        ("our key and a content type", forge(&key, |header, _| header.cty = Some("JWT".to_owned()))),
        ("a file as kid", forge(&key, |header, _| header.kid = Some("../../../../dev/null".to_owned()))),
        ("SQL as kid", forge(&key, |header, _| header.kid = Some(format!("{kid}' OR '1'='1")))),
        ("an empty kid", forge(&key, |header, _| header.kid = Some(String::new()))),
        ("our signature as RS256", renamed("RS256")),
        ("our signature as HS256", renamed("HS256")),
        ("our signature as ES256", renamed("ES256")),
        ("an algorithm in other letters", renamed("eddsa")),
        ("no kid", forge(&key, |header, _| header.kid = None)),
        ("type JWT", forge(&key, |header, _| header.typ = Some("JWT".to_owned()))),
        ("no type", forge(&key, |header, _| header.typ = None)),
        ("another audience", forge(&key, |_, claims| claims["aud"] = json!("reset"))),
        ("no audience", forge(&key, |_, claims| drop(claims.as_object_mut().unwrap().remove("aud")))),
        ("no expiry", forge(&key, |_, claims| drop(claims.as_object_mut().unwrap().remove("exp")))),
        ("no session", forge(&key, |_, claims| drop(claims.as_object_mut().unwrap().remove("sid")))),
        ("a subject that is no identifier", forge(&key, |_, claims| claims["sub"] = json!("a@example.com"))),
        ("a subject that is no text", forge(&key, |_, claims| claims["sub"] = json!(7))),
        ("an expiry that is no number", forge(&key, |_, claims| claims["exp"] = json!("never"))),
        ("expired", forge(&key, |_, claims| claims["exp"] = json!(now))),
        ("long expired", forge(&key, |_, claims| claims["exp"] = json!(0))),
        ("a negative expiry", forge(&key, |_, claims| claims["exp"] = json!(-1))),
        ("no time of issue", forge(&key, |_, claims| drop(claims.as_object_mut().unwrap().remove("iat")))),
        ("issued in the future", forge(&key, |_, claims| claims["iat"] = json!(now + 61))),
        ("valid in the future", forge(&key, |_, claims| claims["nbf"] = json!(now + 61))),
        ("a list of subjects", forge(&key, |_, claims| claims["sub"] = json!([claims["sub"]]))),
        ("endless", "x".repeat(MAX_LEN + 1)),
    ];
    assert!(verify(&keys, &forge(&key, |_, _| {}), NOW).await.is_ok(), "an unchanged forgery is valid");
    for (name, token) in cases {
        let error = verify(&keys, &token, NOW).await.expect_err(name);
        assert_eq!(error.code(), &crate::error::code::INVALID_TOKEN, "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_verification_panic(text in "[A-Za-z0-9._=-]{0,200}") {
        proptest::prop_assert!(key_id(&text).is_err());
    }
}
