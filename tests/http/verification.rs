//! Verification of addresses: at sign-up, and before a new address replaces the old one.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{USER, members, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, Setup, TestHost, TestResponse, both};

const SENT: &str = "If that email has an account and is not verified, we sent a link";
const REFUSED: &str = "Incorrect email or password, or the email is not verified yet";
const OTHER_PASSWORD: &str = "battery staple";

both! {
    a_new_account_signs_in_after_its_address_is_verified => verifying(),
    a_sign_up_does_not_reveal_that_an_address_has_an_account => verifying(),
    another_link_is_sent_on_request_and_links_expire => verifying().with_manual_clock(),
    a_token_of_one_kind_never_works_as_another => verifying(),
    a_new_address_replaces_the_old_one_when_its_link_comes_back => verifying(),
    a_change_of_address_ends_with_another_one_and_with_the_password => verifying(),
    a_taken_address_is_neither_reported_nor_given_twice => verifying(),
    without_verification_a_new_address_is_announced_at_the_old_one,
}

fn verifying() -> Setup {
    Setup::default().with(|config| config.auth.verify_email = true)
}

async fn verify(host: &TestHost, token: &str) -> TestResponse {
    host.anonymous().post("/users/verify-email", &json!({ "token": token })).await
}

async fn send(host: &TestHost, email: &str) -> TestResponse {
    host.anonymous().post("/users/verify-email/send", &json!({ "email": email })).await
}

/// Signs up, verifies the address and signs in.
async fn verified_user(host: &TestHost, email: &str) -> Client {
    host.sign_up(email).await.ok();
    let token = host.mails().take(email).await.verification_token();
    verify(host, &token).await.has_message("Email verified successfully");
    host.anonymous().signed_in(email, PASSWORD).await
}

async fn change_address(client: &Client, email: &str) -> Value {
    client.patch("/users/me", &json!({ "email": email })).await.ok()
}

#[track_caller]
fn is_refused(response: &TestResponse) {
    response.is_problem(400, "incorrect_credentials", REFUSED);
}

#[track_caller]
fn is_invalid(response: &TestResponse) {
    response.is_problem(400, "invalid_verification_token", "Invalid token");
}

async fn a_new_account_signs_in_after_its_address_is_verified(host: &TestHost) {
    let user = host.sign_up("Jane@example.com").await.ok();
    assert_eq!(members(&user), USER);
    is_refused(&host.anonymous().sign_in("jane@example.com", PASSWORD).await);
    is_refused(&host.anonymous().sign_in("jane@example.com", "wrong password").await);
    is_refused(&host.anonymous().sign_in("nobody@example.com", PASSWORD).await);

    let mail = host.mails().take("Jane@example.com").await;
    assert_eq!(mail.subject, "Test & Co - Verify your address");
    let token = mail.verification_token();
    verify(host, &token).await.has_message("Email verified successfully");
    let client = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    assert_eq!(client.get("/users/me").await.ok(), user);
    is_invalid(&verify(host, &token).await);

    // An operator vouches for the address of an account that they create, and the first superuser needs no proof.
    let body = json!({ "email": "made@example.com", "password": PASSWORD });
    host.superuser().post("/users/", &body).await.ok();
    host.anonymous().sign_in("made@example.com", PASSWORD).await.ok();

    // The operator who sets a password vouches too. Otherwise nobody could be let in while mail does not work.
    let user = host.sign_up("june@example.com").await.ok();
    let body = json!({ "password": OTHER_PASSWORD });
    host.superuser().patch(&format!("/users/{}", text(&user, "id")), &body).await.ok();
    host.anonymous().sign_in("june@example.com", OTHER_PASSWORD).await.ok();

    // A link that sets a password proves the address too.
    host.sign_up("joan@example.com").await.ok();
    host.mails().take("joan@example.com").await;
    host.anonymous().request(Method::POST, "/password-recovery/joan@example.com").send().await.ok();
    let token = host.mails().take("joan@example.com").await.reset_token();
    let body = json!({ "token": token, "new_password": OTHER_PASSWORD });
    host.anonymous().post("/reset-password/", &body).await.ok();
    host.anonymous().sign_in("joan@example.com", OTHER_PASSWORD).await.ok();

    // An inactive account stays so.
    let user = host.sign_up("lazy@example.com").await.ok();
    let token = host.mails().take("lazy@example.com").await.verification_token();
    host.superuser().patch(&format!("/users/{}", text(&user, "id")), &json!({ "is_active": false })).await.ok();
    verify(host, &token).await.is_problem(400, "inactive_user", "Inactive user");
}

