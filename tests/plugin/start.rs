//! The start of a host: what `wharf serve --deploy` may change, and which plugins are restored.

use serde_json::json;
use wharf::app::Deployment;
use wharf::plugin::upload::Deployed;

use super::emergencies::{deploy, release, response};
use super::liar;
use super::releases::{operate, responding_with, state};
use crate::support::{Component, Setup, TestHost, both};

both!(
    a_deploy_at_the_start_gives_way_to_changes_by_others,
    an_older_file_at_the_start_does_not_prevent_it,
    a_plugin_does_not_take_its_mount_back,
);

/// Deploys a file with the grant `sql`, as `wharf serve --deploy FILE --grant sql` does at each start.
async fn start_with(host: &TestHost, component: &Component) -> Deployed {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("liar.wasm");
    std::fs::write(&file, &component.0).unwrap();
    let deployed = host.app().deploy(&Deployment { file, grants: vec!["sql".to_owned()] }).await;
    deployed.unwrap_or_else(|error| panic!("{}", error.report()))
}

async fn a_deploy_at_the_start_gives_way_to_changes_by_others(host: &mut TestHost) {
    let host = &*host;
    let (one, two, three) = (release("one"), release("two"), release("three"));
    let gave_way = async |component: &Component| {
        let deployed = start_with(host, component).await;
        (deployed.gave_way, deployed.unchanged)
    };
    // The files of newer images replace those of older ones.
    assert_eq!(gave_way(&one).await, (false, false));
    assert_eq!(gave_way(&one).await, (false, true));
    assert_eq!(gave_way(&two).await, (false, false));
    assert_eq!(response(host, "liar").await, "two");

    host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    assert_eq!([gave_way(&two).await, gave_way(&three).await], [(true, true); 2]);
    assert_eq!(state(host, "liar").await, "revoked");
    host.superuser().put("/plugins/liar/grants/sql", &json!(null)).await.ok();
    // The operator has undone their change.
    assert_eq!(gave_way(&two).await, (false, true));

    operate(host, "liar/rollback").await.ok();
    assert_eq!([gave_way(&two).await, gave_way(&three).await], [(true, true); 2]);
    assert_eq!(gave_way(&one).await, (false, true), "it is served");
    assert_eq!(response(host, "liar").await, "one");
    operate(host, "liar/rollback?release=2").await.ok();
    assert_eq!(gave_way(&three).await, (false, false));

    deploy(host, &release("operator"), "canary=header").await.ok();
    assert_eq!(gave_way(&one).await, (true, true), "a release is on trial");
    operate(host, "liar/promote").await.ok();
    assert_eq!(gave_way(&three).await, (true, true));
    assert_eq!(response(host, "liar").await, "operator");

    host.superuser().delete("/plugins/liar").await.ok();
    assert_eq!(gave_way(&three).await, (true, true));
    host.anonymous().get("/liar").await.has_code(404, "plugin_removed");
}

/// An image is started that is older than the tables which a newer one has migrated.
async fn an_older_file_at_the_start_does_not_prevent_it(host: &mut TestHost) {
    let old = json!(["1_old", "CREATE TABLE old (a BIGINT)"]);
    let new = json!(["2_new", "CREATE TABLE new (a BIGINT)"]);
    let contraction = json!(["3_drop", "DROP TABLE old", "2_new"]);
    let file = |word: &str, steps| liar(json!({ "answer": word, "migrations": steps }));
    start_with(host, &file("one", json!([old]))).await;
    start_with(host, &file("two", json!([old, new]))).await;
    start_with(host, &file("three", json!([old, new, contraction]))).await;
    assert!(start_with(host, &file("one", json!([old]))).await.gave_way);
    assert_eq!(response(host, "liar").await, "three");
}

/// A plugin whose release could not be loaded lost its mount to another one. Later its release can be loaded again.
async fn a_plugin_does_not_take_its_mount_back(host: &mut TestHost) {
    deploy(host, &responding_with("one"), "").await.ok();
    let damage = |table: &str| format!("UPDATE {table} SET limits = 'x' || limits WHERE plugin = 'liar'");
    host.run_sql(&damage("releases"), &damage("wharf.releases")).await;
    host.restart().await;
    let reason = operate(host, "liar/pause").await.has_code(409, "plugin_state");
    assert!(reason.contains("its release cannot be loaded"), "{reason}");
    let heir = liar(json!({ "name": "z-heir", "answer": "heir" }));
    host.superuser().deploy(&heir.0, "mount=/api/v1/liar").await.ok();
    let repair = |table: &str| format!("UPDATE {table} SET limits = substr(limits, 2) WHERE plugin = 'liar'");
    host.run_sql(&repair("releases"), &repair("wharf.releases")).await;
    host.restart().await;
    assert_eq!(response(host, "liar").await, "heir");
    assert_eq!(state(host, "liar").await, "conflict");
}

#[tokio::test]
async fn a_paused_plugin_stays_paused_after_a_deploy_at_the_start() {
    let host = TestHost::sqlite(Setup::default()).await;
    start_with(&host, &release("one")).await;
    operate(&host, "liar/pause").await.ok();
    start_with(&host, &release("two")).await;
    assert_eq!(state(&host, "liar").await, "paused");
}
