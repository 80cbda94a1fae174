//! Grants with parameters: they limit one plugin, belong to a release, and stay until they are changed.

use reqwest::Method;
use serde_json::{Value, json};

use super::plugins;
use super::releases::operate;
use crate::http::metrics::samples;
use crate::support::host::{CHAMELEON, chameleon_grants, offered_capabilities};
use crate::support::{Component, Setup, TestHost, TestResponse, both};

both!(
    a_quota_applies_to_one_plugin_and_may_exceed_the_hosts_default,
    a_quota_belongs_to_a_release,
    an_invalid_quota_changes_nothing,
);

const THREE_ROWS: &str = "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3";
const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n";

async fn deploy(host: &TestHost, name: &str, quotas: &str) -> TestResponse {
    let component = Component::chameleon();
    host.superuser().deploy(&component.0, &format!("name={name}&{CHAMELEON}&grant={quotas}")).await
}

/// Returns the error that the guest gets for a statement.
async fn statement_error(host: &TestHost, name: &str, sql: &str) -> Value {
    let request = host.anonymous().request(Method::POST, &format!("/{name}/statement"));
    request.header("content-type", "application/octet-stream").body(sql.to_owned()).send().await.ok()["error"].clone()
}

async fn set_parameters(host: &TestHost, capability: &str, parameters: &[&str]) -> TestResponse {
    let query: Vec<String> = parameters.iter().map(|parameter| format!("parameter={parameter}")).collect();
    let path = format!("/plugins/chameleon/grants/{capability}?{}", query.join("&"));
    host.superuser().request(Method::PUT, &path).send().await
}

async fn grants(host: &TestHost) -> Value {
    host.superuser().get("/plugins/chameleon").await.ok()["grants"].clone()
}

/// Returns the result that the guest gets.
async fn set_cached(host: &TestHost, name: &str, bytes: usize) -> Value {
    let request = host.anonymous().request(Method::PUT, &format!("/{name}/kept/key"));
    request.header("content-type", "application/octet-stream").body("x".repeat(bytes)).send().await.ok()
}

async fn is_cached(host: &TestHost, name: &str) -> bool {
    host.anonymous().get(&format!("/{name}/kept/key")).await.ok().is_string()
}

async fn a_quota_applies_to_one_plugin_and_may_exceed_the_hosts_default(host: &mut TestHost) {
    host.restart_with(|config| {
        config.plugins.sql_rows = 2;
        config.plugins.sql_bytes = 1 << 20;
    })
    .await;
    deploy(host, "twin", "").await.ok();
    deploy(host, "chameleon", "sql.rows=3,sql.time=2s,sql.bytes=3MiB,cache.bytes=64KiB").await.ok();
    assert_eq!(statement_error(host, "twin", THREE_ROWS).await, json!("Error::Limit(\"rows: 2\")"));
    assert_eq!(statement_error(host, "chameleon", THREE_ROWS).await, json!(null));
    let four_rows = format!("{THREE_ROWS} UNION ALL SELECT 4");
    assert_eq!(statement_error(host, "chameleon", &four_rows).await, json!("Error::Limit(\"rows: 3\")"));
    assert_eq!(statement_error(host, "chameleon", ENDLESS).await, json!("Error::Limit(\"statement time: 2000 ms\")"));
    let two_mebibytes = match host.database() {
        Some(_) => "SELECT repeat('x', 2097152)",
        None => "SELECT hex(zeroblob(1048576))",
    };
    assert_eq!(statement_error(host, "chameleon", two_mebibytes).await, json!(null));
    assert_eq!(statement_error(host, "twin", two_mebibytes).await, json!("Error::Limit(\"bytes: 1048576\")"));
    // 100 KB are above this quota and below the twin's.
    assert_eq!(set_cached(host, "chameleon", 100_000).await, json!("Error::Limit(\"value size: 65536 bytes\")"));
    assert_eq!(set_cached(host, "twin", 100_000).await, json!(null));
    assert!(is_cached(host, "twin").await && !is_cached(host, "chameleon").await);
}

