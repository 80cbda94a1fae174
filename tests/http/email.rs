//! The content of the mails that the API sends.

use reqwest::Method;
use serde_json::json;

use super::text;
use crate::support::authenticator::Authenticator;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{TestHost, both};

const FROM: &str = "<noreply@shop.example>";

both! {
    an_ascii_local_part_gets_its_domain_in_punycode,
    a_new_account_gets_a_link_and_never_its_password,
    a_recovery_mail_has_its_link_as_two_anchors_and_once_as_text,
    a_test_mail_names_its_sender_and_has_no_link,
    the_owner_of_an_account_learns_of_changes_of_the_sign_in,
    a_full_queue_keeps_nobody_from_changing_the_sign_in => Setup::default()
        .with_dead_mail_server()
        .with(|config| config.email.queue = 10),
    user_supplied_text_is_escaped => Setup::default().with(|config| config.server.project_name = "<b>Shop</b>".to_owned()),
}

async fn a_new_account_gets_a_link_and_never_its_password(host: &TestHost) {
    let body = json!({ "email": "New@EXAMPLE.com", "password": "a first password" });
    host.superuser().post("/users/", &body).await.ok();
    let mail = host.mails().take("New@example.com").await;
    assert_eq!(mail.subject, "Test & Co - New account for user New@example.com");
    assert!(mail.from.contains("Test & Co") && mail.from.contains(FROM), "{}", mail.from);
    assert!(mail.to.contains("New@example.com"));
    assert!(!mail.html.contains("a first password"));
    assert!(mail.html.contains(r#"href="https://shop.example/reset-password?token="#), "{}", mail.html);

    let body = json!({ "token": mail.reset_token(), "new_password": PASSWORD });
    host.anonymous().post("/reset-password/", &body).await.has_message("Password updated successfully");
    host.anonymous().sign_in("new@example.com", PASSWORD).await.ok();
    assert_eq!(host.anonymous().sign_in("new@example.com", "a first password").await.status, 400);
}

async fn an_ascii_local_part_gets_its_domain_in_punycode(host: &TestHost) {
    let path = "/utils/test-email/?email_to=plain@m%C3%BCnchen.example";
    assert_eq!(host.superuser().request(Method::POST, path).send().await.status, 201);
    let mail = host.mails().take("plain@xn--mnchen-3ya.example").await;
    assert!(mail.to.contains("plain@xn--mnchen-3ya.example"), "{}", mail.to);
}

async fn a_recovery_mail_has_its_link_as_two_anchors_and_once_as_text(host: &TestHost) {
    host.anonymous().request(Method::POST, &format!("/password-recovery/{SUPERUSER}")).send().await.ok();
    let mail = host.mails().take(SUPERUSER).await;
    assert!(mail.from.contains("Test & Co") && mail.from.contains(FROM), "{}", mail.from);
    let link = format!("https://shop.example/reset-password?token={}", mail.reset_token());
    assert_eq!(mail.html.matches(&format!(r#"href="{link}""#)).count(), 2);
    assert_eq!(mail.html.matches(&format!(">{link}<")).count(), 1);
    assert!(mail.html.contains("48 hours") && mail.html.contains(SUPERUSER) && mail.html.contains("Test &amp; Co"));
}

async fn a_test_mail_names_its_sender_and_has_no_link(host: &TestHost) {
    let path = "/utils/test-email/?email_to=Somebody@EXAMPLE.com";
    assert_eq!(host.superuser().request(Method::POST, path).send().await.status, 201);
    let mail = host.mails().take("Somebody@example.com").await;
    assert_eq!(mail.subject, "Test & Co - Test email");
    assert!(mail.from.contains("Test & Co") && mail.from.contains(FROM), "{}", mail.from);
    assert!(mail.html.contains("Test &amp; Co") && !mail.html.contains("href"), "{}", mail.html);
}

async fn user_supplied_text_is_escaped(host: &TestHost) {
    let email = "o'neil&co@example.com";
    host.sign_up(email).await.ok();
    host.anonymous().request(Method::POST, "/password-recovery/o'neil%26co@example.com").send().await.ok();
    let mail = host.mails().take(email).await;
    assert!(!mail.html.contains("<b>") && !mail.html.contains("neil&co"), "{}", mail.html);
    assert_eq!(mail.subject, format!("<b>Shop</b> - Password recovery for user {email}"));
}

async fn the_owner_of_an_account_learns_of_changes_of_the_sign_in(host: &TestHost) {
    let email = "jane@example.com";
    let client = host.user(email).await;
    let told = async |change: &str| {
        let mail = host.mails().take_note(email).await;
        assert_eq!(mail.subject, "Test & Co - The sign-in to your account was changed");
        assert!(mail.html.contains(change) && mail.html.contains(email), "{change} in {}", mail.html);
        // A link would teach people to follow the link of a forged mail.
        assert!(!mail.html.contains("href"), "{}", mail.html);
    };
    Authenticator::enrol(host, &client).await;
    told("An authenticator app was added.").await;
    client.post("/users/me/factors/recovery-codes", &json!({})).await.ok();
    told("The recovery codes were replaced.").await;
    client.delete("/users/me/factors/totp").await.ok();
    told("The authenticator app was removed.").await;
    let body = json!({ "current_password": PASSWORD, "new_password": "battery staple" });
    client.patch("/users/me/password", &body).await.ok();
    told("A new password was set.").await;

    // Also of those by others.
    Authenticator::enrol(host, &client).await;
    told("An authenticator app was added.").await;
    let path = format!("/users/{}", text(&client.get("/users/me").await.ok(), "id"));
    host.superuser().delete(&format!("{path}/factors")).await.ok();
    told("All second factors were removed.").await;
    host.superuser().patch(&path, &json!({ "password": "a third password" })).await.ok();
    told("A new password was set.").await;
    host.anonymous().request(Method::POST, &format!("/password-recovery/{email}")).send().await.ok();
    let token = host.mails().take(email).await.reset_token();
    let body = json!({ "token": token, "new_password": PASSWORD });
    host.anonymous().post("/reset-password/", &body).await.ok();
    told("A new password was set.").await;
}

async fn a_full_queue_keeps_nobody_from_changing_the_sign_in(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let fill = async |number: usize| {
        let path = format!("/utils/test-email/?email_to=user{number}@example.com");
        host.superuser().request(Method::POST, &path).send().await
    };
    for number in 0..10 {
        assert_eq!(fill(number).await.status, 201);
    }
    fill(10).await.has_code(503, "mail_queue_full");
    let body = json!({ "current_password": PASSWORD, "new_password": "battery staple" });
    client.patch("/users/me/password", &body).await.ok();
    Authenticator::enrol(host, &client).await;
}
