//! A deploy as a recorded job: its stages, its outcome, and the state after a crash at any stage.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};
use wharf::app::{App, Environment};
use wharf::config::{Config, Secret};
use wharf::plugin::Compile;
use wharf::plugin::deploy_job::Stage;

use super::liar;
use super::releases::{operate, responding_with};
use crate::support::files::files;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::patience::PATIENCE;
use crate::support::{Client, Component, Setup, TestHost, both, postgres};

both!(
    every_deploy_is_recorded_with_its_stages,
    a_host_killed_at_any_stage_keeps_the_live_release,
    a_failed_first_deploy_leaves_nothing_behind,
    a_failed_deploy_repeated_concurrently_runs_once,
    a_deploy_that_succeeded_is_not_repeated,
    migrations_are_recorded_before_they_are_applied,
);

/// Returns a release with a table.
fn with_table(word: &str) -> Component {
    let migrations = json!([["0001", "CREATE TABLE t (a BIGINT)"]]);
    liar(json!({ "answer": word, "migrations": migrations }))
}

async fn deploy(host: &TestHost, component: &Component, id: &str) -> crate::support::TestResponse {
    host.superuser().deploy(&component.0, &format!("grant=sql&id={id}")).await
}

async fn job_record(host: &TestHost, id: &str) -> Value {
    host.superuser().get(&format!("/deploys/{id}")).await.ok()
}

fn names(stages: &Value) -> Vec<&str> {
    stages.as_array().unwrap().iter().map(|passed| passed["stage"].as_str().unwrap()).collect()
}

async fn every_deploy_is_recorded_with_its_stages(host: &mut TestHost) {
    let response = deploy(host, &with_table("one"), "first").await.ok();
    let all = Stage::ALL.map(Stage::as_str);
    assert_eq!(names(&response["stages"]), all);
    let job = job_record(host, "first").await;
    assert_eq!((&job["state"], &job["release"], &job["plugin"]), (&json!("succeeded"), &json!(1), &json!("liar")));
    assert_eq!(job["stages"], response["stages"]);
    // Repeated, as by a client that got no response: the same release, and nothing runs twice.
    let again = deploy(host, &with_table("one"), "first").await.ok();
    assert_eq!((&again["unchanged"], &again["plugin"]["release"]["number"]), (&json!(true), &json!(1)));
    deploy(host, &with_table("two"), "first").await.has_code(409, "deploy_conflict");
    deploy(host, &with_table("two"), "no%20word").await.has_code(422, "validation_error");
    host.superuser().get("/deploys/unknown").await.has_code(404, "deploy_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_deploys_with_the_same_id_run_once() {
    let host = TestHost::sqlite(Setup::default()).await;
    let component = with_table("one");
    let responses = futures_util::future::join_all((0..6).map(|_| deploy(&host, &component, "same"))).await;
    for response in &responses {
        assert!(response.status == 200 || response.has_code(409, "deploy_conflict").contains("id"), "{response:?}");
    }
    assert!(responses.iter().any(|response| response.status == 200));
    assert_eq!(host.superuser().get("/plugins/liar/releases").await.ok()["count"], 1);
}

#[tokio::test]
async fn a_release_that_passes_its_smoke_test_is_served() {
    let host = TestHost::sqlite(Setup::default()).await;
    let smoke = json!([{ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } }]);
    host.superuser().deploy(&liar(json!({ "routes": smoke })).0, "").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "one");
}

const PARK_AT: &str = "WHARF_TEST_PARK_AT";
/// The line that the child process prints when its deploy has reached the stage.
const PARKED: &str = "the deploy has reached the stage\n";
const DATA_DIR: &str = "WHARF_TEST_DATA_DIR";
const DATABASE: &str = "WHARF_TEST_DATABASE";

/// Returns a release with one table for each stage up to this one.
fn release_for(stage: Stage) -> Component {
    let until = Stage::ALL.iter().position(|one| *one == stage).unwrap();
    let steps: Vec<_> = Stage::ALL[..=until].iter().map(|stage| [step(*stage), creation(*stage)]).collect();
    liar(json!({ "answer": stage.as_str(), "migrations": steps }))
}

fn step(stage: Stage) -> String {
    format!("{}_{}", stage as usize, stage.as_str())
}

fn creation(stage: Stage) -> String {
    format!("CREATE TABLE of_{0} (a BIGINT); INSERT INTO of_{0} VALUES (1)", stage.as_str())
}

