//! Emergencies: a pause, a revocation, a rollback and a removal take effect at once, also during a deploy or a call.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::compile::{child_compiler, compiler_processes, held_compiler, let_compile};
use super::liar;
use super::releases::{history_entry, operate, state};
use crate::http::metrics::samples;
use crate::support::gate::Gate;
use crate::support::host::{CHAMELEON, PASSWORD, SUPERUSER};
use crate::support::patience::NEVER;
use crate::support::polling::until;
use crate::support::postgres;
use crate::support::{Component, Setup, TestHost, TestResponse, both};

pub(super) fn patient() -> Setup {
    Setup::default().with(|config| {
        config.plugins.deadline = NEVER;
        config.plugins.smoke_time = NEVER;
        config.plugins.drain_time = NEVER;
    })
}

both!(
    a_change_of_a_plugin_does_not_wait_for_its_deploy => patient(),
    a_revoked_database_is_out_of_reach_of_a_call_in_flight => patient(),
    a_pause_ends_calls_in_flight => patient(),
);

/// Returns a release with a table, whose smoke call never ends.
pub(super) fn stuck(word: &str) -> Component {
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } });
    liar(json!({ "answer": word, "handle": "sleep", "routes": [route], "migrations": steps() }))
}

fn steps() -> Value {
    json!([["0001", "CREATE TABLE t (a BIGINT)"]])
}

pub(super) fn release(word: &str) -> Component {
    liar(json!({ "answer": word, "migrations": steps() }))
}

pub(super) async fn deploy(host: &TestHost, component: &Component, query: &str) -> TestResponse {
    host.superuser().deploy(&component.0, &format!("grant=sql&{query}")).await
}

pub(super) async fn deploy_state(host: &TestHost, id: &str) -> Value {
    let job = host.superuser().get(&format!("/deploys/{id}")).await;
    if job.status == 200 { json!([job.ok()["state"], job.ok()["stage"]]) } else { Value::Null }
}

/// Deploys a release whose smoke call never ends, and does the work during it. The deploy must end with
/// `plugin_changed` then.
async fn during_a_deploy(host: &TestHost, id: &str, work: impl AsyncFnOnce()) {
    let component = stuck(id);
    let query = format!("id={id}");
    let deploying = async { host.superuser().deploy(&component.0, &query).await };
    let working = async {
        until("the smoke call", async || (deploy_state(host, id).await == json!(["running", "smoke"])).then_some(()))
            .await;
        work().await;
    };
    let (deployed, ()) = tokio::join!(deploying, working);
    deployed.has_code(409, "plugin_changed");
    let job = host.superuser().get(&format!("/deploys/{id}")).await.ok();
    assert_eq!(
        (&job["state"], &job["code"], &job["release"]),
        (&json!("failed"), &json!("plugin_changed"), &Value::Null)
    );
}

pub(super) async fn response(host: &TestHost, plugin: &str) -> String {
    host.anonymous().get(&format!("/{plugin}")).await.text()
}

