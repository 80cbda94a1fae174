//! API keys: their form, their permissions, their end, and the attempts to get more from one than it has.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{PRIVILEGES, column, invalid_token, is_stamped, members, not_authenticated, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::polling::until;
use crate::support::{Client, TestHost, both};

both! {
    a_key_is_shown_once_and_acts_for_its_owner => Setup::default().with_manual_clock().with_items(),
    a_key_has_its_permissions_and_no_others => Setup::default().with_items(),
    a_key_never_exceeds_its_owner,
    a_key_of_nobody_is_created_by_an_operator_who_holds_its_permissions => Setup::default().with_items(),
    a_key_can_neither_renew_itself_nor_change_its_account,
    a_key_expires => Setup::default().with_manual_clock(),
    a_revoked_key_is_refused_at_its_next_request,
    a_text_that_is_nearly_a_key_is_401,
    the_last_use_of_a_key_is_recorded_to_the_minute => Setup::default().with_manual_clock(),
    the_number_of_keys_of_an_account_is_bounded,
}

const KEY: [&str; 9] =
    ["id", "name", "prefix", "owner", "created_by", "permissions", "created_at", "expires_at", "last_used_at"];

/// Creates a key that belongs to the caller, and returns the response.
async fn created(client: &Client, permissions: &[&str]) -> Value {
    client.post("/users/me/keys", &json!({ "name": "ci", "permissions": permissions })).await.ok()
}

/// Returns the client of a key.
fn client_of(host: &TestHost, key: &Value) -> Client {
    host.anonymous().with_token(text(key, "key"))
}

async fn a_key_is_shown_once_and_acts_for_its_owner(host: &TestHost) {
    let jane = host.user("jane@example.com").await;
    let id = text(&jane.get("/users/me").await.ok(), "id").to_owned();
    let body = json!({ "name": "laptop", "permissions": ["routes:call"], "id": "ignored", "owner": null });
    let response = jane.post("/users/me/keys", &body).await;
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let created = response.ok();
    let key = text(&created, "key").to_owned();
    assert_eq!(members(&created), [&["key"][..], &KEY].concat());
    is_stamped(&created);
    assert!(key.starts_with(&format!("{}_", text(&created, "prefix"))), "{key}");
    assert_eq!((text(&created, "owner"), text(&created, "created_by")), (id.as_str(), id.as_str()));
    assert_eq!(text(&created, "expires_at"), "2027-04-15T08:00:00.123456Z", "90 days");

    let listed = jane.get("/users/me/keys").await.ok();
    assert_eq!((members(&listed), &listed["count"]), (vec!["data", "count"], &json!(1)));
    assert_eq!(members(&listed["data"][0]), KEY);
    let secret = key.rsplit('_').next().unwrap();
    assert!(!listed.to_string().contains(secret), "the secret is never shown again");

    // The key acts as its owner, on routes of the host and of plugins.
    let machine = host.anonymous().with_token(&key);
    assert_eq!(text(&machine.get("/users/me").await.ok(), "id"), id);
    let item = machine.post("/items/", &json!({ "title": "by a key" })).await.ok();
    assert_eq!(text(&item, "owner_id"), id);
    assert_eq!(jane.get("/items/").await.ok()["count"], 1);
    // Nobody else sees or revokes it.
    let joe = host.user("joe@example.com").await;
    assert_eq!(joe.get("/users/me/keys").await.ok()["count"], 0);
    let path = format!("/users/me/keys/{}", text(&created, "id"));
    joe.delete(&path).await.is_problem(404, "key_not_found", "API key not found");
    joe.get("/keys/").await.is_problem(403, "forbidden", PRIVILEGES);
    joe.delete(&format!("/keys/{}", text(&created, "id"))).await.is_problem(403, "forbidden", PRIVILEGES);
    let all = host.superuser().get("/keys/").await.ok();
    assert_eq!((column(&all, "id"), column(&all, "owner")), (column(&listed, "id"), vec![id.as_str()]));
    not_authenticated(&host.anonymous().get("/users/me/keys").await);
    machine.get("/users/me").await.ok();
}

