//! The declaration of events and jobs: refused, granted, shown, and recorded with the release.

use serde_json::{Value, json};

use super::deploy_rejection::rejection;
use super::liar;
use super::releases::operate;
use crate::support::{Component, Setup, TestHost, both};

both!(
    events_and_jobs_are_shown_and_survive_a_restart,
    a_rollback_changes_the_subscriptions,
    a_canary_subscribes_when_it_is_promoted,
);

/// Returns a release that subscribes to topics.
fn subscribing(version: &str, topics: &[&str]) -> Component {
    liar(json!({ "version": version, "subscriptions": topics, "answer": version }))
}

/// Returns the topics that the live release subscribes to, as the delivery of events finds them.
async fn subscriptions(host: &TestHost) -> Vec<String> {
    const SQLITE: &str = "SELECT s.topic FROM release_subscriptions s \
        JOIN plugins p ON p.name = s.plugin AND p.live_release = s.release ORDER BY s.topic";
    let postgres = SQLITE.replace("FROM ", "FROM wharf.").replace("JOIN ", "JOIN wharf.");
    host.texts(SQLITE, &postgres).await
}

async fn events_and_jobs_are_shown_and_survive_a_restart(host: &mut TestHost) {
    let component = liar(json!({
        "permissions": [["read", "Reads"]],
        "topics": [["created", { "type": "object" }, "read"], ["counted", {}, null]],
        "subscriptions": ["user.deleted", "liar.created"],
        "jobs": [["sync", { "type": "object" }]],
        "schedules": [["nightly", "30 2 * * *", "Europe/Berlin", "sync", {}]],
    }));
    let deployed = host.superuser().deploy(&component.0, "grant=events,jobs").await.ok();
    let plugin = &deployed["plugin"];
    assert_eq!(plugin["grants"], json!(["events", "jobs"]));
    assert_eq!(
        plugin["topics"],
        json!([
            { "name": "created", "summary": "", "access": "permission read" },
            { "name": "counted", "summary": "", "access": null },
        ])
    );
    let topics: Vec<&Value> = plugin["subscriptions"].as_array().unwrap().iter().map(|one| &one["topic"]).collect();
    assert_eq!(topics, ["user.deleted", "liar.created"]);
    assert_eq!((&plugin["jobs"][0]["name"], &plugin["jobs"][0]["deadline_ms"]), (&json!("sync"), &json!(60_000)));
    let nightly = json!({
        "name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "missed": "once", "job": "sync",
    });
    assert_eq!(plugin["schedules"], json!([nightly]));
    host.restart().await;
    assert_eq!(host.superuser().get("/plugins/liar").await.ok()["schedules"], json!([nightly]));
    assert_eq!(host.superuser().get("/plugins/liar/releases/1").await.ok()["topics"], plugin["topics"]);
    assert_eq!(host.anonymous().get("/liar").await.text(), "one");
}

async fn a_rollback_changes_the_subscriptions(host: &mut TestHost) {
    let deploys: [(&str, &[&str]); 3] =
        [("1.0.0", &["user.created", "user.deleted"]), ("2.0.0", &["user.updated"]), ("3.0.0", &[])];
    for (version, topics) in deploys {
        host.superuser().deploy(&subscribing(version, topics).0, "grant=events").await.ok();
        assert_eq!(subscriptions(host).await, topics);
    }
    operate(host, "liar/rollback").await.ok();
    assert_eq!(subscriptions(host).await, ["user.updated"]);
    operate(host, "liar/rollback?release=1").await.ok();
    assert_eq!(subscriptions(host).await, ["user.created", "user.deleted"]);
    operate(host, "liar/rollback?release=3").await.ok();
    assert_eq!(subscriptions(host).await, [""; 0]);
}

async fn a_canary_subscribes_when_it_is_promoted(host: &mut TestHost) {
    host.superuser().deploy(&subscribing("1.0.0", &["user.created"]).0, "grant=events").await.ok();
    host.superuser().deploy(&subscribing("2.0.0", &["user.deleted"]).0, "canary=50%25").await.ok();
    assert_eq!(subscriptions(host).await, ["user.created"]);
    operate(host, "liar/promote").await.ok();
    assert_eq!(subscriptions(host).await, ["user.deleted"]);
}

#[tokio::test]
async fn a_subscriber_and_a_worker_need_grants_although_they_import_nothing() {
    let component = liar(json!({ "subscriptions": ["user.deleted"], "jobs": [["sync", null]] }));
    rejection(component, "").await.is_problem(
        403,
        "grant_missing",
        "The component needs capabilities that it was not granted: events, jobs. Deploy it with --grant events,jobs",
    );
}

#[tokio::test]
async fn a_topic_of_another_plugin_needs_a_parameter_of_the_grant() {
    let component = liar(json!({ "subscriptions": ["user.deleted", "orders.paid", "shop.opened"] }));
    for (query, missing) in
        [("grant=events", "orders.paid, shop.opened"), ("grant=events.hear=orders.paid", "shop.opened")]
    {
        let detail = format!(
            "The component subscribes to topics that its grant does not allow: {missing}. Deploy it with --grant \
             'events.hear=orders.paid shop.opened'"
        );
        rejection(component.clone(), query).await.is_problem(403, "grant_missing", &detail);
    }
    let host = TestHost::sqlite(Setup::default()).await;
    let query = "grant=events.hear=orders.paid,events.hear=shop.*";
    let deployed = host.superuser().deploy(&component.0, query).await.ok();
    assert_eq!(deployed["plugin"]["subscriptions"].as_array().unwrap().len(), 3);
    host.stop().await;
}

#[tokio::test]
async fn declarations_that_make_no_sense_are_rejected() {
    let job = json!([["sync", { "type": "object" }]]);
    for (changes, reason) in [
        (json!({ "topics": [["Created", {}, null]] }), "topic 'Created': a name is 1 to 40 characters of a-z, "),
        (json!({ "topics": [["a", { "type": "thing" }, null]] }), "topic 'a': its schema: "),
        (json!({ "topics": [["a", {}, "write"]] }), "topic 'a': permission 'write' is not declared"),
        (
            json!({ "subscriptions": ["user.born"] }),
            "subscription to 'user.born': the host's topics are user.created, ",
        ),
        (json!({ "subscriptions": ["liar.created"] }), "subscription to 'liar.created': the plugin does not declare"),
        (
            json!({ "subscriptions": ["user.created", "user.created"] }),
            "it declares the subscription to 'user.created' ",
        ),
        (json!({ "schedules": [["a", "0 2 * * *", "UTC", "sync", {}]] }), "schedule 'a': job 'sync' is not declared"),
        (json!({ "jobs": job, "schedules": [["a", "0 2 30 2 *", "UTC", "sync", {}]] }), "schedule 'a': no date fits "),
        (
            json!({ "jobs": job, "schedules": [["a", "0 2 * * *", "UTC", "sync", 1]] }),
            "schedule 'a': its payload does ",
        ),
    ] {
        let detail = rejection(liar(changes), "grant=events,jobs").await.has_code(422, "invalid_component");
        assert!(detail.strip_prefix("The file cannot be deployed: ").unwrap().starts_with(reason), "{detail}");
    }
}