async fn a_host_killed_at_any_stage_keeps_the_live_release(host: &mut TestHost) {
    host.superuser().deploy(&responding_with("first").0, "").await.ok();
    let mut live = "first";
    let mut applied: Vec<Stage> = Vec::new();
    for (number, stage) in (1_usize..).zip(Stage::ALL) {
        let id = stage.as_str();
        let before = files(&host.config().server.data_dir);
        host.restart_after(async |config| kill_at_stage(config, stage).await).await;
        assert_eq!(host.anonymous().get("/liar").await.text(), live, "{id}");
        let job = job_record(host, id).await;
        assert_eq!((&job["state"], job["stage"].as_str()), (&json!("interrupted"), Some(id)), "{job}");
        assert_eq!(host.superuser().get("/plugins/liar/releases").await.ok()["count"], number, "{id}");
        let history = host.superuser().get("/plugins/liar/history").await.ok();
        // Before the stage `describe` has passed, the plugin's name is unknown.
        let known =
            history["data"][0]["detail"]["code"] == "interrupted" && history["data"][0]["detail"]["deploy"] == id;
        assert_eq!(known, stage as usize > Stage::Describe as usize, "{id}: {history}");

        // The migration and its record exist together, or neither exists.
        if stage as usize > Stage::Migrate as usize {
            applied.push(stage);
        }
        assert_eq!(tables(host).await, expected(&applied), "{id}");

        // The compiled code is kept. No other file was left.
        let digest = job["digest"].as_str().unwrap();
        let kept = |file: &&String| file.starts_with(&format!("compiled/{digest}-"));
        let after = files(&host.config().server.data_dir);
        let left: Vec<_> = after.difference(&before).filter(|file| !kept(file)).collect();
        assert!(left.is_empty() && after.is_superset(&before), "{id}: {left:?}");

        // The deploy can be repeated with its own id.
        let repeated = deploy(host, &release_for(stage), id).await.ok();
        assert_eq!(repeated["plugin"]["release"]["number"], number + 1, "{id}");
        assert_eq!(job_record(host, id).await["state"], "succeeded");
        assert_eq!(host.anonymous().get("/liar").await.text(), id);
        if stage as usize <= Stage::Migrate as usize {
            applied.push(stage);
        }
        assert_eq!(tables(host).await, expected(&applied), "{id}");
        live = id;
    }
}

/// Whether it was rejected or interrupted: a plugin without any release keeps no database.
async fn a_failed_first_deploy_leaves_nothing_behind(host: &mut TestHost) {
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } });
    let steps = json!([["0001", "CREATE TABLE t (a BIGINT)"]]);
    let before = files(&host.config().server.data_dir);
    let broken = liar(json!({ "handle": "trap", "routes": [route], "migrations": steps }));
    deploy(host, &broken, "refused").await.has_code(422, "smoke_failed");
    let without_code = |host: &TestHost| {
        let mut files = files(&host.config().server.data_dir);
        files.retain(|file| !file.starts_with("compiled/"));
        files
    };
    assert_eq!(tables(host).await, expected(&[]));
    assert_eq!(without_code(host), before);
    // The same holds for a first deploy that is killed at its smoke call.
    host.restart_after(async |config| kill_at_stage(config, Stage::Smoke).await).await;
    assert_eq!(job_record(host, "smoke").await["state"], "interrupted");
    assert_eq!(tables(host).await, expected(&[]));
    assert_eq!(without_code(host), before);
    // A migration that was never released may be changed.
    let steps = json!([["0001", "CREATE TABLE t (b TEXT)"]]);
    deploy(host, &liar(json!({ "migrations": steps })), "fixed").await.ok();
    // Now the plugin has a release, and a rejection removes nothing.
    let broken = liar(json!({ "handle": "trap", "routes": [route], "migrations": steps }));
    deploy(host, &broken, "broken").await.has_code(422, "smoke_failed");
    host.superuser().delete("/plugins/liar?delete_data=false").await.ok();
    deploy(host, &broken, "broken").await.has_code(422, "smoke_failed");
    assert_eq!(tables(host).await, (vec!["t".to_owned()], vec!["0001".to_owned()]));
}

async fn a_failed_deploy_repeated_concurrently_runs_once(host: &mut TestHost) {
    let component = with_table("one");
    host.superuser().deploy(&component.0, "id=again").await.has_code(403, "grant_missing");
    let before = job_record(host, "again").await;
    let responses = futures_util::future::join_all((0..4).map(|_| deploy(host, &component, "again"))).await;
    let (done, others): (Vec<_>, Vec<_>) =
        responses.iter().partition(|response| response.status == 200 && response.ok()["unchanged"] == false);
    assert_eq!(done.len(), 1);
    for response in others {
        // A late request finds the deploy done.
        assert!(
            response.status == 200 || response.has_code(409, "deploy_conflict").contains("is running"),
            "{response:?}"
        );
    }
    let job = job_record(host, "again").await;
    assert_eq!((&job["state"], &job["release"], &job["code"]), (&json!("succeeded"), &json!(1), &Value::Null), "{job}");
    assert!(job["started_at"].as_str() > before["started_at"].as_str(), "{job}");
}