async fn a_sign_up_does_not_reveal_that_an_address_has_an_account(host: &TestHost) {
    let first = host.sign_up("jane@example.com").await.ok();
    let token = host.mails().take("jane@example.com").await.verification_token();
    for email in ["jane@example.com", "JANE@example.com", SUPERUSER] {
        let body = json!({ "email": email, "password": OTHER_PASSWORD, "full_name": "Mallory" });
        let again = host.anonymous().post("/users/signup", &body).await.ok();
        assert_eq!(members(&again), USER);
        assert_eq!((&again["email"], &again["full_name"]), (&json!(email), &json!("Mallory")));
        assert_eq!((&again["is_active"], &again["is_superuser"]), (&json!(true), &json!(false)));
        assert_ne!(again["id"], first["id"]);
        is_refused(&host.anonymous().sign_in(email, OTHER_PASSWORD).await);
    }
    // The owner of the account gets a note at the address of the account.
    for (owner, count) in [("jane@example.com", 2), (SUPERUSER, 1)] {
        for _ in 0..count {
            let mail = host.mails().take(owner).await;
            assert_eq!(mail.subject, "Test & Co - You have an account already");
            assert!(mail.html.contains("href=\"https://shop.example/login\""), "{}", mail.html);
        }
    }
    // The first sign-up is as it was.
    verify(host, &token).await.ok();
    is_refused(&host.anonymous().sign_in("jane@example.com", OTHER_PASSWORD).await);
    let client = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    assert_eq!(client.get("/users/me").await.ok(), first);
    host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    let list = host.superuser().get("/users/").await.ok();
    assert_eq!(list["count"], 2);
}

async fn another_link_is_sent_on_request_and_links_expire(host: &TestHost) {
    let ttl = host.config().auth.verification_ttl;
    host.sign_up("jane@example.com").await.ok();
    let early = host.mails().take("jane@example.com").await.verification_token();
    host.clock().advance(Duration::from_secs(10));
    for email in ["nobody@example.com", SUPERUSER, "no address", "", "JANE@example.com"] {
        send(host, email).await.has_message(SENT);
    }
    let late = host.mails().take("jane@example.com").await.verification_token();
    host.clock().advance(ttl - Duration::from_secs(10));
    is_invalid(&verify(host, &early).await);
    verify(host, &late).await.ok();
    // A verified address gets no further link, and neither does one without an account.
    send(host, "jane@example.com").await.has_message(SENT);
    let test = host.superuser().request(Method::POST, "/utils/test-email/?email_to=last@example.com").send().await;
    assert_eq!(test.status, 201);
    host.mails().take("last@example.com").await;
    assert!(host.mails().received().is_empty(), "{:?}", host.mails().received());
}

async fn a_token_of_one_kind_never_works_as_another(host: &TestHost) {
    host.sign_up("jane@example.com").await.ok();
    let verification = host.mails().take("jane@example.com").await.verification_token();
    host.anonymous().request(Method::POST, "/password-recovery/jane@example.com").send().await.ok();
    let reset = host.mails().take("jane@example.com").await.reset_token();
    for token in [reset.as_str(), host.superuser().token(), "", "garbage", &"A".repeat(43)] {
        is_invalid(&verify(host, token).await);
    }
    let body = json!({ "token": verification, "new_password": OTHER_PASSWORD });
    host.anonymous().post("/reset-password/", &body).await.is_problem(400, "invalid_reset_token", "Invalid token");
    assert_eq!(host.anonymous().with_token(verification.as_str()).get("/users/me").await.status, 401);
    host.anonymous()
        .post("/users/verify-email", &json!({}))
        .await
        .has_findings(&["body.token missing: Field required"]);
    // Neither attempt has used the token up.
    verify(host, &verification).await.ok();
}

