//! `wasi:http`, used by a component that was built for any WASI host: the grant and the limits of `wharf:http` apply.

use serde_json::{Value, json};

use crate::http::metrics::samples;
use crate::support::host::CHAMELEON;
use crate::support::patience::PATIENCE;
use crate::support::remote::{Remote, Reply};
use crate::support::{Component, Setup, TestHost};

async fn host_allowing(setup: Setup, remote: &Remote, more: &str) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    let query = format!("{CHAMELEON}&grant=http.hosts={},http.networks=127.0.0.0/8{more}", remote.origin());
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
    host
}

async fn fetch(host: &TestHost, fetching: Value) -> Value {
    host.anonymous().post("/chameleon/standard-fetch", &fetching).await.ok()
}

async fn error(host: &TestHost, fetching: Value) -> String {
    let response = fetch(host, fetching).await;
    response["error"].as_str().unwrap_or_else(|| panic!("{response}")).to_owned()
}

async fn limit_hits(host: &TestHost, limit: &str) -> f64 {
    let (name, limit) = ("wharf_plugin_limit_hits_total", format!("limit=\"{limit}\""));
    let samples = samples(host.superuser()).await.into_iter();
    samples.filter(|(key, _)| key.starts_with(name) && key.contains(&limit)).map(|(_, count)| count).sum()
}

#[tokio::test]
async fn a_generic_wasi_component_reaches_the_servers_its_grant_names() {
    let remote = Remote::start(|_| Reply::with(201, "x-odd: yes\r\ntrailer: x\r\n", "hello")).await;
    let host = host_allowing(Setup::default(), &remote, "").await;
    let url = remote.url("/path?query");
    let body = "x".repeat(100_000);
    let result =
        fetch(&host, json!({ "url": url, "method": "POST", "body": body, "headers": [["x-mine", "1"]] })).await;
    let headers = json!([["x-odd", "yes"], ["content-length", "5"]]);
    assert_eq!(result, json!({ "status": 201, "headers": headers, "body": "hello" }));
    let seen = remote.seen();
    assert!(seen[0].starts_with("POST /path?query HTTP/1.1\r\n") && seen[0].ends_with(&body), "{}", &seen[0][..200]);
    for header in ["x-mine: 1", "content-length: 100000", "traceparent: 00-", &format!("host: {}", remote.addr)] {
        assert_eq!(seen[0].matches(header).count(), 1, "{header} in {}", &seen[0][..400]);
    }

    assert_eq!(error(&host, json!({ "url": "http://other.example/" })).await, "ErrorCode::HttpRequestDenied");
    let loopback = format!("http://localhost:{}/", remote.addr.port());
    assert_eq!(error(&host, json!({ "url": loopback })).await, "ErrorCode::HttpRequestDenied");
    assert_eq!(error(&host, json!({ "url": format!("ftp://{}/", remote.addr) })).await, "ErrorCode::HttpProtocolError");
    assert!(limit_hits(&host, "http.hosts").await >= 2.0);
    assert_eq!(remote.seen().len(), 1);
}

#[tokio::test]
async fn headers_that_belong_to_the_host_are_rejected() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let host = host_allowing(Setup::default(), &remote, "").await;
    for name in ["host", "connection", "transfer-encoding", "traceparent", "te", "upgrade", "proxy-authorization"] {
        let result = error(&host, json!({ "url": remote.url("/"), "headers": [[name, "x"]] })).await;
        assert_eq!(result, "HeaderError::Forbidden", "{name}");
    }
    for (name, value) in [("x", "a\r\nhost: other"), ("x", "a\u{7f}"), ("a b", "x"), ("", "x")] {
        let result = error(&host, json!({ "url": remote.url("/"), "headers": [[name, value]] })).await;
        assert_eq!(result, "HeaderError::InvalidSyntax", "{name:?}: {value:?}");
    }
    // A length that differs from the body's.
    let short =
        json!({ "url": remote.url("/"), "method": "POST", "body": "abc", "headers": [["content-length", "9"]] });
    let result = error(&host, short).await;
    assert!(result.contains("HttpProtocolError") || result.contains("HttpRequestBodySize"), "{result}");
    for method in ["CONNECT", "TRACE", "get"] {
        let result = error(&host, json!({ "url": remote.url("/"), "method": method })).await;
        assert!(result.starts_with("ErrorCode::InternalError"), "{method}: {result}");
    }
    assert_eq!(remote.seen().len(), 0);
}

#[tokio::test]
async fn a_redirect_is_returned_as_a_response() {
    let remote = Remote::start(|_| Reply::to(302, "http://169.254.169.254/")).await;
    let host = host_allowing(Setup::default(), &remote, "").await;
    let result = fetch(&host, json!({ "url": remote.url("/") })).await;
    assert_eq!((&result["status"], &result["body"]), (&json!(302), &json!("elsewhere")));
    assert_eq!(remote.seen().len(), 1);
}

