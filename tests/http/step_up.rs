//! Step-up: dangerous operations of users who have a second factor, and changes of one's own factors.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{not_authenticated, text};
use crate::support::authenticator::Authenticator;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Component, TestHost, both};

both! {
    dangerous_operations_need_a_recent_proof_of_the_second_factor => Setup::default().with_manual_clock(),
    a_stolen_token_changes_neither_a_factor_nor_the_address => Setup::default().with_manual_clock(),
    wrong_codes_of_a_session_make_only_that_session_wait => Setup::default().with_manual_clock(),
}

/// Lets every proof become old.
fn wait(host: &TestHost) {
    host.clock().advance(Duration::from_secs(10 * 60));
}

async fn dangerous_operations_need_a_recent_proof_of_the_second_factor(host: &TestHost) {
    let jane = host.sign_up("jane@example.com").await.ok();
    let jane = format!("/users/{}", text(&jane, "id"));
    let client = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    let hello = Component::hello();
    wait(host);
    // Without a second factor, there is nothing to prove.
    client.deploy(&hello.0, "grant=log").await.ok();
    client.patch(&jane, &json!({ "password": "another password" })).await.ok();
    client.post("/roles/", &json!({ "name": "spare" })).await.ok();

    let client = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    let (app, _) = Authenticator::enrol(host, &client).await;
    // An account that a thief creates would have no factor.
    let superuser = json!({ "email": "mallory@example.com", "password": "another password", "is_superuser": true });
    let dangerous = async || {
        [
            client.request(Method::PUT, "/plugins/hello/grants/cache").send().await,
            client.deploy(&hello.0, "grant=cache").await,
            client.patch(&jane, &json!({ "password": "another password" })).await,
            client.patch(&jane, &json!({ "email": "joe@example.com" })).await,
            client.request(Method::POST, "/password-recovery-html-content/jane@example.com").send().await,
            client.delete(&format!("{jane}/factors")).await,
            client.post("/users/", &superuser).await,
            client.post("/users/invite", &json!({ "email": "eve@example.com", "roles": ["operator"] })).await,
            client.post("/users/me/keys", &json!({ "name": "x", "permissions": ["users:read"] })).await,
            client.post("/keys/", &json!({ "name": "x", "permissions": ["users:read"] })).await,
            client
                .post("/roles/", &json!({ "name": "thieves", "permissions": ["users:read"], "is_default": true }))
                .await,
            client.delete("/roles/spare").await,
            client.delete("/plugins/hello?delete_data=true").await,
            client.delete(&jane).await,
        ]
    };
    wait(host);
    for response in dangerous().await {
        response.has_code(403, "step_up_required");
    }
    // Other operations go on.
    client.get("/plugins/hello").await.ok();
    client.patch(&jane, &json!({ "full_name": "Jane" })).await.ok();
    let step_up = async |proof: serde_json::Value| client.post("/login/step-up", &proof).await;
    step_up(json!({ "code": app.wrong_code(host) })).await.has_code(400, "incorrect_code");
    step_up(json!({ "password": PASSWORD })).await.has_code(403, "second_factor_required");
    step_up(json!({}))
        .await
        .has_findings(&["body value_error: Send exactly one of code, recovery_code, passkey, password"]);
    step_up(json!({ "code": app.code(host), "password": PASSWORD })).await.has_code(422, "validation_error");
    not_authenticated(&host.anonymous().post("/login/step-up", &json!({ "code": app.code(host) })).await);
    step_up(json!({ "code": app.code(host) })).await.has_message("Stepped up successfully");
    // Its code is used up. The enrolment ended the other sessions, which somebody else may have begun.
    step_up(json!({ "code": app.code(host) })).await.has_code(400, "incorrect_code");
    host.superuser().get("/users/me").await.has_code(401, "invalid_token");
    for response in dangerous().await {
        assert!(response.status != 403, "{}", response.text());
    }
}

async fn a_stolen_token_changes_neither_a_factor_nor_the_address(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let begin = async || client.post("/users/me/factors/totp", &json!({})).await;
    let step_up = async |proof: serde_json::Value| client.post("/login/step-up", &proof).await;
    wait(host);
    begin().await.has_code(403, "step_up_required");
    // A mail to the address can set the password.
    let move_to = async |email: &str| client.patch("/users/me", &json!({ "email": email })).await;
    move_to("mallory@example.com").await.has_code(403, "step_up_required");
    // Other letters of the address are no other address, and the rest of the account needs no proof.
    move_to("Jane@example.com").await.ok();
    client.patch("/users/me", &json!({ "full_name": "Jane" })).await.ok();
    step_up(json!({ "password": "wrong password" })).await.has_code(400, "incorrect_password");
    step_up(json!({ "code": "123456" })).await.has_code(400, "incorrect_code");
    step_up(json!({ "password": PASSWORD })).await.ok();
    move_to("jane.doe@example.com").await.ok();
    let (app, _) = Authenticator::enrol(host, &client).await;
    // Enrolment in this session was itself a proof. Later, the password is not enough.
    client.post("/users/me/factors/recovery-codes", &json!({})).await.ok();
    wait(host);
    client.post("/users/me/factors/recovery-codes", &json!({})).await.has_code(403, "step_up_required");
    client.delete("/users/me/factors/totp").await.has_code(403, "step_up_required");
    client.delete("/users/me").await.has_code(403, "step_up_required");
    let old_session = &client;
    old_session.post("/users/me/factors/totp/verify", &json!({ "code": "1" })).await.has_code(403, "step_up_required");
    step_up(json!({ "password": PASSWORD })).await.has_code(403, "second_factor_required");
    step_up(json!({ "code": app.code(host) })).await.ok();
    client.delete("/users/me/factors/totp").await.ok();
}

async fn wrong_codes_of_a_session_make_only_that_session_wait(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let (app, _) = Authenticator::enrol(host, &client).await;
    wait(host);
    let step_up = async |proof: serde_json::Value| client.post("/login/step-up", &proof).await;
    for _ in 0..5 {
        step_up(json!({ "code": app.wrong_code(host) })).await.has_code(400, "incorrect_code");
    }
    step_up(json!({ "code": app.code(host) })).await.has_code(429, "throttled");
    let problem = host.anonymous().sign_in("jane@example.com", PASSWORD).await.problem();
    let proof = json!({ "challenge": text(&problem, "challenge"), "code": app.code(host) });
    host.anonymous().post("/login/second-factor", &proof).await.ok();
    host.clock().advance(Duration::from_secs(30));
    step_up(json!({ "code": app.code(host) })).await.ok();
}
