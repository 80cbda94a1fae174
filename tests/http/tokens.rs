//! Authentication of requests: missing, valid and invalid credentials.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};

use super::{PRIVILEGES, invalid_token, not_authenticated, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Component, TestHost, both};

both! {
    a_request_without_a_bearer_token_is_401_with_a_challenge => Setup::default().with_items(),
    a_token_with_a_foreign_signature_is_401 => Setup::default().with_items(),
    an_access_token_expires => Setup::default().with_manual_clock(),
    the_lifetime_of_access_tokens_is_a_setting
        => Setup::default().with_manual_clock().with(|config| config.auth.access_token_ttl = Duration::from_secs(90)),
    a_token_of_a_deleted_user_is_401 => Setup::default().with_items(),
    an_inactive_users_token_is_403_and_stays_revoked => Setup::default().with_items(),
    a_superuser_route_is_403_for_everybody_else,
}

async fn a_request_without_a_bearer_token_is_401_with_a_challenge(host: &TestHost) {
    let client = host.anonymous();
    for path in ["/users/me", "/users/", "/items/", "/items/not-a-uuid", "/users/not-a-uuid", "/plugins/"] {
        not_authenticated(&client.get(path).await);
        let basic = client.request(Method::GET, path).header("authorization", "Basic YTpi").send().await;
        not_authenticated(&basic);
    }
    let scheme = format!("bEaReR {}", host.superuser().token());
    client.request(Method::GET, "/users/me").header("authorization", &scheme).send().await.ok();
    // No other header or parameter carries a token.
    let cookie = format!("access_token={}", host.superuser().token());
    not_authenticated(&client.request(Method::GET, "/users/me").header("cookie", &cookie).send().await);
    let query = format!("/users/me?access_token={}", host.superuser().token());
    not_authenticated(&client.get(&query).await);
}

async fn a_token_with_a_foreign_signature_is_401(host: &TestHost) {
    let good = host.superuser().token();
    let parts: Vec<&str> = good.split('.').collect();
    let claims = decoded(parts[1]);
    let header = decoded(parts[0]);
    assert!(claims["exp"].is_i64() && claims["sub"].is_string(), "{claims}");

    // Signed with a forged key: once with a plain HS256 header, as the FastAPI full-stack template uses, and once with the
    // key id of this host in an HS256 header (algorithm confusion).
    let secret = EncodingKey::from_secret(b"changethis");
    let hs256 = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).unwrap();
    let mut typed = Header::new(Algorithm::HS256);
    typed.typ = header["typ"].as_str().map(ToOwned::to_owned);
    typed.kid = header["kid"].as_str().map(ToOwned::to_owned);
    let confused = jsonwebtoken::encode(&typed, &claims, &secret).unwrap();
    let with_header = |alg: &str, signature: &str| {
        let mut header = header.clone();
        header["alg"] = json!(alg);
        format!("{}.{}.{signature}", encoded(&header), parts[1])
    };
    let mut later = claims.clone();
    later["exp"] = json!(later["exp"].as_i64().unwrap() + 1);
    let mut somebody = claims.clone();
    somebody["sub"] = json!(uuid::Uuid::new_v4().to_string());
    let without_exp: Value = claims
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "exp")
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();

    for (what, token) in [
        ("empty", String::new()),
        ("a word", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("three words", "a.b.c".to_owned()),
        ("cut", good[..good.len() - 4].to_owned()),
        ("longer", format!("{good}AAAA")),
        ("very long", "x".repeat(20_000)),
        ("HS256", hs256),
        ("HS256 with our key's name", confused),
        ("none", with_header("none", "")),
        ("None with the old signature", with_header("None", parts[2])),
        ("another algorithm", with_header("RS256", parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("another signature", format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86))),
        ("another expiry", format!("{}.{}.{}", parts[0], encoded(&later), parts[2])),
        ("another user", format!("{}.{}.{}", parts[0], encoded(&somebody), parts[2])),
        ("no expiry", format!("{}.{}.{}", parts[0], encoded(&without_exp), parts[2])),
    ] {
        let client = host.anonymous().with_token(token);
        eprintln!("{what}");
        invalid_token(&client.get("/users/me").await);
        invalid_token(&client.get("/items/").await);
    }
    for header in ["Bearer", "bearer ", "Bearer \u{fc}"] {
        eprintln!("{header}");
        let request = host.anonymous().request(Method::GET, "/users/me").header("authorization", header);
        invalid_token(&request.send().await);
    }
    host.superuser().get("/users/me").await.ok();
}

