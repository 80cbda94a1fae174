//! Accounts (reference sections 4.2 and 4.5, Part A 4 to 8).

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Setup, TestHost, both};

both!(
    an_account_signs_up_changes_and_deletes_itself,
    superusers_manage_accounts,
    a_new_account_gets_a_link_and_no_password,
    the_last_superuser_stays,
    a_changed_password_ends_other_sessions,
    private_routes_exist_in_development_only => Setup::default().in_development(),
);

async fn an_account_signs_up_changes_and_deletes_itself(host: &TestHost) {
    let taken = "The user with this email already exists in the system";
    let body = json!({ "email": "Jane@EXAMPLE.com", "password": PASSWORD, "full_name": "", "is_superuser": true });
    let answer = host.anonymous().post("/users/signup", &body).await;
    let user = answer.ok();
    let members: Vec<&String> = user.as_object().unwrap().keys().collect();
    assert_eq!(members, ["email", "is_active", "is_superuser", "full_name", "id", "created_at"]);
    assert_eq!(
        (&user["email"], &user["is_superuser"], &user["full_name"]),
        (&json!("Jane@example.com"), &json!(false), &json!(""))
    );
    let again = json!({ "email": "jane@example.COM", "password": PASSWORD });
    host.anonymous().post("/users/signup", &again).await.is_problem(400, "email_taken", taken);
    let bad = json!({ "email": "jane", "password": "short", "full_name": 1 });
    host.anonymous().post("/users/signup", &bad).await.refuses(&[
        "body.email value_error: value is not a valid email address: An email address must have an @-sign.",
        "body.password string_too_short: String should have at least 8 characters",
        "body.full_name string_type: Input should be a valid string",
    ]);

    let jane = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    assert_eq!(jane.get("/users/me/").await.ok(), user);
    assert_eq!(jane.patch("/users/me", &json!({})).await.ok(), user);
    assert_eq!(jane.patch("/users/me", &json!({ "full_name": null })).await.ok()["full_name"], Value::Null);
    let conflict = "User with this email already exists";
    jane.patch("/users/me", &json!({ "email": "Admin@example.com" })).await.is_problem(409, "email_taken", conflict);
    jane.patch("/users/me", &json!({ "email": null })).await.refuses(&["body.email string_type: …"]);

    let own = format!("/users/{}", user["id"].as_str().unwrap());
    assert_eq!(jane.get(&own).await.ok()["id"], user["id"]);
    let privileges = "The user doesn't have enough privileges";
    jane.get("/users/00000000-0000-4000-8000-000000000000").await.is_problem(403, "forbidden", privileges);
    jane.get("/users/").await.is_problem(403, "forbidden", privileges);
    jane.post("/users/", &json!({})).await.is_problem(403, "forbidden", privileges);
    jane.get("/users/signup").await.refuses(&["path.user_id uuid_parsing: …"]);
    jane.request(Method::PUT, "/users/me").send().await.has_code(405, "method_not_allowed");

    jane.delete("/users/me").await.says("User deleted successfully");
    let gone = jane.get("/users/me").await;
    gone.is_problem(401, "invalid_token", "Could not validate credentials");
    host.superuser().delete("/users/me").await.is_problem(
        403,
        "superuser_self_deletion",
        "Super users are not allowed to delete themselves",
    );
}

