//! A deploy as a recorded job: its stages, its end, and what a crash at any moment leaves behind.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};
use wharf::app::{Ambient, App};
use wharf::config::{Config, Secret};
use wharf::plugin::Compile;
use wharf::plugin::deploy::job::Stage;

use super::liar;
use super::releases::says;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Client, Component, Setup, TestHost, both};

both!(every_deploy_is_recorded_with_its_stages, a_crash_at_any_stage_leaves_the_live_release,);

/// A release with a table.
fn with_table(word: &str) -> Component {
    let migrations = json!([["0001", "CREATE TABLE t (a BIGINT)"]]);
    liar(json!({ "answer": word, "migrations": migrations }))
}

async fn deploy(host: &TestHost, component: &Component, id: &str) -> crate::support::Answer {
    host.superuser().deploy(&component.0, &format!("grant=sql&id={id}")).await
}

async fn recorded(host: &TestHost, id: &str) -> Value {
    host.superuser().get(&format!("/deploys/{id}")).await.ok()
}

fn names(stages: &Value) -> Vec<&str> {
    stages.as_array().unwrap().iter().map(|passed| passed["stage"].as_str().unwrap()).collect()
}

async fn every_deploy_is_recorded_with_its_stages(host: &mut TestHost) {
    let answer = deploy(host, &with_table("one"), "first").await.ok();
    let all = Stage::ALL.map(Stage::as_str);
    assert_eq!(names(&answer["stages"]), all);
    let job = recorded(host, "first").await;
    assert_eq!((&job["state"], &job["release"], &job["plugin"]), (&json!("succeeded"), &json!(1), &json!("liar")));
    assert_eq!(job["stages"], answer["stages"]);
    // Sent again, as a client does that heard no answer: the same release, and nothing is done twice.
    let again = deploy(host, &with_table("one"), "first").await.ok();
    assert_eq!((&again["unchanged"], &again["plugin"]["release"]["number"]), (&json!(true), &json!(1)));
    deploy(host, &with_table("two"), "first").await.has_code(409, "deploy_conflict");
    deploy(host, &with_table("two"), "no%20word").await.has_code(422, "validation_error");
    host.superuser().get("/deploys/unknown").await.has_code(404, "deploy_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_deploys_of_one_id_at_once_one_is_done() {
    let host = TestHost::sqlite(Setup::default()).await;
    let component = with_table("one");
    let answers = futures_util::future::join_all((0..6).map(|_| deploy(&host, &component, "same"))).await;
    for answer in &answers {
        assert!(answer.status == 200 || answer.has_code(409, "deploy_conflict").contains("id"), "{answer:?}");
    }
    assert!(answers.iter().any(|answer| answer.status == 200));
    assert_eq!(host.superuser().get("/plugins/liar/releases").await.ok()["count"], 1);
}

#[tokio::test]
async fn a_release_that_passes_its_smoke_call_is_served() {
    let host = TestHost::sqlite(Setup::default()).await;
    let smoke = json!([{ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } }]);
    host.superuser().deploy(&liar(json!({ "routes": smoke })).0, "").await.ok();
    assert_eq!(host.anonymous().get("/liar").await.text(), "one");
}

const DIE_AT: &str = "WHARF_TEST_DIE_AT";
const DATA_DIR: &str = "WHARF_TEST_DATA_DIR";
const DATABASE: &str = "WHARF_TEST_DATABASE";

async fn a_crash_at_any_stage_leaves_the_live_release(host: &mut TestHost) {
    host.superuser().deploy(&says("one").0, "grant=sql").await.ok();
    for stage in Stage::ALL.map(Stage::as_str) {
        host.restart_after(async |config| die_at(config, stage).await).await;
        assert_eq!(host.anonymous().get("/liar").await.text(), "one", "{stage}");
        let job = recorded(host, stage).await;
        assert_eq!((&job["state"], &job["stage"]), (&json!("interrupted"), &json!(stage)), "{job}");
        let releases = host.superuser().get("/plugins/liar/releases").await.ok();
        assert_eq!(releases["count"], 1, "{stage}: no release was left behind");
    }
    let history = host.superuser().get("/plugins/liar/history").await.ok();
    assert!(history["data"][0]["detail"]["code"] == "interrupted", "{history}");
    // It can be repeated, under its id too.
    let repeated = deploy(host, &with_table("two"), "swap").await.ok();
    assert_eq!(repeated["plugin"]["release"]["number"], 2);
    assert_eq!(recorded(host, "swap").await["state"], "succeeded");
    assert_eq!(host.anonymous().get("/liar").await.text(), "two");
}

/// What a crash leaves between the release's record and the deploy's end: the release is live, so the deploy succeeded.
#[tokio::test]
async fn a_crash_after_the_record_is_a_success() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, &with_table("one"), "recorded").await.ok();
    host.restart_after(async |config| {
        let file = config.server.data_dir.join("wharf.sqlite");
        let mut connection = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
        let changed = sqlx::query("UPDATE deploys SET state = 'running', release = NULL WHERE id = 'recorded'");
        assert_eq!(changed.execute(&mut connection).await.unwrap().rows_affected(), 1);
        connection.close().await.unwrap();
    })
    .await;
    let job = recorded(&host, "recorded").await;
    assert_eq!((&job["state"], &job["release"]), (&json!("succeeded"), &json!(1)), "{job}");
    assert_eq!(host.superuser().get("/plugins/liar/history").await.ok()["count"], 1, "nothing is told as a failure");
    host.stop().await;
}

/// Runs a host in a process that ends, without a word to anybody, as a deploy reaches a stage.
async fn die_at(config: &Config, stage: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["plugin::job::dying_host", "--exact", "--nocapture"])
        .env(DIE_AT, stage)
        .env(DATA_DIR, &config.server.data_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(url) = &config.database.url {
        child.env(DATABASE, url.expose());
    }
    let status = tokio::task::spawn_blocking(move || child.status()).await.unwrap().unwrap();
    assert_eq!(status.code(), None, "a signal ended it");
}

static ARMED: AtomicBool = AtomicBool::new(false);

fn die(stage: Stage) {
    if ARMED.load(Ordering::SeqCst) && std::env::var(DIE_AT).is_ok_and(|at| at == stage.as_str()) {
        std::process::abort();
    }
}

/// No test of its own: what [`die_at`] runs in another process.
#[tokio::test]
async fn dying_host() {
    let Ok(stage) = std::env::var(DIE_AT) else { return };
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.data_dir = std::env::var_os(DATA_DIR).unwrap().into();
    config.database.url = std::env::var(DATABASE).ok().map(Secret::new);
    config.plugins.concurrency = 4;
    config.plugins.total_concurrency = 4;
    let app = App::start(config, Ambient { at_stage: Some(die), compile: Compile::InProcess, ..Ambient::default() })
        .await
        .unwrap();
    let superuser = Client::new(app.addr()).signed_in(SUPERUSER, PASSWORD).await;
    ARMED.store(true, Ordering::SeqCst);
    superuser.deploy(&with_table("two").0, &format!("grant=sql&id={stage}")).await;
    panic!("it outlived the deploy");
}
