//! Recovering a password by mail, and the mails themselves.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Answer, Client, TestHost, both};

both!(
    a_link_by_mail_sets_a_new_password_once,
    the_answer_does_not_tell_who_has_an_account,
    a_link_ends_with_its_time => Setup::default().with_manual_clock(),
    a_link_ends_with_the_old_password,
    an_inactive_account_gets_its_mail_and_no_new_password,
    what_is_no_token_of_a_link_is_refused,
    a_new_account_gets_a_link_and_no_password,
    a_test_mail_is_sent,
    signing_up_sends_no_mail,
    superusers_see_the_recovery_mail,
    without_a_mail_server_the_answers_are_the_same => Setup::default().without_mail(),
    with_a_dead_mail_server_the_answers_are_the_same => Setup::default().with_dead_mail_server(),
);

const EMAIL: &str = "someone@example.com";
const ANSWER: &str = "If that email is registered, we sent a password recovery link";

async fn ask(client: &Client, email: &str) -> Answer {
    client.request(Method::POST, &format!("/password-recovery/{email}")).send().await
}

async fn reset(host: &TestHost, token: &str, password: &str) -> Answer {
    host.anonymous().post("/reset-password/", &json!({ "token": token, "new_password": password })).await
}

async fn a_link_by_mail_sets_a_new_password_once(host: &TestHost) {
    let user = host.user(EMAIL).await;
    // Found in any case, sent to the address as it was given.
    ask(&host.anonymous(), "SOMEONE@example.com").await.says(ANSWER);
    let mail = host.mails().take(EMAIL).await;
    assert_eq!(mail.subject, format!("Test & Co - Password recovery for user {EMAIL}"));
    assert!(mail.to.contains(EMAIL), "{}", mail.to);
    assert!(mail.from.contains("Test & Co") && mail.from.contains("noreply@shop.example"), "{}", mail.from);
    assert!(mail.html.contains("https://shop.example/reset-password?token="), "{}", mail.html);
    assert!(mail.html.contains("Test &amp; Co") && !mail.html.contains("Test & Co"), "{}", mail.html);
    let token = mail.reset_token();
    assert_eq!(mail.html.matches(&format!("/reset-password?token={token}\"")).count(), 2);

    // A password that is refused does not use the token up.
    let short = reset(host, &token, "short").await;
    short.refuses(&["body.new_password string_too_short: String should have at least 8 characters"]);
    reset(host, &token, "another horse").await.says("Password updated successfully");
    reset(host, &token, "third horse").await.is_problem(400, "invalid_reset_token", "Invalid token");
    host.anonymous().sign_in(EMAIL, PASSWORD).await.has_code(400, "incorrect_credentials");
    host.anonymous().sign_in(EMAIL, "another horse").await.ok();
    user.get("/users/me").await.is_problem(401, "invalid_token", "Could not validate credentials");
}

async fn the_answer_does_not_tell_who_has_an_account(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let known = ask(&host.anonymous(), EMAIL).await;
    for email in ["nobody@example.com", "no-address", "%20", "a%2Fb", "%00", "%ff"] {
        let unknown = ask(&host.anonymous(), email).await;
        assert_eq!((unknown.status, unknown.text()), (known.status, known.text()), "{email}");
    }
    host.mails().take(EMAIL).await;
    assert!(host.mails().received().is_empty());
    ask(&host.anonymous(), "").await.problem();
}

async fn a_link_ends_with_its_time(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    let ttl = host.config().auth.reset_token_ttl;
    ask(&host.anonymous(), EMAIL).await.ok();
    let late = host.mails().take(EMAIL).await.reset_token();
    host.clock().advance(ttl + Duration::from_secs(1));
    reset(host, &late, "another horse").await.is_problem(400, "invalid_reset_token", "Invalid token");
    ask(&host.anonymous(), EMAIL).await.ok();
    let timely = host.mails().take(EMAIL).await.reset_token();
    host.clock().advance(ttl - Duration::from_secs(1));
    reset(host, &timely, "another horse").await.ok();
}

