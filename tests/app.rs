//! The application as a whole: the start, and several hosts on one database.

use std::time::Duration;

use reqwest::Method;
use sqlx::PgConnection;
use wharf::app::{App, Deployment, Environment};
use wharf::config::Config;
use wharf::plugin::Compile;

use crate::support::backend::both;
use crate::support::polling::until;
use crate::support::postgres;
use crate::support::{Backend, Client, Component, Setup, TestHost};

both! {
    a_second_host_is_refused_with_the_reason_when_the_first_one_stays,
}

/// Returns the settings of a second host on the same database: the same directory for SQLite, another one for PostgreSQL.
fn second_config(host: &TestHost, directory: &tempfile::TempDir) -> Config {
    let mut config = host.config().clone();
    if host.database().is_some() {
        config.server.data_dir = directory.path().join("data");
    }
    config
}

async fn a_second_host_is_refused_with_the_reason_when_the_first_one_stays(host: &TestHost) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = second_config(host, &directory);
    config.server.start_timeout = Duration::from_secs(3);
    let error = App::start(config, host.environment()).await.err().unwrap();
    let text = error.report();
    let used = if host.database().is_some() { "PostgreSQL at 127.0.0.1" } else { "data directory" };
    for part in [used, "is in use by another wharf, which did not stop within server.start_timeout (3s)", "stop "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("wharf_host:"), "{text}");
    host.superuser().get("/users/me").await.ok();
}

/// A restart that overlaps: the second process starts before the first one has stopped.
async fn overlapping_restart(backend: Backend) {
    let Some(host) = TestHost::start(backend, Setup::default()).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let (config, environment) = (second_config(&host, &directory), host.environment());
    let starting = tokio::spawn(App::start(config, environment));
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    host.superuser().request(Method::POST, "/plugins/hello/pause").send().await.ok();
    assert!(!starting.is_finished());
    let token = host.superuser().token().to_owned();
    // The test's database lives as long as the first host's value.
    let mut host = host;
    host.stop_app().await;
    let second = starting.await.unwrap().unwrap_or_else(|error| panic!("{}", error.report()));
    assert!(second.first_superuser().is_none());
    let client = Client::new(second.addr()).with_token(&token);
    client.get("/users/me").await.ok();
    client.get("/hello/").await.has_code(503, "plugin_paused");
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_host_waits_until_the_first_one_has_stopped_on_sqlite() {
    overlapping_restart(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_host_waits_until_the_first_one_has_stopped_on_postgres() {
    overlapping_restart(Backend::Postgres).await;
}

/// Returns the process of PostgreSQL whose session holds the lock.
async fn lock_holder(connection: &mut PgConnection) -> Option<i32> {
    const SQL: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sqlx::query_scalar(SQL).fetch_optional(connection).await.unwrap()
}

async fn end_backend(connection: &mut PgConnection, pid: i32) {
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_connection_of_the_lock_is_lost_takes_the_lock_again() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    let before = lock_holder(&mut superuser).await.unwrap();
    end_backend(&mut superuser, before).await;
    until("the lock to be held again", async || lock_holder(&mut superuser).await.filter(|holder| *holder != before))
        .await;
    host.superuser().request(Method::POST, "/plugins/hello/pause").send().await.ok();
    a_second_host_is_refused_with_the_reason_when_the_first_one_stays(&host).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_lock_another_host_took_changes_nothing_and_stops() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    // Another host does this as soon as it has the lock; this one has not noticed that it lost the lock.
    sqlx::query("UPDATE wharf.node_lock SET holder = 'another host'").execute(&mut superuser).await.unwrap();
    let paused = host.superuser().request(Method::POST, "/plugins/hello/pause").send().await;
    paused.has_code(503, "shutting_down");
    let redeployed = host.superuser().deploy(&Component::hello().rebuilt("again").0, "").await;
    redeployed.has_code(503, "shutting_down");
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    let stored: (bool, i64) =
        sqlx::query_as("SELECT paused, live_release FROM wharf.plugins").fetch_one(&mut superuser).await.unwrap();
    assert_eq!(stored, (false, 1));

    let holder = lock_holder(&mut superuser).await.unwrap();
    end_backend(&mut superuser, holder).await;
    let error = host.ended().await.unwrap_err();
    assert!(error.report().contains("another wharf took over the database"), "{}", error.report());
}

#[tokio::test]
async fn a_missing_static_directory_prevents_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.data_dir = directory.path().join("data");
    config.server.static_dir = Some(directory.path().join("missing"));
    let error = App::start(config, Environment::default()).await.err().unwrap();
    assert!(error.report().contains("static_dir"), "{}", error.report());
}

/// The same as `wharf serve --deploy` at every start.
#[tokio::test]
async fn components_given_at_startup_are_deployed_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.data_dir = directory.path().join("data");
    config.plugins.total_concurrency = 4;
    for unchanged in [false, true] {
        let environment =
            Environment { compile: Compile::in_process().unwrap(), awaits_deployments: true, ..Environment::default() };
        let app = App::start(config.clone(), environment).await.unwrap();
        let client = Client::new(app.addr());
        let ready = async || client.plain(reqwest::Method::GET, "/readyz").send().await;
        for name in ["hello", "items"] {
            let grants = ["auth", "events", "sql"].map(str::to_owned).to_vec();
            let deployed = app.deploy(&Deployment { file: Component::file(name), grants }).await;
            let deployed = deployed.unwrap_or_else(|error| panic!("{name}: {}", error.report()));
            assert_eq!(deployed.unchanged, unchanged, "{name}");
            ready().await.has_code(503, "starting");
        }
        app.set_ready();
        assert_eq!(ready().await.text(), "ok");
        app.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_given_at_startup_needs_no_space_if_it_is_served_already() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let mut superuser = postgres::connect(host.database().unwrap()).await;
    for sql in [
        "CREATE FUNCTION wharf.no_space() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN RAISE EXCEPTION ''full'' USING ERRCODE = ''53100''; END'",
        "CREATE TRIGGER disk BEFORE INSERT ON wharf.deploys FOR EACH ROW EXECUTE FUNCTION wharf.no_space()",
    ] {
        sqlx::raw_sql(sql).execute(&mut superuser).await.unwrap();
    }
    let deploy = async |name: &str, grants: &[&str]| {
        let grants = grants.iter().map(ToString::to_string).collect();
        host.app().deploy(&Deployment { file: Component::file(name), grants }).await
    };
    assert!(deploy("hello", &[]).await.is_ok_and(|deployed| deployed.unchanged));
    assert!(deploy("hello", &["sql"]).await.is_err(), "it is served without this grant");
    assert!(deploy("items", &["auth", "events", "sql"]).await.is_err(), "it is not served");
    host.stop().await;
}
