//! `wharf:auth`.

use serde_json::{Value, json};

use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{TestHost, both};

both!(
    a_plugin_knows_its_caller,
    missing_or_invalid_credentials_mean_no_caller_on_public_routes,
    superusers_have_every_permission_and_others_have_none,
    the_host_checks_access_before_the_plugin_runs,
    a_deactivated_account_is_not_a_caller,
);

async fn a_plugin_knows_its_caller(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    let me = user.get("/users/me").await.ok();
    let who = user.get("/chameleon/who").await.ok();
    assert_eq!(who, json!({ "id": me["id"], "email": "someone@example.com", "superuser": false, "roles": [] }));
    let who = host.superuser().get("/chameleon/who").await.ok();
    assert_eq!((&who["email"], &who["superuser"]), (&json!(SUPERUSER), &json!(true)));
}

async fn missing_or_invalid_credentials_mean_no_caller_on_public_routes(host: &TestHost) {
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/who").await.ok(), Value::Null);
    assert_eq!(host.anonymous().with_token("forged").get("/chameleon/who").await.ok(), Value::Null);
}

async fn superusers_have_every_permission_and_others_have_none(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    assert_eq!(user.get("/chameleon/me").await.ok()["may_read_all"], false);
    assert_eq!(host.superuser().get("/chameleon/me").await.ok()["may_read_all"], true);
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