async fn an_access_token_expires(host: &TestHost) {
    let tokens = host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    let client = host.anonymous().with_token(text(&tokens, "access_token"));
    let lifetime = Duration::from_secs(tokens["expires_in"].as_u64().unwrap());
    host.clock().advance(lifetime - Duration::from_secs(1));
    client.get("/users/me").await.ok();
    host.clock().advance(Duration::from_secs(1));
    invalid_token(&client.get("/users/me").await);
}

async fn the_lifetime_of_access_tokens_is_a_setting(host: &TestHost) {
    let tokens = host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    assert_eq!(tokens["expires_in"], 90);
    let client = host.anonymous().with_token(text(&tokens, "access_token"));
    client.get("/users/me").await.ok();
    host.clock().advance(Duration::from_secs(90));
    invalid_token(&client.get("/users/me").await);
}

async fn a_token_of_a_deleted_user_is_401(host: &TestHost) {
    let client = host.user("gone@example.com").await;
    let id = client.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
    client.get("/items/").await.ok();
    host.superuser().delete(&format!("/users/{id}")).await.has_message("User deleted successfully");
    invalid_token(&client.get("/users/me").await);
    invalid_token(&client.get("/items/").await);
}

async fn an_inactive_users_token_is_403_and_stays_revoked(host: &TestHost) {
    let client = host.user("sleepy@example.com").await;
    let path = format!("/users/{}", text(&client.get("/users/me").await.ok(), "id"));
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    client.get("/users/me").await.is_problem(403, "inactive_user", "Inactive user");
    client.get("/items/").await.is_problem(403, "inactive_user", "Inactive user");
    // On superuser routes, an inactive account is reported before missing privileges.
    client.get("/users/").await.is_problem(403, "inactive_user", "Inactive user");
    // The deactivation revoked the session, and reactivation does not restore it.
    host.superuser().patch(&path, &json!({ "is_active": true })).await.ok();
    invalid_token(&client.get("/users/me").await);
    host.anonymous().signed_in("sleepy@example.com", PASSWORD).await.get("/users/me").await.ok();
}

async fn a_superuser_route_is_403_for_everybody_else(host: &TestHost) {
    let client = host.user("plain@example.com").await;
    let refused = |response: crate::support::TestResponse| response.is_problem(403, "forbidden", PRIVILEGES);
    // The check comes before validation.
    refused(client.get("/users/?skip=-1").await);
    refused(client.post("/users/", &json!({ "email": 1 })).await);
    refused(client.patch("/users/not-a-uuid", &json!({ "email": 1 })).await);
    refused(client.delete("/users/not-a-uuid").await);
    refused(client.request(Method::POST, "/utils/test-email/?email_to=x").send().await);
    refused(client.request(Method::POST, "/password-recovery-html-content/admin@example.com").send().await);
    refused(client.get("/plugins/").await);
    refused(client.get("/plugins/items").await);
    refused(client.delete("/plugins/items").await);
    refused(client.deploy(&Component::hello().0, "").await);
}

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&base64(part)).unwrap()
}

/// Base64url without padding (RFC 4648, 5), written here because two functions do not justify a dependency.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64(text: &str) -> Vec<u8> {
    let digits = text.bytes().map(|byte| ALPHABET.iter().position(|one| *one == byte).unwrap());
    let (mut bytes, mut buffer, mut bits) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        buffer = buffer << 6 | u32::try_from(digit).unwrap();
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(buffer >> bits & 0xff).unwrap());
        }
    }
    bytes
}

fn encoded(value: &Value) -> String {
    encoded_bytes(value.to_string().as_bytes())
}

pub(super) fn encoded_bytes(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for index in 0..=chunk.len() {
            let digit = usize::try_from(number >> (18 - 6 * index) & 63).unwrap();
            text.push(char::from(ALPHABET[digit]));
        }
    }
    text
}
