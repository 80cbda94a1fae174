//! Recovering a password by mail.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{invalid_token, not_authenticated, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, TestHost, TestResponse, both};

const SENT: &str = "If that email is registered, we sent a password recovery link";
const NEW_PASSWORD: &str = "battery staple";

both! {
    known_and_unknown_addresses_get_the_same_response,
    a_reset_link_works_once_and_ends_every_session,
    a_reset_link_becomes_invalid_when_the_password_changes,
    only_one_of_two_concurrent_resets_with_one_link_succeeds,
    whoever_signed_up_with_the_address_of_another_person_keeps_nothing,
    a_reset_link_expires => Setup::default().with_manual_clock(),
    a_reset_link_of_an_inactive_account_is_refused,
    a_reset_request_is_validated,
    recovery_without_mail_responds_the_same => Setup::default().without_mail(),
    recovery_with_an_unreachable_mail_server_responds_the_same => Setup::default().with_dead_mail_server(),
    a_superuser_reads_the_recovery_mail,
    thirty_recoveries_of_one_address_send_one_mail => Setup::default().with_manual_clock().with(|config| {
        config.email.repeat_after = Duration::from_secs(300);
    }),
    a_full_queue_refuses_recoveries_of_all_addresses_alike => Setup::default().with_dead_mail_server().with(|config| {
        config.email.repeat_after = Duration::from_secs(300);
        config.email.queue = 10;
    }),
}

async fn recover(host: &TestHost, email: &str) -> TestResponse {
    host.anonymous().request(Method::POST, &format!("/password-recovery/{email}")).send().await
}

async fn reset(host: &TestHost, token: &str, password: &str) -> TestResponse {
    host.anonymous().post("/reset-password/", &json!({ "token": token, "new_password": password })).await
}

#[track_caller]
fn is_invalid_link(response: &TestResponse) {
    response.is_problem(400, "invalid_reset_token", "Invalid token");
}

async fn known_and_unknown_addresses_get_the_same_response(host: &TestHost) {
    for email in ["nobody@example.com", "no-address", "a%20b", "%FF", "ä", "x%2Fy@example.com"] {
        recover(host, email).await.has_message(SENT);
        recover(host, &format!("{email}/")).await.has_message(SENT);
    }
    recover(host, &"x".repeat(1000)).await.has_message(SENT);
    recover(host, "a%00b").await.has_findings(&["path.email value_error: …"]);
    // In any case and encoding; the mail goes to the stored address.
    recover(host, "ADMIN%40Example.com").await.has_message(SENT);
    let mail = host.mails().take(SUPERUSER).await;
    assert_eq!(mail.subject, format!("Test & Co - Password recovery for user {SUPERUSER}"));
    // The requests before this one had no recipient.
    assert!(host.mails().received().is_empty());
    let anonymous = host.anonymous();
    assert_eq!(anonymous.get("/password-recovery/a@example.com").await.status, 405);
    assert_eq!(anonymous.request(Method::POST, "/password-recovery/").send().await.status, 404);
}

async fn a_reset_link_works_once_and_ends_every_session(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    recover(host, "jane@example.com").await.has_message(SENT);
    let token = host.mails().take("jane@example.com").await.reset_token();
    client.get("/users/me").await.ok();
    reset(host, &token, NEW_PASSWORD).await.has_message("Password updated successfully");
    invalid_token(&client.get("/users/me").await);
    assert_eq!(host.anonymous().sign_in("jane@example.com", PASSWORD).await.status, 400);
    let client = host.anonymous().signed_in("jane@example.com", NEW_PASSWORD).await;
    is_invalid_link(&reset(host, &token, "another password").await);
    client.get("/users/me").await.ok();
    // A reset token is not an access token.
    invalid_token(&host.anonymous().with_token(token).get("/users/me").await);
}