async fn a_change_of_a_plugin_does_not_wait_for_its_deploy(host: &mut TestHost) {
    let host = &*host;
    deploy(host, &release("one"), "").await.ok();
    deploy(host, &release("two"), "").await.ok();
    deploy(host, &release("neighbour"), "name=neighbour").await.ok();

    during_a_deploy(host, "a", async || {
        // Other plugins are changed and deployed.
        operate(host, "neighbour/pause").await.ok();
        operate(host, "neighbour/resume").await.ok();
        deploy(host, &release("again"), "name=neighbour").await.ok();
        assert_eq!(response(host, "neighbour").await, "again");
        operate(host, "neighbour/rollback").await.ok();
        assert_eq!(response(host, "neighbour").await, "neighbour");
        assert_eq!(deploy_state(host, "a").await, json!(["running", "smoke"]), "the deploy was not stuck");
        // So is the plugin itself.
        assert_eq!(operate(host, "liar/rollback").await.ok()["release"]["number"], 1);
    })
    .await;
    assert_eq!(response(host, "liar").await, "one");
    let failed = history_entry(host, "liar", "deploy").await;
    assert_eq!((&failed["outcome"], &failed["detail"]["code"]), (&json!("failure"), &json!("plugin_changed")));

    during_a_deploy(host, "b", async || {
        operate(host, "liar/pause").await.ok();
    })
    .await;
    host.anonymous().get("/liar").await.has_code(503, "plugin_paused");
    operate(host, "liar/resume").await.ok();
    assert_eq!(response(host, "liar").await, "one");

    during_a_deploy(host, "c", async || {
        host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    })
    .await;
    assert_eq!(state(host, "liar").await, "revoked");
    host.superuser().put("/plugins/liar/grants/sql", &json!(null)).await.ok();
    assert_eq!(response(host, "liar").await, "one");

    during_a_deploy(host, "d", async || {
        host.superuser().delete("/plugins/liar?delete_data=true").await.ok();
        host.anonymous().get("/liar").await.has_code(404, "plugin_removed");
    })
    .await;
    host.anonymous().get("/liar").await.has_code(404, "plugin_removed");
    // The table is gone, so another migration of the same name can create it.
    let steps = json!([["0001", "CREATE TABLE t (b TEXT)"]]);
    deploy(host, &liar(json!({ "answer": "fresh", "migrations": steps })), "").await.ok();
    assert_eq!(response(host, "liar").await, "fresh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_rolls_back_during_a_deploy() {
    let host = TestHost::sqlite(patient()).await;
    deploy(&host, &release("good"), "").await.ok();
    deploy(&host, &liar(json!({ "handle": "trap", "migrations": steps() })), "").await.ok();
    during_a_deploy(&host, "a", async || {
        for _ in 0..10 {
            host.anonymous().get("/liar").await.has_code(502, "plugin_trap");
        }
        history_entry(&host, "liar", "rollback").await;
    })
    .await;
    assert_eq!(response(&host, "liar").await, "good");
}

/// The database can record a change and lose the connection before it responds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_whose_response_the_database_lost_can_be_repeated() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, &release("one"), "").await.ok();
    deploy(&host, &release("two"), "").await.ok();
    let file = host.config().server.data_dir.join("wharf.sqlite");
    let mut connection = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    let mut record = async |sql: &'static str| {
        assert_eq!(sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected(), 1);
    };
    record("UPDATE plugins SET live_release = 1").await;
    assert_eq!(response(&host, "liar").await, "two");
    assert_eq!(operate(&host, "liar/rollback").await.ok()["release"]["number"], 1);
    assert_eq!(response(&host, "liar").await, "one");
    // A deploy is undone, although it was never served.
    record("UPDATE plugins SET live_release = 2").await;
    assert_eq!(operate(&host, "liar/rollback").await.ok()["release"]["number"], 1);
    assert_eq!(response(&host, "liar").await, "one");
    record(r#"UPDATE plugins SET revoked = '["sql"]'"#).await;
    host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    host.anonymous().get("/liar").await.has_code(503, "plugin_revoked");
    record("UPDATE plugins SET revoked = '[]'").await;
    host.superuser().put("/plugins/liar/grants/sql", &json!(null)).await.ok();
    assert_eq!(response(&host, "liar").await, "one");
}

/// A plugin that is not served has no right to its mount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_grant_does_not_take_the_mount_of_another_plugin() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, &release("one"), "").await.ok();
    host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    let heir = liar(json!({ "name": "heir", "answer": "other" }));
    host.superuser().deploy(&heir.0, "mount=/api/v1/liar").await.ok();
    host.superuser().put("/plugins/liar/grants/sql", &json!(null)).await.has_code(409, "route_conflict");
    assert_eq!(response(&host, "liar").await, "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_plugin_stays_paused_after_a_revocation_and_a_deploy() {
    let host = TestHost::sqlite(patient()).await;
    deploy(&host, &release("one"), "").await.ok();
    operate(&host, "liar/pause").await.ok();
    host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    deploy(&host, &release("two"), "").await.ok();
    assert_eq!(state(&host, "liar").await, "paused");
    operate(&host, "liar/resume").await.ok();
    assert_eq!(response(&host, "liar").await, "two");
    // A revocation also stops a deploy that gives the grant back.
    host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    let component = stuck("again");
    let deploying = async { deploy(&host, &component, "id=again").await };
    let working = async {
        until("the smoke call", async || {
            (deploy_state(&host, "again").await == json!(["running", "smoke"])).then_some(())
        })
        .await;
        host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    };
    tokio::join!(deploying, working).0.has_code(409, "plugin_changed");
    assert_eq!(state(&host, "liar").await, "revoked");
}

