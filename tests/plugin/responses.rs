//! Responses of plugins: which of them reach the client, and which break the rules and become a 502.

use serde_json::Value;

use super::limits::{call_fails, chameleon};
use crate::support::Setup;

const INVALID: &str = "The plugin returned an invalid response";

#[tokio::test]
async fn an_invalid_status_is_rejected() {
    for status in ["0", "100", "101", "199", "600", "65535"] {
        call_fails(Setup::default(), &format!("/status/{status}"), 502, "plugin_invalid_response", INVALID).await;
    }
}

#[tokio::test]
async fn headers_that_are_not_the_plugins_are_rejected() {
    let host = chameleon(Setup::default()).await;
    for header in [
        "name=set-cookie&value=a%3Db",
        "name=x-request-id&value=forged",
        "name=content-length&value=1",
        "name=content-length&value=3&body=xx",
        "name=content-length&value=2,%202&body=xx",
        "name=content-type&value=text/plain&times=2",
        "name=content-type&value=text/html,%20text/plain",
        "name=etag&value=%22a%22&times=2",
        "name=location&value=/a&times=2",
        "name=transfer-encoding&value=chunked",
        "name=connection&value=close",
        "name=access-control-allow-origin&value=*",
        "name=content-security-policy&value=sandbox%20allow-same-origin",
        "name=service-worker-allowed&value=/",
        "name=clear-site-data&value=%22*%22",
        "name=alt-svc&value=h2=%22evil.example:443%22",
        "name=refresh&value=0",
        "name=www-authenticate&value=Basic",
        "name=strict-transport-security&value=max-age=9",
        "name=link&value=</x>;rel=preload",
        "name=x-accel-redirect&value=/etc/passwd",
        "name=x-envoy-upstream-alt-stat-name&value=x",
        "name=use-as-dictionary&value=x",
        "name=x-split&value=a%0D%0Aset-cookie:%20b",
        "name=x-split%0D%0Aset-cookie&value=b",
        "name=x-control&value=%01",
        "name=x-control&value=a%E2%90%80b",
        "name=x-split&value=a%0Db",
        "name=x-split&value=a%0Ab",
        "name=x-split&value=%0D%0A",
        "name=x%E2%90%80y&value=b",
        "name=x%0Ay&value=b",
        "name=x%0Dy&value=b",
        "name=&value=x",
        "name=not%20a%20token&value=x",
        "name=x-many&value=x&times=65",
    ] {
        let response = host.anonymous().get(&format!("/chameleon/header?{header}")).await;
        response.is_problem(502, "plugin_invalid_response", INVALID);
        assert!(response.header("set-cookie").is_none() && response.header("x-split").is_none());
        // Successful calls in between, so that the circuit breaker does not open.
        for _ in 0..2 {
            host.anonymous().get("/chameleon/echo/x").await.ok();
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn an_ordinary_header_reaches_the_client() {
    let host = chameleon(Setup::default()).await;
    let response = host.anonymous().get("/chameleon/header?name=x-colour&value=green").await;
    assert_eq!((response.status, response.header("x-colour")), (200, Some("green")));
    let response = host.anonymous().get("/chameleon/header?name=content-length&value=2&body=xx").await;
    assert_eq!((response.status, response.header("content-length"), &*response.text()), (200, Some("2"), "xx"));
}

#[tokio::test]
async fn header_values_of_any_encoding_pass_in_both_directions() {
    let host = chameleon(Setup::default()).await;
    for (sent, received) in [("grün".as_bytes(), "grün"), (b"gr\xfcn", "grün"), (b"\x80", "\u{80}")] {
        let client = reqwest::Client::new().get(host.anonymous().url("/api/v1/chameleon/echo/x"));
        let value = reqwest::header::HeaderValue::from_bytes(sent).unwrap();
        let seen: Value = client.header("x-colour", value).send().await.unwrap().json().await.unwrap();
        let headers = seen["headers"].as_array().unwrap();
        let colour = headers.iter().find(|pair| pair[0] == "x-colour").map(|pair| pair[1].clone());
        assert_eq!(colour, Some(received.into()));
    }
    let response = host.anonymous().get("/chameleon/header?name=x-colour&value=gr%C3%BCn").await;
    assert_eq!(response.headers["x-colour"].as_bytes(), "grün".as_bytes());
}

#[tokio::test]
async fn a_status_without_content_has_no_body_over_either_version_of_http() {
    let host = chameleon(Setup::default()).await;
    for http2 in [false, true] {
        let client = if http2 { host.anonymous().over_http2() } else { host.anonymous() };
        for (status, length) in [(204, None), (205, Some("0")), (304, None)] {
            let path = format!("/chameleon/header?name=x-a&value=b&body=content&status={status}");
            let response = client.get(&path).await;
            assert_eq!((response.status, response.header("x-a"), &*response.text()), (status, Some("b"), ""));
            // HTTP/2 frames a response without a length.
            assert!(http2 || response.header("content-length") == length, "{status} {:?}", response.headers);
        }
    }
}

#[tokio::test]
async fn a_problem_can_have_headers() {
    let host = chameleon(Setup::default()).await;
    let response = host.anonymous().get("/chameleon/problem?status=409&code=full&detail=Full&retry_after=120").await;
    response.is_problem(409, "full", "Full");
    assert_eq!(response.header("retry-after"), Some("120"));
    // A document that breaks the rules of a problem is the plugin's own.
    let response = host.anonymous().get("/chameleon/problem?status=409&code=Not%20OK&detail=x&retry_after=1").await;
    assert_eq!((response.status, response.header("retry-after")), (409, Some("1")));
    assert_eq!(response.json()["code"], "Not OK");
}

#[tokio::test]
async fn a_body_above_the_limit_is_rejected() {
    let setup = Setup::default().with(|config| config.plugins.response_bytes = 50_000);
    let detail = "The plugin's response exceeds its size limit";
    call_fails(setup, "/body/50001", 502, "plugin_response_limit", detail).await;
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_forwarded() {
    let host = chameleon(Setup::default().with(|config| config.plugins.response_bytes = 50_000)).await;
    assert_eq!(host.anonymous().get("/chameleon/body/50000").await.bytes.len(), 50_000);
}

#[tokio::test]
async fn a_body_far_beyond_the_limit_is_never_copied() {
    let setup = Setup::default().with(|config| config.plugins.response_bytes = 50_000);
    let host = chameleon(setup).await;
    let response = host.anonymous().get("/chameleon/body/20000000").await;
    assert_eq!(response.problem()["status"], 502);
    assert_eq!(host.anonymous().get("/chameleon/body/5").await.text(), "xxxxx");
}

#[tokio::test]
async fn a_problem_from_a_plugin_is_forwarded() {
    let host = chameleon(Setup::default()).await;
    let response = host.anonymous().get("/chameleon/problem?status=418&code=teapot&detail=Short%20and%20stout").await;
    response.is_problem(418, "teapot", "Short and stout");
}

#[tokio::test]
async fn a_problem_above_the_limit_is_rejected() {
    let setup = || Setup::default().with(|config| config.plugins.response_bytes = 50_000);
    let detail = "The plugin's response exceeds its size limit";
    // Three texts for each error, and up to six times their size in JSON.
    call_fails(setup(), "/problems/10/400", 502, "plugin_response_limit", detail).await;
    let host = chameleon(setup()).await;
    let response = host.anonymous().get("/chameleon/problems/10/200").await;
    assert_eq!((response.status, response.problem()["errors"].as_array().unwrap().len()), (422, 11));
    // The guest has memory for one copy, and locations count like any text.
    let setup = Setup::default().with(|config| config.plugins.memory_bytes = 12 << 20);
    let text = "The plugin needs more memory than its limit";
    call_fails(setup, "/problems/250/10000", 502, "plugin_memory_limit", text).await;
}

#[tokio::test]
async fn an_invalid_problem_is_rejected() {
    for problem in
        ["status=404&code=Not%20A%20Word&detail=x", "status=404&code=&detail=x", "status=200&code=x&detail=x"]
    {
        let path = format!("/problem?{problem}");
        call_fails(Setup::default(), &path, 502, "plugin_invalid_response", INVALID).await;
    }
}
