//! A host behind PgBouncer.

use serde_json::json;
use wharf::app::App;
use wharf::config::Secret;

use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres;
use crate::support::{Backend, Setup, TestHost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_works_behind_a_pooler_in_session_mode() {
    let Some(mut host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    let Some(pooler) = PgBouncer::start("session").await else { return host.stop().await };
    let url = pooler.url(host.database().unwrap()).await;
    host.restart_with(|config| config.database.url = Some(Secret::new(url))).await;
    host.deploy_items().await;
    let client = host.user("jane@example.com").await;
    for title in ["one", "two"] {
        client.post("/items/", &json!({ "title": title })).await.ok();
    }
    assert_eq!(client.get("/items/").await.ok()["count"], 2);
    const KEPT: &str = "SELECT left(rolpassword, 5) FROM pg_authid JOIN wharf.plugin_database ON role = rolname";
    let mut connection = postgres::connect(host.database().unwrap()).await;
    let kept: String = sqlx::query_scalar(KEPT).fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, "SCRAM");
    // The lock is released with the session, and the next host gets it.
    host.restart().await;
    let client = host.anonymous().signed_in("jane@example.com", crate::support::host::PASSWORD).await;
    assert_eq!(client.get("/items/").await.ok()["count"], 2);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_without_sessions_is_refused_with_the_reason() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    for mode in ["transaction", "statement"] {
        let Some(pooler) = PgBouncer::start(mode).await else { return host.stop().await };
        let directory = tempfile::tempdir().unwrap();
        let mut config = host.config().clone();
        config.database.url = Some(Secret::new(pooler.url(host.database().unwrap()).await));
        config.server.data_dir = directory.path().join("data");
        let error = App::start(config, host.environment()).await.err().expect(mode);
        let report = error.report();
        for part in ["transaction or statement mode", "advisory lock", "prepared statements", "pool_mode = session"] {
            assert!(report.contains(part), "{mode}: {report}");
        }
    }
    host.stop().await;
}
