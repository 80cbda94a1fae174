//! Signing in and out, and refreshing.

use std::time::Duration;

use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::json;

use super::{USER, invalid_token, members, not_authenticated, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{TestHost, both};

const PATH: &str = "/login/access-token";

both! {
    signing_in_returns_a_token_pair,
    every_form_of_a_password_is_the_same_password,
    a_sign_in_that_fails_is_400,
    a_sign_in_form_is_validated_for_every_content_type,
    a_multipart_form_that_cannot_be_read_is_400,
    test_token_returns_the_account_of_the_token,
    concurrent_refreshes_return_the_same_refresh_token => Setup::default().with_manual_clock(),
    signing_out_ends_the_session_at_once,
    a_refresh_replaces_both_tokens => Setup::default().with_manual_clock(),
    a_reused_refresh_token_ends_its_session => Setup::default().with_manual_clock(),
    a_session_that_is_not_refreshed_ends => Setup::default().with_manual_clock(),
}

async fn signing_in_returns_a_token_pair(host: &TestHost) {
    let client = host.anonymous();
    let response = client.sign_in(SUPERUSER, PASSWORD).await;
    let tokens = response.ok();
    assert_eq!(members(&tokens), ["access_token", "token_type", "expires_in", "refresh_token"]);
    assert_eq!((text(&tokens, "token_type"), tokens["expires_in"].as_u64()), ("bearer", Some(8 * 24 * 3600)));
    assert_eq!(response.header("cache-control"), Some("no-store"));

    // The address in another case, every field of the password flow, and the path with a trailing slash.
    let fields = [
        ("grant_type", "password"),
        ("username", "ADMIN@Example.COM"),
        ("password", PASSWORD),
        ("scope", "a b"),
        ("client_id", "c"),
        ("client_secret", ""),
    ];
    client.request(Method::POST, "/login/access-token/").form(&fields).send().await.ok();
    let form = Form::new().text("username", SUPERUSER).text("password", PASSWORD).text("grant_type", "");
    client.request(Method::POST, PATH).multipart(form).send().await.ok();
}

async fn every_form_of_a_password_is_the_same_password(host: &TestHost) {
    const COMPOSED: &str = "p\u{e4}ssword 1";
    const DECOMPOSED: &str = "pa\u{308}ssword 1";
    // Of the bytes of the decomposed form, by an earlier version.
    const OLD_HASH: &str = "$2b$04$abcdefghijklmnopqrstuumLLrchw8C2TL6aZwB/A9.xdAmKsKkgW";
    let email = "jane@example.com";
    for (made_as, other) in [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)] {
        let body = json!({ "email": email, "password": made_as });
        host.anonymous().post("/users/signup", &body).await.ok();
        let client = host.anonymous().signed_in(email, other).await;
        let change = json!({ "current_password": other, "new_password": made_as });
        let same = client.patch("/users/me/password", &change).await;
        same.is_problem(400, "same_password", "New password cannot be the same as the current one");
        client.delete("/users/me").await.ok();
    }
    host.sign_up(email).await.ok();
    let old = |table: &str| format!("UPDATE {table} SET password_hash = '{OLD_HASH}' WHERE email = '{email}'");
    host.run_sql(&old("users"), &old("wharf.users")).await;
    assert_eq!(host.anonymous().sign_in(email, COMPOSED).await.status, 400);
    host.anonymous().sign_in(email, DECOMPOSED).await.ok();
    // The sign-in replaced the hash.
    host.anonymous().sign_in(email, COMPOSED).await.ok();
}

async fn a_sign_in_that_fails_is_400(host: &TestHost) {
    let refused = |response: crate::support::TestResponse| {
        response.is_problem(400, "incorrect_credentials", "Incorrect email or password");
        assert_eq!(response.header("www-authenticate"), None);
    };
    let client = host.anonymous();
    refused(client.sign_in(SUPERUSER, "wrong").await);
    refused(client.sign_in("nobody@example.com", PASSWORD).await);
    refused(client.sign_in("no address", PASSWORD).await);
    refused(client.sign_in("a@b.example", &"x".repeat(1000)).await);

    let user = host.sign_up("sleepy@example.com").await.ok();
    let path = format!("/users/{}", text(&user, "id"));
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    let inactive = client.sign_in("sleepy@example.com", PASSWORD).await;
    inactive.is_problem(400, "inactive_user", "Inactive user");
    // Reported only to clients that know the password.
    refused(client.sign_in("sleepy@example.com", "wrong").await);
}

async fn a_sign_in_form_is_validated_for_every_content_type(host: &TestHost) {
    const USERNAME: &str = "body.username missing: Field required";
    const PASSWORD: &str = "body.password missing: Field required";
    let client = host.anonymous();
    let form = async |fields: &[(&str, &str)]| client.request(Method::POST, PATH).form(fields).send().await;
    form(&[]).await.has_findings(&[USERNAME, PASSWORD]);
    form(&[("username", "a"), ("password", "")]).await.has_findings(&[PASSWORD]);
    form(&[("username", ""), ("password", "a")]).await.has_findings(&[USERNAME]);
    form(&[("username", "a"), ("password", "b"), ("grant_type", "client_credentials")])
        .await
        .has_findings(&["body.grant_type string_pattern_mismatch: String should match pattern '^password$'"]);
    form(&[("username", "a\0"), ("password", "b")]).await.has_findings(&["body.username value_error: …"]);
    client.post(PATH, &json!({ "username": "a", "password": "b" })).await.has_findings(&[USERNAME, PASSWORD]);
    client.request(Method::POST, PATH).send().await.has_findings(&[USERNAME, PASSWORD]);
    client
        .request(Method::POST, PATH)
        .multipart(Form::new().text("x", "y"))
        .send()
        .await
        .has_findings(&[USERNAME, PASSWORD]);
}