async fn a_key_has_its_permissions_and_no_others(host: &TestHost) {
    let reader = client_of(host, &created(host.superuser(), &["users:read", "plugins:read"]).await);
    reader.get("/users/").await.ok();
    reader.get("/plugins/items").await.ok();
    let account = json!({ "email": "new@example.com", "password": PASSWORD });
    reader.post("/users/", &account).await.has_code(403, "forbidden");
    reader.delete("/plugins/items").await.has_code(403, "forbidden");
    reader.get("/keys/").await.has_code(403, "forbidden");
    // It may not call the routes of plugins, although its owner may.
    let refused = reader.get("/items/").await;
    refused.is_problem(403, "forbidden", PRIVILEGES);
    assert_eq!(refused.problem()["permission"], "routes:call");
    // A key of a superuser is no superuser for a plugin.
    let jane = host.user("jane@example.com").await;
    jane.post("/items/", &json!({ "title": "hers" })).await.ok();
    assert_eq!(host.superuser().get("/items/").await.ok()["count"], 1);
    let caller = client_of(host, &created(host.superuser(), &["routes:call"]).await);
    assert_eq!(caller.get("/items/").await.ok()["count"], 0);

    let refused = |permissions: Value| {
        let body = json!({ "name": "x", "permissions": permissions });
        let client = host.superuser().clone();
        async move { client.post("/users/me/keys", &body).await }
    };
    for unknown in ["", "users", "users:", ":read", "users:fly", "users:read:all", "Users:read", "a b:c"] {
        refused(json!([unknown])).await.has_code(422, "validation_error");
    }
    refused(json!([])).await.has_code(422, "validation_error");
    refused(json!(vec!["users:read"; 101])).await.has_code(422, "validation_error");
    refused(json!("users:read")).await.has_code(422, "validation_error");
}

async fn a_key_never_exceeds_its_owner(host: &TestHost) {
    // A user gives a key nothing that they do not have.
    let jane = host.user("jane@example.com").await;
    for permission in ["users:read", "plugins:deploy", "items:read-all"] {
        let body = json!({ "name": "x", "permissions": ["routes:call", permission] });
        jane.post("/users/me/keys", &body).await.has_code(403, "exceeds_own_permissions");
    }
    assert_eq!(jane.get("/users/me/keys").await.ok()["count"], 0);
    let denied = host.superuser().get("/audit/?action=key.create&outcome=denied").await.ok();
    let detail = json!({ "name": "x", "permissions": ["routes:call", "items:read-all"] });
    assert_eq!((&denied["data"].as_array().unwrap().len(), &denied["data"][0]["detail"]), (&3, &detail));

    // It loses at the next request what its owner loses.
    let path = format!("/users/{}", text(&jane.get("/users/me").await.ok(), "id"));
    host.superuser().patch(&path, &json!({ "is_superuser": true })).await.ok();
    let machine = client_of(host, &created(&jane, &["users:read"]).await);
    machine.get("/users/").await.ok();
    host.superuser().patch(&path, &json!({ "is_superuser": false })).await.ok();
    machine.get("/users/").await.has_code(403, "forbidden");
    host.superuser().patch(&path, &json!({ "is_superuser": true })).await.ok();
    machine.get("/users/").await.ok();
    host.superuser().patch(&path, &json!({ "is_active": false })).await.ok();
    machine.get("/users/").await.is_problem(403, "inactive_user", "Inactive user");
    host.superuser().delete(&path).await.has_message("User deleted successfully");
    invalid_token(&machine.get("/users/").await);
    assert_eq!(host.superuser().get("/keys/").await.ok()["count"], 0, "the keys end with the account");
}

async fn a_key_of_nobody_is_created_by_an_operator_who_holds_its_permissions(host: &TestHost) {
    let body = json!({ "name": "pipeline", "permissions": ["plugins:read", "routes:call"], "expires_in": null });
    let jane = host.user("jane@example.com").await;
    jane.post("/keys/", &body).await.is_problem(403, "forbidden", PRIVILEGES);
    let key = host.superuser().post("/keys/", &body).await.ok();
    assert_eq!((&key["owner"], &key["expires_at"]), (&Value::Null, &Value::Null));
    let machine = client_of(host, &key);
    machine.get("/plugins/items").await.ok();
    machine.get("/users/").await.has_code(403, "forbidden");
    // There is no account behind it.
    machine.get("/users/me").await.has_code(403, "needs_account");
    machine.request(Method::POST, "/login/test-token").send().await.has_code(403, "needs_account");
    // It belongs to nobody, so it is in nobody's own list, and its creator may go.
    assert_eq!(host.superuser().get("/users/me/keys").await.ok()["count"], 0);
    assert_eq!(column(&host.superuser().get("/keys/").await.ok(), "name"), ["pipeline"]);
    let path = format!("/keys/{}", text(&key, "id"));
    host.superuser().delete(&path).await.has_message("API key revoked");
    host.superuser().delete(&path).await.is_problem(404, "key_not_found", "API key not found");
    invalid_token(&machine.get("/plugins/items").await);
}