/// A migration that the earlier release cannot survive is considered before it is applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_during_a_deploy_considers_its_migrations() {
    let host = TestHost::sqlite(patient()).await;
    let old = json!(["1_old", "CREATE TABLE old (a BIGINT)"]);
    let new = json!(["2_new", "CREATE TABLE new (a BIGINT)"]);
    deploy(&host, &liar(json!({ "answer": "one", "migrations": [old] })), "").await.ok();
    deploy(&host, &liar(json!({ "answer": "two", "migrations": [old, new] })), "").await.ok();
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } });
    let steps = json!([old, new, ["3_drop", "DROP TABLE old", "2_new"]]);
    let third = liar(json!({ "handle": "sleep", "routes": [route], "migrations": steps }));
    let deploying = async { host.superuser().deploy(&third.0, "id=a").await };
    let working = async {
        until("the smoke call", async || (deploy_state(&host, "a").await == json!(["running", "smoke"])).then_some(()))
            .await;
        operate(&host, "liar/rollback").await.has_code(409, "schema_too_new");
        assert_eq!(response(&host, "liar").await, "two");
        operate(&host, "liar/pause").await.ok();
    };
    tokio::join!(deploying, working).0.has_code(409, "plugin_changed");
}

/// The machine code of an earlier release may be gone, so a rollback may have to compile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_does_not_wait_for_a_rollback_that_compiles() {
    let memory_bytes = (1 << 30) + 4096;
    let directory = tempfile::tempdir().unwrap();
    let (held, pipe) = held_compiler(directory.path());
    let setup = Setup::default().compiling(child_compiler()).with(|config| {
        config.plugins.compile_memory_bytes = memory_bytes;
        config.plugins.compile_time = NEVER;
    });
    let mut host = TestHost::sqlite(setup).await;
    deploy(&host, &release("one"), "").await.ok();
    deploy(&host, &release("two"), "").await.ok();
    let first = host.superuser().get("/plugins/liar/releases/1").await.ok()["digest"].as_str().unwrap().to_owned();
    host.restart_compiling(held).await;
    for file in std::fs::read_dir(host.config().server.data_dir.join("compiled")).unwrap() {
        let file = file.unwrap().path();
        if file.file_name().unwrap().to_str().unwrap().starts_with(&first) {
            std::fs::remove_file(file).unwrap();
        }
    }
    let rolling_back = async { operate(&host, "liar/rollback").await };
    let working = async {
        until("the compilation to begin", async || compiler_processes(memory_bytes).pop()).await;
        operate(&host, "liar/pause").await.ok();
        operate(&host, "liar/resume").await.ok();
        assert_eq!(response(&host, "liar").await, "two");
        let_compile(&pipe)
    };
    let (rolled_back, _pipe) = tokio::join!(rolling_back, working);
    assert_eq!(rolled_back.ok()["release"]["number"], 1);
    assert_eq!(response(&host, "liar").await, "one");
}

#[tokio::test]
async fn all_smoke_calls_of_a_deploy_share_one_deadline() {
    let setup = Setup::default().with(|config| config.plugins.smoke_time = Duration::from_secs(1));
    let host = TestHost::sqlite(setup).await;
    let route = |number: u32| {
        let operation = json!({ "x-wharf-smoke": true });
        json!({ "method": "GET", "path": format!("/{number}"), "access": "public", "operation": operation })
    };
    let routes: Vec<Value> = (0..40).map(route).collect();
    let slow = liar(json!({ "millis": 100, "routes": routes }));
    let reason = host.superuser().deploy(&slow.0, "").await.has_code(422, "smoke_failed");
    assert!(reason.contains("all its smoke calls together take longer than plugins.smoke_time (1s)"), "{reason}");
}

/// Deploys the chameleon, which may reach the gate.
async fn deploy_chameleon(host: &TestHost, gate: &Gate) {
    host.superuser().deploy(&Component::chameleon().0, &gate.grants()).await.ok();
}

