//! Deploys: settings and grants carry over, releases replace one another, data is kept; and the required privileges.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{deploy_with_settings, liar, plugins};
use crate::support::host::{CHAMELEON, chameleon_grants};
use crate::support::{Backend, Component, Setup, TestHost, both};

#[tokio::test]
async fn migrations_require_the_sql_grant() {
    let host = TestHost::sqlite(Setup::default()).await;
    let owner = liar(json!({ "migrations": [["0001_x.sql", "CREATE TABLE x (id TEXT)"]] }));
    let reason = host.superuser().deploy(&owner.0, "").await.has_code(403, "grant_missing");
    assert!(reason.contains("--grant sql"), "{reason}");
    host.superuser().deploy(&owner.0, "grant=sql").await.ok();
}

#[tokio::test]
async fn settings_for_a_plugin_without_settings_are_rejected() {
    let host = TestHost::sqlite(Setup::default()).await;
    let response = deploy_with_settings(host.superuser(), &Component::hello(), "", &json!({ "word": "x" })).await;
    response.is_problem(
        422,
        "invalid_component",
        "The file cannot be deployed: it takes no settings, but some were given",
    );
    assert_eq!(plugins(&host).await["count"], 0);
}

#[tokio::test]
async fn settings_that_violate_the_schema_are_rejected_and_the_old_ones_stay() {
    let host = TestHost::sqlite(Setup::default()).await;
    let chameleon = Component::chameleon();
    let grants = CHAMELEON.strip_prefix("grant=").unwrap();
    deploy_with_settings(host.superuser(), &chameleon, grants, &json!({ "word": "blue" })).await.ok();
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), "blue");
    let response = deploy_with_settings(host.superuser(), &chameleon, "", &json!({ "word": "x".repeat(21) })).await;
    let detail = response.has_code(422, "invalid_component");
    assert!(
        detail.starts_with("The file cannot be deployed: the settings do not match its schema: /word: "),
        "{detail}"
    );
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), "blue");
}

#[tokio::test]
async fn settings_travel_in_the_body_and_no_error_repeats_them() {
    let host = TestHost::sqlite(Setup::default()).await;
    let chameleon = Component::chameleon();
    let in_url = host.superuser().deploy(&chameleon.0, &format!("{CHAMELEON}&settings=%7B%7D")).await;
    in_url.has_findings(&["query.settings value_error: settings are not accepted in the URL, …"]);
    let deploy = |settings: &'static str| host.superuser().deploy_with_settings(&chameleon.0, CHAMELEON, settings);
    deploy("{ hunter2").await.has_findings(&["body.settings value_error: not JSON, at line 1, column 3"]);
    let refused = deploy(r#"{ "word": 777123 }"#).await;
    refused.has_code(422, "invalid_component");
    assert!(!refused.text().contains("777123"), "{}", refused.text());
    assert_eq!(plugins(&host).await["count"], 0);
    deploy(r#"{ "word": "blue" }"#).await.ok();
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), "blue");
}

#[tokio::test]
async fn settings_and_grants_carry_over_to_the_next_release() {
    let mut host = TestHost::sqlite(Setup::default()).await;
    let grants = CHAMELEON.strip_prefix("grant=").unwrap();
    deploy_with_settings(host.superuser(), &Component::chameleon(), grants, &json!({ "word": "blue" })).await.ok();
    let deployed = host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    assert_eq!(deployed["plugin"]["grants"], json!(chameleon_grants(&[])));
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), "blue");
    host.restart().await;
    assert_eq!(host.anonymous().get("/chameleon/setting").await.ok(), "blue");
}

#[tokio::test]
async fn a_file_above_the_limit_is_rejected() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.plugins.upload_bytes = 100_000)).await;
    let response = host.superuser().deploy(&Component::hello().0, "").await;
    response.is_problem(413, "body_too_large", "Request body too large");
    assert_eq!(plugins(&host).await["count"], 0);
}

#[tokio::test]
async fn ordinary_users_cannot_deploy() {
    let host = TestHost::sqlite(Setup::default()).await;
    let user = host.user("someone@example.com").await;
    let response = user.deploy(&Component::hello().0, "").await;
    response.is_problem(403, "forbidden", "The user doesn't have enough privileges");
    assert_eq!(plugins(&host).await["count"], 0);
}

#[tokio::test]
async fn ordinary_users_see_no_plugins_and_remove_none() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let user = host.user("someone@example.com").await;
    for (method, path) in
        [(Method::GET, "/plugins/"), (Method::GET, "/plugins/hello"), (Method::DELETE, "/plugins/hello")]
    {
        user.request(method.clone(), path).send().await.has_code(403, "forbidden");
        host.anonymous().request(method, path).send().await.has_code(401, "not_authenticated");
    }
    host.anonymous().get("/hello/").await.ok();
}

#[tokio::test]
async fn anonymous_deploys_are_refused_before_the_file_is_read() {
    let host = TestHost::sqlite(Setup::default()).await;
    let mut stream = TcpStream::connect(host.addr()).await.unwrap();
    // Announces a file and sends no byte of it: a response shows that the host did not wait for the file.
    let head = "POST /api/v1/plugins/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/wasm\r\ncontent-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.windows(2).any(|window| window == b"\"}") {
        assert_ne!(stream.read_buf(&mut response).await.unwrap(), 0, "{}", String::from_utf8_lossy(&response));
    }
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 401 ") && response.contains("\"not_authenticated\""), "{response}");
}

