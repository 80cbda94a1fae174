//! The real program, killed during a deploy: while a child process compiles, while a long migration runs, in between
//! and afterwards. The live release stays live, and the deploy can be repeated.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, home};
use crate::plugin::compile::compiler_processes;
use crate::plugin::liar;
use crate::support::files::files;
use crate::support::polling::until;
use crate::support::postgres::{self, TestDatabase};
use crate::support::{Client, Component};

/// Identifies the compiler processes of these tests: no other test uses these memory limits.
const MEMORY_BYTES: [u64; 2] = [(1 << 30) + 20_480, (1 << 30) + 24_576];

/// When the host is killed.
#[derive(Debug, Clone, Copy)]
enum KillTime {
    /// The given time after the deploy was sent.
    After(Duration),
    /// While a child process compiles.
    Compiling,
    /// While the migration runs.
    Migrating,
}

/// A migration with this number writes so many rows that they reach the disk before it ends, and then runs for minutes.
const MANY: u32 = 1_000_000;
const FEW: u32 = 3;

fn migration(count: u32) -> String {
    let counted = "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n <";
    format!(
        "CREATE TABLE numbers (n BIGINT); \
         {counted} {count}) INSERT INTO numbers SELECT n FROM counted; \
         {counted} {count}) INSERT INTO numbers SELECT a.n FROM counted AS a CROSS JOIN counted AS b WHERE a.n + b.n = 3"
    )
}

/// Returns a release with different bytes for each word.
fn release(word: &str, steps: &Value) -> Component {
    liar(json!({ "answer": word, "migrations": steps }))
}

struct Host {
    process: Process,
    superuser: Client,
    database: Option<TestDatabase>,
    memory_bytes: u64,
}

impl Host {
    async fn start(home: TempDir, database: Option<TestDatabase>, memory_bytes: u64) -> Self {
        let memory = memory_bytes.to_string();
        let mut settings = vec![("WHARF_PLUGIN_COMPILE_MEMORY_BYTES", memory.as_str())];
        settings.extend(database.as_ref().map(|database| ("WHARF_DATABASE_URL", database.url.as_str())));
        let process = Process::start_with(home, &settings).await;
        let superuser = process.superuser().await;
        Self { process, superuser, database, memory_bytes }
    }

    fn files(&self) -> BTreeSet<String> {
        files(&self.process.home.path().join("data"))
    }

    async fn job(&self, id: &str) -> Option<Value> {
        let response_text = self.superuser.get(&format!("/deploys/{id}")).await;
        (response_text.status == 200).then(|| response_text.json())
    }

    async fn response_text(&self) -> String {
        self.process.client().get("/liar").await.text()
    }

    /// Begins a deploy, kills the host at the given time, and returns the restarted host.
    async fn kill_during(self, component: &Component, id: &str, time: KillTime) -> Self {
        let deploy = tokio::spawn({
            let (client, bytes, id) = (self.superuser.clone(), component.0.clone(), id.to_owned());
            let request = client.request(reqwest::Method::POST, &format!("/plugins/?grant=sql&id={id}"));
            // The host is killed before it responds.
            async move { drop(request.header("content-type", "application/wasm").body(bytes).try_send().await) }
        });
        match time {
            KillTime::After(time) => tokio::time::sleep(time).await,
            KillTime::Compiling => {
                until("a compiler process", async || compiler_processes(self.memory_bytes).pop()).await;
            }
            KillTime::Migrating => {
                until("the migration to write", async || self.is_migrating().await.then_some(())).await
            }
        }
        let home = self.process.kill();
        deploy.await.unwrap();
        until("the compiler process to end", async || compiler_processes(self.memory_bytes).is_empty().then_some(()))
            .await;
        Self::start(home, self.database, self.memory_bytes).await
    }

    /// Returns whether the plugin's migration has written rows and still runs.
    async fn is_migrating(&self) -> bool {
        let Some(database) = &self.database else {
            let log = self.process.home.path().join("data/plugins/liar/data.sqlite-wal");
            return std::fs::metadata(log).is_ok_and(|log| log.len() > 4 << 20);
        };
        let mut superuser = postgres::connect(database).await;
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND datname = current_database() \
                   AND application_name = 'wharf-plugin' AND query LIKE '%counted AS b%'";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut superuser).await.unwrap() > 0
    }
}

async fn killed_during_a_deploy(database: Option<TestDatabase>, memory_bytes: u64) {
    let mut host = Host::start(home(), database, memory_bytes).await;
    let first = json!(["0001", "CREATE TABLE t (a BIGINT)"]);
    host.superuser.deploy(&release("old", &json!([first])).0, "grant=sql").await.ok();
    let mut live = "old";
    let mut known = host.files();
    let times = [
        ("compiling", KillTime::Compiling),
        ("sent", KillTime::After(Duration::from_millis(3))),
        ("soon", KillTime::After(Duration::from_millis(150))),
        ("later", KillTime::After(Duration::from_millis(700))),
        ("late", KillTime::After(Duration::from_millis(1_500))),
    ];
    for (word, time) in times {
        let component = release(word, &json!([first]));
        host = host.kill_during(&component, word, time).await;
        let job = host.job(word).await;
        let state = job.as_ref().map(|job| job["state"].as_str().unwrap().to_owned());
        let text = host.response_text().await;
        match state.as_deref() {
            // Either the host never saw the deploy, or its record says that it was interrupted.
            None | Some("interrupted") => assert_eq!(text, live, "{time:?}: {job:?}"),
            Some("succeeded") => assert_eq!(text, word, "{time:?}: {job:?}"),
            Some(other) => panic!("{time:?}: {other}"),
        }
        let repeated = host.superuser.deploy(&component.0, &format!("grant=sql&id={word}")).await.ok();
        assert_eq!(host.response_text().await, word, "{time:?}");
        let job = host.job(word).await.unwrap();
        assert_eq!((&job["state"], &job["release"]), (&json!("succeeded"), &repeated["plugin"]["release"]["number"]));
        // A deploy adds the machine code of its component and no other file; earlier files stay.
        let digest = job["digest"].as_str().unwrap().to_owned();
        let after = host.files();
        let added: Vec<&String> = after.difference(&known).collect();
        let [added] = &added[..] else { panic!("{time:?}: {added:?}") };
        assert!(added.starts_with(&format!("compiled/{digest}-")) && after.is_superset(&known), "{time:?}: {added}");
        known = after;
        live = word;
    }

    // The running migration is rolled back: another migration of the same name can create the same tables.
    let long = release("long", &json!([first, ["0002", migration(MANY)]]));
    host = host.kill_during(&long, "long", KillTime::Migrating).await;
    let job = host.job("long").await.unwrap();
    assert_eq!((&job["state"], &job["stage"]), (&json!("interrupted"), &json!("migrate")), "{job}");
    assert_eq!(host.response_text().await, live);
    let left: Vec<_> = host.files().difference(&known).cloned().collect();
    assert!(
        matches!(&left[..], [file] if file.starts_with(&format!("compiled/{}-", job["digest"].as_str().unwrap()))),
        "{left:?}"
    );
    let short = release("short", &json!([first, ["0002", migration(FEW)]]));
    host.superuser.deploy(&short.0, "grant=sql").await.ok();
    assert_eq!(host.response_text().await, "short");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_killed_during_a_deploy_keeps_serving_the_live_release_on_sqlite() {
    killed_during_a_deploy(None, MEMORY_BYTES[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_killed_during_a_deploy_keeps_serving_the_live_release_on_postgres() {
    let Some(database) = postgres::database().await else { return };
    killed_during_a_deploy(Some(database), MEMORY_BYTES[1]).await;
}
