//! Limits that an operator sets for one plugin: they apply to its calls only, and may be lower or higher than the
//! host's.

use reqwest::Method;
use serde_json::{Value, json};

use super::plugins;
use super::releases::operate;
use crate::http::metrics::samples;
use crate::support::gate::Gate;
use crate::support::host::CHAMELEON;
use crate::support::patience::NEVER;
use crate::support::polling::until;
use crate::support::{Component, Setup, TestHost, TestResponse, both};

both!(a_limit_applies_to_one_plugin_and_may_exceed_the_hosts_default, limits_belong_to_a_release);

async fn deploy(host: &TestHost, name: &str, limits: &str) {
    let query = format!("name={name}&{CHAMELEON}{limits}");
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
}

async fn get(host: &TestHost, plugin: &str, path: &str) -> TestResponse {
    host.anonymous().get(&format!("/{plugin}/{path}")).await
}

async fn set(host: &TestHost, limits: &[&str]) -> TestResponse {
    let query: Vec<String> = limits.iter().map(|limit| format!("limit={limit}")).collect();
    let path = format!("/plugins/chameleon/limits?{}", query.join("&"));
    host.superuser().request(Method::PUT, &path).send().await
}

pub(super) async fn limit(host: &TestHost, name: &str) -> Value {
    let limits = host.superuser().get("/plugins/chameleon/limits").await.ok();
    limits["data"].as_array().unwrap().iter().find(|limit| limit["name"] == name).unwrap().clone()
}

async fn a_limit_applies_to_one_plugin_and_may_exceed_the_hosts_default(host: &mut TestHost) {
    host.restart_with(|config| {
        config.plugins.memory_bytes = 16 << 20;
        config.plugins.host_calls = 10;
        config.plugins.response_bytes = 100_000;
    })
    .await;
    deploy(host, "twin", "").await;
    let limits = "&limit=memory=80MiB&limit=host_calls=20&limit=response_bytes=300000&limit=deadline=3s";
    deploy(host, "chameleon", limits).await;
    for (path, code) in [
        ("grow/40", "plugin_memory_limit"),
        ("host-calls/15", "plugin_host_call_limit"),
        ("body/200000", "plugin_response_limit"),
    ] {
        assert_eq!(get(host, "chameleon", path).await.status, 200, "{path}");
        get(host, "twin", path).await.has_code(502, code);
    }
    for (path, status, code) in [
        ("grow/90", 502, "plugin_memory_limit"),
        ("host-calls/25", 502, "plugin_host_call_limit"),
        ("body/400000", 502, "plugin_response_limit"),
        ("sleep/60000", 504, "plugin_deadline"),
    ] {
        get(host, "chameleon", path).await.has_code(status, code);
    }
    assert_eq!(get(host, "twin", "sleep/3500").await.status, 204);
    for name in ["memory", "host_calls", "response_bytes", "deadline"] {
        let limit = limit(host, name).await;
        assert_eq!((&limit["met"], &limit["own"]), (&json!(1), &json!(true)), "{limit}");
    }
    let memory = limit(host, "memory").await;
    assert!(memory["value"] == "80MiB" && memory["peak"].as_u64() > Some(40 << 20), "{memory}");
    let rows = limit(host, "sql.rows").await;
    assert_eq!((&rows["value"], &rows["own"], &rows["met"]), (&json!("10000"), &json!(false), &json!(0)));
}

async fn limits_belong_to_a_release(host: &mut TestHost) {
    deploy(host, "chameleon", "&limit=host_calls=5").await;
    get(host, "chameleon", "host-calls/6").await.has_code(502, "plugin_host_call_limit");
    let response = set(host, &["host_calls=6", "deadline=5s"]).await.ok();
    assert_eq!(response["message"], "'chameleon' has these limits from release 2 on");
    let history = host.superuser().get("/plugins/chameleon/history").await.ok();
    let newest = &history["data"][0];
    assert_eq!((&newest["action"], &newest["detail"]["after"]), (&json!("limits"), &json!(2)), "{history}");
    assert_eq!(history["data"][1]["action"], "deploy");
    assert_eq!(get(host, "chameleon", "host-calls/6").await.status, 200);
    operate(host, "chameleon/rollback").await.ok();
    get(host, "chameleon", "host-calls/6").await.has_code(502, "plugin_host_call_limit");
    host.superuser().deploy(&Component::chameleon().rebuilt("next").0, "").await.ok();
    host.restart().await;
    get(host, "chameleon", "host-calls/6").await.has_code(502, "plugin_host_call_limit");
    set(host, &["host_calls=default"]).await.ok();
    assert_eq!(get(host, "chameleon", "host-calls/6").await.status, 200);

    let before = plugins(host).await;
    for (text, expected) in [
        ("memory=1KiB", "'memory' is too small; accepted: a size from 64KiB to 4GiB, such as 65536, 512KiB or 64MiB"),
        ("memory", "'memory' has no value; write memory=VALUE"),
        (
            "sql.rows=5",
            "there is no limit 'sql.rows'; there are: memory, cpu_time, deadline, concurrency, queue_time, host_calls, request_bytes, header_bytes, response_bytes",
        ),
    ] {
        let response = set(host, &[text]).await;
        response.has_code(422, "validation_error");
        assert_eq!(response.problem()["errors"][0]["msg"], expected);
    }
    assert_eq!(plugins(host).await, before);
}

