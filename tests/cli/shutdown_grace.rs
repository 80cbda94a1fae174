//! The real program, shut down while guests run endless calls: work that outlasts the shutdown grace is cancelled
//! wherever it runs, and leaves nothing behind.

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::support::host::CHAMELEON;
use crate::support::polling::until;
use crate::support::postgres::{self, TestDatabase};
use crate::support::process::{Process, home};
use crate::support::{Client, Component};

const ENDLESS: &str =
    "WITH RECURSIVE cut (n) AS (SELECT 1 UNION ALL SELECT 1 FROM cut WHERE n = 1) SELECT count(*) FROM cut";

async fn statements(database: &TestDatabase) -> i64 {
    let mut superuser = postgres::connect(database).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = 'wharf-plugin' \
               AND datname = current_database() AND query LIKE '%FROM cut%'";
    sqlx::query_scalar(sql).fetch_one(&mut superuser).await.unwrap()
}

async fn shut_down_with_endless_calls(database: Option<TestDatabase>) {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut settings = vec![("WHARF_SHUTDOWN_GRACE", "1s")];
    settings.extend(database.as_ref().map(|database| ("WHARF_DATABASE_URL", database.url.as_str())));
    let mut process = Process::start_with(home(), &settings).await;
    let forever = "limit=deadline=10m&limit=cpu_time=10m&grant=sql.time=10m,http.time=10m";
    let grants = format!("{CHAMELEON}&{forever},http.networks=127.0.0.0/8,http.hosts={url}");
    process.superuser().await.deploy(&Component::chameleon().0, &grants).await.ok();

    let call = |method: Method, path: &str, body: Option<&str>| {
        let mut request = process.client().request(method, &format!("/chameleon/{path}"));
        if let Some(body) = body {
            let kind = if body.starts_with('{') { "application/json" } else { "application/octet-stream" };
            request = request.header("content-type", kind).body(body.to_owned());
        }
        tokio::spawn(request.try_send())
    };
    let calls = [
        call(Method::GET, "endless", None),
        call(Method::GET, "sleep/3600000", None),
        call(Method::POST, "statement", Some(ENDLESS)),
        call(Method::POST, "transaction?end=sleep&text=left", None),
        call(Method::POST, "fetch", Some(&json!({ "url": url }).to_string())),
    ];
    let (mut remote, _) = silent.accept().await.unwrap();
    let superuser: Client = process.superuser().await;
    until("all calls to run", async || {
        let samples = crate::http::metrics::samples(&superuser).await;
        let running = samples.iter().filter(|(key, _)| key.starts_with("wharf_plugin_calls_running{"));
        (running.map(|(_, value)| *value).sum::<f64>() >= 5.0).then_some(())
    })
    .await;
    if let Some(database) = &database {
        until("the statement to run", async || (statements(database).await == 1).then_some(())).await;
    }

    process.signal("TERM");
    assert!(process.ended().await.success());
    for call in calls {
        let response = call.await.unwrap();
        assert!(response.is_err(), "the call got a response: {response:?}");
    }
    let mut received = Vec::new();
    let _ = remote.read_to_end(&mut received).await;
    if let Some(database) = &database {
        until("the statement to end", async || (statements(database).await == 0).then_some(())).await;
    }
    let log = process.log();
    assert!(log.contains("cut unfinished connections") && !log.contains("panicked"), "{log}");

    let process = Process::start_with(process.kill(), &settings[1..]).await;
    assert_eq!(process.client().get("/chameleon/notes").await.ok(), json!([]));
    assert_eq!(process.client().request(Method::POST, "/chameleon/notes/new").send().await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_beyond_the_shutdown_grace_is_cancelled_on_sqlite() {
    shut_down_with_endless_calls(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_beyond_the_shutdown_grace_is_cancelled_on_postgres() {
    let Some(database) = postgres::database().await else { return };
    shut_down_with_endless_calls(Some(database)).await;
}
