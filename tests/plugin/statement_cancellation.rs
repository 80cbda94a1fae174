//! A statement that is running when its call ends: it ends on the server too, its changes are rolled back, and its
//! connection and the call slot become free.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::limits::set_deadline;
use crate::http::metrics::samples;
use crate::support::patience::NEVER;
use crate::support::polling::until;
use crate::support::postgres;
use crate::support::{Setup, TestHost, both};

const ENDLESS: &str =
    "WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT 1 FROM endless WHERE n = 1) SELECT count(*) FROM endless";

/// There is only one connection and no other limit near, so the next statement works only after the endless one has
/// ended.
fn one_connection(setup: Setup, deadline: Duration) -> Setup {
    setup.with(|config| {
        config.plugins.sql_connections = 1;
        config.plugins.sql_time = NEVER;
        config.plugins.queue_time = NEVER;
        config.plugins.concurrency = 2;
        config.plugins.deadline = deadline;
    })
}

both!(
    a_statement_ends_at_the_deadline_of_its_call => one_connection(Setup::default(), Duration::from_secs(3)),
    a_transaction_with_a_running_statement_ends_at_the_deadline => one_connection(Setup::default(), Duration::from_secs(3)),
    a_statement_ends_when_its_client_disconnects => one_connection(Setup::default(), NEVER),
    a_transaction_with_a_running_statement_ends_when_its_client_disconnects => one_connection(Setup::default(), NEVER),
);

const ALONE: &str = "/chameleon/statement";
const IN_TRANSACTION: &str = "/chameleon/transaction?end=query&text=left";

async fn connections(host: &TestHost) -> f64 {
    let samples = samples(host.superuser()).await;
    let of = |key: &str| key.starts_with("wharf_plugin_sql_connections{plugin=\"chameleon\"");
    samples.iter().filter(|(key, _)| of(key)).map(|(_, value)| *value).sum()
}

/// Returns whether the statement is running: on PostgreSQL from its activity, on SQLite from the connections in use.
async fn is_running(host: &TestHost) -> bool {
    let Some(database) = host.database() else { return connections(host).await > 0.0 };
    let mut superuser = postgres::connect(database).await;
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = 'wharf-plugin' \
         AND datname = current_database() AND position('endless' IN query) > 0",
    )
    .fetch_one(&mut superuser)
    .await
    .unwrap();
    count > 0
}

/// Checks that the statement has ended and left no change.
async fn assert_gone(host: &TestHost) {
    until("the statement to end", async || (!is_running(host).await && connections(host).await == 0.0).then_some(()))
        .await;
    for _ in 0..3 {
        assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]));
    }
    let kept = host.anonymous().request(Method::POST, "/chameleon/notes/kept").send().await;
    assert_eq!((kept.status, host.anonymous().get("/chameleon/notes").await.ok()), (204, json!(["kept"])));
}

async fn at_the_deadline(host: &TestHost, path: &str) {
    host.deploy_chameleon().await;
    // More of them, one after the other, than there are call slots and connections.
    for _ in 0..3 {
        let request = host.anonymous().request(Method::POST, path);
        let request = request.header("content-type", "application/octet-stream").body(ENDLESS);
        request.send().await.has_code(504, "plugin_deadline");
    }
    // The calls from here on are not to reach it.
    set_deadline(host, "10m").await;
    assert_gone(host).await;
}

async fn with_its_client(host: &TestHost, path: &'static str) {
    host.deploy_chameleon().await;
    for _ in 0..3 {
        let client = host.anonymous();
        let calling = tokio::spawn(async move {
            let request = client.request(Method::POST, path);
            request.header("content-type", "application/octet-stream").body(ENDLESS).try_send().await
        });
        until("the statement to run", async || is_running(host).await.then_some(())).await;
        assert!(!calling.is_finished());
        calling.abort();
        until("the statement to end", async || (!is_running(host).await).then_some(())).await;
    }
    assert_gone(host).await;
}

async fn a_statement_ends_at_the_deadline_of_its_call(host: &TestHost) {
    at_the_deadline(host, ALONE).await;
}

async fn a_transaction_with_a_running_statement_ends_at_the_deadline(host: &TestHost) {
    at_the_deadline(host, IN_TRANSACTION).await;
}

async fn a_statement_ends_when_its_client_disconnects(host: &TestHost) {
    with_its_client(host, ALONE).await;
}

async fn a_transaction_with_a_running_statement_ends_when_its_client_disconnects(host: &TestHost) {
    with_its_client(host, IN_TRANSACTION).await;
}