/// Of two concurrent changes, the second one either builds on the first or is refused with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_limits_never_undoes_a_deploy() {
    let host = TestHost::sqlite(Setup::default()).await;
    let builds = ["even", "odd"].map(|word| super::liar(json!({ "name": "chameleon", "answer": word })));
    host.superuser().deploy(&builds[1].0, "").await.ok();
    for round in 0..30 {
        let (build, word) = if round % 2 == 0 { (&builds[0], "even") } else { (&builds[1], "odd") };
        let limit = format!("host_calls={}", 100 + round);
        let limits = [limit.as_str()];
        let (limited, deployed) = tokio::join!(set(&host, &limits), host.superuser().deploy(&build.0, ""));
        deployed.ok();
        assert!(limited.status == 200 || limited.has_code(409, "plugin_state").contains("meanwhile"), "{limited:?}");
        assert_eq!(get(&host, "chameleon", "").await.text(), word, "round {round}");
    }
}

#[tokio::test]
async fn request_and_header_limits_may_be_lower_or_higher_than_the_hosts() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.plugins.request_bytes = 10_000)).await;
    deploy(&host, "chameleon", "&limit=request_bytes=3MiB&limit=header_bytes=2KiB").await;
    deploy(&host, "twin", "").await;
    let post = |plugin: &str, bytes: usize| {
        let request = host.anonymous().request(Method::POST, &format!("/{plugin}/echo"));
        async move { request.body(vec![b'x'; bytes]).send().await }
    };
    assert_eq!(post("chameleon", 2_500_000).await.status, 200);
    assert_eq!(post("twin", 10_000).await.status, 200);
    post("twin", 10_001).await.is_problem(413, "body_too_large", "Request body too large");
    post("chameleon", 3_200_000).await.has_code(413, "body_too_large");
    assert_eq!(limit(&host, "request_bytes").await["met"], 1);

    let with = |plugin: &str, name: &'static str| {
        let request = host.anonymous().request(Method::GET, &format!("/{plugin}/echo/x"));
        async move { request.header(name, &"x".repeat(3_000)).send().await }
    };
    assert_eq!(with("twin", "x-long").await.status, 200);
    with("chameleon", "x-long").await.has_code(431, "headers_too_large");
    assert_eq!(with("chameleon", "cookie").await.status, 200, "headers that the plugin does not receive do not count");
    let answered = format!("header?name=x-long&value={}", "x".repeat(3_000));
    get(&host, "chameleon", &answered).await.has_code(502, "plugin_response_limit");
    assert_eq!(get(&host, "twin", &answered).await.status, 200);
    assert_eq!(limit(&host, "header_bytes").await["met"], 2);
    // Large headers of a request are not the plugin's fault.
    let samples = samples(host.superuser()).await;
    for outcome in ["limit", "client_error"] {
        let counted = format!(r#"wharf_plugin_calls_total{{plugin="chameleon",release="1",outcome="{outcome}"}}"#);
        assert_eq!(samples.iter().find(|(name, _)| *name == counted).unwrap().1, 1.0, "{outcome}");
    }
}

#[tokio::test]
async fn a_small_response_limit_does_not_limit_requests() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, "chameleon", "&limit=response_bytes=64KiB").await;
    let body = json!({ "url": "http://nobody.example/", "method": "POST", "body": "x".repeat(1_500_000) });
    let response = host.anonymous().post("/chameleon/fetch", &body).await.ok();
    assert!(response["error"].as_str().unwrap().starts_with("Error::Denied"), "{response}");
}

#[tokio::test]
async fn a_limit_that_the_guest_handled_is_counted() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, "chameleon", "&limit=memory=8MiB").await;
    assert_eq!(get(&host, "chameleon", "grow-gently/64").await.text(), "refused");
    assert_eq!(limit(&host, "memory").await["met"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_call_slots_follows_the_live_release() {
    let host = TestHost::sqlite(Setup::default()).await;
    let gate = Gate::start().await;
    let query = format!("{}&limit=concurrency=1&limit=queue_time=0s", gate.grants());
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
    let held = gate.call(&host.anonymous());
    gate.arrived().await;
    get(&host, "chameleon", "echo/x").await.has_code(503, "plugin_busy");
    set(&host, &["concurrency=2"]).await.ok();
    assert_eq!(get(&host, "chameleon", "echo/x").await.status, 200);
    gate.open();
    held.await.unwrap().ok();
    host.stop().await;
}

/// More endless guests than there are threads: short calls are still served. `make attack` also compares how fast they
/// are (`attack::cpu`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_guests_leave_cpu_time_for_others() {
    let host = TestHost::sqlite(Setup::default().with(|config| {
        config.plugins.cpu_time = NEVER;
        config.plugins.deadline = NEVER;
        config.plugins.concurrency = 12;
    }))
    .await;
    host.deploy_chameleon().await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let endless: Vec<_> = (0..10)
        .map(|_| {
            let client = host.anonymous();
            tokio::spawn(async move { client.request(Method::GET, "/chameleon/endless").try_send().await })
        })
        .collect();
    until("all endless calls to run", async || (limit(&host, "concurrency").await["current"] == 10).then_some(()))
        .await;
    for _ in 0..50 {
        assert_eq!(host.anonymous().get("/hello/").await.status, 200);
    }
    assert!(endless.iter().all(|call| !call.is_finished()));
    endless.iter().for_each(tokio::task::JoinHandle::abort);
    host.stop().await;
}
