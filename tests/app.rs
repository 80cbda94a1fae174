//! The application as a whole: several hosts on one database, and the start.

use wharf::app::{App, Deployment, Environment};
use wharf::plugin::Compile;

use crate::support::host::PASSWORD;
use crate::support::polling::until;
use crate::support::{Backend, Client, Component, Setup, TestHost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_one_postgres_share_accounts_and_sessions() {
    let Some(host) = TestHost::start(Backend::Postgres, Setup::default()).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut config = host.config().clone();
    config.server.data_dir = directory.path().join("data");
    let second = App::start(config, Environment::default()).await.unwrap();
    assert!(second.first_superuser().is_none());
    let client = Client::new(second.addr());
    client.with_token(host.superuser().token()).get("/users/me").await.ok();

    host.sign_up("jane@example.com").await.ok();
    let jane = client.signed_in("jane@example.com", PASSWORD).await;
    let here = host.anonymous().with_token(jane.token());
    here.request(reqwest::Method::POST, "/login/logout").send().await.ok();
    here.get("/users/me").await.has_code(401, "invalid_token");
    until("the session to end on the other host", async || (jane.get("/users/me").await.status == 401).then_some(()))
        .await;
    second.stop().await.unwrap();
    host.stop().await;
}

#[tokio::test]
async fn a_missing_static_directory_prevents_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = wharf::config::Config::default();
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
    let mut config = wharf::config::Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.data_dir = directory.path().join("data");
    config.plugins.total_concurrency = 4;
    for unchanged in [false, true] {
        let environment =
            Environment { compile: Compile::in_process(), awaits_deployments: true, ..Environment::default() };
        let app = App::start(config.clone(), environment).await.unwrap();
        let client = Client::new(app.addr());
        let ready = async || client.plain(reqwest::Method::GET, "/readyz").send().await;
        for name in ["hello", "items"] {
            let grants = vec!["auth".to_owned(), "sql".to_owned()];
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