async fn a_reset_link_becomes_invalid_when_the_password_changes(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        recover(host, "jane@example.com").await.has_message(SENT);
        tokens.push(host.mails().take("jane@example.com").await.reset_token());
    }
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    client.patch("/users/me/password", &body).await.ok();
    is_invalid_link(&reset(host, &tokens[0], "another password").await);
    is_invalid_link(&reset(host, &tokens[1], "another password").await);

    // A reset invalidates the other links too.
    tokens.clear();
    for _ in 0..2 {
        recover(host, "jane@example.com").await.has_message(SENT);
        tokens.push(host.mails().take("jane@example.com").await.reset_token());
    }
    assert_ne!(tokens[0], tokens[1]);
    reset(host, &tokens[0], PASSWORD).await.ok();
    is_invalid_link(&reset(host, &tokens[1], "another password").await);
}

async fn only_one_of_two_concurrent_resets_with_one_link_succeeds(host: &TestHost) {
    recover(host, SUPERUSER).await.has_message(SENT);
    let token = host.mails().take(SUPERUSER).await.reset_token();
    let passwords = ["one password", "two password"];
    let (one, two) = tokio::join!(reset(host, &token, passwords[0]), reset(host, &token, passwords[1]));
    let (winner, loser) = if one.status == 200 { (0, &two) } else { (1, &one) };
    is_invalid_link(loser);
    host.anonymous().sign_in(SUPERUSER, passwords[winner]).await.ok();
    assert_eq!(host.anonymous().sign_in(SUPERUSER, passwords[1 - winner]).await.status, 400);
}

async fn whoever_signed_up_with_the_address_of_another_person_keeps_nothing(host: &TestHost) {
    let email = "victim@example.com";
    let key_of = async |client: &Client| {
        let body = json!({ "name": "ci", "permissions": ["routes:call"] });
        let key = client.post("/users/me/keys", &body).await.ok();
        host.anonymous().with_token(text(&key, "key"))
    };
    let reset_by_mail = async |password: &str| {
        recover(host, email).await.has_message(SENT);
        reset(host, &host.mails().take(email).await.reset_token(), password).await.ok();
    };
    let mallory = host.user(email).await;
    let machine = key_of(&mallory).await;
    machine.get("/users/me").await.ok();
    reset_by_mail(NEW_PASSWORD).await;
    invalid_token(&mallory.get("/users/me").await);
    invalid_token(&machine.get("/users/me").await);
    // The address is verified now, so a key that its owner creates survives further recoveries.
    let machine = key_of(&host.anonymous().signed_in(email, NEW_PASSWORD).await).await;
    reset_by_mail("a third password").await;
    machine.get("/users/me").await.ok();
}

async fn a_reset_link_expires(host: &TestHost) {
    let ttl = host.config().auth.reset_token_ttl;
    assert_eq!(ttl, Duration::from_secs(48 * 3600));
    recover(host, SUPERUSER).await.has_message(SENT);
    let early = host.mails().take(SUPERUSER).await.reset_token();
    host.clock().advance(Duration::from_secs(10));
    recover(host, SUPERUSER).await.has_message(SENT);
    let late = host.mails().take(SUPERUSER).await.reset_token();
    host.clock().advance(ttl - Duration::from_secs(10));
    is_invalid_link(&reset(host, &early, NEW_PASSWORD).await);
    reset(host, &late, NEW_PASSWORD).await.ok();
}

async fn a_reset_link_of_an_inactive_account_is_refused(host: &TestHost) {
    let user = host.sign_up("jane@example.com").await.ok();
    let path = format!("/users/{}", text(&user, "id"));
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    // The account still gets a mail.
    recover(host, "jane@example.com").await.has_message(SENT);
    let token = host.mails().take("jane@example.com").await.reset_token();
    reset(host, &token, NEW_PASSWORD).await.is_problem(400, "inactive_user", "Inactive user");
    host.superuser().delete(&path).await.ok();
    is_invalid_link(&reset(host, &token, NEW_PASSWORD).await);
}

async fn a_reset_request_is_validated(host: &TestHost) {
    for token in ["", "garbage", "a.b.c", host.superuser().token(), &"A".repeat(43)] {
        is_invalid_link(&reset(host, token, NEW_PASSWORD).await);
    }
    let client = host.anonymous();
    client
        .post("/reset-password", &json!({}))
        .await
        .has_findings(&["body.token missing: Field required", "body.new_password missing: Field required"]);
    reset(host, "x", "short")
        .await
        .has_findings(&["body.new_password string_too_short: String should have at least 8 characters"]);
    client.post("/reset-password/", &json!({ "token": null, "new_password": "x".repeat(129) })).await.has_findings(&[
        "body.token string_type: Input should be a valid string",
        "body.new_password string_too_long: String should have at most 128 characters",
    ]);
}