#[tokio::test]
async fn the_same_file_again_changes_nothing() {
    let host = TestHost::sqlite(Setup::default()).await;
    let first = host.superuser().deploy(&Component::hello().0, "").await.ok();
    assert_eq!((&first["unchanged"], &first["replaced"]), (&json!(false), &Value::Null));
    let before = plugins(&host).await;
    let again = host.superuser().deploy(&Component::hello().0, "").await.ok();
    assert_eq!((&again["unchanged"], &again["replaced"]), (&json!(true), &Value::Null));
    assert_eq!(again["plugin"], first["plugin"]);
    assert_eq!(plugins(&host).await, before);
}

#[tokio::test]
async fn the_same_file_at_another_mount_is_a_new_release() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let moved = host.superuser().deploy(&Component::hello().0, "mount=/greetings").await.ok();
    assert_eq!((&moved["unchanged"], &moved["replaced"]), (&json!(false), &json!(1)));
    host.anonymous().plain(Method::GET, "/greetings/you").send().await.ok();
    host.anonymous().get("/hello/").await.has_code(404, "route_not_found");
}

#[tokio::test]
async fn a_new_release_replaces_the_old_one() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.superuser().deploy(&liar(json!({})).0, "").await.ok();
    let deployed = host.superuser().deploy(&liar(json!({ "answer": "two", "version": "2.0.0" })).0, "").await.ok();
    assert_eq!(deployed["replaced"], 1);
    assert_eq!(deployed["plugin"]["release"]["number"], 2);
    assert_eq!(deployed["plugin"]["release"]["version"], "2.0.0");
    assert_eq!(host.anonymous().get("/liar/").await.text(), "two");
}

#[tokio::test]
async fn an_earlier_file_can_be_deployed_again() {
    let host = TestHost::sqlite(Setup::default()).await;
    for (response, number) in [("one", 1), ("two", 2), ("one", 3)] {
        let deployed = host.superuser().deploy(&liar(json!({ "answer": response })).0, "").await.ok();
        assert_eq!(deployed["plugin"]["release"]["number"], number);
        assert_eq!(host.anonymous().get("/liar/").await.text(), response);
    }
}

#[tokio::test]
async fn routes_of_the_old_release_are_removed() {
    let host = TestHost::sqlite(Setup::default()).await;
    let route = |path: &str| json!([{ "method": "GET", "path": path, "access": "public", "operation": {} }]);
    host.superuser().deploy(&liar(json!({ "routes": route("/old") })).0, "").await.ok();
    host.superuser().deploy(&liar(json!({ "routes": route("/new") })).0, "").await.ok();
    assert_eq!(host.anonymous().get("/liar/new").await.text(), "one");
    host.anonymous().get("/liar/old").await.has_code(404, "route_not_found");
}

#[tokio::test]
async fn concurrent_deploys_run_one_after_the_other() {
    let host = TestHost::sqlite(Setup::default()).await;
    let deploys = (0..6).map(|number| {
        let (client, component) = (host.superuser().clone(), liar(json!({ "answer": number.to_string() })));
        async move { client.deploy(&component.0, "").await.ok()["plugin"]["release"]["number"].as_i64().unwrap() }
    });
    let mut numbers = futures_util::future::join_all(deploys).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

both!(a_bad_migration_leaves_no_tables, a_changed_migration_is_rejected_and_the_old_release_keeps_serving);

/// Returns the chameleon with a second statement in its migration, which fails.
fn badly_migrating() -> Component {
    let constraint = "    CONSTRAINT note_text_key UNIQUE (text)";
    let failing = format!("{:<width$}", "  x TEXT); INSERT INTO nowhere VALUES (1", width = constraint.len());
    Component::chameleon().with_text(constraint, &failing)
}

async fn a_bad_migration_leaves_no_tables(host: &TestHost) {
    let response = host.superuser().deploy(&badly_migrating().0, CHAMELEON).await;
    let detail = response.has_code(422, "migration_failed");
    assert!(detail.starts_with("migration 0001_note, statement 2: "), "{detail}");
    assert_eq!(plugins(host).await["count"], 0);
    host.anonymous().get("/chameleon/notes").await.has_code(404, "route_not_found");
    // Creates the same table, which must not exist.
    host.deploy_chameleon().await;
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]));
}

async fn a_changed_migration_is_rejected_and_the_old_release_keeps_serving(host: &TestHost) {
    host.deploy_chameleon().await;
    let before = plugins(host).await;
    let changed = Component::chameleon().with_text("text TEXT NOT NULL", "text TEXT         ");
    let response = host.superuser().deploy(&changed.0, "").await;
    let detail = response.has_code(422, "migration_failed");
    assert!(detail.starts_with("migration 0001_note: "), "{detail}");
    assert_eq!(plugins(host).await, before);
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!([]));
}

async fn restarts(backend: Backend) {
    let Some(mut host) = TestHost::start(backend, Setup::default()).await else { return };
    host.deploy_chameleon().await;
    host.superuser().deploy(&liar(json!({})).0, "mount=/lies").await.ok();
    host.superuser().deploy(&liar(json!({ "answer": "two" })).0, "").await.ok();
    assert_eq!(host.anonymous().request(Method::POST, "/chameleon/notes/kept").send().await.status, 204);
    let before = plugins(&host).await;
    host.restart().await;
    assert_eq!(plugins(&host).await, before);
    assert_eq!(host.anonymous().plain(Method::GET, "/lies").send().await.text(), "two");
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!(["kept"]));
}

#[tokio::test]
async fn plugins_and_their_data_survive_a_restart_on_sqlite() {
    restarts(Backend::Sqlite).await;
}

#[tokio::test]
async fn plugins_and_their_data_survive_a_restart_on_postgres() {
    restarts(Backend::Postgres).await;
}