#[tokio::test]
async fn the_limits_of_a_grant_are_enforced() {
    let remote = Remote::start(|request| match request {
        hang if hang.contains(" /hang ") => Reply::Hang(String::new()),
        half if half.contains(" /half ") => Reply::Hang("HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nhalf".to_owned()),
        _ => Reply::of(200, &"x".repeat(100 << 10)),
    })
    .await;
    let host = host_allowing(Setup::default(), &remote, ",http.bytes=64KiB,http.time=10m").await;
    let most = "ErrorCode::HttpResponseBodySize(Some(65536))";
    assert_eq!(error(&host, json!({ "url": remote.url("/") })).await, most);
    let large = json!({ "url": remote.url("/"), "method": "POST", "body": "x".repeat(100 << 10) });
    assert_eq!(error(&host, large).await, "ErrorCode::HttpRequestBodySize(Some(65536))");
    assert_eq!(limit_hits(&host, "http.bytes").await, 2.0);
    // The component's own timeout is shorter than the grant's.
    let hang = json!({ "url": remote.url("/hang"), "timeout_ms": 100 });
    assert_eq!(error(&host, hang).await, "ErrorCode::HttpResponseTimeout");
    // Long enough that the head of the response arrives.
    let half = json!({ "url": remote.url("/half"), "timeout_ms": 2_000 });
    assert_eq!(error(&host, half).await, "ErrorCode::ConnectionReadTimeout");
    assert_eq!(limit_hits(&host, "http.time").await, 0.0, "only the component's own timeout expired");
}

#[tokio::test]
async fn outgoing_requests_count_as_host_calls() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let host = host_allowing(Setup::default(), &remote, "&limit=host_calls=50").await;
    let result = error(&host, json!({ "url": remote.url("/"), "times": 60 })).await;
    assert!(result.contains("budget of host calls"), "{result}");
    assert_eq!(remote.seen().len(), 50);
    assert_eq!(limit_hits(&host, "host_calls").await, 1.0);
}

#[tokio::test]
async fn wasi_http_objects_in_the_host_count_as_the_calls_memory() {
    let remote = Remote::start(|_| Reply::of(200, &"x".repeat(1 << 20))).await;
    let host = host_allowing(Setup::default(), &remote, "&limit=memory=8MiB").await;
    let hoard = |times: u32| {
        let (client, body) = (host.anonymous(), json!({ "url": remote.url("/"), "times": times }));
        async move { client.post("/chameleon/standard-answers", &body).await }
    };
    assert_eq!(hoard(3).await.ok()["kept"], 3);
    let refused = hoard(12).await.ok()["error"].as_str().unwrap().to_owned();
    assert_eq!(refused, "ErrorCode::InternalError(Some(\"memory: the response needs more than is left\"))");
    let fields = |count: u32| {
        let client = host.anonymous();
        async move { client.get(&format!("/chameleon/standard-fields/{count}/15000")).await }
    };
    assert_eq!(fields(100).await.text(), "100");
    fields(900).await.has_code(502, "plugin_memory_limit");
    let small = |count: u32| {
        let client = host.anonymous();
        async move { client.get(&format!("/chameleon/standard-small-fields/{count}")).await }
    };
    assert_eq!(small(60).await.text(), "60");
    small(200).await.has_code(502, "plugin_memory_limit");
    let methods = |count: u32| {
        let client = host.anonymous();
        async move { client.get(&format!("/chameleon/standard-methods/{count}/1000000")).await }
    };
    assert_eq!(methods(3).await.text(), "3");
    methods(20).await.has_code(502, "plugin_memory_limit");
    assert_eq!(limit_hits(&host, "memory").await, 4.0);
    assert_eq!(fetch(&host, json!({ "url": remote.url("/") })).await["status"], 200);
}

#[tokio::test]
async fn a_deadline_or_a_disconnected_client_ends_the_request() {
    let remote = Remote::start(|_| Reply::Hang(String::new())).await;
    let host = host_allowing(Setup::default(), &remote, "&limit=deadline=1s").await;
    let response = host.anonymous().post("/chameleon/standard-fetch", &json!({ "url": remote.url("/") })).await;
    response.has_code(504, "plugin_deadline");
    remote.until_closed().await;
    host.superuser().request(reqwest::Method::PUT, "/plugins/chameleon/limits?limit=deadline=10m").send().await.ok();
    let before = remote.seen().len();
    let (client, url) = (host.anonymous(), remote.url("/"));
    let waiting = tokio::spawn(async move { client.post("/chameleon/standard-fetch", &json!({ "url": url })).await });
    remote.until_seen(before + 1).await;
    waiting.abort();
    remote.until_closed().await;
    tokio::time::timeout(PATIENCE, host.anonymous().get("/chameleon/echo/alive")).await.unwrap();
}
