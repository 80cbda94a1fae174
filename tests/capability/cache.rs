//! `wharf:cache`.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::deploy_twin;
use crate::support::{Setup, TestHost};

async fn chameleon(setup: Setup) -> TestHost {
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    host
}

async fn set_value(host: &TestHost, path: &str, value: &str) -> Value {
    let request = host.anonymous().request(Method::PUT, &format!("/chameleon/kept/{path}"));
    request.header("content-type", "application/octet-stream").body(value.to_owned()).send().await.ok()
}

async fn value_of(host: &TestHost, key: &str) -> Value {
    host.anonymous().get(&format!("/chameleon/kept/{key}")).await.ok()
}

#[tokio::test]
async fn a_cached_value_outlives_its_call() {
    let host = chameleon(Setup::default()).await;
    assert_eq!(value_of(&host, "key").await, Value::Null);
    assert_eq!(set_value(&host, "key", "one").await, Value::Null);
    assert_eq!(set_value(&host, "key", "two").await, Value::Null);
    assert_eq!(value_of(&host, "key").await, "two");
}

#[tokio::test]
async fn a_deleted_value_is_gone() {
    let host = chameleon(Setup::default()).await;
    set_value(&host, "key", "one").await;
    assert_eq!(host.anonymous().delete("/chameleon/kept/key").await.status, 204);
    assert_eq!(value_of(&host, "key").await, Value::Null);
}

#[tokio::test]
async fn a_value_expires_after_its_ttl() {
    let host = chameleon(Setup::default().with_manual_clock()).await;
    set_value(&host, "key?ttl_ms=60000", "one").await;
    host.clock().advance(Duration::from_millis(59_999));
    assert_eq!(value_of(&host, "key").await, "one");
    host.clock().advance(Duration::from_millis(1));
    assert_eq!(value_of(&host, "key").await, Value::Null);
}

#[tokio::test]
async fn an_invalidated_tag_removes_its_values_and_no_others() {
    let host = chameleon(Setup::default()).await;
    set_value(&host, "a?tag=red", "one").await;
    set_value(&host, "b?tag=blue", "two").await;
    assert_eq!(host.anonymous().request(Method::POST, "/chameleon/invalidate/red").send().await.status, 204);
    assert_eq!((value_of(&host, "a").await, value_of(&host, "b").await), (Value::Null, json!("two")));
    set_value(&host, "a?tag=red", "three").await;
    assert_eq!(value_of(&host, "a").await, "three");
}

#[tokio::test]
async fn concurrent_increments_are_all_counted() {
    let host = chameleon(Setup::default()).await;
    let calls = (0..20).map(|_| {
        let client = host.anonymous();
        async move { client.request(Method::POST, "/chameleon/increment/n").send().await.ok().as_i64().unwrap() }
    });
    let mut numbers = futures_util::future::join_all(calls).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_value_that_is_not_a_number_cannot_be_incremented() {
    let host = chameleon(Setup::default()).await;
    set_value(&host, "n", "many").await;
    let response = host.anonymous().request(Method::POST, "/chameleon/increment/n").send().await;
    assert!(response.problem()["status"].as_u64().unwrap() >= 400);
    assert_eq!(value_of(&host, "n").await, "many");
}

#[tokio::test]
async fn a_value_above_the_limit_is_an_error_for_the_plugin() {
    let host = chameleon(Setup::default()).await;
    assert_eq!(
        set_value(&host, "big", &"x".repeat((1 << 20) + 1)).await,
        r#"Error::Limit("value size: 1048576 bytes")"#
    );
    assert_eq!(value_of(&host, "big").await, Value::Null);
}

#[tokio::test]
async fn plugins_do_not_share_a_cache() {
    let host = chameleon(Setup::default()).await;
    deploy_twin(&host).await;
    set_value(&host, "key?tag=red", "one").await;
    assert_eq!(host.anonymous().get("/twin/kept/key").await.ok(), Value::Null);
    assert_eq!(host.anonymous().request(Method::POST, "/twin/invalidate/red").send().await.status, 204);
    assert_eq!(host.anonymous().request(Method::POST, "/twin/increment/n").send().await.ok(), 1);
    assert_eq!(host.anonymous().request(Method::POST, "/chameleon/increment/n").send().await.ok(), 1);
    assert_eq!(value_of(&host, "key").await, "one");
}

#[tokio::test]
async fn the_cache_survives_a_new_release() {
    let host = chameleon(Setup::default()).await;
    set_value(&host, "key", "one").await;
    let again = crate::support::Component::chameleon().rebuilt("again");
    host.superuser().deploy(&again.0, "").await.ok();
    assert_eq!(value_of(&host, "key").await, "one");
}
