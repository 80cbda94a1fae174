//! `wharf:auth`.

use serde_json::{Value, json};

use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{TestHost, both};

both!(
    a_plugin_knows_its_caller,
    missing_or_invalid_credentials_mean_no_caller_on_public_routes,
    a_caller_has_the_permissions_of_their_roles,
    a_plugin_knows_how_its_caller_was_authenticated => Setup::default().with_manual_clock(),
    the_host_checks_access_before_the_plugin_runs,
    a_deactivated_account_is_not_a_caller,
);

async fn a_plugin_knows_its_caller(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    let me = user.get("/users/me").await.ok();
    let who = user.get("/chameleon/who").await.ok();
    assert_eq!(who, json!({ "id": me["id"], "email": "someone@example.com", "superuser": false, "roles": ["member"] }));
    let who = host.superuser().get("/chameleon/who").await.ok();
    assert_eq!((&who["email"], &who["superuser"]), (&json!(SUPERUSER), &json!(true)));
}

async fn missing_or_invalid_credentials_mean_no_caller_on_public_routes(host: &TestHost) {
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/who").await.ok(), Value::Null);
    assert_eq!(host.anonymous().with_token("forged").get("/chameleon/who").await.ok(), Value::Null);
}

async fn a_caller_has_the_permissions_of_their_roles(host: &TestHost) {
    host.deploy_chameleon().await;
    let root = host.superuser();
    let user = host.user("someone@example.com").await;
    let me = user.get("/chameleon/me").await.ok();
    assert_eq!((&me["may_read_all"], &me["permissions"]), (&json!(false), &json!([])));
    let superuser = root.get("/chameleon/me").await.ok();
    assert_eq!((&superuser["may_read_all"], &superuser["permissions"]), (&json!(true), &json!(["read-all"])));
    let refused = user.get("/chameleon/permitted").await;
    refused.is_problem(403, "forbidden", "The user doesn't have enough privileges");
    assert_eq!(refused.problem()["permission"], "chameleon:read-all");
    assert_eq!(user.get("/chameleon/superuser").await.problem()["permission"], Value::Null, "no permission suffices");

    // The permission of another plugin with the same name is another permission.
    super::deploy_twin(host).await;
    root.post("/roles/", &json!({ "name": "twins", "permissions": ["twin:read-all"] })).await.ok();
    root.post("/roles/", &json!({ "name": "readers", "permissions": ["chameleon:read-all"] })).await.ok();
    let path = format!("/users/{}/roles", me["id"].as_str().unwrap());
    root.put(&path, &json!({ "roles": ["twins"] })).await.ok();
    assert_eq!(user.get("/twin/me").await.ok()["may_read_all"], true);
    let me = user.get("/chameleon/me").await.ok();
    assert_eq!((&me["may_read_all"], &me["permissions"], &me["roles"]), (&json!(false), &json!([]), &json!(["twins"])));
    root.put(&path, &json!({ "roles": ["readers", "twins"] })).await.ok();
    let me = user.get("/chameleon/me").await.ok();
    assert_eq!((&me["may_read_all"], &me["permissions"]), (&json!(true), &json!(["read-all"])));
    assert_eq!((&me["roles"], &me["may_undeclared"]), (&json!(["readers", "twins"]), &json!(false)));
    assert_eq!(user.get("/chameleon/permitted").await.status, 204);
    assert_eq!(user.get("/chameleon/superuser").await.status, 403);
}

async fn a_plugin_knows_how_its_caller_was_authenticated(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    let session = user.get("/users/me/sessions").await.ok()["data"][0]["id"].clone();
    let expected = json!({ "session": session, "strength": "SingleFactor", "at": "2027-01-15T08:00:00.123456Z" });
    assert_eq!(user.get("/chameleon/me").await.ok()["authentication"], expected);
}

async fn the_host_checks_access_before_the_plugin_runs(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    for path in ["/chameleon/me", "/chameleon/superuser", "/chameleon/permitted"] {
        host.anonymous().get(path).await.is_problem(401, "not_authenticated", "Not authenticated");
        host.anonymous().with_token("forged").get(path).await.problem();
    }
    for path in ["/chameleon/superuser", "/chameleon/permitted"] {
        user.get(path).await.is_problem(403, "forbidden", "The user doesn't have enough privileges");
        assert_eq!(host.superuser().get(path).await.status, 204);
    }
}

async fn a_deactivated_account_is_not_a_caller(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    let id = user.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
    host.superuser().patch(&format!("/users/{id}"), &json!({ "is_active": false, "password": PASSWORD })).await.ok();
    assert_eq!(user.get("/chameleon/who").await.ok(), Value::Null);
    assert!(user.get("/chameleon/me").await.status >= 400);
}
