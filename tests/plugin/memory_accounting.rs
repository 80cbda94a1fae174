//! What the host holds for a call counts as the call's memory: at the moment at which the guest has its answer, the host
//! still has it too.

use reqwest::Method;
use serde_json::{Value, json};

use super::deploy_with_settings;
use super::limit_overrides::limit;
use crate::support::host::CHAMELEON;
use crate::support::{Component, TestHost, both};

both!(host_memory_held_for_a_call_counts_as_its_memory => Setup::default().with(|config| {
    // Nobody else is called, so that what is told is of one call.
    config.plugins.sql_bytes = 4 << 20;
}));

/// More than the guest's memory grows by at once.
const BYTES: usize = 3 << 20;

/// A value in a cache has no more than a MiB.
const KEPT: usize = 1_000_000;

/// They stand in a query, three times as long.
const SETTINGS: usize = 8_000;

/// Asks a release that nobody asked before; the most that it took, and the guest's own part of that.
async fn weigh(host: &TestHost, release: &str, question: Option<Value>) -> (u64, u64) {
    let component = Component::chameleon().rebuilt(release);
    let grant = CHAMELEON.trim_start_matches("grant=");
    deploy_with_settings(host.superuser(), &component, grant, &json!({ "padding": "x".repeat(SETTINGS) })).await.ok();
    let request = match &question {
        Some(question) => host.anonymous().request(Method::POST, "/chameleon/weigh").json(question),
        None => host.anonymous().request(Method::GET, "/chameleon/weigh"),
    };
    let answer = request.send().await;
    assert_eq!(answer.status, 200, "{release}: {answer:?}");
    let peak = limit(host, "memory").await["peak"].as_u64().unwrap();
    (peak, answer.text().parse().unwrap())
}

async fn host_memory_held_for_a_call_counts_as_its_memory(host: &TestHost) {
    let long = match host.database() {
        Some(_) => format!("SELECT repeat('x', {BYTES})"),
        None => format!("SELECT hex(zeroblob({}))", BYTES / 2),
    };
    let length = "SELECT length(CAST($1 AS TEXT))";
    for (name, bytes, question) in [
        ("an answer", BYTES, json!({ "what": "query", "sql": long })),
        ("a batch's answer", BYTES, json!({ "what": "batch", "sql": long })),
        ("a parameter", BYTES, json!({ "what": "parameter", "sql": length, "bytes": BYTES })),
        ("what is kept", KEPT, json!({ "what": "set", "bytes": KEPT })),
        ("a log line", BYTES, json!({ "what": "log", "bytes": BYTES })),
        ("an audit entry", BYTES, json!({ "what": "audit", "bytes": BYTES })),
        ("what was kept", KEPT, json!({ "what": "get" })),
    ] {
        let (peak, guest) = weigh(host, name, Some(question)).await;
        assert!(peak >= guest + bytes as u64, "{name}: {peak} with {guest} of the guest's own");
    }
    let (peak, guest) = weigh(host, "settings", None).await;
    assert!(peak >= guest + SETTINGS as u64, "settings: {peak} with {guest} of the guest's own");
}