/// A client that got no response repeats its deploy, perhaps after an operator has undone it.
async fn a_deploy_that_succeeded_is_not_repeated(host: &mut TestHost) {
    deploy(host, &with_table("one"), "first").await.ok();
    deploy(host, &with_table("two"), "second").await.ok();
    operate(host, "liar/rollback").await.ok();
    let again = deploy(host, &with_table("two"), "second").await.ok();
    assert_eq!((&again["unchanged"], &again["plugin"]["release"]["number"]), (&json!(true), &json!(2)));
    assert_eq!(names(&again["stages"]), Stage::ALL.map(Stage::as_str));
    assert_eq!(host.anonymous().get("/liar").await.text(), "one");
    host.superuser().delete("/plugins/liar").await.ok();
    deploy(host, &with_table("one"), "first").await.ok();
    host.anonymous().get("/liar").await.has_code(404, "plugin_removed");
    // A trial that was aborted does not begin again.
    deploy(host, &with_table("one"), "third").await.ok();
    let try_out = async || host.superuser().deploy(&with_table("two").0, "grant=sql&id=tried&canary=header").await.ok();
    assert_eq!(try_out().await["on_trial"], true);
    assert_eq!(try_out().await["on_trial"], true);
    operate(host, "liar/abort").await.ok();
    assert_eq!(try_out().await["on_trial"], false);
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["canary"], Value::Null);
}

/// A crash, or a response that the database loses, must not leave migrations that no rollback considers.
async fn migrations_are_recorded_before_they_are_applied(host: &mut TestHost) {
    let first = json!(["0001", "CREATE TABLE one (a BIGINT)"]);
    let release = |word: &str, steps: Value| liar(json!({ "answer": word, "migrations": steps }));
    deploy(host, &release("one", json!([first])), "one").await.ok();
    host.run_sql(
        "CREATE TRIGGER full BEFORE UPDATE OF schema ON plugins BEGIN SELECT RAISE(ABORT, 'no record'); END",
        "CREATE FUNCTION wharf.no_record() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN RAISE EXCEPTION ''no record''; END';
         CREATE TRIGGER no_record BEFORE UPDATE OF schema ON wharf.plugins FOR EACH ROW \
         EXECUTE FUNCTION wharf.no_record()",
    )
    .await;
    let second = json!([first, ["0002", "CREATE TABLE two (a BIGINT)"]]);
    assert_ne!(deploy(host, &release("two", second), "two").await.status, 200);
    assert_eq!(tables(host).await, (vec!["one".to_owned()], vec!["0001".to_owned()]));
    host.run_sql("DROP TRIGGER full", "DROP TRIGGER no_record ON wharf.plugins").await;
    // One that fails is not recorded: the release without it can be served again.
    let failing = json!([first, ["0002", "CREATE TABLE two (a BIGINT); DROP TABLE missing", "0001"]]);
    deploy(host, &release("three", failing), "three").await.has_code(422, "migration_failed");
    assert_eq!(recorded_steps(host).await, ["0001"]);
    let second = json!([first, ["0002", "CREATE TABLE two (a BIGINT)"]]);
    deploy(host, &release("two", second), "again").await.ok();
    assert_eq!(recorded_steps(host).await, ["0001", "0002"]);
}