async fn a_quota_belongs_to_a_release(host: &mut TestHost) {
    deploy(host, "chameleon", "sql.rows=2,cache.bytes=1MiB").await.ok();
    let refused = json!("Error::Limit(\"rows: 2\")");
    assert_eq!(statement_error(host, "chameleon", THREE_ROWS).await, refused);
    assert_eq!(grants(host).await, json!(chameleon_grants(&["cache.bytes=1MiB", "sql.rows=2"])));

    // A changed quota is another release of the same file, created by one request and rolled back by one.
    let response = set_parameters(host, "sql", &["rows=3", "connections=1"]).await.ok();
    assert!(response["message"].as_str().unwrap().contains("release 2"), "{response}");
    assert_eq!(statement_error(host, "chameleon", THREE_ROWS).await, json!(null));
    operate(host, "chameleon/rollback").await.ok();
    assert_eq!(statement_error(host, "chameleon", THREE_ROWS).await, refused);

    // The quota stays with the next file, after a restart, and when the capability is granted again.
    let rebuilt = Component::chameleon().rebuilt("next");
    host.superuser().deploy(&rebuilt.0, CHAMELEON).await.ok();
    host.restart().await;
    assert_eq!(statement_error(host, "chameleon", THREE_ROWS).await, refused);

    // State that all releases share follows the live release, not a canary.
    set_cached(host, "chameleon", 100).await;
    let trial = format!("{CHAMELEON}&grant=cache.bytes=2MiB&canary=header");
    host.superuser().deploy(&Component::chameleon().0, &trial).await.ok();
    assert!(is_cached(host, "chameleon").await);
    operate(host, "chameleon/promote").await.ok();
    assert!(!is_cached(host, "chameleon").await, "a new size clears the cache");

    set_parameters(host, "sql", &["rows=default"]).await.ok();
    assert_eq!(statement_error(host, "chameleon", THREE_ROWS).await, json!(null));
    assert_eq!(grants(host).await, json!(chameleon_grants(&["cache.bytes=2MiB"])));
    // A revoked grant returns with its quota, and only when it is granted.
    set_parameters(host, "sql", &["rows=2"]).await.ok();
    host.superuser().delete("/plugins/chameleon/grants/sql").await.ok();
    set_parameters(host, "sql", &["rows=500"]).await.has_code(409, "plugin_state");
    host.anonymous().get("/chameleon/echo/x").await.has_code(503, "plugin_revoked");
    set_parameters(host, "sql", &[]).await.ok();
    assert_eq!(statement_error(host, "chameleon", THREE_ROWS).await, refused);
}

async fn an_invalid_quota_changes_nothing(host: &mut TestHost) {
    deploy(host, "chameleon", "").await.ok();
    let before = plugins(host).await;
    let no_smtp = format!("there is no capability 'smtp'; there are: {}", offered_capabilities());
    for (quota, expected) in [
        ("sql.rows=0", "'sql.rows' is too small; accepted: a number from 1 to 10000000"),
        ("sql.rows", "'sql.rows' has no value; write sql.rows=VALUE"),
        ("sql.row=5", "'sql' has no parameter 'row'; it has rows, bytes, time, connections, disk"),
        ("smtp.hosts=x", no_smtp.as_str()),
        ("sql.rows=5,sql.rows=6", "'sql.rows' has two values"),
    ] {
        let response = deploy(host, "chameleon", quota).await;
        response.has_code(422, "validation_error");
        assert_eq!(response.problem()["errors"][0]["msg"], expected, "{quota}");
    }
    let response = set_parameters(host, "sql", &["rows=many"]).await;
    response.has_code(422, "validation_error");
    assert_eq!(response.problem()["errors"][0]["loc"], json!(["query", "parameter"]));
    assert_eq!(
        set_parameters(host, "sql", &["rows=default"]).await.ok()["message"],
        "'chameleon' already has these parameters, release 1"
    );
    assert_eq!(plugins(host).await, before);
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let path = "/plugins/hello/grants/sql?parameter=rows=5";
    host.superuser().request(Method::PUT, path).send().await.has_code(404, "grant_missing");
    host.anonymous().request(Method::PUT, path).send().await.has_code(401, "not_authenticated");
}

#[tokio::test]
async fn a_quota_ends_with_its_grant() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, "chameleon", "log.rate=1").await.ok();
    // Printed text is logged with or without the log grant.
    let printing = super::liar(json!({ "name": "chameleon", "handle": "print" }));
    host.superuser().deploy(&printing.0, "").await.ok();
    assert_eq!(host.anonymous().get("/chameleon/").await.status, 200);
    let samples = samples(host.superuser()).await;
    let dropped = samples.iter().find(|(name, _)| name == r#"wharf_plugin_log_dropped_total{plugin="chameleon"}"#);
    assert_eq!(dropped.unwrap().1, 0.0);
}

#[tokio::test]
async fn a_change_of_a_grants_quota_is_in_the_history() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, "chameleon", "").await.ok();
    set_parameters(&host, "log", &["rate=5"]).await.ok();
    let history = host.superuser().get("/plugins/chameleon/history").await.ok();
    let detail = &history["data"][0]["detail"];
    assert_eq!((&detail["before"], &detail["after"]), (&json!(1), &json!(2)), "{history}");
    assert!(detail["grants"].as_array().unwrap().contains(&json!("log.rate=5")), "{history}");
}