async fn a_key_can_neither_renew_itself_nor_change_its_account(host: &TestHost) {
    let all = ["keys:read", "keys:write", "sessions:read", "sessions:end", "users:read", "users:write", "routes:call"];
    let machine = client_of(host, &created(host.superuser(), &all).await);
    let body = json!({ "name": "again", "permissions": ["keys:write"] });
    machine.get("/keys/").await.ok();
    machine.post("/keys/", &body).await.has_code(403, "needs_session");
    machine.post("/users/me/keys", &body).await.has_code(403, "needs_session");
    machine.get("/users/me/keys").await.has_code(403, "needs_session");
    machine.get("/users/me/sessions").await.has_code(403, "needs_session");
    machine.delete("/users/me/sessions").await.has_code(403, "needs_session");
    machine.delete("/users/me").await.has_code(403, "needs_session");
    machine.patch("/users/me", &json!({ "email": "evil@example.com" })).await.has_code(403, "needs_session");
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse" });
    machine.patch("/users/me/password", &change).await.has_code(403, "needs_session");
    machine.request(Method::POST, "/login/logout").send().await.has_code(403, "needs_session");
    let owner = text(&host.superuser().get("/users/me").await.ok(), "id").to_owned();
    let owner = format!("/users/{owner}");
    machine.patch(&owner, &json!({ "password": "another horse" })).await.has_code(403, "needs_session");
    // It takes over no account that has more permissions than it.
    host.superuser().post("/roles/", &json!({ "name": "auditors", "permissions": ["audit:read"] })).await.ok();
    let auditor = host.user("auditor@example.com").await;
    let auditor = format!("/users/{}", text(&auditor.get("/users/me").await.ok(), "id"));
    host.superuser().put(&format!("{auditor}/roles"), &json!({ "roles": ["auditors"] })).await.ok();
    machine.patch(&auditor, &json!({ "password": "another horse" })).await.has_code(403, "exceeds_own_permissions");
    let jane = host.user("jane@example.com").await;
    let jane = format!("/users/{}", text(&jane.get("/users/me").await.ok(), "id"));
    machine.patch(&jane, &json!({ "is_superuser": true })).await.has_code(403, "exceeds_own_permissions");
    host.anonymous().sign_in(SUPERUSER, PASSWORD).await.ok();
    a_key_with_all_permissions_of_its_owner_does_not_change_its_account(host).await;
}

/// Its permissions would allow it: the owner has no others.
async fn a_key_with_all_permissions_of_its_owner_does_not_change_its_account(host: &TestHost) {
    let permissions = ["users:read", "users:write", "roles:read", "roles:write", "sessions:read", "sessions:end"];
    host.superuser().post("/roles/", &json!({ "name": "managers", "permissions": permissions })).await.ok();
    let ann = host.user("ann@example.com").await;
    let own = format!("/users/{}", text(&ann.get("/users/me").await.ok(), "id"));
    host.superuser().put(&format!("{own}/roles"), &json!({ "roles": ["managers"] })).await.ok();
    let machine = client_of(host, &created(&ann, &permissions).await);
    let session = text(&machine.get(&format!("{own}/sessions")).await.ok()["data"][0], "id").to_owned();
    for response in [
        machine.patch(&own, &json!({ "password": "another horse" })).await,
        machine.patch(&own, &json!({ "email": "mine@example.com" })).await,
        machine.patch(&own, &json!({ "is_active": false })).await,
        machine.post("/password-recovery-html-content/Ann@EXAMPLE.com", &json!({})).await,
        machine.put(&format!("{own}/roles"), &json!({ "roles": [] })).await,
        machine.delete(&format!("{own}/factors")).await,
        machine.delete(&format!("{own}/sessions")).await,
        machine.delete(&format!("{own}/sessions/{session}")).await,
    ] {
        response.has_code(403, "needs_session");
    }
    machine.delete(&own).await.has_code(403, "superuser_self_deletion");
    ann.get("/users/me").await.ok();
    host.anonymous().sign_in("ann@example.com", PASSWORD).await.ok();
    // Other accounts are its to manage.
    let member = host.user("member@example.com").await;
    let member = format!("/users/{}", text(&member.get("/users/me").await.ok(), "id"));
    machine.patch(&member, &json!({ "full_name": "Member" })).await.ok();
    machine.delete(&format!("{member}/sessions")).await.has_message("Sessions deleted successfully");
}

