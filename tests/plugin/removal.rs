//! Removing plugins, with or without their data.

use reqwest::Method;
use serde_json::json;

use super::releases::operate;
use super::{liar, plugins};
use crate::support::{Backend, Component, Setup, TestHost, both};

both!(
    data_survives_a_removal,
    deleted_data_is_gone_and_other_plugins_keep_theirs,
    data_of_a_removed_plugin_can_be_deleted_later,
    a_release_whose_tables_were_deleted_is_not_served_again,
);

async fn add_note(host: &TestHost, plugin: &str) {
    let path = format!("/{plugin}/notes/kept");
    assert_eq!(host.anonymous().request(Method::POST, &path).send().await.status, 204);
}

async fn data_survives_a_removal(host: &TestHost) {
    host.deploy_chameleon().await;
    add_note(host, "chameleon").await;
    host.superuser().delete("/plugins/chameleon").await.has_message("Plugin 'chameleon' removed");
    assert_eq!(plugins(host).await["count"], 0);
    host.anonymous().get("/chameleon/notes").await.is_problem(404, "plugin_removed", "Not Found");
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!(["kept"]));
}

async fn deleted_data_is_gone_and_other_plugins_keep_theirs(host: &TestHost) {
    host.deploy_chameleon().await;
    let query = format!("{}&name=twin", crate::support::host::CHAMELEON);
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
    add_note(host, "chameleon").await;
    add_note(host, "twin").await;
    host.superuser().delete("/plugins/chameleon?delete_data=true").await.has_message("Plugin 'chameleon' removed");
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]));
    assert_eq!(host.anonymous().get("/twin/notes").await.ok(), json!(["kept"]));
}

async fn data_of_a_removed_plugin_can_be_deleted_later(host: &TestHost) {
    host.deploy_chameleon().await;
    add_note(host, "chameleon").await;
    host.superuser().delete("/plugins/chameleon").await.ok();
    host.superuser().delete("/plugins/chameleon").await.has_code(404, "plugin_not_found");
    host.superuser().delete("/plugins/chameleon?delete_data=true").await.ok();
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]));
}

#[tokio::test]
async fn grants_end_with_a_removal() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    host.superuser().delete("/plugins/items").await.ok();
    let response = host.superuser().deploy(&Component::items().0, "grant=auth,events").await;
    let reason = response.has_code(403, "grant_missing");
    assert!(reason.contains("was not granted: sql."), "{reason}");
    host.superuser().get("/items/").await.has_code(404, "plugin_removed");
    host.stop().await;
}

#[tokio::test]
async fn a_removed_plugin_stays_removed_after_a_restart() {
    let Some(mut host) = TestHost::start(Backend::Sqlite, Setup::default()).await else { return };
    host.superuser().deploy(&Component::hello().0, "mount=/greetings").await.ok();
    host.superuser().delete("/plugins/hello").await.has_message("Plugin 'hello' removed");
    host.restart().await;
    host.anonymous().plain(Method::GET, "/greetings/you").send().await.has_code(404, "plugin_removed");
    host.superuser().get("/plugins/hello").await.is_problem(404, "plugin_not_found", "There is no plugin 'hello'");
    // A plugin comes back at its former mount.
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    host.anonymous().plain(Method::GET, "/greetings/you").send().await.ok();
}

#[tokio::test]
async fn an_unknown_plugin_cannot_be_removed() {
    let host = TestHost::sqlite(Setup::default()).await;
    let response = host.superuser().delete("/plugins/nothing").await;
    response.is_problem(404, "plugin_not_found", "There is no plugin 'nothing'");
}

#[tokio::test]
async fn a_plugins_cache_is_removed_with_the_plugin() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    host.anonymous().request(Method::PUT, "/chameleon/kept/k").body("v").send().await.ok();
    host.superuser().delete("/plugins/chameleon").await.has_message("Plugin 'chameleon' removed");
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/kept/k").await.ok(), json!(null));
}

async fn a_release_whose_tables_were_deleted_is_not_served_again(host: &TestHost) {
    let steps = json!([["0001", "CREATE TABLE t (a BIGINT)"]]);
    let with_table = liar(json!({ "answer": "table", "migrations": steps }));
    host.superuser().deploy(&with_table.0, "grant=sql").await.ok();
    host.superuser().delete("/plugins/liar?delete_data=true").await.ok();
    host.superuser().deploy(&liar(json!({ "answer": "fresh" })).0, "").await.ok();
    let reason = operate(host, "liar/rollback?release=1").await.has_code(409, "plugin_state");
    assert!(reason.contains("do not have the migration '0001' of release 1"), "{reason}");
    assert_eq!(host.anonymous().get("/liar").await.text(), "fresh");
    // A deploy creates them again.
    host.superuser().deploy(&with_table.rebuilt("again").0, "grant=sql").await.ok();
    operate(host, "liar/rollback?release=1").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "table");
}
