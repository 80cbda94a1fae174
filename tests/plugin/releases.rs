//! Releases: kept, listed, rolled back, paused, deleted.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::liar;
use crate::http::metrics::samples;
use crate::support::gate::Gate;
use crate::support::polling::until;
use crate::support::{Backend, Component, Setup, TestHost, TestResponse, both};

both!(
    a_rollback_serves_the_earlier_release_and_survives_a_restart,
    an_impossible_rollback_is_refused_and_changes_nothing,
    releases_and_history_record_every_operation,
    a_paused_plugin_returns_503_until_it_is_resumed,
    a_paused_plugin_accepts_a_deploy_and_stays_paused,
    a_rollback_keeps_the_data,
    a_rollback_serves_the_release_that_was_live_before,
    a_failed_deploy_is_in_the_history_of_the_plugin_that_the_file_names,
    releases_beyond_the_bytes_are_collected_but_not_the_one_to_go_back_to => Setup::default().with(|config| {
        config.plugins.keep_releases_bytes = 1;
        config.plugins.code_cache_bytes = 1;
    }),
);

pub(crate) fn responding_with(word: &str) -> Component {
    liar(json!({ "answer": word, "version": format!("1.0.0-{word}") }))
}

async fn deploy(host: &TestHost, word: &str) {
    host.superuser().deploy(&responding_with(word).0, "").await.ok();
}

async fn response(host: &TestHost) -> String {
    host.anonymous().get("/liar").await.text()
}

pub(crate) async fn operate(host: &TestHost, action: &str) -> TestResponse {
    host.superuser().request(Method::POST, &format!("/plugins/{action}")).send().await
}

async fn a_rollback_serves_the_earlier_release_and_survives_a_restart(host: &mut TestHost) {
    for word in ["one", "two", "three"] {
        deploy(host, word).await;
    }
    assert_eq!(operate(host, "liar/rollback").await.ok()["release"]["number"], 2);
    assert_eq!(response(host).await, "two");
    assert_eq!(operate(host, "liar/rollback?release=3").await.ok()["release"]["number"], 3);
    assert_eq!(response(host).await, "three");
    operate(host, "liar/rollback?release=1").await.ok();
    host.restart().await;
    assert_eq!(response(host).await, "one");
    // The next release gets a new number.
    assert_eq!(host.superuser().deploy(&responding_with("four").0, "").await.ok()["plugin"]["release"]["number"], 4);
}

async fn an_impossible_rollback_is_refused_and_changes_nothing(host: &mut TestHost) {
    operate(host, "liar/rollback").await.has_code(404, "plugin_not_found");
    deploy(host, "one").await;
    operate(host, "liar/rollback").await.has_code(404, "release_not_found");
    operate(host, "liar/rollback?release=9").await.has_code(404, "release_not_found");
    operate(host, "liar/rollback?release=1").await.has_code(409, "release_live");
    operate(host, "liar/rollback?release=x").await.has_code(422, "validation_error");
    // Its former mount belongs to another plugin now.
    host.superuser().deploy(&responding_with("two").0, "mount=/elsewhere").await.ok();
    let neighbour = liar(json!({ "name": "neighbour" }));
    host.superuser().deploy(&neighbour.0, "mount=/api/v1/liar").await.ok();
    operate(host, "liar/rollback").await.has_code(409, "route_conflict");
    assert_eq!(host.anonymous().plain(Method::GET, "/elsewhere").send().await.text(), "two");
    assert_eq!(response(host).await, "one", "the neighbour's response");
}

