//! Deploys under load.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::liar;
use crate::support::{Load, Setup, TestHost};

const DEPLOYS: usize = 200;
const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_deploys_lose_no_request() {
    let host = TestHost::sqlite(Setup::default()).await;
    let builds = ["even", "odd"].map(|word| liar(json!({ "answer": word })));
    host.superuser().deploy(&builds[1].0, "").await.ok();
    let load = Load::begin(&host.anonymous(), CLIENTS, "/liar", ["even", "odd"]);
    for (build, word) in builds.iter().zip(["even", "odd"]).cycle().take(DEPLOYS) {
        let deployed = host.superuser().deploy(&build.0, "").await.ok();
        assert_eq!(deployed["unchanged"], false);
        // Once a deploy has returned, the previous release serves no more requests.
        assert_eq!(host.anonymous().get("/liar").await.text(), word);
    }
    load.end().await;
    host.stop().await;
}

/// A deploy describes and tests the new release in instances that do not use call slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_succeeds_while_every_call_slot_is_taken() {
    let setup = Setup::default().with(|config| {
        config.plugins.concurrency = 2;
        config.plugins.total_concurrency = 2;
        config.plugins.queue_time = Duration::ZERO;
        config.plugins.drain_time = Duration::from_secs(60);
    });
    let host = TestHost::sqlite(setup).await;
    let migrations = json!([["0001", "CREATE TABLE t (a BIGINT)"]]);
    let release =
        |response: &str, millis: u32| liar(json!({ "answer": response, "millis": millis, "migrations": migrations }));
    // Compiled in advance, so that the deploy below is fast.
    for (response, millis) in [("new", 0), ("old", 5_000)] {
        host.superuser().deploy(&release(response, millis).0, "grant=sql").await.ok();
    }
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let client = host.anonymous();
        calls.spawn(async move { client.get("/liar").await });
    }
    // These four calls are refused because all slots are taken; the others go on.
    for _ in 0..4 {
        calls.join_next().await.unwrap().unwrap().has_code(503, "plugin_busy");
    }
    host.superuser().deploy(&release("new", 0).0, "").await.ok();
    assert!(calls.try_join_next().is_none(), "the calls have ended before the deploy");
    for response in calls.join_all().await {
        assert_eq!((response.status, &*response.text()), (200, "old"));
    }
    assert_eq!(host.anonymous().get("/liar").await.text(), "new");
    host.stop().await;
}
