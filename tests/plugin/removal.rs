//! Removing plugins, with or without their data.

use reqwest::Method;
use serde_json::json;
use sqlx::Connection as _;

use super::emergencies::patient;
use super::releases::operate;
use super::{liar, plugins};
use crate::support::gate::Gate;
use crate::support::polling::until;
use crate::support::postgres;
use crate::support::worker::Worker;
use crate::support::{Backend, Component, Setup, TestHost, both};

both!(
    data_survives_a_removal,
    deleted_data_is_gone_and_other_plugins_keep_theirs,
    data_of_a_removed_plugin_can_be_deleted_later,
    a_release_whose_tables_were_deleted_is_not_served_again,
    a_deletion_of_data_ends_calls_in_flight => patient(),
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

async fn a_deletion_of_data_ends_calls_in_flight(host: &TestHost) {
    let gate = Gate::start().await;
    host.superuser().deploy(&Component::chameleon().0, &gate.grants()).await.ok();
    let replaced = gate.call(&host.anonymous());
    gate.arrived().await;
    host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    let current = gate.call(&host.anonymous());
    gate.arrived().await;
    // A removal that keeps the data lets them go on.
    host.superuser().delete("/plugins/chameleon").await.ok();
    gate.open();
    gate.open();
    for call in [replaced, current] {
        call.await.unwrap().ok();
    }

    host.superuser().deploy(&Component::chameleon().rebuilt("back").0, &gate.grants()).await.ok();
    let replaced = gate.call(&host.anonymous());
    gate.arrived().await;
    host.superuser().deploy(&Component::chameleon().rebuilt("new").0, "").await.ok();
    let current = gate.call(&host.anonymous());
    gate.arrived().await;
    host.superuser().delete("/plugins/chameleon?delete_data=true").await.ok();
    for call in [replaced, current] {
        call.await.unwrap().has_code(503, "plugin_replaced");
    }
}

/// On SQLite nothing holds the relay up between two statements.
#[tokio::test]
async fn messages_that_the_relay_holds_are_deleted_with_the_data() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    let worker = Worker::deploy(&host, json!({ "subscriptions": [["worker.said"]] })).await;
    let mut locking = postgres::connect(host.database().unwrap()).await;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(postgres::EVENT_LOCK).execute(&mut locking).await.unwrap();
    let steps = json!([["begin"], ["enqueue", "work", {}], ["publish", "said", null, {}], ["commit"]]);
    worker.post(&steps).await.ok();
    until("the relay to wait for the lock", async || postgres::is_lock_waited_for(&mut locking).await.then_some(()))
        .await;
    let removal = {
        let superuser = host.superuser().clone();
        tokio::spawn(async move { superuser.delete("/plugins/worker?delete_data=true").await })
    };
    until("the plugin to be removed", async || {
        (host.anonymous().get("/worker/notes").await.status == 404).then_some(())
    })
    .await;
    locking.close().await.unwrap();
    removal.await.unwrap().ok();
    let worker = Worker::deploy(&host, json!({ "subscriptions": [["worker.said"]] })).await;
    assert!(worker.tasks("").await.is_empty());
    assert!(worker.notes().await.is_empty());
}