async fn releases_and_history_record_every_operation(host: &mut TestHost) {
    deploy(host, "one").await;
    deploy(host, "two").await;
    operate(host, "liar/rollback").await.ok();
    operate(host, "liar/pause").await.ok();
    operate(host, "liar/resume").await.ok();
    host.superuser().deploy(b"rubbish", "name=liar").await.has_code(422, "invalid_component");
    let releases = host.superuser().get("/plugins/liar/releases").await.ok();
    let numbers: Vec<_> = releases["data"].as_array().unwrap().iter().map(|release| &release["number"]).collect();
    assert_eq!(numbers, [&json!(2), &json!(1)]);
    let second = host.superuser().get("/plugins/liar/releases/2").await.ok();
    assert_eq!((&second["version"], &second["routes"][0]["path"]), (&json!("1.0.0-two"), &json!("/api/v1/liar")));
    host.superuser().get("/plugins/liar/releases/3").await.has_code(404, "release_not_found");
    host.superuser().get("/plugins/nobody/releases").await.has_code(404, "plugin_not_found");

    let history = host.superuser().get("/plugins/liar/history").await.ok();
    let entries: Vec<(&str, &str)> = history["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["outcome"].as_str().unwrap()))
        .collect();
    let expected = [
        ("deploy", "failure"),
        ("resume", "success"),
        ("pause", "success"),
        ("rollback", "success"),
        ("deploy", "success"),
        ("deploy", "success"),
    ];
    assert_eq!(entries, expected);
    let back = &history["data"][3];
    assert_eq!((&back["detail"]["before"], &back["detail"]["after"]), (&json!(2), &json!(1)));
    assert_eq!(back["actor_email"], crate::support::host::SUPERUSER);
    assert!(back["request_id"].is_string());
    assert_eq!(history["data"][0]["detail"]["stage"], "check");
    let page = host.superuser().get("/plugins/liar/history?skip=3&limit=1").await.ok();
    assert_eq!((&page["data"], &page["count"]), (&json!([back]), &json!(6)));
    host.superuser().get("/plugins/nobody/history").await.has_code(404, "plugin_not_found");
}

async fn releases_beyond_the_bytes_are_collected_but_not_the_one_to_go_back_to(host: &mut TestHost) {
    let numbers = async |host: &TestHost| -> Vec<u64> {
        let releases = host.superuser().get("/plugins/liar/releases").await.ok();
        releases["data"].as_array().unwrap().iter().map(|release| release["number"].as_u64().unwrap()).collect()
    };
    for word in ["one", "two", "three", "four"] {
        deploy(host, word).await;
    }
    assert_eq!(numbers(host).await, [4, 3]);
    let machine_code = std::fs::read_dir(host.config().server.data_dir.join("compiled")).unwrap().count();
    assert_eq!(machine_code, 2, "of the releases that are kept");
    operate(host, "liar/rollback").await.ok();
    assert_eq!(response(host).await, "three");
    deploy(host, "five").await;
    assert_eq!(numbers(host).await, [5, 3], "3 was live before 5");
    assert_eq!(operate(host, "liar/rollback").await.ok()["release"]["number"], 3);
    host.superuser().deploy(&responding_with("six").0, "canary=50%25").await.ok();
    assert_eq!(numbers(host).await, [6, 3], "6 is the canary");
    host.restart().await;
    assert_eq!(host.superuser().get("/plugins/liar/canary").await.status, 200);
}

async fn a_paused_plugin_returns_503_until_it_is_resumed(host: &mut TestHost) {
    deploy(host, "one").await;
    operate(host, "liar/resume").await.has_code(409, "plugin_state");
    assert_eq!(operate(host, "liar/pause").await.ok()["state"], "paused");
    operate(host, "liar/pause").await.has_code(409, "plugin_state");
    let refused = host.anonymous().get("/liar").await;
    refused.has_code(503, "plugin_paused");
    assert!(refused.header("retry-after").is_some());
    host.restart().await;
    host.anonymous().get("/liar").await.has_code(503, "plugin_paused");
    // No other plugin can take its mount meanwhile.
    let neighbour = liar(json!({ "name": "neighbour" }));
    host.superuser().deploy(&neighbour.0, "mount=/api/v1/liar").await.has_code(409, "route_conflict");
    assert_eq!(operate(host, "liar/resume").await.ok()["state"], "live");
    assert_eq!(response(host).await, "one");
    operate(host, "nobody/pause").await.has_code(404, "plugin_not_found");
    operate(host, "nobody/resume").await.has_code(404, "plugin_not_found");
}

async fn a_paused_plugin_accepts_a_deploy_and_stays_paused(host: &mut TestHost) {
    deploy(host, "one").await;
    operate(host, "liar/pause").await.ok();
    deploy(host, "two").await;
    host.anonymous().get("/liar").await.has_code(503, "plugin_paused");
    operate(host, "liar/resume").await.ok();
    assert_eq!(response(host).await, "two");
    operate(host, "liar/pause").await.ok();
    host.superuser().delete("/plugins/liar").await.ok();
    deploy(host, "three").await;
    assert_eq!(response(host).await, "three");
}

async fn a_rollback_keeps_the_data(host: &mut TestHost) {
    host.deploy_chameleon().await;
    let rebuilt = Component::chameleon().rebuilt("again");
    host.superuser().deploy(&rebuilt.0, crate::support::host::CHAMELEON).await.ok();
    assert_eq!(host.anonymous().request(Method::POST, "/chameleon/notes/kept").send().await.status, 204);
    operate(host, "chameleon/rollback").await.ok();
    assert_eq!(host.anonymous().get("/chameleon/notes").await.ok(), json!(["kept"]));
}

async fn roll_back(host: &TestHost, query: &str) -> Value {
    operate(host, &format!("liar/rollback{query}")).await.ok()["release"]["number"].clone()
}

/// Not the one with the highest number: that one may be the release that the operator went back from.
async fn a_rollback_serves_the_release_that_was_live_before(host: &mut TestHost) {
    deploy(host, "one").await;
    deploy(host, "two").await;
    assert_eq!(roll_back(host, "").await, 1);
    deploy(host, "three").await;
    assert_eq!(roll_back(host, "").await, 1);
    operate(host, "liar/rollback").await.has_code(404, "release_not_found");
    // A step forward can be undone. A step back leaves the way further back as it was.
    assert_eq!(roll_back(host, "?release=2").await, 2);
    assert_eq!(roll_back(host, "").await, 1);
    assert_eq!(roll_back(host, "?release=3").await, 3);
    deploy(host, "four").await;
    host.restart().await;
    for expected in [3, 1] {
        assert_eq!(roll_back(host, "").await, expected);
    }
    operate(host, "liar/rollback").await.has_code(404, "release_not_found");
    // A canary that was promoted, and a plugin that was removed in between.
    host.superuser().deploy(&responding_with("five").0, "canary=header").await.ok();
    operate(host, "liar/promote").await.ok();
    assert_eq!(roll_back(host, "").await, 1);
    host.superuser().delete("/plugins/liar").await.ok();
    deploy(host, "six").await;
    assert_eq!(roll_back(host, "").await, 1);
    assert_eq!(response(host).await, "one");
}

async fn a_failed_deploy_is_in_the_history_of_the_plugin_that_the_file_names(host: &mut TestHost) {
    let route = json!({ "method": "GET", "path": "/", "access": "public", "operation": { "x-wharf-smoke": true } });
    let broken = [
        // Of a first deploy, too.
        (liar(json!({ "routes": [{ "method": "SPEAK", "path": "/", "operation": {} }] })), "describe"),
        (liar(json!({ "handle": "trap", "routes": [route] })), "smoke"),
        (liar(json!({ "settings_schema": r#"{ "required": ["word"] }"# })), "describe"),
    ];
    for (component, stage) in broken {
        assert_eq!(host.superuser().deploy(&component.0, "").await.status, 422);
        let history = host.superuser().get("/plugins/liar/history").await.ok();
        let newest = &history["data"][0];
        let told = (&newest["action"], &newest["outcome"], &newest["detail"]["stage"]);
        assert_eq!(told, (&json!("deploy"), &json!("failure"), &json!(stage)), "{history}");
    }
    assert_eq!(host.superuser().get("/plugins/liar/history").await.ok()["count"], 3);
}

#[tokio::test]
async fn operator_actions_are_refused_to_others() {
    let host = TestHost::sqlite(Setup::default()).await;
    deploy(&host, "one").await;
    let user = host.user("someone@example.com").await;
    for path in ["rollback", "pause", "resume", "promote", "abort"] {
        let path = format!("/plugins/liar/{path}");
        user.request(Method::POST, &path).send().await.has_code(403, "forbidden");
        host.anonymous().request(Method::POST, &path).send().await.has_code(401, "not_authenticated");
    }
    for path in ["/plugins/liar/releases", "/plugins/liar/history", "/plugins/liar/canary", "/deploys/x"] {
        user.get(path).await.has_code(403, "forbidden");
    }
    user.delete("/plugins/liar/grants/sql").await.has_code(403, "forbidden");
    assert_eq!(response(&host).await, "one");
}

#[tokio::test]
async fn old_releases_are_collected_by_count_and_age() {
    let setup = Setup::default().with_manual_clock().with(|config| {
        config.plugins.keep_releases = 2;
        config.plugins.keep_releases_for = Duration::from_secs(3600);
        config.plugins.probation = Duration::ZERO;
    });
    let host = TestHost::sqlite(setup).await;
    let numbers = async || {
        let releases = host.superuser().get("/plugins/liar/releases").await.ok();
        let releases = releases["data"].as_array().unwrap().clone();
        releases.iter().map(|release| release["number"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    for word in ["a", "b", "c", "d"] {
        deploy(&host, word).await;
    }
    assert_eq!(numbers().await, [4, 3, 2, 1], "all are recent");
    host.clock().advance(Duration::from_secs(1800));
    operate(&host, "liar/rollback?release=1").await.ok();
    host.clock().advance(Duration::from_secs(1801));
    deploy(&host, "e").await;
    // Two are kept by count, and one more for an immediate automatic rollback.
    let kept = numbers().await;
    assert!(kept.starts_with(&[5, 4]) && !kept.contains(&2) && !kept.contains(&3), "{kept:?}");
    host.superuser().get("/plugins/liar/releases/2").await.has_code(404, "release_not_found");
    operate(&host, "liar/rollback?release=2").await.has_code(404, "release_not_found");
    assert_eq!(response(&host).await, "e");
    assert_eq!(roll_back(&host, "").await, 1);
}

#[tokio::test]
async fn calls_in_flight_finish_on_the_release_they_began_on() {
    let host = TestHost::sqlite(Setup::default()).await;
    let gate = Gate::start().await;
    host.superuser().deploy(&Component::chameleon().0, &gate.grants()).await.ok();
    let held = gate.call(&host.anonymous());
    gate.arrived().await;
    host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    host.anonymous().get("/chameleon/echo/x").await.ok();
    gate.open();
    held.await.unwrap().ok();
    // The second release served the other call.
    assert_eq!(first_release_calls(&host, "chameleon", "success").await, 1.0);
}

/// Returns the number of calls of the first release, which is no longer live, from the metrics.
async fn first_release_calls(host: &TestHost, plugin: &str, outcome: &str) -> f64 {
    let name = format!(r#"wharf_plugin_calls_total{{plugin="{plugin}",release="1",outcome="{outcome}"}}"#);
    until("the call to be counted", async || {
        samples(host.superuser()).await.into_iter().find(|(sample, _)| *sample == name).map(|(_, count)| count)
    })
    .await
}

#[tokio::test]
async fn calls_beyond_the_drain_time_are_cancelled() {
    let setup = Setup::default().with(|config| {
        config.plugins.drain_time = Duration::from_millis(100);
        config.plugins.deadline = Duration::from_secs(300);
    });
    let host = TestHost::sqlite(setup).await;
    host.superuser().deploy(&liar(json!({ "millis": 240_000 })).0, "").await.ok();
    let slow = tokio::spawn({
        let client = host.anonymous();
        async move { client.get("/liar").await }
    });
    let running = ("wharf_plugin_calls_running{plugin=\"liar\"}".to_owned(), 1.0);
    until("the call to run", async || samples(host.superuser()).await.contains(&running).then_some(())).await;
    deploy(&host, "new").await;
    slow.await.unwrap().has_code(503, "plugin_replaced");
    assert_eq!(response(&host).await, "new");
    assert_eq!(first_release_calls(&host, "liar", "replaced").await, 1.0);
    // The same release, live again, has a new counter, and appears once.
    operate(&host, "liar/rollback?release=1").await.ok();
    assert_eq!(first_release_calls(&host, "liar", "replaced").await, 0.0);
}

/// Returns the state of a plugin from `/plugins/{name}`.
pub(super) async fn state(host: &TestHost, plugin: &str) -> Value {
    host.superuser().get(&format!("/plugins/{plugin}")).await.ok()["state"].clone()
}

/// Waits for an entry in the history.
pub(super) async fn history_entry(host: &TestHost, plugin: &str, action: &str) -> Value {
    until(action, async || {
        let history = host.superuser().get(&format!("/plugins/{plugin}/history")).await.ok();
        history["data"].as_array().unwrap().iter().find(|entry| entry["action"] == action).cloned()
    })
    .await
}

#[tokio::test]
async fn a_plugin_cannot_write_its_own_history() {
    let Some(host) = TestHost::start(Backend::Sqlite, Setup::default()).await else { return };
    host.deploy_chameleon().await;
    let forged = Component::chameleon().with_text("chameleon.change", "plugin.promotion");
    host.superuser().deploy(&forged.0, crate::support::host::CHAMELEON).await.ok();
    host.superuser().request(Method::POST, "/chameleon/audited").send().await.has_code(502, "plugin_trap");
    let history = host.superuser().get("/plugins/chameleon/history").await.ok();
    assert_eq!(history["count"], 2);
}

fn with_steps(word: &str, steps: &Value) -> Component {
    liar(json!({ "answer": word, "migrations": steps }))
}

#[tokio::test]
async fn a_destructive_migration_needs_a_compatible_live_release_and_prevents_rollback() {
    let host = TestHost::sqlite(Setup::default()).await;
    let first = json!(["1_old", "CREATE TABLE old (a BIGINT)"]);
    let second = json!(["2_new", "CREATE TABLE new (a BIGINT)"]);
    let third = json!(["3_drop", "DROP TABLE old", "2_new"]);
    let deploy =
        async |word: &str, steps: Value| host.superuser().deploy(&with_steps(word, &steps).0, "grant=sql").await;
    let wrong = deploy("wrong", json!([["1_old", "CREATE TABLE old (a BIGINT)", "2_new"]])).await;
    wrong.has_code(422, "invalid_component");
    deploy("one", json!([first])).await.ok();
    // The live release still reads the table that the migration drops.
    let reason = deploy("three", json!([first, second, third])).await.has_code(409, "schema_too_new");
    assert!(reason.contains("'3_drop'") && reason.contains("'2_new'"), "{reason}");
    assert_eq!(response(&host).await, "one");
    deploy("two", json!([first, second])).await.ok();
    operate(&host, "liar/rollback").await.ok();
    operate(&host, "liar/rollback?release=2").await.ok();
    deploy("three", json!([first, second, third])).await.ok();
    operate(&host, "liar/rollback?release=1").await.has_code(409, "schema_too_new");
    // A deploy of the old file is refused too.
    deploy("one", json!([first])).await.has_code(409, "schema_too_new");
    assert_eq!(response(&host).await, "three");
    operate(&host, "liar/rollback?release=2").await.ok();
    assert_eq!(response(&host).await, "two");
    // After the data is deleted, the old release can be deployed.
    host.superuser().delete("/plugins/liar?delete_data=true").await.ok();
    deploy("one", json!([first])).await.ok();
}
