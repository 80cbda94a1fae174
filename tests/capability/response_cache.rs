//! Responses that the host caches for a plugin.

use std::time::Duration;

use reqwest::Method;

use super::deploy_twin;
use crate::http::metrics::samples;
use crate::support::{Client, Component, Setup, TestHost};

async fn chameleon(setup: Setup) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    host
}

async fn text(client: &Client, path: &str) -> String {
    let response = client.get(path).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

#[tokio::test]
async fn a_response_is_served_from_the_cache() {
    let host = chameleon(Setup::default()).await;
    let first = host.anonymous().get("/chameleon/cached").await;
    let second = host.superuser().get("/chameleon/cached").await;
    assert_eq!((second.status, second.text()), (200, first.text()));
    assert_eq!(second.header("content-type"), first.header("content-type"));
    assert_ne!(second.header("x-request-id"), first.header("x-request-id"));
    let samples = samples(host.superuser()).await;
    let counted = |outcome: &str| {
        let name = format!(r#"wharf_plugin_calls_total{{plugin="chameleon",release="1",outcome="{outcome}"}}"#);
        samples.iter().find(|(sample, _)| *sample == name).unwrap().1
    };
    assert_eq!(["success", "kept"].map(counted), [1.0, 1.0]);
}

#[tokio::test]
async fn another_query_is_another_cache_entry() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    assert_ne!(text(&client, "/chameleon/cached?a=1").await, text(&client, "/chameleon/cached?a=2").await);
}

#[tokio::test]
async fn a_cached_response_expires() {
    let host = chameleon(Setup::default().with_manual_clock()).await;
    let client = host.anonymous();
    let first = text(&client, "/chameleon/cached").await;
    host.clock().advance(Duration::from_secs(3599));
    assert_eq!(text(&client, "/chameleon/cached").await, first);
    host.clock().advance(Duration::from_secs(1));
    assert_ne!(text(&client, "/chameleon/cached").await, first);
}

#[tokio::test]
async fn a_cached_response_of_one_caller_is_not_served_to_another() {
    let host = chameleon(Setup::default()).await;
    let (one, two) = (host.user("one@example.com").await, host.user("two@example.com").await);
    let first = text(&one, "/chameleon/cached-per-caller").await;
    assert_ne!(text(&two, "/chameleon/cached-per-caller").await, first);
    assert_eq!(text(&one, "/chameleon/cached-per-caller").await, first);
    host.anonymous().get("/chameleon/cached-per-caller").await.has_code(401, "not_authenticated");
}

#[tokio::test]
async fn a_problem_is_not_cached() {
    let host = chameleon(Setup::default()).await;
    let first = host.anonymous().get("/chameleon/cached-problem").await.has_code(409, "never_kept");
    assert_ne!(host.anonymous().get("/chameleon/cached-problem").await.has_code(409, "never_kept"), first);
}

#[tokio::test]
async fn an_invalidated_tag_removes_its_responses() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let first = text(&client, "/chameleon/cached").await;
    client.request(Method::POST, "/chameleon/invalidate/other").send().await;
    assert_eq!(text(&client, "/chameleon/cached").await, first);
    client.request(Method::POST, "/chameleon/invalidate/leaf").send().await;
    assert_ne!(text(&client, "/chameleon/cached").await, first);
}

#[tokio::test]
async fn a_new_release_has_its_own_cached_responses() {
    let host = chameleon(Setup::default()).await;
    let client = host.anonymous();
    let first = text(&client, "/chameleon/cached").await;
    host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    assert_ne!(text(&client, "/chameleon/cached").await, first);
}

#[tokio::test]
async fn another_plugin_has_its_own_cached_responses() {
    let host = chameleon(Setup::default()).await;
    deploy_twin(&host).await;
    let client = host.anonymous();
    assert_ne!(text(&client, "/chameleon/cached").await, text(&client, "/twin/cached").await);
}
