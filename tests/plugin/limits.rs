//! Limits and protections of single calls: every limit ends one call with its own code, and the next call works.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::liar;
use crate::http::metrics;
use crate::support::patience::NEVER;
use crate::support::polling::until;
use crate::support::{Client, Component, Setup, TestHost, TestResponse, both};

pub(super) async fn chameleon(setup: Setup) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    host
}

/// Makes a call that fails, and checks that the plugin serves the next one.
pub(super) async fn call_fails(setup: Setup, path: &str, status: u16, code: &str, detail: &str) {
    let host = chameleon(setup).await;
    host.anonymous().get(&format!("/chameleon{path}")).await.is_problem(status, code, detail);
    assert_eq!(host.anonymous().get("/chameleon/echo/alive").await.ok()["word"], "alive");
    host.stop().await;
}

#[tokio::test]
async fn a_trap_is_a_bad_gateway() {
    call_fails(Setup::default(), "/trap", 502, "plugin_trap", "The plugin failed").await;
}

#[tokio::test]
async fn a_panic_is_a_bad_gateway_and_its_text_stays_inside() {
    call_fails(Setup::default(), "/panic", 502, "plugin_trap", "The plugin failed").await;
}

#[tokio::test]
async fn an_exit_is_a_bad_gateway() {
    call_fails(Setup::default(), "/exit/0", 502, "plugin_trap", "The plugin failed").await;
}

#[tokio::test]
async fn endless_recursion_is_a_bad_gateway() {
    call_fails(Setup::default(), "/recurse", 502, "plugin_trap", "The plugin failed").await;
}

#[tokio::test]
async fn an_endless_loop_ends_at_the_cpu_limit() {
    let setup = Setup::default().with(|config| {
        config.plugins.cpu_time = Duration::from_millis(200);
        config.plugins.deadline = NEVER;
    });
    call_fails(setup, "/endless", 504, "plugin_cpu_limit", "The plugin used up its CPU time").await;
}