async fn a_link_ends_with_the_old_password(host: &TestHost) {
    let user = host.user(EMAIL).await;
    ask(&host.anonymous(), EMAIL).await.ok();
    let first = host.mails().take(EMAIL).await.reset_token();
    ask(&host.anonymous(), EMAIL).await.ok();
    let second = host.mails().take(EMAIL).await.reset_token();
    let body = json!({ "current_password": PASSWORD, "new_password": "another horse" });
    user.patch("/users/me/password", &body).await.ok();
    for token in [first, second] {
        reset(host, &token, "stolen horse").await.is_problem(400, "invalid_reset_token", "Invalid token");
    }
    host.anonymous().sign_in(EMAIL, "another horse").await.ok();
}

async fn an_inactive_account_gets_its_mail_and_no_new_password(host: &TestHost) {
    let account = host.sign_up(EMAIL).await.ok();
    let path = format!("/users/{}", account["id"].as_str().unwrap());
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    ask(&host.anonymous(), EMAIL).await.says(ANSWER);
    let token = host.mails().take(EMAIL).await.reset_token();
    reset(host, &token, "another horse").await.is_problem(400, "inactive_user", "Inactive user");
}

async fn what_is_no_token_of_a_link_is_refused(host: &TestHost) {
    let long = "x".repeat(100_000);
    for token in ["", "x", "a.b.c", " ", host.superuser().token(), "\u{e4}", &long] {
        reset(host, token, "another horse").await.is_problem(400, "invalid_reset_token", "Invalid token");
    }
    let empty = host.anonymous().post("/reset-password", &json!({})).await;
    empty.refuses(&["body.token missing: Field required", "body.new_password missing: Field required"]);
}

async fn a_new_account_gets_a_link_and_no_password(host: &TestHost) {
    let body = json!({ "email": EMAIL, "password": "secret horse", "full_name": "<b>Bold</b>" });
    host.superuser().post("/users/", &body).await.ok();
    let mail = host.mails().take(EMAIL).await;
    assert_eq!(mail.subject, format!("Test & Co - New account for user {EMAIL}"));
    assert!(!mail.html.contains("secret horse") && !mail.html.contains("<b>Bold"), "{}", mail.html);
    reset(host, &mail.reset_token(), "another horse").await.ok();
    host.anonymous().sign_in(EMAIL, "another horse").await.ok();
}

async fn a_test_mail_is_sent(host: &TestHost) {
    let send =
        async |query: &str| host.superuser().request(Method::POST, &format!("/utils/test-email/{query}")).send().await;
    let answer = send("?email_to=reader@Example.com").await;
    assert_eq!((answer.status, answer.text()), (201, r#"{"message":"Test email sent"}"#.to_owned()));
    assert_eq!(host.mails().take("reader@example.com").await.subject, "Test & Co - Test email");
    send("").await.refuses(&["query.email_to missing: Field required"]);
    send("?email_to=x").await.refuses(&["query.email_to value_error: value is not a valid email address: …"]);
    send("?email_to=a%0d%0abcc:b@example.com").await.refuses(&["query.email_to value_error…"]);
}

async fn signing_up_sends_no_mail(host: &TestHost) {
    host.sign_up(EMAIL).await.ok();
    // Mails are sent in order, so one asked for later proves that there was none before.
    ask(&host.anonymous(), SUPERUSER).await.ok();
    host.mails().take(SUPERUSER).await;
    assert!(host.mails().received().is_empty());
}

async fn superusers_see_the_recovery_mail(host: &TestHost) {
    let see = async |email: &str| {
        let path = format!("/password-recovery-html-content/{email}");
        host.superuser().request(Method::POST, &path).send().await
    };
    let answer = see(SUPERUSER).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/html"));
    assert_eq!(answer.header("subject"), Some(format!("Test & Co - Password recovery for user {SUPERUSER}").as_str()));
    assert!(answer.text().contains("/reset-password?token="));
    let unknown = see("nobody@example.com").await;
    unknown.is_problem(404, "user_not_found", "The user with this username does not exist in the system.");
}

async fn without_a_mail_server_the_answers_are_the_same(host: &TestHost) {
    ask(&host.anonymous(), SUPERUSER).await.says(ANSWER);
    ask(&host.anonymous(), "nobody@example.com").await.says(ANSWER);
    host.superuser().post("/users/", &json!({ "email": EMAIL, "password": PASSWORD })).await.ok();
    let answer = host.superuser().request(Method::POST, "/utils/test-email/?email_to=a@example.com").send().await;
    assert_eq!(answer.status, 201);
}

async fn with_a_dead_mail_server_the_answers_are_the_same(host: &TestHost) {
    without_a_mail_server_the_answers_are_the_same(host).await;
}