async fn superusers_manage_accounts(host: &TestHost) {
    let root = host.superuser();
    let new = json!({ "email": "joe@example.com", "password": PASSWORD, "full_name": "Joe" });
    let joe = root.post("/users/", &new).await.ok();
    root.post("/users/", &new).await.is_problem(
        400,
        "email_taken",
        "The user with this email already exists in the system.",
    );
    let list = root.get("/users/?limit=1").await.ok();
    assert_eq!((&list["count"], &list["data"][0]["id"]), (&json!(2), &joe["id"]), "newest first");
    root.get("/users/?skip=-1").await.refuses(&["query.skip greater_than_equal: …"]);

    let path = format!("/users/{}", joe["id"].as_str().unwrap());
    let client = host.anonymous().signed_in("joe@example.com", PASSWORD).await;
    assert_eq!(root.patch(&path, &json!({ "full_name": "Joseph" })).await.ok()["full_name"], "Joseph");
    assert_eq!(client.get("/users/me").await.ok()["full_name"], "Joseph", "seen at once");
    root.patch(&path, &json!({ "email": SUPERUSER })).await.has_code(409, "email_taken");
    root.patch(&path, &json!({ "is_active": false })).await.ok();
    let inactive = client.get("/users/me").await;
    assert!([401, 403].contains(&inactive.status), "{}", inactive.text());
    host.anonymous().sign_in("joe@example.com", PASSWORD).await.is_problem(400, "inactive_user", "Inactive user");
    root.patch(&path, &json!({ "is_active": true, "password": "another password" })).await.ok();
    host.anonymous().sign_in("joe@example.com", PASSWORD).await.has_code(400, "incorrect_credentials");

    root.delete(&path).await.says("User deleted successfully");
    root.delete(&path).await.is_problem(404, "user_not_found", "User not found");
    root.get(&path).await.is_problem(404, "user_not_found", "User not found");
    let missing = "The user with this id does not exist in the system";
    root.patch(&path, &json!({})).await.is_problem(404, "user_not_found", missing);
}

async fn a_new_account_gets_a_link_and_no_password(host: &TestHost) {
    let new = json!({ "email": "new@example.com", "password": "secret password" });
    host.superuser().post("/users/", &new).await.ok();
    let mail = host.mails().take("new@example.com").await;
    assert_eq!(mail.subject, "Test & Co - New account for user new@example.com");
    assert!(!mail.html.contains("secret password"));
    let reset = json!({ "token": mail.reset_token(), "new_password": "own password" });
    host.anonymous().post("/reset-password/", &reset).await.says("Password updated successfully");
    let test = host.superuser().request(Method::POST, "/utils/test-email/?email_to=x@example.com").send().await;
    assert_eq!((test.status, test.text().as_str()), (201, r#"{"message":"Test email sent"}"#));
    assert_eq!(host.mails().take("x@example.com").await.subject, "Test & Co - Test email");
    let bad = host.superuser().request(Method::POST, "/utils/test-email/?email_to=x").send().await;
    bad.refuses(&["query.email_to value_error: value is not a valid email address: …"]);
}

async fn the_last_superuser_stays(host: &TestHost) {
    let root = host.superuser();
    let me = format!("/users/{}", root.get("/users/me").await.ok()["id"].as_str().unwrap());
    let last = "The last superuser cannot be removed";
    root.patch(&me, &json!({ "is_superuser": false })).await.is_problem(409, "last_superuser", last);
    root.patch(&me, &json!({ "is_active": false })).await.is_problem(409, "last_superuser", last);
    let new = json!({ "email": "second@example.com", "password": PASSWORD, "is_superuser": true });
    let second = format!("/users/{}", root.post("/users/", &new).await.ok()["id"].as_str().unwrap());
    let demotion = json!({ "is_superuser": false });
    let (one, two) = tokio::join!(root.patch(&me, &demotion), root.patch(&second, &demotion));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert!(statuses == [200, 409] || statuses == [200, 403], "one of them stays: {statuses:?}");
}

async fn a_changed_password_ends_other_sessions(host: &TestHost) {
    let here = host.user("jane@example.com").await;
    let there = host.anonymous().signed_in("jane@example.com", PASSWORD).await;
    let change = async |current: &str, new: &str| {
        here.patch("/users/me/password", &json!({ "current_password": current, "new_password": new })).await
    };
    change("wrong password", "new password").await.is_problem(400, "incorrect_password", "Incorrect password");
    change(PASSWORD, PASSWORD).await.is_problem(
        400,
        "same_password",
        "New password cannot be the same as the current one",
    );
    change(PASSWORD, "new password").await.says("Password updated successfully");
    here.get("/users/me").await.ok();
    assert_eq!(there.get("/users/me").await.status, 401);
}

async fn private_routes_exist_in_development_only(host: &TestHost) {
    let body = json!({ "email": "p@example.com", "password": "x", "full_name": "P" });
    host.anonymous().post("/private/users/", &body).await.ok();
    host.anonymous().post("/private/users/", &body).await.is_problem(
        409,
        "email_taken",
        "User with this email already exists",
    );
    let plain = TestHost::sqlite(Setup::default()).await;
    plain.anonymous().post("/private/users/", &body).await.is_problem(404, "route_not_found", "Not Found");
    plain.stop().await;
}
