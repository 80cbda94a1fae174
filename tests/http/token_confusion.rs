//! Attacks on tokens: kinds of tokens in each other's place, keys that a token brings with it, and races of refreshes.

use std::time::Duration;

use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};

use super::{invalid_token, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, TestHost, both};

both! {
    a_token_of_one_kind_is_refused_in_the_place_of_another => Setup::default().with_items(),
    a_token_cannot_bring_its_own_key => Setup::default().with_items(),
    ten_refreshes_at_once_keep_one_family => Setup::default().with_manual_clock(),
    a_session_that_ends_during_refreshes_stays_ended,
}

async fn refresh(client: &Client, token: &str) -> crate::support::TestResponse {
    client.post("/login/refresh-token", &json!({ "refresh_token": token })).await
}

async fn a_token_of_one_kind_is_refused_in_the_place_of_another(host: &TestHost) {
    let tokens = host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    let body = json!({ "name": "ci", "permissions": ["users:read", "routes:call"] });
    let key = host.superuser().post("/users/me/keys", &body).await.ok();
    host.anonymous().request(Method::POST, &format!("/password-recovery/{SUPERUSER}")).send().await.ok();
    let mailed = host.mails().take(SUPERUSER).await.reset_token();
    let session = host.superuser().get("/users/me/sessions").await.ok();
    let kinds = [
        ("access token", text(&tokens, "access_token")),
        ("refresh token", text(&tokens, "refresh_token")),
        ("API key", text(&key, "key")),
        ("reset token", &mailed),
        ("session id", text(&session["data"][0], "id")),
        ("key id", text(&key, "id")),
        ("key prefix", text(&key, "prefix")),
        ("password", PASSWORD),
    ];
    for (kind, token) in kinds {
        eprintln!("{kind}");
        if !["access token", "API key"].contains(&kind) {
            for path in ["/users/me", "/users/", "/items/", "/plugins/"] {
                invalid_token(&host.anonymous().with_token(token).get(path).await);
            }
        }
        if kind != "refresh token" {
            invalid_token(&refresh(&host.anonymous(), token).await);
        }
        if kind != "reset token" {
            let body = json!({ "token": token, "new_password": "another horse" });
            let reset = host.anonymous().post("/reset-password/", &body).await;
            reset.is_problem(400, "invalid_reset_token", "Invalid token");
        }
        if kind != "password" {
            let signed_in = host.anonymous().sign_in(SUPERUSER, token).await;
            signed_in.is_problem(400, "incorrect_credentials", "Incorrect email or password");
        }
    }
    // Each still works in its own place.
    host.anonymous().with_token(text(&tokens, "access_token")).get("/users/me").await.ok();
    host.anonymous().with_token(text(&key, "key")).get("/users/me").await.ok();
    refresh(&host.anonymous(), text(&tokens, "refresh_token")).await.ok();
    let body = json!({ "token": mailed, "new_password": "another horse" });
    host.anonymous().post("/reset-password/", &body).await.has_message("Password updated successfully");
}

