//! `wharf:http`, from the view of a plugin and its operator. Hostile servers are tested in `egress`.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use wharf::egress::{EgressEnvironment, Resolver};

use crate::http::metrics::samples;
use crate::support::host::{CHAMELEON, chameleon_grants};
use crate::support::remote::{Remote, Reply};
use crate::support::{Client, Component, Setup, TestHost, TestResponse};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn deploy(host: &TestHost, grants: &[&str]) {
    let grants: Vec<String> = grants.iter().map(|grant| format!("&grant={grant}")).collect();
    let query = format!("{CHAMELEON}{}", grants.concat());
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
}

/// Starts a host whose chameleon may reach a server on loopback.
async fn host_allowing(setup: Setup, remote: &Remote, grant: &str) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    deploy(&host, &[&format!("http.hosts={}", remote.origin()), "http.networks=127.0.0.0/8", grant]).await;
    host
}

/// Returns the result that the guest gets.
async fn fetch(client: &Client, fetching: &Value) -> Value {
    client.post("/chameleon/fetch", fetching).await.ok()
}

async fn get(host: &TestHost, url: &str) -> Value {
    fetch(&host.anonymous(), &json!({ "url": url })).await
}

async fn set_parameters(host: &TestHost, parameters: &[&str]) -> TestResponse {
    let query: Vec<String> = parameters.iter().map(|parameter| format!("parameter={parameter}")).collect();
    let path = format!("/plugins/chameleon/grants/http?{}", query.join("&"));
    host.superuser().request(Method::PUT, &path).send().await
}

#[tokio::test]
async fn a_plugin_reaches_only_the_servers_its_grant_names() {
    let remote = Remote::start(|_| Reply::with(201, "x-odd: yes\r\n", "hello")).await;
    let host = TestHost::sqlite(Setup::default()).await;
    let url = remote.url("/path?query");
    deploy(&host, &[]).await;
    let expected = format!(
        "Error::Denied(\"{0} is not among the http.hosts of this plugin's grant; `http.hosts={0}` would allow it\")",
        remote.origin()
    );
    assert_eq!(get(&host, &url).await["error"], expected);
    set_parameters(&host, &[&format!("hosts={}", remote.origin())]).await.ok();
    let expected = "127.0.0.1 is loopback (RFC 1122) and not among the http.networks of this plugin's grant";
    assert_eq!(get(&host, &url).await["error"], format!("Error::Denied(\"{expected}\")"));
    assert_eq!(remote.accepted(), 0);
    set_parameters(&host, &["networks=127.0.0.1", "networks=10.1.2.3/16"]).await.ok();
    let response = get(&host, &url).await;
    let headers = json!([["x-odd", "yes"], ["content-length", "5"]]);
    assert_eq!(response, json!({ "url": url, "status": 201, "headers": headers, "body": "hello" }));
    let grants = host.superuser().get("/plugins/chameleon").await.ok()["grants"].clone();
    let hosts = format!("http.hosts={}", remote.origin());
    assert_eq!(grants, json!(chameleon_grants(&[&hosts, "http.networks=10.1.0.0/16 127.0.0.1/32"])));
    // A revocation takes effect at once, also on a connection that is still open.
    set_parameters(&host, &["networks=default"]).await.ok();
    assert!(get(&host, &url).await["error"].as_str().unwrap().starts_with("Error::Denied"));
    set_parameters(&host, &["networks=127.0.0.1", "hosts=https://other.example"]).await.ok();
    assert!(get(&host, &url).await["error"].as_str().unwrap().starts_with("Error::Denied"));
    assert_eq!(remote.seen().len(), 1);
}

#[tokio::test]
async fn the_operator_api_is_never_reached_by_a_plugin() {
    let resolver = Resolver::new(|_| std::future::ready(Ok(vec![[127, 0, 0, 1].into()])));
    let egress = EgressEnvironment { resolver, ..EgressEnvironment::default() };
    let host = TestHost::sqlite(Setup::default().with_egress(egress)).await;
    let port = host.addr().port();
    let names = ["127.0.0.1", "wharf.example", "2130706433", "[::ffff:7f00:1]"];
    let spellings = names.map(|name| format!("http://{name}:{port}"));
    let hosts: Vec<String> = spellings.iter().map(|origin| format!("http.hosts={origin}")).collect();
    deploy(&host, &["http.networks=127.0.0.0/8", &hosts[0], &hosts[1]]).await;
    for origin in &spellings {
        let response = get(&host, &format!("{origin}/healthz")).await;
        assert_eq!(response["error"], "Error::Denied(\"no grant allows requests to this host itself\")", "{origin}");
    }
    // A redirect from another server does not help either.
    let back = format!("{}/healthz", spellings[0]);
    let remote = Remote::start(move |_| Reply::to(302, &back)).await;
    deploy(&host, &["http.networks=127.0.0.0/8", &format!("http.hosts={}", remote.origin()), &hosts[0]]).await;
    let response = get(&host, &remote.url("/")).await;
    assert_eq!(response["error"], "Error::Denied(\"no grant allows requests to this host itself\")");
}

