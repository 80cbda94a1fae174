//! Failures of the host's own services: they are told apart from failures of a plugin, and nobody is blamed for them.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _};

use super::liar;
use super::releases::{history_entry, operate, responding_with, state};
use crate::attack::handwritten_component::{GuestParts, attacker};
use crate::http::metrics::samples;
use crate::support::host::CHAMELEON;
use crate::support::{Component, TestHost, both, postgres};

both!(
    an_outage_of_a_plugins_database_blames_no_release,
    an_audit_entry_that_is_not_stored_is_a_typed_error_and_no_fault,
    a_component_built_before_the_typed_error_still_records,
    a_trip_during_an_outage_of_the_database_is_handled_afterwards,
);

/// Runs SQL on the host's database, past the host.
async fn execute(host: &TestHost, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    match host.database() {
        Some(database) => {
            let mut connection = postgres::connect(database).await;
            sqlx::query("SET search_path TO wharf").execute(&mut connection).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
        None => {
            let file = host.config().server.data_dir.join("wharf.sqlite");
            let mut connection =
                sqlx::SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
    }
}

/// Takes a table of the host away, as if its database failed.
async fn take_away(host: &TestHost, table: &str) {
    execute(host, &format!("ALTER TABLE {table} RENAME TO {table}_away")).await;
}

async fn bring_back(host: &TestHost, table: &str) {
    execute(host, &format!("ALTER TABLE {table}_away RENAME TO {table}")).await;
}

/// Lets no new connection to the chameleon's database succeed and ends those that it has, or ends this outage.
async fn break_database(host: &TestHost, broken: bool) {
    match host.database() {
        Some(_) => {
            let limit = if broken { 0 } else { 100 };
            let sql = format!(
                "DO $$ DECLARE name text; BEGIN
                     SELECT role INTO name FROM plugin_database WHERE plugin = 'chameleon';
                     EXECUTE format('ALTER ROLE %I CONNECTION LIMIT {limit}', name);
                     PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = name;
                 END $$"
            );
            execute(host, &sql).await;
        }
        None => {
            // The connections that read are opened at the first statement, which has not run yet.
            let file = host.config().server.data_dir.join("plugins/chameleon/data.sqlite");
            let away = file.with_extension("away");
            if broken {
                std::fs::rename(&file, &away).unwrap();
                std::fs::create_dir(&file).unwrap();
            } else {
                std::fs::remove_dir(&file).unwrap();
                std::fs::rename(&away, &file).unwrap();
            }
        }
    }
}

async fn deploy(host: &TestHost, word: &str, query: &str) {
    host.superuser().deploy(&Component::chameleon().rebuilt(word).0, &format!("{CHAMELEON}{query}")).await.ok();
}

async fn sample(host: &TestHost, name: &str, release: u32, label: &str) -> f64 {
    let name = format!("wharf_plugin_{name}{{plugin=\"chameleon\",release=\"{release}\",{label}}}");
    let samples = samples(host.superuser()).await;
    samples.iter().find(|(sample, _)| *sample == name).unwrap_or_else(|| panic!("{name} in {samples:?}")).1
}

async fn actions(host: &TestHost, plugin: &str) -> Vec<String> {
    let history = host.superuser().get(&format!("/plugins/{plugin}/history")).await.ok();
    let entries = history["data"].as_array().unwrap().iter();
    entries.map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
}

async fn an_outage_of_a_plugins_database_blames_no_release(host: &TestHost) {
    deploy(host, "one", "").await;
    deploy(host, "two", "").await;
    let anyone = host.anonymous();
    break_database(host, true).await;
    // More than any breaker needs, on a release on probation.
    for _ in 0..25 {
        anyone.get("/chameleon/notes").await.has_code(503, "database_unavailable");
    }
    assert_eq!(state(host, "chameleon").await, "live");
    assert_eq!(sample(host, "calls_total", 2, r#"outcome="dependency""#).await, 25.0);
    assert_eq!(sample(host, "calls_total", 2, r#"outcome="server_error""#).await, 0.0);
    assert_eq!(sample(host, "dependency_failures_total", 2, r#"dependency="database""#).await, 25.0);
    break_database(host, false).await;
    anyone.get("/chameleon/notes").await.ok();

    // The plugin's own bad statement is its own fault.
    for _ in 0..10 {
        anyone.get("/chameleon/wrong-notes").await.has_code(500, "plugin_error");
    }
    history_entry(host, "chameleon", "rollback").await;
    assert_eq!(actions(host, "chameleon").await, ["rollback", "deploy", "deploy"], "none during the outage");
}

#[tokio::test]
async fn an_outage_is_not_held_against_a_canary() {
    let host = TestHost::sqlite(crate::support::Setup::default()).await;
    deploy(&host, "one", "").await;
    deploy(&host, "two", "&canary=100%25&minimum=10").await;
    break_database(&host, true).await;
    for _ in 0..25 {
        host.anonymous().get("/chameleon/notes").await.has_code(503, "database_unavailable");
    }
    let canary = host.superuser().get("/plugins/chameleon/canary").await.ok();
    let comparison = &canary["comparison"];
    assert_eq!(comparison["worse"], Value::Null);
    let numbers = ["calls", "faults", "dependency"].map(|name| comparison["candidate"][name].clone());
    assert_eq!(numbers, [json!(0), json!(0), json!(25)], "{comparison}");
}

async fn an_audit_entry_that_is_not_stored_is_a_typed_error_and_no_fault(host: &TestHost) {
    deploy(host, "one", "").await;
    deploy(host, "two", "").await;
    take_away(host, "audit").await;
    for _ in 0..12 {
        let response = host.superuser().request(Method::POST, "/chameleon/audited").send().await;
        response.has_code(503, "audit_unavailable");
    }
    assert_eq!(state(host, "chameleon").await, "live");
    assert_eq!(sample(host, "calls_total", 2, r#"outcome="dependency""#).await, 12.0);
    assert_eq!(sample(host, "dependency_failures_total", 2, r#"dependency="audit""#).await, 12.0);
    bring_back(host, "audit").await;
    let audited = host.superuser().request(Method::POST, "/chameleon/audited").send().await;
    assert_eq!(audited.status, 204, "{audited:?}");
    // A plugin cannot make the host's database fail, so that it would not be blamed.
    let nul = host.anonymous().request(Method::POST, "/chameleon/audited-nul").send().await;
    assert_eq!(nul.status, 204, "{nul:?}");
    assert_eq!(sample(host, "dependency_failures_total", 2, r#"dependency="audit""#).await, 12.0);
}

/// Records an audit entry with empty texts through `record-entry`, which has no result.
fn recorder() -> Component {
    attacker(
        "(call $record (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
        &GuestParts {
            before: r#"
                (import "wharf:log/audit@0.1.0" (instance $audit
                    (type $outcome (enum "success" "denied" "failure"))
                    (export "outcome" (type $named (eq $outcome)))
                    (type $detail (list (tuple string string)))
                    (export "record-entry" (func
                        (param "action" string) (param "object" string) (param "outcome" $named)
                        (param "detail" $detail)))))
                (core module $memory (memory (export "memory") 1))
                (core instance $memory (instantiate $memory))
                (core func $record (canon lower (func $audit "record-entry") (memory (core memory $memory "memory"))))"#,
            with: r#"(with "host" (instance (export "record" (func $record))))"#,
            imports: r#"(import "host" "record" (func $record (param i32 i32 i32 i32 i32 i32 i32)))"#,
            ..GuestParts::default()
        },
    )
}

async fn a_component_built_before_the_typed_error_still_records(host: &TestHost) {
    host.superuser().deploy(&recorder().0, "grant=log").await.ok();
    let client = host.anonymous();
    assert_eq!(client.get("/raw").await.status, 200);
    take_away(host, "audit").await;
    for _ in 0..12 {
        client.get("/raw").await.has_code(503, "dependency_unavailable");
    }
    bring_back(host, "audit").await;
    assert_eq!(client.get("/raw").await.status, 200, "it was not quarantined");
}

async fn a_trip_during_an_outage_of_the_database_is_handled_afterwards(host: &TestHost) {
    host.superuser().deploy(&responding_with("good").0, "").await.ok();
    host.superuser().deploy(&liar(json!({ "handle": "trap" })).0, "").await.ok();
    take_away(host, "plugins").await;
    let client = host.anonymous();
    for _ in 0..10 {
        client.get("/liar").await.has_code(502, "plugin_trap");
    }
    // The rollback is tried at once. Until the database works again, the release stays quarantined.
    for _ in 0..20 {
        client.get("/liar").await.has_code(503, "plugin_quarantined");
    }
    bring_back(host, "plugins").await;
    let back = history_entry(host, "liar", "rollback").await;
    assert_eq!((&back["detail"]["before"], &back["detail"]["after"]), (&json!(2), &json!(1)));
    assert_eq!(client.get("/liar").await.text(), "good");
    operate(host, "liar/rollback?release=2").await.ok();
}