async fn a_key_expires(host: &TestHost) {
    let body = json!({ "name": "short", "permissions": ["users:read"], "expires_in": 60 });
    let key = host.superuser().post("/users/me/keys", &body).await.ok();
    assert_eq!(text(&key, "expires_at"), "2027-01-15T08:01:00.123456Z");
    let machine = client_of(host, &key);
    host.clock().advance(Duration::from_secs(59));
    machine.get("/users/").await.ok();
    host.clock().advance(Duration::from_secs(1));
    invalid_token(&machine.get("/users/").await);
    for wrong in [json!(59), json!(0), json!(-1), json!(315_360_001), json!("90d")] {
        let body = json!({ "name": "x", "permissions": ["users:read"], "expires_in": wrong });
        host.superuser().post("/users/me/keys", &body).await.has_code(422, "validation_error");
    }
    // It is listed for a month, and then forgotten when another one is created.
    let month = Duration::from_secs(30 * 24 * 3600);
    host.clock().advance(month);
    let superuser = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    assert_eq!(superuser.get("/users/me/keys").await.ok()["count"], 1);
    created(&superuser, &["users:read"]).await;
    assert_eq!(column(&superuser.get("/users/me/keys").await.ok(), "name"), ["ci"]);
}

async fn a_revoked_key_is_refused_at_its_next_request(host: &TestHost) {
    let jane = host.user("jane@example.com").await;
    for revoke in ["/users/me/keys", "/keys"] {
        let key = created(&jane, &["routes:call"]).await;
        let machine = client_of(host, &key);
        machine.get("/users/me").await.ok();
        let by = if revoke == "/keys" { host.superuser() } else { &jane };
        by.delete(&format!("{revoke}/{}", text(&key, "id"))).await.has_message("API key revoked");
        invalid_token(&machine.get("/users/me").await);
    }
    // The end of a session ends no key, and neither does a change of the password: keys are revoked by themselves.
    let key = created(&jane, &["routes:call"]).await;
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse" });
    jane.patch("/users/me/password", &change).await.has_message("Password updated successfully");
    jane.request(Method::POST, "/login/logout").send().await.has_message("Logged out successfully");
    client_of(host, &key).get("/users/me").await.ok();
}

async fn a_text_that_is_nearly_a_key_is_401(host: &TestHost) {
    let key = created(host.superuser(), &["users:read"]).await;
    let other = created(host.superuser(), &["users:read"]).await;
    let good = text(&key, "key");
    let swapped = format!("{}_{}", text(&other, "prefix"), good.rsplit('_').next().unwrap());
    for text in [
        format!("{good}0"),
        good.replace("wharf_", "Wharf_"),
        good.replace("wharf_", ""),
        text(&key, "prefix").to_owned(),
        "wharf_".to_owned(),
        format!("{}0", good.get(..good.len() - 1).unwrap()),
        swapped,
        format!("wharf_{}", "x".repeat(10_000)),
    ] {
        if text != good {
            invalid_token(&host.anonymous().with_token(&text).get("/users/").await);
        }
    }
    client_of(host, &key).get("/users/").await.ok();
    // No other place carries a key.
    let anonymous = host.anonymous();
    not_authenticated(&anonymous.get(&format!("/users/?key={good}")).await);
    not_authenticated(&anonymous.request(Method::GET, "/users/").header("x-api-key", good).send().await);
}

async fn the_last_use_of_a_key_is_recorded_to_the_minute(host: &TestHost) {
    let key = created(host.superuser(), &["users:read"]).await;
    assert_eq!(key["last_used_at"], Value::Null);
    let machine = client_of(host, &key);
    let until_recorded = async |expected: &str| {
        until("the record of the use", async || {
            let list = host.superuser().get("/users/me/keys").await.ok();
            (list["data"][0]["last_used_at"] == expected).then_some(())
        })
        .await;
    };
    machine.get("/users/").await.ok();
    until_recorded("2027-01-15T08:00:00.123456Z").await;
    host.clock().advance(Duration::from_secs(59));
    machine.get("/users/").await.ok();
    host.clock().advance(Duration::from_secs(1));
    machine.get("/users/").await.ok();
    until_recorded("2027-01-15T08:01:00.123456Z").await;
}

async fn the_number_of_keys_of_an_account_is_bounded(host: &TestHost) {
    let jane = host.user("jane@example.com").await;
    for _ in 0..100 {
        created(&jane, &["routes:call"]).await;
    }
    let body = json!({ "name": "x", "permissions": ["routes:call"] });
    jane.post("/users/me/keys", &body).await.is_problem(409, "too_many_keys", "There are too many API keys");
    let page = jane.get("/users/me/keys?skip=99&limit=5").await.ok();
    assert_eq!((page["data"].as_array().unwrap().len(), &page["count"]), (1, &json!(100)));
    jane.get("/users/me/keys?limit=1001").await.has_code(422, "validation_error");
    created(host.superuser(), &["users:read"]).await;
}
