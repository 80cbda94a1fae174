//! Operations whose response the database loses: it records a change, and the host does not serve it. The next operation
//! finds what is recorded, because the next start would serve it.

use serde_json::{Value, json};

use super::emergencies::{deploy, release, response, role};
use super::liar;
use super::releases::{operate, responding_with, state};
use crate::support::host::CHAMELEON;
use crate::support::{TestHost, both};

both!(
    a_pause_and_a_resumption_are_judged_by_the_record_too,
    a_deploy_that_was_recorded_only_can_be_removed_and_paused,
    a_trial_that_was_recorded_only_can_be_aborted_and_loses_its_grants,
    limits_can_be_set_after_a_deploy_that_was_recorded_only,
    a_revocation_can_be_repeated_until_the_role_cannot_log_in,
);

/// Changes the host's tables, as an operation would whose response was lost. `@` stands in front of the name of a table.
async fn record(host: &TestHost, sql: &str) {
    host.run_sql(&sql.replace('@', ""), &sql.replace('@', "wharf.")).await;
}

async fn a_pause_and_a_resumption_are_judged_by_the_record_too(host: &mut TestHost) {
    deploy(host, &release("one"), "").await.ok();
    operate(host, "liar/pause").await.ok();
    operate(host, "liar/pause").await.has_code(409, "plugin_state");
    // A resumption.
    record(host, "UPDATE @plugins SET paused = FALSE").await;
    operate(host, "liar/pause").await.ok();
    host.restart().await;
    host.anonymous().get("/liar").await.has_code(503, "plugin_paused");
    record(host, "UPDATE @plugins SET paused = FALSE").await;
    deploy(host, &release("two"), "").await.ok();
    assert_eq!(response(host, "liar").await, "two", "a release that becomes live is not paused");
    // A pause.
    record(host, "UPDATE @plugins SET paused = TRUE").await;
    operate(host, "liar/resume").await.ok();
    operate(host, "liar/resume").await.has_code(409, "plugin_state");
    host.restart().await;
    assert_eq!(response(host, "liar").await, "two");
}

async fn a_deploy_that_was_recorded_only_can_be_removed_and_paused(host: &mut TestHost) {
    deploy(host, &responding_with("one"), "").await.ok();
    let columns = "number, digest, declaration, grants, settings, migrations, size, created_at, created_by, live_at, \
                   signed_by, limits, imports";
    for name in ["ghost", "spirit"] {
        let sql = format!(
            "INSERT INTO @plugins (name, mount, state, live_release) VALUES ('{name}', '/api/v1/{name}', 'live', 1);
             INSERT INTO @releases (plugin, mount, {columns})
             SELECT '{name}', '/api/v1/{name}', {columns} FROM @releases WHERE plugin = 'liar'"
        );
        record(host, &sql).await;
    }
    host.superuser().delete("/plugins/ghost").await.ok();
    host.superuser().delete("/plugins/ghost").await.has_code(404, "plugin_not_found");
    operate(host, "spirit/pause").await.ok();
    host.anonymous().get("/spirit").await.has_code(503, "plugin_paused");
    host.restart().await;
    host.anonymous().get("/ghost").await.has_code(404, "plugin_removed");
    host.anonymous().get("/spirit").await.has_code(503, "plugin_paused");
    operate(host, "spirit/resume").await.ok();
    assert_eq!(response(host, "spirit").await, "one");
}

async fn a_trial_that_was_recorded_only_can_be_aborted_and_loses_its_grants(host: &mut TestHost) {
    deploy(host, &responding_with("one"), "").await.ok();
    deploy(host, &release("two"), "canary=header").await.ok();
    operate(host, "liar/abort").await.ok();
    let plan = r#"{"steps":[0],"hold":600000,"minimum":100}"#;
    let trial = format!(
        r#"UPDATE @plugins SET canary = '{{"release":2,"plan":{plan},"step":0,"since":"2025-11-23T14:35:13Z"}}'"#
    );
    record(host, &trial).await;
    operate(host, "liar/abort").await.ok();
    operate(host, "liar/abort").await.has_code(409, "plugin_state");
    record(host, &trial).await;
    host.superuser().delete("/plugins/liar/grants/sql").await.ok();
    host.restart().await;
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["canary"], Value::Null);
}

async fn limits_can_be_set_after_a_deploy_that_was_recorded_only(host: &mut TestHost) {
    deploy(host, &responding_with("one"), "").await.ok();
    deploy(host, &responding_with("two"), "").await.ok();
    operate(host, "liar/rollback").await.ok();
    record(host, "UPDATE @plugins SET live_release = 2").await;
    host.superuser().put("/plugins/liar/limits?limit=memory=32MiB", &json!(null)).await.ok();
    assert_eq!(response(host, "liar").await, "two");
}

async fn a_revocation_can_be_repeated_until_the_role_cannot_log_in(host: &mut TestHost) {
    host.deploy_chameleon().await;
    let revoke = async || host.superuser().delete("/plugins/chameleon/grants/sql").await.ok();
    revoke().await;
    if role(host).await.is_some() {
        // As if the server had not responded when the role was to be locked.
        let unlock = "DO $$ BEGIN EXECUTE format('ALTER ROLE %I LOGIN',
            (SELECT role FROM wharf.plugin_database WHERE plugin = 'chameleon')); END $$";
        host.run_sql("", unlock).await;
        assert_eq!(role(host).await, Some((true, 0)));
    }
    revoke().await;
    assert!(role(host).await.is_none_or(|role| role == (false, 0)));
    assert_eq!(state(host, "chameleon").await, "revoked");
    let reason = operate(host, "chameleon/pause").await.has_code(409, "plugin_state");
    assert!(reason.contains("is not served, because a grant that it needs is revoked"), "{reason}");
    // Only a grant that the plugin never had is unknown.
    let other = liar(json!({ "name": "chameleon" }));
    host.superuser().deploy(&other.0, "").await.ok();
    host.superuser().delete("/plugins/chameleon/grants/http").await.has_code(404, "grant_missing");
    revoke().await;
    assert_eq!(response(host, "chameleon").await, "one");
    host.superuser().deploy(&crate::support::Component::chameleon().0, CHAMELEON).await.ok();
    assert!(role(host).await.is_none_or(|role| role.0));
}