#[tokio::test]
async fn a_grant_of_every_public_server_says_how_broad_it_is() {
    let setup = Setup::default().with(|config| config.server.public_url = Some("https://wharf.example".to_owned()));
    let host = TestHost::sqlite(setup).await;
    let breadth = "the plugin may send requests to every public server, so it can send whatever it knows to anybody";
    let query = format!("{CHAMELEON}&grant=http.hosts=https://*&grant=http.networks=0.0.0.0/0");
    let deployed = host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
    let notes = deployed["notes"].as_array().unwrap();
    assert!(notes.contains(&json!(format!("grant 'http': {breadth}"))), "{deployed}");
    for (url, why) in [
        ("https://127.0.0.1/", "https://* allows public addresses only"),
        ("https://169.254.169.254/", "https://* allows public addresses only"),
        ("https://wharf.example/healthz", "https://wharf.example is this host itself, which https://* does not allow"),
        ("https://127.0.0.1:8443/", "not among the http.hosts"),
        ("http://127.0.0.1/", "not among the http.hosts"),
    ] {
        let error = get(&host, url).await["error"].clone();
        let error = error.as_str().unwrap();
        assert!(error.starts_with("Error::Denied") && error.contains(why), "{url}: {error}");
    }
    // A change of the parameters says so too.
    let narrow = set_parameters(&host, &["hosts=https://a.example"]).await.ok();
    assert!(!narrow["message"].as_str().unwrap().contains("every public server"), "{narrow}");
    let broad = set_parameters(&host, &["hosts=https://*"]).await.ok();
    assert!(broad["message"].as_str().unwrap().ends_with(breadth), "{broad}");
    for refused in ["hosts=http://*", "hosts=https://*:8443", "hosts=*"] {
        let response = set_parameters(&host, &[refused]).await;
        assert_eq!(response.status, 422, "{refused}");
        assert!(response.text().contains("or https://* for every public server"), "{}", response.text());
    }
}

#[tokio::test]
async fn the_trace_is_propagated_and_the_callers_credentials_are_not() {
    let remote = Remote::start(|_| Reply::with(200, "set-cookie: a=b\r\n", "")).await;
    let host = host_allowing(Setup::default(), &remote, "http").await;
    let body = json!({ "url": remote.url("/"), "times": 2, "headers": [["authorization", "Bearer of-the-plugin"]] });
    let ask = |headers: &[(&str, &str)]| {
        let request = host.superuser().request(Method::POST, "/chameleon/fetch").json(&body);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
    };
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    ask(&[("traceparent", &parent), ("tracestate", "vendor=1"), ("cookie", "session=s3cret")]).await.ok();
    let response = ask(&[("traceparent", "00-nonsense")]).await;
    response.ok();
    let header = |seen: &str, name: &str| {
        let line = seen.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(ToOwned::to_owned));
        line.unwrap_or_default()
    };
    let seen = remote.seen();
    let parents: Vec<String> = seen.iter().map(|seen| header(seen, "traceparent")).collect();
    for parent in &parents[..2] {
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"), "{parent}");
    }
    assert_ne!(parents[0], parent);
    assert_ne!(parents[0], parents[1], "each request is its own span");
    assert_eq!(header(&seen[0], "tracestate"), "vendor=1");
    // Without a valid `traceparent`, the trace has the id of the request.
    for parent in &parents[2..] {
        assert!(parent.starts_with(&format!("00-{}-", response.header("x-request-id").unwrap())), "{parent}");
    }
    for seen in &seen {
        assert!(
            !seen.contains(host.superuser().token()) && !seen.contains("s3cret") && !seen.contains("cookie"),
            "{seen}"
        );
        assert_eq!(header(seen, "authorization"), "Bearer of-the-plugin");
        assert_eq!(seen.matches("traceparent: ").count(), 1);
    }
    let forged = json!({ "url": remote.url("/"), "headers": [["traceparent", &parent]] });
    let expected = "Error::Invalid(\"only the host writes the header 'traceparent'\")";
    assert_eq!(fetch(&host.anonymous(), &forged).await["error"], expected);
}