async fn a_token_cannot_bring_its_own_key(host: &TestHost) {
    let good = host.superuser().token();
    let ours = jsonwebtoken::decode_header(good).unwrap();
    let claims: Value = jsonwebtoken::dangerous::insecure_decode(good).unwrap().claims;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let attacker = EncodingKey::from_ed_der(&pair.serialize_der());
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(json!({
        "kty": "OKP", "crv": "Ed25519", "kid": "attacker", "x": super::tokens::encoded_bytes(pair.public_key_raw()),
    }))
    .unwrap();
    let own_kid = Some("attacker".to_owned());
    let server =
        crate::support::remote::Remote::start(|_| crate::support::remote::Reply::of(200, "{\"keys\":[]}")).await;
    let url = Some(server.url("/jwks.json"));
    let headers = [
        ("our kid", ours.clone()),
        ("its own kid", Header { kid: own_kid.clone(), ..ours.clone() }),
        ("jwk", Header { kid: own_kid.clone(), jwk: Some(jwk.clone()), ..ours.clone() }),
        ("jwk with our kid", Header { jwk: Some(jwk), ..ours.clone() }),
        ("jku", Header { kid: own_kid.clone(), jku: url.clone(), ..ours.clone() }),
        ("jku with our kid", Header { jku: url.clone(), ..ours.clone() }),
        ("x5u", Header { kid: own_kid, x5u: url, ..ours.clone() }),
        ("a path as kid", Header { kid: Some("../../dev/null".to_owned()), ..ours.clone() }),
        ("SQL as kid", Header { kid: Some("x' OR 1=1 --".to_owned()), ..ours.clone() }),
        ("a NUL in kid", Header { kid: Some("\0".to_owned()), ..ours.clone() }),
        ("no kid", Header { kid: None, ..ours.clone() }),
    ];
    for (what, header) in headers {
        eprintln!("{what}");
        let token = jsonwebtoken::encode(&header, &claims, &attacker).unwrap();
        for path in ["/users/me", "/users/", "/items/"] {
            invalid_token(&host.anonymous().with_token(&token).get(path).await);
        }
    }
    assert_eq!(server.accepted(), 0, "the host fetches no key");
    // A published key is no secret of HMAC.
    let set = host.anonymous().plain(Method::GET, "/.well-known/jwks.json").send().await.ok();
    let public = &set["keys"][0];
    for secret in
        [text(public, "x").as_bytes().to_vec(), public.to_string().into_bytes(), b"changethis".to_vec(), vec![]]
    {
        let header = Header { alg: Algorithm::HS256, ..ours.clone() };
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&secret)).unwrap();
        invalid_token(&host.anonymous().with_token(&token).get("/users/me").await);
    }
    host.superuser().get("/users/me").await.ok();
}

async fn ten_refreshes_at_once_keep_one_family(host: &TestHost) {
    host.sign_up("jane@example.com").await.ok();
    let first = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    let old = text(&first, "refresh_token");
    host.clock().advance(Duration::from_secs(60));
    let clients: Vec<Client> = (0..10).map(|_| host.anonymous()).collect();
    let responses = join_all(clients.iter().map(|client| refresh(client, old))).await;
    let next: Vec<Value> = responses.iter().map(|response| response.ok()).collect();
    let survivor = text(&next[0], "refresh_token");
    for tokens in &next {
        assert_eq!(text(tokens, "refresh_token"), survivor, "one family survives");
    }
    let jane = host.anonymous().with_token(text(&next[9], "access_token"));
    assert_eq!(jane.get("/users/me/sessions").await.ok()["count"], 1);
    let last = refresh(&host.anonymous(), survivor).await.ok();
    jane.get("/users/me").await.ok();
    // After the grace, the old token reveals a theft, and the family ends at the next request of everybody in it.
    host.clock().advance(Duration::from_secs(60));
    let thieves = join_all(clients.iter().map(|client| refresh(client, old))).await;
    thieves.iter().for_each(invalid_token);
    invalid_token(&refresh(&host.anonymous(), text(&last, "refresh_token")).await);
    invalid_token(&jane.get("/users/me").await);
    invalid_token(&host.anonymous().with_token(text(&last, "access_token")).get("/users/me").await);
}

async fn a_session_that_ends_during_refreshes_stays_ended(host: &TestHost) {
    host.sign_up("jane@example.com").await.ok();
    for _ in 0..5 {
        let tokens = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
        let jane = host.anonymous().with_token(text(&tokens, "access_token"));
        let anonymous = host.anonymous();
        let (signed_out, refreshed) = tokio::join!(
            jane.request(Method::POST, "/login/logout").send(),
            refresh(&anonymous, text(&tokens, "refresh_token"))
        );
        signed_out.has_message("Logged out successfully");
        invalid_token(&jane.get("/users/me").await);
        if refreshed.status == 200 {
            let tokens = refreshed.ok();
            invalid_token(&host.anonymous().with_token(text(&tokens, "access_token")).get("/users/me").await);
            invalid_token(&refresh(&anonymous, text(&tokens, "refresh_token")).await);
        }
    }
}
