//! Grants that are revoked and given again.

use serde_json::json;

use super::releases::{operate, state};
use crate::support::host::CHAMELEON;
use crate::support::{Component, Setup, TestHost, both};

both!(a_revoked_grant_stops_the_plugin_at_once, a_deploy_with_a_revoked_grant_restores_it);

async fn revoke(host: &TestHost, capability: &str) {
    host.superuser().delete(&format!("/plugins/chameleon/grants/{capability}")).await.ok();
}

async fn give(host: &TestHost, capability: &str) -> crate::support::TestResponse {
    host.superuser().put(&format!("/plugins/chameleon/grants/{capability}"), &json!(null)).await
}

async fn a_revoked_grant_stops_the_plugin_at_once(host: &mut TestHost) {
    host.deploy_chameleon().await;
    host.anonymous().get("/chameleon/echo/x").await.ok();
    revoke(host, "cache").await;
    host.anonymous().get("/chameleon/echo/x").await.has_code(503, "plugin_revoked");
    assert_eq!(state(host, "chameleon").await, "revoked");
    host.restart().await;
    host.anonymous().get("/chameleon/echo/x").await.has_code(503, "plugin_revoked");
    revoke(host, "cache").await;
    give(host, "cache").await.ok();
    host.anonymous().get("/chameleon/echo/x").await.ok();
    host.restart().await;
    host.anonymous().get("/chameleon/echo/x").await.ok();
    give(host, "cache").await.has_code(409, "plugin_state");
}

async fn a_deploy_with_a_revoked_grant_restores_it(host: &mut TestHost) {
    host.deploy_chameleon().await;
    revoke(host, "sql").await;
    let rebuilt = Component::chameleon().rebuilt("again");
    host.superuser().deploy(&rebuilt.0, "").await.has_code(403, "grant_missing");
    host.superuser().deploy(&rebuilt.0, CHAMELEON).await.ok();
    host.anonymous().get("/chameleon/notes").await.ok();
    // The previous release needs no missing grant any more.
    operate(host, "chameleon/rollback").await.ok();
    host.anonymous().get("/chameleon/notes").await.ok();
}

#[tokio::test]
async fn a_rollback_to_a_release_that_needs_a_revoked_grant_is_refused() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    revoke(&host, "sql").await;
    let modest = super::liar(json!({ "name": "chameleon" }));
    host.superuser().deploy(&modest.0, "").await.ok();
    assert_eq!(host.anonymous().get("/chameleon").await.text(), "one");
    let reason = operate(&host, "chameleon/rollback").await.has_code(403, "grant_missing");
    assert!(reason.contains("sql"), "{reason}");
    assert_eq!(host.anonymous().get("/chameleon").await.text(), "one");
}

#[tokio::test]
async fn a_missing_grant_cannot_be_revoked() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    host.superuser().delete("/plugins/items/grants/cache").await.has_code(404, "grant_missing");
    host.superuser().delete("/plugins/items/grants/nonsense").await.has_code(404, "grant_missing");
    host.superuser().delete("/plugins/nobody/grants/sql").await.has_code(404, "plugin_not_found");
    host.superuser().put("/plugins/items/grants/nonsense", &json!(null)).await.has_code(404, "grant_missing");
    host.superuser().get("/items/").await.ok();
}
