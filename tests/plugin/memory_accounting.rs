//! Memory that the host holds for a call counts as the call's memory: when the guest has its response, the host still
//! holds it too.

use reqwest::Method;
use serde_json::{Value, json};

use super::deploy_with_settings;
use super::limit_overrides::limit;
use crate::support::host::CHAMELEON;
use crate::support::{Component, TestHost, both};

both!(host_memory_held_for_a_call_counts_as_its_memory => Setup::default().with(|config| {
    // No other plugin is called, so the reported values are those of one call.
    config.plugins.sql_bytes = 4 << 20;
}));

/// More than one growth step of the guest's memory.
const BYTES: usize = 3 << 20;

/// A cached value has at most 1 MiB.
const CACHED_BYTES: usize = 1_000_000;

/// Sent in a query, where they take three times their size.
const SETTINGS: usize = 8_000;

/// Calls a release that was never called before. Returns its peak memory, and the guest's own part of it.
async fn peak_memory(host: &TestHost, release: &str, question: Option<Value>) -> (u64, u64) {
    let component = Component::chameleon().rebuilt(release);
    let grant = CHAMELEON.trim_start_matches("grant=");
    deploy_with_settings(host.superuser(), &component, grant, &json!({ "padding": "x".repeat(SETTINGS) })).await.ok();
    let request = match &question {
        Some(question) => host.anonymous().request(Method::POST, "/chameleon/weigh").json(question),
        None => host.anonymous().request(Method::GET, "/chameleon/weigh"),
    };
    let response = request.send().await;
    assert_eq!(response.status, 200, "{release}: {response:?}");
    let peak = limit(host, "memory").await["peak"].as_u64().unwrap();
    (peak, response.text().parse().unwrap())
}

async fn host_memory_held_for_a_call_counts_as_its_memory(host: &TestHost) {
    let long = match host.database() {
        Some(_) => format!("SELECT repeat('x', {BYTES})"),
        None => format!("SELECT hex(zeroblob({}))", BYTES / 2),
    };
    let length = "SELECT length(CAST($1 AS TEXT))";
    for (name, bytes, question) in [
        ("a result", BYTES, json!({ "what": "query", "sql": long })),
        ("a batch's result", BYTES, json!({ "what": "batch", "sql": long })),
        ("a parameter", BYTES, json!({ "what": "parameter", "sql": length, "bytes": BYTES })),
        ("a value to cache", CACHED_BYTES, json!({ "what": "set", "bytes": CACHED_BYTES })),
        ("a log line", BYTES, json!({ "what": "log", "bytes": BYTES })),
        ("an audit entry", BYTES, json!({ "what": "audit", "bytes": BYTES })),
        ("a cached value", CACHED_BYTES, json!({ "what": "get" })),
    ] {
        let (peak, guest) = peak_memory(host, name, Some(question)).await;
        assert!(peak >= guest + bytes as u64, "{name}: {peak} with {guest} of that in the guest");
    }
    let (peak, guest) = peak_memory(host, "settings", None).await;
    assert!(peak >= guest + SETTINGS as u64, "settings: {peak} with {guest} of that in the guest");
}
