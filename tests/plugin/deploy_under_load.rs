//! Deploys under load.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::json;

use super::liar;
use crate::support::gate::Gate;
use crate::support::{Component, Load, Setup, TestHost};

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
    let gate = Gate::start().await;
    host.superuser().deploy(&Component::chameleon().0, &gate.grants()).await.ok();
    let mut calls: FuturesUnordered<_> = (0..6).map(|_| gate.call(&host.anonymous())).collect();
    // These four calls are refused because all slots are taken; the others go on.
    for _ in 0..4 {
        calls.next().await.unwrap().unwrap().has_code(503, "plugin_busy");
    }
    let deployed = host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    assert_eq!(deployed["plugin"]["release"]["number"], 2);
    for _ in 0..calls.len() {
        gate.open();
    }
    while let Some(response) = calls.next().await {
        response.unwrap().ok();
    }
    host.anonymous().get("/chameleon/echo/x").await.ok();
    host.stop().await;
}
