//! `wharf:log`: the audit log. The process log is tested in `cli`, where the host is a real process.

use std::time::Duration;

use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::support::{Component, TestHost, both, postgres};

both!(
    an_audit_entry_names_actor_action_and_object,
    a_long_audit_entry_is_truncated,
    audit_entries_above_the_rate_limit_wait_until_the_call_ends => Setup::default().with(|config| {
        config.plugins.log_audit = 1;
        config.plugins.deadline = Duration::from_secs(3);
    }),
);

/// Returns one column of an action's audit entries, in the order in which they were written.
async fn audit_column(host: &TestHost, action: &str, column: &str) -> Vec<String> {
    let sql = format!("SELECT CAST({column} AS TEXT) FROM audit WHERE action = $1 ORDER BY id");
    match host.database() {
        Some(database) => {
            let mut connection = postgres::connect(database).await;
            sqlx::query("SET search_path TO wharf").execute(&mut connection).await.unwrap();
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(action).fetch_all(&mut connection).await.unwrap()
        }
        None => {
            let file = host.config().server.data_dir.join("wharf.sqlite");
            let url = format!("sqlite://{}", file.display());
            let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(action).fetch_all(&mut connection).await.unwrap()
        }
    }
}

async fn a_long_audit_entry_is_truncated(host: &TestHost) {
    host.deploy_chameleon().await;
    for bytes in [100, 8_000_000] {
        let path = format!("/chameleon/audited/1/{bytes}");
        assert_eq!(host.anonymous().request(Method::POST, &path).send().await.status, 204);
    }
    let details = audit_column(host, "chameleon.often", "detail").await;
    assert_eq!(details.len(), 2);
    assert!(details[0].len() < 400 && !details[0].contains('…'), "{}", details[0]);
    assert!(details[1].len() < 17_000 && details[1].contains('…'), "{} bytes", details[1].len());
}

/// No entry is dropped: the call waits because of the rate limit.
async fn audit_entries_above_the_rate_limit_wait_until_the_call_ends(host: &TestHost) {
    host.deploy_chameleon().await;
    let flood = host.anonymous().request(Method::POST, "/chameleon/audited/5000/10").send().await;
    flood.has_code(504, "plugin_deadline");
    let objects = audit_column(host, "chameleon.often", "object").await;
    assert!(!objects.is_empty() && objects.len() < 1_000, "{}", objects.len());
    let expected: Vec<String> = (0..objects.len()).map(|entry| entry.to_string()).collect();
    assert_eq!(objects, expected, "no entry is missing");
    let limits = host.superuser().get("/plugins/chameleon/limits").await.ok();
    let audit = limits["data"].as_array().unwrap().iter().find(|limit| limit["name"] == "log.audit").unwrap().clone();
    assert!(audit["value"] == "1" && audit["met"].as_u64() > Some(0), "{audit}");
    // The rate limit applies to the plugin only: the host still writes its own audit entries.
    host.superuser().deploy(&Component::hello().0, "").await.ok();
}

async fn an_audit_entry_names_actor_action_and_object(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    let response = user.request(Method::POST, "/chameleon/audited").send().await;
    assert_eq!(response.status, 204);
    let mut texts = Vec::new();
    for column in ["plugin", "action", "object", "outcome", "detail", "request_id"] {
        texts.extend(audit_column(host, "chameleon.change", column).await);
    }
    assert_eq!(texts[..4], ["chameleon", "chameleon.change", "17", "success"]);
    assert_eq!(texts[4].replace(' ', ""), r#"{"colour":"green"}"#);
    assert_eq!(Some(texts[5].as_str()), response.header("x-request-id"));
}
