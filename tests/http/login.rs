//! Signing in, tokens and their sessions, and setting a forgotten password (reference sections 2 and 4.1, Part A 3 to 6).

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Answer, Setup, TestHost, both};

both!(
    a_login_gives_tokens_and_a_wrong_one_nothing,
    bad_tokens_are_refused_alike,
    tokens_end_with_time_and_sessions_with_a_logout => Setup::default().with_manual_clock(),
    a_refresh_rotates_and_reuse_ends_the_session => Setup::default().with_manual_clock(),
    a_forgotten_password_is_set_by_mail_once,
);

fn is_invalid_token(answer: &Answer) {
    answer.is_problem(401, "invalid_token", "Could not validate credentials");
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
}

async fn a_login_gives_tokens_and_a_wrong_one_nothing(host: &TestHost) {
    let client = host.anonymous();
    let tokens = client.sign_in("ADMIN@example.com", PASSWORD).await.ok();
    let members: Vec<&String> = tokens.as_object().unwrap().keys().collect();
    assert_eq!(members, ["access_token", "token_type", "expires_in", "refresh_token"]);
    assert_eq!(tokens["token_type"], "bearer");
    let signed_in = client.with_token(tokens["access_token"].as_str().unwrap());
    let me = signed_in.request(Method::POST, "/login/test-token").send().await.ok();
    assert_eq!(me["email"], SUPERUSER);

    let wrong = "Incorrect email or password";
    client.sign_in(SUPERUSER, "wrong").await.is_problem(400, "incorrect_credentials", wrong);
    client.sign_in("nobody@example.com", PASSWORD).await.is_problem(400, "incorrect_credentials", wrong);
    client.sign_in("no\0body", PASSWORD).await.refuses(&["body.username value_error: …"]);
    let login = || client.request(Method::POST, "/login/access-token");
    let missing = ["body.username missing: Field required", "body.password missing: Field required"];
    login().json(&json!({ "username": SUPERUSER, "password": PASSWORD })).send().await.refuses(&missing);
    login().form(&[("username", ""), ("password", "")]).send().await.refuses(&missing);
    login()
        .form(&[("username", "a"), ("password", "b"), ("grant_type", "x")])
        .send()
        .await
        .refuses(&["body.grant_type string_pattern_mismatch: String should match pattern '^password$'"]);
    let form = reqwest::multipart::Form::new().text("username", SUPERUSER).text("password", PASSWORD);
    login().multipart(form).send().await.ok();
}

async fn bad_tokens_are_refused_alike(host: &TestHost) {
    let good = host.superuser().token().to_owned();
    let (signed, _) = good.rsplit_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", signed.split_once('.').unwrap().1);
    for token in ["x", "", "a.b.c", signed, &unsigned, &good[1..], "ü"] {
        is_invalid_token(&host.anonymous().with_token(token).get("/users/me").await);
    }
    let client = host.anonymous();
    let none = client.get("/users/me").await;
    none.is_problem(401, "not_authenticated", "Not authenticated");
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    let basic = client.request(Method::GET, "/users/me").header("authorization", "Basic YTpi").send().await;
    basic.is_problem(401, "not_authenticated", "Not authenticated");
    let odd = client.request(Method::GET, "/users/me").header("authorization", &format!("bEARER {good}")).send().await;
    assert_eq!(odd.status, 200, "the scheme has no case");
}

async fn tokens_end_with_time_and_sessions_with_a_logout(host: &TestHost) {
    let one = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    let sessions = one.get("/users/me/sessions").await.ok();
    assert_eq!(sessions["count"], 2, "{sessions}");
    assert_eq!(one.request(Method::POST, "/login/logout").send().await.status, 200);
    is_invalid_token(&one.get("/users/me").await);
    host.superuser().get("/users/me").await.ok();
    host.clock().advance(Duration::from_secs(8 * 24 * 3600 - 1));
    host.superuser().get("/users/me").await.ok();
    host.clock().advance(Duration::from_secs(2));
    is_invalid_token(&host.superuser().get("/users/me").await);
}

async fn a_refresh_rotates_and_reuse_ends_the_session(host: &TestHost) {
    let client = host.anonymous();
    let first = client.sign_in(SUPERUSER, PASSWORD).await.ok();
    let refresh =
        async |token: &serde_json::Value| client.post("/login/refresh-token", &json!({ "refresh_token": token })).await;
    host.clock().advance(Duration::from_secs(60));
    let second = refresh(&first["refresh_token"]).await.ok();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    let signed_in = client.with_token(second["access_token"].as_str().unwrap());
    signed_in.get("/users/me").await.ok();
    host.clock().advance(Duration::from_secs(60));
    is_invalid_token(&refresh(&first["refresh_token"]).await);
    is_invalid_token(&refresh(&second["refresh_token"]).await);
    is_invalid_token(&signed_in.get("/users/me").await);
    is_invalid_token(&refresh(&json!("rubbish")).await);
}

async fn a_forgotten_password_is_set_by_mail_once(host: &TestHost) {
    let user = host.user("jane@example.com").await;
    let client = host.anonymous();
    let recover = async |email: &str| {
        let path = format!("/password-recovery/{email}");
        client
            .request(Method::POST, &path)
            .send()
            .await
            .says("If that email is registered, we sent a password recovery link");
    };
    recover("nobody@example.com").await;
    recover("JANE@example.com").await;
    let mail = host.mails().take("jane@example.com").await;
    assert_eq!(mail.subject, "Test & Co - Password recovery for user jane@example.com");
    assert!(mail.html.contains("https://shop.example/reset-password?token="), "{}", mail.html);

    let token = mail.reset_token();
    let reset = async |token: &str, password: &str| {
        client.post("/reset-password/", &json!({ "token": token, "new_password": password })).await
    };
    reset(&token, "short")
        .await
        .refuses(&["body.new_password string_too_short: String should have at least 8 characters"]);
    reset("rubbish", "new password").await.is_problem(400, "invalid_reset_token", "Invalid token");
    reset(user.token(), "new password").await.is_problem(400, "invalid_reset_token", "Invalid token");
    reset(&token, "new password").await.says("Password updated successfully");
    reset(&token, "newer password").await.is_problem(400, "invalid_reset_token", "Invalid token");
    is_invalid_token(&user.get("/users/me").await);
    client.signed_in("jane@example.com", "new password").await.get("/users/me").await.ok();
    assert!(host.mails().received().is_empty(), "nobody else got a mail");
}