async fn a_multipart_form_that_cannot_be_read_is_400(host: &TestHost) {
    let send = async |body: &'static str| {
        let request = host.anonymous().request(Method::POST, PATH);
        request.header("content-type", "multipart/form-data; boundary=X").body(body).send().await
    };
    let unreadable = "There was an error parsing the body";
    for body in ["--X\r\ncontent-disposition: form-data; name=\"username\"\r\n\r\na", "--X\r\nno header\r\n\r\n"] {
        send(body).await.is_problem(400, "malformed_body", unreadable);
    }
}

async fn concurrent_refreshes_return_the_same_refresh_token(host: &TestHost) {
    let client = host.anonymous();
    let tokens = client.sign_in(SUPERUSER, PASSWORD).await.ok();
    let body = json!({ "refresh_token": tokens["refresh_token"] });
    let (one, two, three) = tokio::join!(
        client.post("/login/refresh-token", &body),
        client.post("/login/refresh-token", &body),
        client.post("/login/refresh-token", &body),
    );
    let one = one.ok();
    assert_eq!(one["refresh_token"], two.ok()["refresh_token"]);
    assert_eq!(one["refresh_token"], three.ok()["refresh_token"]);
    client.with_token(text(&one, "access_token")).get("/users/me").await.ok();
}

async fn test_token_returns_the_account_of_the_token(host: &TestHost) {
    let me = host.superuser().request(Method::POST, "/login/test-token").send().await.ok();
    assert_eq!(members(&me), USER);
    assert_eq!(text(&me, "email"), SUPERUSER);
    not_authenticated(&host.anonymous().request(Method::POST, "/login/test-token").send().await);
}

async fn signing_out_ends_the_session_at_once(host: &TestHost) {
    let tokens = host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    let client = host.anonymous().with_token(text(&tokens, "access_token"));
    client.get("/users/me").await.ok();
    let logout = || client.request(Method::POST, "/login/logout");
    logout().send().await.has_message("Logged out successfully");
    invalid_token(&client.get("/users/me").await);
    invalid_token(&logout().send().await);
    let refresh = json!({ "refresh_token": tokens["refresh_token"] });
    invalid_token(&host.anonymous().post("/login/refresh-token", &refresh).await);
    // Only that session ends.
    host.superuser().get("/users/me").await.ok();
    not_authenticated(&host.anonymous().request(Method::POST, "/login/logout").send().await);
}

async fn a_refresh_replaces_both_tokens(host: &TestHost) {
    let client = host.anonymous();
    let refresh = async |token: &str| client.post("/login/refresh-token", &json!({ "refresh_token": token })).await;
    let first = client.sign_in(SUPERUSER, PASSWORD).await.ok();
    host.clock().advance(Duration::from_secs(60));
    let response = refresh(text(&first, "refresh_token")).await;
    let second = response.ok();
    assert_eq!(members(&second), ["access_token", "token_type", "expires_in", "refresh_token"]);
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_ne!(first["access_token"], second["access_token"]);
    client.with_token(text(&second, "access_token")).get("/users/me").await.ok();

    // Concurrent refreshes get the same refresh token.
    let crossed = refresh(text(&first, "refresh_token")).await.ok();
    assert_eq!(crossed["refresh_token"], second["refresh_token"]);
    refresh(text(&second, "refresh_token")).await.ok();

    for token in ["", "garbage", text(&first, "access_token")] {
        invalid_token(&refresh(token).await);
    }
    client.post("/login/refresh-token", &json!({})).await.has_findings(&["body.refresh_token missing: Field required"]);
    client
        .post("/login/refresh-token", &json!({ "refresh_token": 1 }))
        .await
        .has_findings(&["body.refresh_token string_type: Input should be a valid string"]);
}

async fn a_reused_refresh_token_ends_its_session(host: &TestHost) {
    let client = host.anonymous();
    let refresh = async |token: &str| client.post("/login/refresh-token", &json!({ "refresh_token": token })).await;
    let first = client.sign_in(SUPERUSER, PASSWORD).await.ok();
    let second = refresh(text(&first, "refresh_token")).await.ok();
    host.clock().advance(Duration::from_secs(60));
    invalid_token(&refresh(text(&first, "refresh_token")).await);
    invalid_token(&refresh(text(&second, "refresh_token")).await);
    invalid_token(&client.with_token(text(&second, "access_token")).get("/users/me").await);
    host.superuser().get("/users/me").await.ok();
}

async fn a_session_that_is_not_refreshed_ends(host: &TestHost) {
    let client = host.anonymous();
    let refresh = async |token: &str| client.post("/login/refresh-token", &json!({ "refresh_token": token })).await;
    let first = client.sign_in(SUPERUSER, PASSWORD).await.ok();
    let day = Duration::from_secs(24 * 3600);
    host.clock().advance(day * 29);
    // The access token has expired; the refresh token has not.
    invalid_token(&client.with_token(text(&first, "access_token")).get("/users/me").await);
    let second = refresh(text(&first, "refresh_token")).await.ok();
    host.clock().advance(day * 29);
    let third = refresh(text(&second, "refresh_token")).await.ok();
    client.with_token(text(&third, "access_token")).get("/users/me").await.ok();
    host.clock().advance(day * 30);
    invalid_token(&refresh(text(&third, "refresh_token")).await);
}