/// Starts a call with an open transaction, does the work while it is in flight, and returns its response.
async fn during_a_call(host: &TestHost, gate: &Gate, then: &[&str], work: impl AsyncFnOnce()) -> TestResponse {
    let body = json!({ "url": gate.origin() + "/", "then": then, "in_transaction": true });
    wait_then(host, gate, &body, work).await
}

async fn wait_then(host: &TestHost, gate: &Gate, body: &Value, work: impl AsyncFnOnce()) -> TestResponse {
    let client = host.anonymous();
    let mut calling = Box::pin(client.post("/chameleon/wait-then", body));
    tokio::select! {
        ended = &mut calling => panic!("the call did not wait: {ended:?}"),
        () = gate.arrived() => {}
    }
    tokio::join!(calling, work()).0
}

async fn revoke(host: &TestHost, capability: &str) {
    host.superuser().delete(&format!("/plugins/chameleon/grants/{capability}")).await.ok();
    host.anonymous().get("/chameleon/echo/x").await.has_code(503, "plugin_revoked");
}

async fn give(host: &TestHost, capability: &str) {
    host.superuser().put(&format!("/plugins/chameleon/grants/{capability}"), &json!(null)).await.ok();
    host.anonymous().get("/chameleon/echo/x").await.ok();
}

/// Returns whether the chameleon's role can log in, and the number of its connections.
pub(super) async fn role(host: &TestHost) -> Option<(bool, i64)> {
    let mut connection = postgres::connect(host.database()?).await;
    let sql = "SELECT role, password FROM wharf.plugin_database WHERE plugin = 'chameleon'";
    let (role, password): (String, String) = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
    let options: PgConnectOptions = host.database()?.superuser_url.parse().unwrap();
    let login = options.username(&role).password(&password).connect().await;
    let refused = |error: &sqlx::Error| error.to_string().contains("is not permitted to log in");
    assert!(login.as_ref().err().is_none_or(refused), "{login:?}");
    let can_login = login.is_ok();
    if let Ok(login) = login {
        login.close().await.unwrap();
    }
    let count = "SELECT COUNT(*) FROM pg_stat_activity WHERE usename = $1 AND application_name = 'wharf-plugin'";
    Some((can_login, sqlx::query_scalar(count).bind(&role).fetch_one(&mut connection).await.unwrap()))
}

async fn a_revoked_database_is_out_of_reach_of_a_call_in_flight(host: &mut TestHost) {
    let gate = Gate::start().await;
    deploy_chameleon(host, &gate).await;
    let ended = during_a_call(host, &gate, &["sql", "cache"], async || {
        revoke(host, "sql").await;
        if host.database().is_some() {
            until("the connections to end", async || (role(host).await == Some((false, 0))).then_some(())).await;
        }
        gate.open();
    })
    .await;
    let unavailable = "Error::Unavailable";
    assert_eq!(ended.ok(), json!({ "sql": unavailable, "cache": "ok", "commit": unavailable }));
    // The role stays locked after a restart, and a limit does not unlock it.
    host.restart().await;
    let limited = host.superuser().put("/plugins/chameleon/grants/sql?parameter=rows=500", &json!(null)).await;
    assert!(limited.has_code(409, "plugin_state").contains("grant 'sql' first"), "{limited:?}");
    assert!(role(host).await.is_none_or(|role| role == (false, 0)));
    assert_eq!(state(host, "chameleon").await, "revoked");
    // A deploy that fails does not unlock it either.
    let broken = liar(json!({ "name": "chameleon", "migrations": steps() }));
    host.superuser().deploy(&broken.0, "grant=sql").await.has_code(422, "migration_failed");
    assert!(role(host).await.is_none_or(|role| role == (false, 0)));

    give(host, "sql").await;
    assert!(role(host).await.is_none_or(|role| role.0));
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]), "the transaction was rolled back");
    revoke(host, "sql").await;
    host.superuser().deploy(&Component::chameleon().rebuilt("again").0, CHAMELEON).await.ok();
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]));
}