async fn a_new_address_replaces_the_old_one_when_its_link_comes_back(host: &TestHost) {
    let client = verified_user(host, "jane@example.com").await;
    host.anonymous().request(Method::POST, "/password-recovery/jane@example.com").send().await.ok();
    let old_link = host.mails().take("jane@example.com").await.reset_token();

    let body = json!({ "email": "new@example.com", "full_name": "Jane" });
    let me = client.patch("/users/me", &body).await.ok();
    assert_eq!((&me["email"], &me["full_name"]), (&json!("jane@example.com"), &json!("Jane")));
    is_refused(&host.anonymous().sign_in("new@example.com", PASSWORD).await);
    let mail = host.mails().take("new@example.com").await;
    assert_eq!(mail.subject, "Test & Co - Confirm your new address");
    assert!(mail.html.contains("jane@example.com"), "{}", mail.html);
    let token = mail.verification_token();

    verify(host, &token).await.ok();
    assert_eq!(client.get("/users/me").await.ok()["email"], "new@example.com");
    host.anonymous().sign_in("new@example.com", PASSWORD).await.ok();
    is_refused(&host.anonymous().sign_in("jane@example.com", PASSWORD).await);
    let announcement = host.mails().take("jane@example.com").await;
    assert_eq!(announcement.subject, "Test & Co - Your address was changed");
    assert!(announcement.html.contains("new@example.com") && !announcement.html.contains("href"));
    is_invalid(&verify(host, &token).await);
    // A link that was sent to the old address works no more.
    let body = json!({ "token": old_link, "new_password": OTHER_PASSWORD });
    host.anonymous().post("/reset-password/", &body).await.has_code(400, "invalid_reset_token");
}

async fn a_change_of_address_ends_with_another_one_and_with_the_password(host: &TestHost) {
    let client = verified_user(host, "jane@example.com").await;
    let mut tokens = Vec::new();
    for email in ["one@example.com", "two@example.com"] {
        change_address(&client, email).await;
        tokens.push(host.mails().take(email).await.verification_token());
    }
    is_invalid(&verify(host, &tokens[0]).await);
    // The owner who notices a stranger in their account changes the password.
    let body = json!({ "current_password": PASSWORD, "new_password": OTHER_PASSWORD });
    client.patch("/users/me/password", &body).await.ok();
    is_invalid(&verify(host, &tokens[1]).await);
    // The owner who changes their mind sends the address that they have.
    change_address(&client, "three@example.com").await;
    let token = host.mails().take("three@example.com").await.verification_token();
    change_address(&client, "Jane@example.com").await;
    is_invalid(&verify(host, &token).await);
    assert_eq!(client.get("/users/me").await.ok()["email"], "Jane@example.com");
    // Only the change that was waiting is in the audit log as cancelled.
    change_address(&client, "jane@example.com").await;
    let cancelled = host.superuser().get("/audit/?action=address.cancel").await.ok();
    assert_eq!(cancelled["data"].as_array().unwrap().len(), 1, "{cancelled}");
}

async fn a_taken_address_is_neither_reported_nor_given_twice(host: &TestHost) {
    let jane = verified_user(host, "jane@example.com").await;
    let joan = verified_user(host, "joan@example.com").await;
    assert_eq!(change_address(&jane, "joan@example.com").await["email"], "jane@example.com");
    let note = host.mails().take("joan@example.com").await;
    assert_eq!(note.subject, "Test & Co - You have an account already");
    assert!(!note.html.contains("token="));

    // Two accounts ask for one address before either confirms it.
    let mut tokens = Vec::new();
    for client in [&jane, &joan] {
        change_address(client, "shared@example.com").await;
        tokens.push(host.mails().take("shared@example.com").await.verification_token());
    }
    let (one, two) = tokio::join!(verify(host, &tokens[0]), verify(host, &tokens[1]));
    let (winner, loser) = if one.status == 200 { (one, two) } else { (two, one) };
    winner.ok();
    loser.is_problem(409, "email_taken", "User with this email already exists");
}

async fn without_verification_a_new_address_is_announced_at_the_old_one(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    assert_eq!(change_address(&client, "JANE@example.com").await["email"], "JANE@example.com");
    assert_eq!(change_address(&client, "new@example.com").await["email"], "new@example.com");
    let mail = host.mails().take("JANE@example.com").await;
    assert!(mail.html.contains("new@example.com"), "{}", mail.html);
    // An operator's change is announced too.
    let path = format!("/users/{}", text(&client.get("/users/me").await.ok(), "id"));
    host.superuser().patch(&path, &json!({ "email": "newer@example.com" })).await.ok();
    assert!(host.mails().take("new@example.com").await.html.contains("newer@example.com"));
    assert!(host.mails().received().is_empty(), "other letters of an address are no other address");
    // A user may verify the address although nothing requires it. A change by an operator has done so.
    let other = host.user("joan@example.com").await;
    send(host, "joan@example.com").await.has_message(SENT);
    let token = host.mails().take("joan@example.com").await.verification_token();
    verify(host, &token).await.ok();
    other.get("/users/me").await.ok();
}
