//! Signing keys: the published key set, rotation with overlap, and the end of keys.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{PRIVILEGES, column, invalid_token, members, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, TestHost, TestResponse, both};

both! {
    another_service_verifies_a_token_by_the_published_keys,
    a_rotated_key_signs_after_an_overlap_and_the_old_one_verifies_its_last_token => Setup::default()
        .with_manual_clock()
        .with(|config| config.auth.access_token_ttl = Duration::from_secs(3600)),
    a_rotation_that_revokes_ends_every_access_token_and_no_session,
}

const MINUTE: Duration = Duration::from_secs(60);

async fn key_set(host: &TestHost) -> Value {
    host.anonymous().plain(Method::GET, "/.well-known/jwks.json").send().await.ok()
}

async fn rotate(client: &Client, query: &str) -> TestResponse {
    client.request(Method::POST, &format!("/signing-keys/rotate{query}")).send().await
}

/// Verifies a token as another service would: by the published keys and nothing else. Returns its claims.
async fn verified(host: &TestHost, token: &str) -> Option<Value> {
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(key_set(host).await).unwrap();
    let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(set.find(&kid)?).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&["wharf"]);
    // The clock of the host may be a manual one.
    validation.validate_exp = false;
    Some(jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims)
}

async fn another_service_verifies_a_token_by_the_published_keys(host: &TestHost) {
    let response = host.anonymous().plain(Method::GET, "/.well-known/jwks.json").send().await;
    assert_eq!(response.header("cache-control"), Some("public, max-age=300"));
    let set = response.ok();
    assert_eq!(members(&set), ["keys"]);
    let keys = set["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    // There is no private part (`d`).
    assert_eq!(members(&keys[0]), ["kty", "crv", "alg", "use", "kid", "x"]);
    let me = host.superuser().get("/users/me").await.ok();
    let claims = verified(host, host.superuser().token()).await.unwrap();
    assert_eq!(claims["sub"], me["id"]);

    let jane = host.user("jane@example.com").await;
    rotate(&jane, "").await.is_problem(403, "forbidden", PRIVILEGES);
    jane.get("/signing-keys/").await.is_problem(403, "forbidden", PRIVILEGES);
    assert_eq!(key_set(host).await, set);
}

async fn a_rotated_key_signs_after_an_overlap_and_the_old_one_verifies_its_last_token(host: &TestHost) {
    let old = host.superuser().clone();
    let sign_in = async || host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    let kid = |client: &Client| jsonwebtoken::decode_header(client.token()).unwrap().kid.unwrap();
    let states = async |client: &Client| {
        let list = client.get("/signing-keys/").await.ok();
        column(&list, "state").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let list = rotate(&old, "").await.ok();
    assert_eq!(column(&list, "state"), ["published", "signs"]);
    assert_eq!(text(&list["data"][0], "signs_from"), "2027-01-15T08:10:00.123456Z");
    assert_eq!(text(&list["data"][1], "expires_at"), "2027-01-15T09:11:00.123456Z");
    // It is published before it signs, so that caches of the key set know it in time.
    assert_eq!(key_set(host).await["keys"].as_array().unwrap().len(), 2);
    host.clock().advance(MINUTE * 9);
    let last = sign_in().await;
    assert_eq!(kid(&last), kid(&old));
    rotate(&last, "").await.is_problem(409, "signing_key_overlap", "The newest signing key does not sign yet");
    host.clock().advance(MINUTE);
    let new = sign_in().await;
    assert_eq!(kid(&new), text(&list["data"][0], "kid"));
    assert_eq!(states(&new).await, ["signs", "verifies"]);
    for client in [&old, &last, &new] {
        client.get("/users/me").await.ok();
        assert!(verified(host, client.token()).await.is_some());
    }
    // The last token of the old key ends before the old key does.
    host.clock().advance(MINUTE * 58);
    last.get("/users/me").await.ok();
    let newer = sign_in().await;
    host.clock().advance(MINUTE * 3);
    invalid_token(&last.get("/users/me").await);
    assert_eq!(states(&newer).await, ["signs"]);
    assert!(verified(host, last.token()).await.is_none(), "the old key is not published any more");
}

async fn a_rotation_that_revokes_ends_every_access_token_and_no_session(host: &mut TestHost) {
    let tokens = host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    let superuser = host.anonymous().with_token(text(&tokens, "access_token"));
    let key = json!({ "name": "ci", "permissions": ["users:read"] });
    let key = superuser.post("/users/me/keys", &key).await.ok();
    let machine = host.anonymous().with_token(text(&key, "key"));
    superuser.get("/users/me").await.ok();
    let list = rotate(&superuser, "?revoke_old=true").await.ok();
    assert_eq!(column(&list, "state"), ["signs"]);
    // A cached token is refused too.
    invalid_token(&superuser.get("/users/me").await);
    invalid_token(&host.superuser().get("/users/me").await);
    assert!(verified(host, superuser.token()).await.is_none());
    machine.get("/users/").await.ok();
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    let tokens = host.anonymous().post("/login/refresh-token", &refresh).await.ok();
    let superuser = host.anonymous().with_token(text(&tokens, "access_token"));
    superuser.get("/users/me").await.ok();
    // It is as after a start.
    host.restart().await;
    let superuser = host.anonymous().with_token(superuser.token());
    superuser.get("/users/me").await.ok();
    assert_eq!(column(&superuser.get("/signing-keys/").await.ok(), "state"), ["signs"]);
}
