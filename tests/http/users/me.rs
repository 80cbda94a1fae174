//! The caller's own account.

use serde_json::{Value, json};

use super::{email_taken, id};
use crate::http::{USER, invalid_token, members, not_authenticated, text};
use crate::support::host::PASSWORD;
use crate::support::{TestHost, both};

both! {
    users_read_and_change_their_own_account,
    changing_ones_own_password_ends_every_other_session,
    a_new_password_is_validated,
    users_delete_their_own_account,
}

async fn users_read_and_change_their_own_account(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    host.sign_up("other@example.com").await.ok();
    let me = client.get("/users/me").await.ok();
    assert_eq!(members(&me), USER);
    assert_eq!(client.get("/users/me/").await.ok(), me);
    let patch = async |body: Value| client.patch("/users/me", &body).await;
    assert_eq!(patch(json!({})).await.ok(), me);
    assert_eq!(patch(json!({ "email": "jane@example.com" })).await.ok(), me);

    // Members that users may not change are ignored.
    let body = json!({
        "full_name": "Jane", "email": "Jane@EXAMPLE.com", "is_superuser": true, "is_active": false, "password": "new password",
    });
    let mut expected = me.clone();
    expected["full_name"] = json!("Jane");
    expected["email"] = json!("Jane@example.com");
    assert_eq!(patch(body).await.ok(), expected);
    assert_eq!(client.get("/users/me").await.ok(), expected);
    host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    assert_eq!(patch(json!({ "full_name": null })).await.ok()["full_name"], Value::Null);

    email_taken(&patch(json!({ "email": "OTHER@example.com" })).await, 409, "User with this email already exists");
    patch(json!({ "email": null, "full_name": 1 })).await.has_findings(&[
        "body.full_name string_type: Input should be a valid string",
        "body.email string_type: Input should be a valid string",
    ]);
    patch(json!({ "email": "jane@localhost", "full_name": "x".repeat(256) })).await.has_findings(&[
        "body.full_name string_too_long: String should have at most 255 characters",
        "body.email value_error: value is not a valid email address: …",
    ]);
    not_authenticated(&host.anonymous().get("/users/me").await);
    not_authenticated(&host.anonymous().patch("/users/me", &json!({ "email": null })).await);
}

async fn changing_ones_own_password_ends_every_other_session(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let other = host.anonymous().sign_in("jane@example.com", PASSWORD).await.ok();
    let body = json!({ "current_password": PASSWORD, "new_password": "battery staple", "confirm_password": "x" });
    client.patch("/users/me/password", &body).await.has_message("Password updated successfully");
    client.get("/users/me").await.ok();
    invalid_token(&host.anonymous().with_token(text(&other, "access_token")).get("/users/me").await);
    let refresh = json!({ "refresh_token": other["refresh_token"] });
    invalid_token(&host.anonymous().post("/login/refresh-token", &refresh).await);
    assert_eq!(host.anonymous().sign_in("jane@example.com", PASSWORD).await.status, 400);
    host.anonymous().sign_in("jane@example.com", "battery staple").await.ok();
}

async fn a_new_password_is_validated(host: &TestHost) {
    let client = host.superuser();
    let change = async |current: &str, new: &str| {
        client.patch("/users/me/password", &json!({ "current_password": current, "new_password": new })).await
    };
    change("wrong password", "wrong password").await.is_problem(400, "incorrect_password", "Incorrect password");
    let same = change(PASSWORD, PASSWORD).await;
    same.is_problem(400, "same_password", "New password cannot be the same as the current one");
    change("short", &"x".repeat(129)).await.has_findings(&[
        "body.current_password string_too_short: String should have at least 8 characters",
        "body.new_password string_too_long: String should have at most 128 characters",
    ]);
    client.patch("/users/me/password", &json!({ "new_password": null })).await.has_findings(&[
        "body.current_password missing: Field required",
        "body.new_password string_type: Input should be a valid string",
    ]);
    not_authenticated(&host.anonymous().patch("/users/me/password", &json!({})).await);
}

async fn users_delete_their_own_account(host: &TestHost) {
    let client = host.user("jane@example.com").await;
    let path = format!("/users/{}", id(&client.get("/users/me").await.ok()));
    client.delete("/users/me").await.has_message("User deleted successfully");
    invalid_token(&client.get("/users/me").await);
    invalid_token(&client.delete("/users/me").await);
    host.superuser().get(&path).await.is_problem(404, "user_not_found", "User not found");
    let response = host.anonymous().sign_in("jane@example.com", PASSWORD).await;
    response.is_problem(400, "incorrect_credentials", "Incorrect email or password");
    not_authenticated(&host.anonymous().delete("/users/me").await);
}