async fn a_pause_ends_calls_in_flight(host: &mut TestHost) {
    let gate = Gate::start().await;
    deploy_chameleon(host, &gate).await;
    let ended = during_a_call(host, &gate, &[], async || {
        operate(host, "chameleon/pause").await.ok();
    })
    .await;
    ended.has_code(503, "plugin_paused");
    operate(host, "chameleon/resume").await.ok();
    let notes = until("the transaction to be rolled back", async || {
        let notes = host.anonymous().get("/chameleon/notes").await;
        (notes.status == 200).then(|| notes.ok())
    })
    .await;
    assert_eq!(notes, json!([]));
    // It also ends those on a release that was replaced and drains.
    let body = json!({ "url": gate.origin() + "/", "then": [], "in_transaction": false });
    let ended = wait_then(host, &gate, &body, async || {
        host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
        operate(host, "chameleon/pause").await.ok();
    })
    .await;
    ended.has_code(503, "plugin_paused");
    operate(host, "chameleon/resume").await.ok();
    host.anonymous().get("/chameleon/echo/x").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_capability_is_refused_with_the_error_of_its_interface() {
    let gate = Gate::start().await;
    let host = TestHost::sqlite(patient()).await;
    deploy_chameleon(&host, &gate).await;
    let revoked = async |capability: &str, then: &[&str]| {
        let ended = during_a_call(&host, &gate, then, async || {
            revoke(&host, capability).await;
            gate.open();
        });
        let ended = ended.await;
        give(&host, capability).await;
        ended
    };
    let denied = "Error::Denied(\"the grant 'http' was revoked\")";
    let standard = "\"ErrorCode::HttpRequestDenied\"";
    let expected = json!({ "http": denied, "standard": standard, "commit": "ok" });
    assert_eq!(revoked("http", &["http", "standard"]).await.ok(), expected);
    let expected = json!({ "cache": "Error::Unavailable", "commit": "ok" });
    assert_eq!(revoked("cache", &["cache"]).await.ok(), expected);
    // This interface has no error, so the call ends. Its release is not blamed.
    revoked("log", &["log"]).await.has_code(503, "plugin_revoked");
    let stopped = r#"wharf_plugin_calls_total{plugin="chameleon",release="1",outcome="stopped"}"#;
    until("the call to be counted", async || {
        samples(host.superuser()).await.into_iter().find(|(name, _)| name == stopped).map(|_| ())
    })
    .await;
}

const POST_JSON: &str = "POST /api/v1/chameleon/json HTTP/1.1\r\n";

/// Starts a request whose body is missing, does the work, and sends the body, which is JSON. The host has found the route
/// when it requests the body.
pub(super) async fn with_a_late_body(host: &TestHost, head: &str, body: &str, work: impl AsyncFnOnce()) -> String {
    let mut stream = TcpStream::connect(host.addr()).await.unwrap();
    let head = format!(
        "{head}host: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = vec![0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut read).await.unwrap();
    assert!(read.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&read));
    work().await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_found_its_route_before_a_pause_or_a_revocation_does_not_run() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    let paused = with_a_late_body(&host, POST_JSON, "{}", async || {
        operate(&host, "chameleon/pause").await.ok();
    })
    .await;
    assert!(paused.starts_with("HTTP/1.1 503") && paused.contains("plugin_paused"), "{paused}");
    operate(&host, "chameleon/resume").await.ok();
    let revoked = with_a_late_body(&host, POST_JSON, "{}", async || revoke(&host, "sql").await).await;
    assert!(revoked.starts_with("HTTP/1.1 503") && revoked.contains("plugin_revoked"), "{revoked}");
    give(&host, "sql").await;
    let served = with_a_late_body(&host, POST_JSON, "{}", async || ()).await;
    assert!(served.starts_with("HTTP/1.1 200"), "{served}");
}

/// Its body is raw, so the access is checked before and after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_an_operator_whose_session_ended_is_refused() {
    let host = TestHost::sqlite(Setup::default()).await;
    let operator = host.anonymous().signed_in(SUPERUSER, PASSWORD).await;
    let head = format!("POST /api/v1/plugins/ HTTP/1.1\r\nauthorization: Bearer {}\r\n", operator.token());
    let checked = with_a_late_body(&host, &head, "no component", async || ()).await;
    assert!(checked.starts_with("HTTP/1.1 4") && !checked.starts_with("HTTP/1.1 401"), "{checked}");
    let refused = with_a_late_body(&host, &head, "no component", async || {
        host.superuser().delete("/users/me/sessions").await.ok();
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("invalid_token"), "{refused}");
}