async fn recovery_without_mail_responds_the_same(host: &TestHost) {
    recover(host, SUPERUSER).await.has_message(SENT);
    recover(host, "nobody@example.com").await.has_message(SENT);
    let body = json!({ "email": "new@example.com", "password": PASSWORD });
    host.superuser().post("/users/", &body).await.ok();
}

async fn recovery_with_an_unreachable_mail_server_responds_the_same(host: &TestHost) {
    recovery_without_mail_responds_the_same(host).await;
    let test = host.superuser().request(Method::POST, "/utils/test-email/?email_to=a@example.com").send().await;
    assert_eq!((test.status, test.text().as_str()), (201, r#"{"message":"Test email sent"}"#));
}

async fn a_superuser_reads_the_recovery_mail(host: &TestHost) {
    let path = "/password-recovery-html-content/ADMIN@example.com";
    let response = host.superuser().request(Method::POST, path).send().await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let subject = format!("Test & Co - Password recovery for user {SUPERUSER}");
    assert_eq!(response.header("subject"), Some(subject.as_str()));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert!(response.text().contains(r#"href="https://shop.example/reset-password?token="#), "{}", response.text());

    let unknown = host.superuser().request(Method::POST, "/password-recovery-html-content/x").send().await;
    unknown.is_problem(404, "user_not_found", "The user with this username does not exist in the system.");
    not_authenticated(&host.anonymous().request(Method::POST, path).send().await);
    // No mail was sent: the next mail comes first.
    let test = host.superuser().request(Method::POST, "/utils/test-email/?email_to=last@example.com").send().await;
    assert_eq!(test.status, 201);
    host.mails().take("last@example.com").await;
    assert!(host.mails().received().is_empty());
    // A non-ASCII subject is sent unchanged.
    host.sign_up("jörg@example.com").await.ok();
    let path = "/password-recovery-html-content/j%C3%B6rg@example.com";
    let response = host.superuser().request(Method::POST, path).send().await;
    let subject = "Test & Co - Password recovery for user jörg@example.com".as_bytes();
    assert_eq!((response.status, response.headers["subject"].as_bytes()), (200, subject));
}

async fn thirty_recoveries_of_one_address_send_one_mail(host: &TestHost) {
    for number in 0..30 {
        let email = if number % 2 == 0 { SUPERUSER } else { "ADMIN@EXAMPLE.COM" };
        recover(host, email).await.has_message(SENT);
    }
    let token = host.mails().take(SUPERUSER).await.reset_token();
    // The next mail comes after all of them.
    let test = host.superuser().request(Method::POST, "/utils/test-email/?email_to=last@example.com").send().await;
    assert_eq!(test.status, 201);
    host.mails().take("last@example.com").await;
    assert!(host.mails().received().is_empty(), "{:?}", host.mails().received());
    // The link of the one mail works. Later, another one is sent.
    host.clock().advance(Duration::from_secs(300));
    recover(host, SUPERUSER).await.has_message(SENT);
    host.mails().take(SUPERUSER).await;
    reset(host, &token, NEW_PASSWORD).await.ok();
}

async fn a_full_queue_refuses_recoveries_of_all_addresses_alike(host: &TestHost) {
    // A recovery of an account waits, because the mail server does not respond; the others leave the queue.
    for number in 0..8 {
        let email = format!("user{number}@example.com");
        host.sign_up(&email).await.ok();
    }
    let mut refused = None;
    for number in 0..8 {
        let response = recover(host, &format!("user{number}@example.com")).await;
        if response.status != 200 {
            refused = Some(response);
        }
    }
    let refused = refused.unwrap();
    refused.is_problem(503, "mail_queue_full", "Too many mails wait to be sent; try again later");
    assert_eq!(refused.header("retry-after"), Some("60"));
    recover(host, "nobody@example.com").await.has_code(503, "mail_queue_full");
    // Operators can still send mail.
    let test = host.superuser().request(Method::POST, "/utils/test-email/?email_to=a@example.com").send().await;
    assert_eq!(test.status, 201);
}
