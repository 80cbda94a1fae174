//! The circuit breaker: a release that keeps failing is quarantined, probed, or rolled back.

use std::time::Duration;

use serde_json::json;

use super::liar;
use super::releases::{history_entry, operate, responding_with, state};
use crate::support::{Setup, TestHost};

const QUARANTINE: Duration = Duration::from_secs(5);

async fn fail(host: &TestHost, times: usize) {
    for _ in 0..times {
        host.anonymous().get("/liar").await.has_code(502, "plugin_trap");
    }
}

#[tokio::test]
async fn a_failing_plugin_is_quarantined_and_its_neighbour_is_unaffected() {
    let host = TestHost::sqlite(Setup::default().with_manual_clock()).await;
    host.superuser().deploy(&liar(json!({ "handle": "trap" })).0, "").await.ok();
    host.superuser().deploy(&liar(json!({ "name": "neighbour" })).0, "").await.ok();
    fail(&host, 10).await;
    let refused = host.anonymous().get("/liar").await;
    refused.has_code(503, "plugin_quarantined");
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(state(&host, "liar").await, "quarantined");
    assert_eq!(host.anonymous().get("/neighbour").await.text(), "one");
    // One probe, which fails, so the next quarantine is twice as long.
    host.clock().advance(QUARANTINE);
    fail(&host, 1).await;
    host.clock().advance(QUARANTINE);
    host.anonymous().get("/liar").await.has_code(503, "plugin_quarantined");
    // A working release ends the quarantine.
    host.superuser().deploy(&responding_with("works").0, "").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "works");
    assert_eq!(state(&host, "liar").await, "live");
}

#[tokio::test]
async fn a_fresh_deploy_that_keeps_failing_is_rolled_back() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&responding_with("good").0, "").await.ok();
    host.superuser().deploy(&liar(json!({ "handle": "panic" })).0, "").await.ok();
    fail(&host, 10).await;
    let back = history_entry(&host, "liar", "rollback").await;
    assert_eq!((&back["detail"]["before"], &back["detail"]["after"]), (&json!(2), &json!(1)));
    assert_eq!(back["actor"], json!(null));
    assert!(back["detail"]["reason"].as_str().unwrap().contains("Too many of its calls failed"), "{back}");
    assert_eq!(host.anonymous().get("/liar").await.text(), "good");
}

#[tokio::test]
async fn a_release_past_its_probation_is_not_rolled_back() {
    let host = TestHost::sqlite(Setup::default().with_manual_clock()).await;
    host.superuser().deploy(&responding_with("good").0, "").await.ok();
    host.superuser().deploy(&liar(json!({ "handle": "trap" })).0, "").await.ok();
    host.clock().advance(Duration::from_secs(301));
    fail(&host, 10).await;
    host.anonymous().get("/liar").await.has_code(503, "plugin_quarantined");
    operate(&host, "liar/rollback").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "good");
}