/// It takes at least three seconds, most of which it waits.
#[tokio::test]
async fn waiting_uses_no_cpu_time() {
    let setup = Setup::default().with(|config| {
        config.plugins.cpu_time = Duration::from_millis(500);
        config.plugins.deadline = NEVER;
    });
    let host = chameleon(setup).await;
    assert_eq!(host.anonymous().get("/chameleon/naps/600/5").await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop_leaves_cpu_time_for_others() {
    let setup = Setup::default().with(|config| {
        config.plugins.cpu_time = NEVER;
        config.plugins.deadline = NEVER;
    });
    let host = chameleon(setup).await;
    let looping = tokio::spawn({
        let client = host.anonymous();
        async move { client.request(Method::GET, "/chameleon/endless").try_send().await }
    });
    for _ in 0..10 {
        host.anonymous().get("/chameleon/echo/alive").await.ok();
    }
    assert!(!looping.is_finished());
    looping.abort();
}

#[tokio::test]
async fn sleep_ends_at_the_deadline() {
    let setup = Setup::default().with(|config| config.plugins.deadline = Duration::from_secs(2));
    call_fails(setup, "/sleep/3600000", 504, "plugin_deadline", "The plugin did not respond in time").await;
}

#[tokio::test]
async fn memory_is_limited() {
    let setup = Setup::default().with(|config| config.plugins.memory_bytes = 16 << 20);
    let text = "The plugin needs more memory than its limit";
    call_fails(setup, "/grow/32", 502, "plugin_memory_limit", text).await;
}

#[tokio::test]
async fn memory_within_the_limit_is_available() {
    let host = chameleon(Setup::default().with(|config| config.plugins.memory_bytes = 64 << 20)).await;
    assert_eq!(host.anonymous().get("/chameleon/grow/32").await.text(), "32");
}

#[tokio::test]
async fn host_calls_are_limited() {
    let setup = Setup::default().with(|config| config.plugins.host_calls = 100);
    call_fails(setup, "/host-calls/101", 502, "plugin_host_call_limit", "The plugin used up its calls into the host")
        .await;
}

#[tokio::test]
async fn host_calls_up_to_the_limit_succeed() {
    let host = chameleon(Setup::default().with(|config| config.plugins.host_calls = 100)).await;
    for _ in 0..3 {
        assert_eq!(host.anonymous().get("/chameleon/host-calls/100").await.text(), "100");
    }
}

#[tokio::test]
async fn a_plugin_without_free_call_slots_is_busy_while_others_respond() {
    let setup = Setup::default().with(|config| {
        config.plugins.concurrency = 1;
        config.plugins.queue_time = Duration::from_millis(1);
        config.plugins.deadline = NEVER;
    });
    let host = chameleon(setup).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let holding = tokio::spawn({
        let client = host.anonymous();
        async move { client.request(Method::GET, "/chameleon/sleep/3600000").try_send().await }
    });
    let client = host.anonymous();
    let busy = until("a busy plugin", async || {
        let response = client.get("/chameleon/echo/x").await;
        (response.status != 200).then_some(response)
    })
    .await;
    busy.is_problem(503, "plugin_busy", "The plugin is busy, try again");
    assert_eq!(busy.header("retry-after"), Some("1"));
    host.anonymous().get("/hello/").await.ok();
    // A client that disconnects cancels its call.
    holding.abort();
    until("a free plugin", async || (client.get("/chameleon/echo/x").await.status == 200).then_some(())).await;
    host.stop().await;
}

#[tokio::test]
async fn calls_above_the_concurrency_limit_wait_for_a_slot() {
    let setup = Setup::default().with(|config| {
        config.plugins.concurrency = 4;
        config.plugins.queue_time = NEVER;
    });
    let host = chameleon(setup).await;
    // Four calls run and four wait; there are no more, so all of them succeed.
    let calls = (0..8).map(|_| {
        let client = host.anonymous();
        async move { client.get("/chameleon/sleep/50").await.status }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert_eq!(statuses, [204; 8]);
}

/// There are four turns: a call that waits keeps none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_calls_wait_for_something_at_once_as_there_are_call_slots() {
    let setup = Setup::default().with(|config| {
        config.plugins.concurrency = 12;
        config.plugins.queue_time = NEVER;
        config.plugins.deadline = NEVER;
    });
    let host = chameleon(setup).await;
    let calls: Vec<_> = (0..12)
        .map(|_| {
            let client = host.anonymous();
            tokio::spawn(async move { client.request(Method::GET, "/chameleon/sleep/3600000").try_send().await })
        })
        .collect();
    until("all calls to run", async || {
        let samples = metrics::samples(host.superuser()).await;
        let mut running = samples.into_iter().filter(|(sample, _)| sample.starts_with("wharf_plugin_calls_running"));
        running.any(|(_, count)| count >= 12.0).then_some(())
    })
    .await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_clients_waits_and_a_neighbour_does_not() {
    let setup = Setup::default().with(|config| {
        config.plugins.concurrency = 4;
        config.plugins.total_concurrency = 8;
        config.plugins.queue_time = NEVER;
        config.plugins.deadline = NEVER;
    });
    let host = chameleon(setup).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    // Held until the burst waits, so that every other call has to wait.
    let holding: Vec<_> = (0..4)
        .map(|_| {
            let client = host.anonymous();
            tokio::spawn(async move { client.request(Method::GET, "/chameleon/sleep/3600000").try_send().await })
        })
        .collect();
    let load = async |name: &str| {
        let name = format!("wharf_plugin_calls_{name}{{plugin=\"chameleon\"}}");
        let samples = metrics::samples(host.superuser()).await;
        samples.into_iter().find(|(sample, _)| *sample == name).map(|(_, count)| count)
    };
    until("the first calls to run", async || (load("running").await == Some(4.0)).then_some(())).await;
    let burst: Vec<_> = (0..200)
        .map(|_| {
            let client = host.anonymous();
            tokio::spawn(async move { client.get("/chameleon/echo/x").await.status })
        })
        .collect();
    until("the burst to wait", async || (load("waiting").await == Some(200.0)).then_some(())).await;
    for _ in 0..5 {
        host.anonymous().get("/hello/").await.ok();
    }
    assert!(burst.iter().all(|call| !call.is_finished()));
    holding.iter().for_each(tokio::task::JoinHandle::abort);
    for call in burst {
        assert_eq!(call.await.unwrap(), 200);
    }
    host.stop().await;
}

async fn seen(client: &Client, headers: &[(&str, &str)]) -> Value {
    let request = client.request(Method::GET, "/chameleon/echo/x?a=1&b=%20");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    request.send().await.ok()
}

#[tokio::test]
async fn credentials_and_forgeries_never_reach_a_plugin() {
    let host = chameleon(Setup::default()).await;
    let seen = seen(
        host.superuser(),
        &[
            ("cookie", "session=secret"),
            ("proxy-authorization", "Basic secret"),
            ("x-api-key", "secret"),
            ("x-request-id", "forged"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-colour", "green"),
            ("accept", "*/*"),
        ],
    )
    .await;
    let names: Vec<&str> = seen["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    let of_the_host = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    for name in &names {
        assert!(["accept", "host", "x-colour"].contains(name) || of_the_host.contains(name), "{names:?}");
    }
    assert!(!seen.to_string().contains("10.0.0.1") && !seen.to_string().contains("evil"), "{seen}");
    assert!(names.contains(&"x-colour"));
    assert!(!seen.to_string().contains("secret") && !seen.to_string().contains(host.superuser().token()));
    assert_ne!(seen["id"], "forged");
}

#[tokio::test]
async fn the_plugin_and_the_client_see_the_same_host_request_id() {
    let host = chameleon(Setup::default()).await;
    let request = host.anonymous().request(Method::GET, "/chameleon/echo/x").header("x-request-id", "forged");
    let response = request.send().await;
    assert_eq!(response.ok()["id"].as_str(), response.header("x-request-id"));
    assert_ne!(response.header("x-request-id"), Some("forged"));
}

#[tokio::test]
async fn a_plugin_sees_its_own_path_and_nothing_of_the_system() {
    let host = chameleon(Setup::default()).await;
    let seen = seen(&host.anonymous(), &[]).await;
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["query"]),
        (&json!("GET"), &json!("/echo/x"), &json!("a=1&b=%20"))
    );
    assert_eq!(seen["environment"], json!([]));
    assert_eq!(seen["arguments"], json!([]));
    assert_eq!(seen["files"], json!(null));
}

#[tokio::test]
async fn nothing_in_memory_survives_a_call() {
    let host = chameleon(Setup::default()).await;
    for _ in 0..20 {
        assert_eq!(host.anonymous().get("/chameleon/remembered").await.ok(), 1);
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_does_not_stop_the_call() {
    let host = chameleon(Setup::default().with(|config| config.plugins.log_rate = 1)).await;
    assert_eq!(host.anonymous().get("/chameleon/flood/5000").await.text(), "5000");
    assert_eq!(host.anonymous().get("/chameleon/print/100000").await.text(), "printed");
}

/// No limit is checked while the host processes the guest's output.
#[tokio::test]
async fn one_write_above_the_output_limit_is_a_trap() {
    call_fails(Setup::default(), "/print-at-once/4098", 502, "plugin_trap", "The plugin failed").await;
    let host = chameleon(Setup::default()).await;
    assert_eq!(host.anonymous().get("/chameleon/print-at-once/4096").await.text(), "Ok(())");
}

#[tokio::test]
async fn a_plugin_that_fails_every_call_does_not_affect_its_neighbours() {
    let host = chameleon(Setup::default().with(|config| config.plugins.quarantine = NEVER)).await;
    host.superuser().deploy(&liar(json!({ "handle": "trap" })).0, "").await.ok();
    for call in 0..50 {
        let (status, code) = if call < 10 { (502, "plugin_trap") } else { (503, "plugin_quarantined") };
        host.anonymous().get("/liar/").await.has_code(status, code);
    }
    host.anonymous().get("/chameleon/echo/x").await.ok();
    assert_eq!(host.anonymous().plain(Method::GET, "/healthz").send().await.status, 200);
}

both!(
    a_transaction_left_open_by_an_error_is_rolled_back,
    a_transaction_left_open_by_a_trap_is_rolled_back,
    a_transaction_left_open_by_an_exit_is_rolled_back,
    a_transaction_left_open_at_the_deadline_is_rolled_back,
    a_transaction_left_open_at_the_cpu_limit_is_rolled_back => Setup::default().with(|config| {
        config.plugins.cpu_time = Duration::from_millis(300);
        config.plugins.deadline = NEVER;
    }),
);

/// Leaves a transaction open, and then writes the same row.
async fn leaves_transaction_open(host: &TestHost, end: &str, status: u16, code: &str) {
    host.deploy_chameleon().await;
    end_with_open_transaction(host, end).await.has_code(status, code);
    can_write_the_same_row(host).await;
}

async fn end_with_open_transaction(host: &TestHost, end: &str) -> TestResponse {
    let path = format!("/chameleon/transaction?end={end}&text=left");
    host.anonymous().request(Method::POST, &path).send().await
}

async fn can_write_the_same_row(host: &TestHost) {
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]));
    assert_eq!(host.anonymous().request(Method::POST, "/chameleon/notes/left").send().await.status, 204);
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!(["left"]));
}

/// Sets the deadline of the chameleon's calls.
pub(super) async fn set_deadline(host: &TestHost, deadline: &str) {
    host.superuser().put(&format!("/plugins/chameleon/limits?limit=deadline={deadline}"), &Value::Null).await.ok();
}

async fn a_transaction_left_open_by_an_error_is_rolled_back(host: &TestHost) {
    leaves_transaction_open(host, "fail", 409, "left").await;
}

async fn a_transaction_left_open_by_a_trap_is_rolled_back(host: &TestHost) {
    leaves_transaction_open(host, "trap", 502, "plugin_trap").await;
}

async fn a_transaction_left_open_by_an_exit_is_rolled_back(host: &TestHost) {
    leaves_transaction_open(host, "return", 502, "plugin_trap").await;
}

async fn a_transaction_left_open_at_the_deadline_is_rolled_back(host: &TestHost) {
    host.deploy_chameleon().await;
    set_deadline(host, "3s").await;
    end_with_open_transaction(host, "sleep").await.has_code(504, "plugin_deadline");
    // The calls from here on are not to reach it.
    set_deadline(host, "default").await;
    can_write_the_same_row(host).await;
}

async fn a_transaction_left_open_at_the_cpu_limit_is_rolled_back(host: &TestHost) {
    leaves_transaction_open(host, "loop", 504, "plugin_cpu_limit").await;
}