#[tokio::test]
async fn a_grant_limits_time_bytes_and_requests() {
    let remote = Remote::start(|request| match request {
        hang if hang.contains(" /hang ") => Reply::Hang(String::new()),
        _ => Reply::of(200, &"x".repeat(100 << 10)),
    })
    .await;
    let setup = Setup::default().with(|config| {
        config.plugins.http_time = Duration::from_secs(2);
        config.plugins.http_bytes = 64 << 10;
        config.plugins.http_requests = 1;
    });
    let host = host_allowing(setup, &remote, "http").await;
    assert_eq!(get(&host, &remote.url("/hang")).await["error"], "Error::Timeout(\"first byte\")");
    let long = json!({ "url": remote.url("/hang"), "timeout_ms": 3_600_000 });
    assert_eq!(fetch(&host.anonymous(), &long).await["error"], "Error::Timeout(\"first byte\")");
    // The requests from here on are not to reach it.
    set_parameters(&host, &["time=10m"]).await.ok();
    assert_eq!(get(&host, &remote.url("/")).await["error"], "Error::Limit(\"response body: 65536 bytes\")");
    set_parameters(&host, &["bytes=100KiB"]).await.ok();
    assert_eq!(get(&host, &remote.url("/")).await["body"].as_str().unwrap().len(), 100 << 10);
    let before = remote.seen().len();
    let (client, url) = (host.anonymous(), remote.url("/hang"));
    let hanging = tokio::spawn(async move { client.post("/chameleon/fetch", &json!({ "url": url })).await });
    remote.until_seen(before + 1).await;
    assert_eq!(get(&host, &remote.url("/")).await["error"], "Error::Limit(\"requests: 1 at once\")");
    let limits = host.superuser().get("/plugins/chameleon/limits").await.ok();
    let requests = limits["data"].as_array().unwrap().iter().find(|limit| limit["name"] == "http.requests").unwrap();
    assert_eq!((&requests["current"], &requests["met"]), (&json!(1), &json!(1)));
    set_parameters(&host, &["requests=2"]).await.ok();
    assert_eq!(get(&host, &remote.url("/")).await["status"], 200);
    hanging.abort();
}

/// A call that finds all places taken by other calls is not at fault. A call that took them itself is.
#[tokio::test]
async fn a_busy_place_for_requests_is_not_the_fault_of_the_call_that_waits() {
    let remote = Remote::start(|_| Reply::Hang(String::new())).await;
    let setup = Setup::default().with(|config| {
        config.plugins.http_time = Duration::from_secs(3);
        config.plugins.http_requests = 1;
    });
    let host = host_allowing(setup, &remote, "http.time=10m").await;
    let (client, url) = (host.anonymous(), json!({ "url": remote.url("/") }));
    let hanging = {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move { client.post("/chameleon/fetch", &url).await })
    };
    remote.until_seen(1).await;
    client.post("/chameleon/must-fetch", &url).await.has_code(503, "upstream_busy");
    hanging.abort();
    remote.until_closed().await;
    set_parameters(&host, &["time=2s"]).await.ok();
    let two = json!({ "url": remote.url("/"), "times": 2 });
    assert_eq!(client.post("/chameleon/standard-at-once", &two).await.status, 500);
    let samples = samples(host.superuser()).await;
    let calls = |release: u32, outcome: &str| {
        let name = format!(r#"wharf_plugin_calls_total{{plugin="chameleon",release="{release}",outcome="{outcome}"}}"#);
        samples.iter().find(|(sample, _)| *sample == name).map(|(_, count)| *count)
    };
    // A change of a parameter begins another release, so the first one is only in the samples while it is drained.
    assert_eq!((calls(2, "dependency"), calls(2, "server_error")), (Some(0.0), Some(1.0)), "{samples:?}");
    assert!(calls(1, "dependency").is_none_or(|calls| calls == 1.0), "{samples:?}");
}

#[tokio::test]
async fn a_deadline_or_a_disconnected_client_ends_the_request() {
    let remote = Remote::start(|_| Reply::Hang("HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\n".to_owned())).await;
    let setup = Setup::default().with(|config| {
        config.plugins.deadline = Duration::from_secs(1);
        config.plugins.http_time = Duration::from_secs(600);
    });
    let mut host = host_allowing(setup, &remote, "http").await;
    let response = host.anonymous().post("/chameleon/fetch", &json!({ "url": remote.url("/") })).await;
    response.has_code(504, "plugin_deadline");
    remote.until_closed().await;

    host.restart_with(|config| config.plugins.deadline = Duration::from_secs(600)).await;
    let before = remote.seen().len();
    let (client, url) = (host.anonymous(), remote.url("/"));
    let waiting = tokio::spawn(async move { client.post("/chameleon/fetch", &json!({ "url": url })).await });
    remote.until_seen(before + 1).await;
    waiting.abort();
    remote.until_closed().await;
    assert_eq!(host.anonymous().get("/chameleon/echo/alive").await.ok()["word"], "alive");
}

#[tokio::test]
async fn outgoing_requests_count_as_host_calls_and_responses_as_memory() {
    let remote = Remote::start(|request| match request {
        large if large.contains(" /large ") => Reply::of(200, &"x".repeat(20 << 20)),
        _ => Reply::of(200, ""),
    })
    .await;
    let setup = Setup::default().with(|config| {
        config.plugins.host_calls = 50;
        config.plugins.memory_bytes = 16 << 20;
    });
    let host = host_allowing(setup, &remote, "http.bytes=64MiB").await;
    let many = json!({ "url": remote.url("/"), "times": 100 });
    host.anonymous().post("/chameleon/fetch", &many).await.has_code(502, "plugin_host_call_limit");
    assert!((20..100).contains(&remote.seen().len()), "{}", remote.seen().len());
    let large = json!({ "url": remote.url("/large") });
    host.anonymous().post("/chameleon/fetch", &large).await.has_code(502, "plugin_memory_limit");
    assert_eq!(get(&host, &remote.url("/")).await["status"], 200);
}
