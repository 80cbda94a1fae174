//! HEAD: every GET route responds to it, with the headers of GET and without a body.

use reqwest::Method;
use serde_json::Value;

use crate::support::{Client, Setup, TestHost, TestResponse};

/// Headers that can differ between any two responses.
const FRESH: &[&str] = &["content-length", "date", "x-request-id"];

async fn both(client: &Client, path: &str) -> (TestResponse, TestResponse) {
    let head = client.plain(Method::HEAD, path).send().await;
    (client.plain(Method::GET, path).send().await, head)
}

fn headers(response: &TestResponse) -> Vec<(&str, &str)> {
    let all = response.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let mut all: Vec<_> = all.filter(|(name, _)| !FRESH.contains(name)).collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn every_get_route_answers_head() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    host.deploy_chameleon().await;
    let document = host.anonymous().get("/openapi.json").await.ok();
    let documented = document["paths"].as_object().unwrap().iter();
    let paths = documented.filter(|(_, methods)| methods.get("get").is_some()).map(|(path, _)| path.as_str());
    // The chameleon has a route for each misbehaviour, and the metrics count both requests.
    let paths = paths.filter(|path| !path.contains("/chameleon/") && !path.contains("metrics"));
    let undocumented = ["/healthz", "/readyz", "/docs/", "/api/v1/openapi.json", "/api/v1/chameleon/echo/x"];
    let missing = ["/nothing", "/api/v1/nothing", "/api/v1/items/x", "/api/v1/users/?skip=x"];
    let mut seen = 0;
    for path in paths.chain(undocumented).chain(missing) {
        for client in [host.superuser().clone(), host.anonymous()] {
            let (get, head) = both(&client, &path.replace(['{', '}'], "")).await;
            assert_eq!((head.status, headers(&head)), (get.status, headers(&get)), "{path}");
            assert!(head.bytes.is_empty() && head.header("content-length").is_some(), "{path}");
            // The state of plugins and sessions changes between the two.
            if !path.contains("/plugins") && !path.contains("/sessions") {
                assert_eq!(head.header("content-length"), Some(get.bytes.len().to_string().as_str()), "{path}");
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
    host.stop().await;
}

#[tokio::test]
async fn a_cached_response_serves_both_methods() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    let client = host.anonymous();
    // The response to HEAD is cached as that to GET.
    let head = client.request(Method::HEAD, "/chameleon/cached").send().await;
    assert_eq!((head.status, head.header("content-length"), head.bytes.len()), (200, Some("36"), 0));
    let calls = async || {
        let samples = super::metrics::samples(host.superuser()).await;
        let counted = samples.into_iter().filter(|(name, _)| name.starts_with("wharf_plugin_calls_total{"));
        counted.filter(|(name, _)| name.contains("\"success\"")).map(|(_, count)| count).sum::<f64>()
    };
    let before = calls().await;
    let text = client.get("/chameleon/cached").await.text();
    assert_eq!(text.len(), 36);
    client.request(Method::HEAD, "/chameleon/cached").send().await;
    assert_eq!((client.get("/chameleon/cached").await.text(), calls().await), (text, before));
    host.stop().await;
}

#[tokio::test]
async fn a_plugin_is_asked_as_for_get() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    // The lengths are equal only if the guest was told the same method.
    let (get, head) = both(&host.anonymous(), "/api/v1/chameleon/echo/x").await;
    let seen: Value = get.json();
    assert_eq!((&seen["method"], &seen["path"]), (&"GET".into(), &"/echo/x".into()));
    assert_eq!(head.header("content-length"), Some(get.bytes.len().to_string().as_str()));
    let post_only = host.anonymous().request(Method::HEAD, "/chameleon/json").send().await;
    assert_eq!((post_only.status, post_only.header("allow")), (405, Some("POST")));
    host.stop().await;
}