/// Returns the names of the migrations that the host has recorded for the liar.
async fn recorded_steps(host: &TestHost) -> Vec<String> {
    let schema: String = match host.database() {
        Some(database) => {
            let mut connection = postgres::connect(database).await;
            sqlx::query_scalar("SELECT schema FROM wharf.plugins").fetch_one(&mut connection).await.unwrap()
        }
        None => {
            let file = host.config().server.data_dir.join("wharf.sqlite");
            let mut connection = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
            sqlx::query_scalar("SELECT schema FROM plugins").fetch_one(&mut connection).await.unwrap()
        }
    };
    let steps: Vec<Value> = serde_json::from_str(&schema).unwrap();
    steps.iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

fn expected(applied: &[Stage]) -> (Vec<String>, Vec<String>) {
    let mut tables: Vec<String> = applied.iter().map(|stage| format!("of_{}", stage.as_str())).collect();
    tables.sort();
    (tables, applied.iter().map(|stage| step(*stage)).collect())
}

/// Returns the liar's tables and applied migrations, read directly from the database.
async fn tables(host: &TestHost) -> (Vec<String>, Vec<String>) {
    const RECORDED: &str = "SELECT name FROM _wharf_migration ORDER BY position";
    let (mut tables, recorded): (Vec<String>, Vec<String>) = match host.database() {
        Some(database) => {
            let mut connection = postgres::connect(database).await;
            sqlx::raw_sql("SET search_path TO plugin_liar").execute(&mut connection).await.unwrap();
            let tables = "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = 'plugin_liar'";
            let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
            let none = tables.is_empty();
            (
                tables,
                if none { Vec::new() } else { sqlx::query_scalar(RECORDED).fetch_all(&mut connection).await.unwrap() },
            )
        }
        None => {
            let file = host.config().server.data_dir.join("plugins/liar/data.sqlite");
            if !file.exists() {
                return (Vec::new(), Vec::new());
            }
            let mut connection = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
            let tables = "SELECT name FROM sqlite_master WHERE type = 'table'";
            let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
            let none = tables.is_empty();
            (
                tables,
                if none { Vec::new() } else { sqlx::query_scalar(RECORDED).fetch_all(&mut connection).await.unwrap() },
            )
        }
    };
    tables.retain(|table| table != "_wharf_migration");
    tables.sort();
    (tables, recorded)
}

/// The state after a crash between recording the release and finishing the deploy: the release is live or on trial, so
/// the deploy succeeded.
#[tokio::test]
async fn a_deploy_that_crashes_after_recording_its_release_counts_as_succeeded() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, &with_table("one"), "recorded").await.ok();
    host.superuser().deploy(&with_table("two").0, "id=tried&canary=header").await.ok();
    host.restart_after(async |config| {
        let file = config.server.data_dir.join("wharf.sqlite");
        let mut connection = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
        let changed = sqlx::query("UPDATE deploys SET state = 'running'");
        assert_eq!(changed.execute(&mut connection).await.unwrap().rows_affected(), 2);
        connection.close().await.unwrap();
    })
    .await;
    for (id, release) in [("recorded", 1), ("tried", 2)] {
        let job = job_record(&host, id).await;
        assert_eq!((&job["state"], &job["release"]), (&json!("succeeded"), &json!(release)), "{job}");
    }
    assert_eq!(host.superuser().get("/plugins/liar/history").await.ok()["count"], 2, "the history has no failure");
    host.stop().await;
}

/// Runs a host in another process, and kills it when its deploy has reached a stage.
async fn kill_at_stage(config: &Config, stage: Stage) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["plugin::job::parking_host", "--exact", "--nocapture"])
        .env(PARK_AT, stage.as_str())
        .env(DATA_DIR, &config.server.data_dir)
        // The child process exits when this pipe closes, even if the test fails.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(url) = &config.database.url {
        command.env(DATABASE, url.expose());
    }
    let killing = tokio::task::spawn_blocking(move || {
        let mut host = command.spawn().unwrap();
        let mut printed = String::new();
        let mut lines = BufReader::new(host.stderr.take().unwrap());
        while !printed.ends_with(PARKED) {
            assert_ne!(lines.read_line(&mut printed).unwrap(), 0, "the deploy never reached {stage:?}: {printed}");
        }
        host.kill().unwrap();
        host.wait().unwrap()
    });
    assert_eq!(killing.await.unwrap().signal(), Some(9));
}

static ARMED: AtomicBool = AtomicBool::new(false);

fn park(stage: Stage) {
    if ARMED.load(Ordering::SeqCst) && std::env::var(PARK_AT).is_ok_and(|at| at == stage.as_str()) {
        eprint!("{PARKED}");
        loop {
            std::thread::park();
        }
    }
}

/// Not a test: [`kill_at_stage`] runs it in another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_host() {
    let Ok(at) = std::env::var(PARK_AT) else { return };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let stage = *Stage::ALL.iter().find(|stage| stage.as_str() == at).unwrap();
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.data_dir = std::env::var_os(DATA_DIR).unwrap().into();
    config.database.url = std::env::var(DATABASE).ok().map(Secret::new);
    config.database.timeout = PATIENCE;
    config.plugins.concurrency = 4;
    config.plugins.total_concurrency = 4;
    let app = App::start(
        config,
        Environment { at_stage: Some(park), compile: Compile::in_process().unwrap(), ..Environment::default() },
    )
    .await
    .unwrap();
    let superuser = Client::new(app.addr()).signed_in(SUPERUSER, PASSWORD).await;
    ARMED.store(true, Ordering::SeqCst);
    superuser.deploy(&release_for(stage).0, &format!("grant=sql&id={at}")).await;
    panic!("the deploy ended before the host was killed");
}
