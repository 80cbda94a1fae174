//! Receivers that fail: repetitions, rests, and endpoints that are disabled.

use super::*;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(60 * 60);

#[test]
fn a_failed_attempt_is_repeated_until_the_receiver_works() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.publish("items.created", Some(alice.id));
    for (status, shown, error) in [
        (DOWN, Value::Null, "The receiver cannot be reached"),
        (503, json!(503), "The receiver responded with status 503"),
        (302, json!(302), "The receiver redirects (status 302), which is not followed: change the URL"),
    ] {
        stage.status.set(status);
        assert_eq!(stage.plugin.run_due()[0].result, Err(TaskError::Retry(error.to_owned())));
        let log = stage.log(&alice, &endpoint);
        assert_eq!((&log[0]["state"], &log[0]["response_status"]), (&json!("waiting"), &shown));
        assert_eq!(log[0]["error"], error);
        assert!(stage.show(&alice, &endpoint)["failing_since"].is_string());
        stage.plugin.advance(HOUR);
    }
    stage.status.set(200);
    assert!(stage.plugin.run_due()[0].result.is_ok());
    let log = stage.log(&alice, &endpoint);
    assert_eq!((&log[0]["state"], &log[0]["attempts"]), (&json!("delivered"), &json!(4)));
    assert_eq!(stage.show(&alice, &endpoint)["failing_since"], Value::Null);
}

#[test]
fn the_deliveries_of_an_endpoint_that_rests_make_no_request_and_others_do() {
    let stage = Stage::new();
    let (alice, bob) = (stage.user("alice@example.com"), stage.user("bob@example.com"));
    let failing = stage.register(&alice, &["items.created"]);
    stage.register(&bob, &["items.created"]);
    stage.status.set(DOWN);
    stage.publish("items.created", Some(alice.id));
    for _ in 0..8 {
        stage.plugin.run_due();
        stage.plugin.advance(HOUR);
    }
    stage.plugin.run_due();
    assert_eq!(stage.sent(), 9);
    // It rests for some minutes now.
    stage.publish("items.created", Some(alice.id));
    assert!(stage.plugin.run_due()[0].result.is_err());
    assert_eq!(stage.sent(), 9);
    stage.status.set(204);
    stage.publish("items.created", Some(bob.id));
    assert!(stage.plugin.run_due()[0].result.is_ok());
    assert_eq!(stage.sent(), 10);
    stage.plugin.advance(HOUR);
    assert_eq!(stage.plugin.run_due().len(), 2);
    assert!(stage.log(&alice, &failing).iter().all(|delivery| delivery["state"] == "delivered"));
}

#[test]
fn a_receiver_that_is_gone_disables_its_endpoint() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.publish("items.created", Some(alice.id));
    stage.publish("items.created", Some(alice.id));
    stage.status.set(410);
    assert!(stage.plugin.run_due().iter().all(|attempt| attempt.result.is_ok()));
    assert_eq!(stage.sent(), 1, "the other delivery ended without a request");
    let shown = stage.show(&alice, &endpoint);
    assert_eq!(shown["active"], false);
    assert_eq!(shown["disabled_reason"], "The receiver responded with status 410: it wants no more messages");
    let log = stage.log(&alice, &endpoint);
    assert!(log.iter().all(|delivery| delivery["state"] == "failed"));

    // A disabled endpoint gets nothing, not even what its owner asks for.
    stage.publish("items.created", Some(alice.id));
    assert!(stage.plugin.run_due().is_empty());
    assert_problem(&stage.retry(&alice, &endpoint, &log[0]), 409, "endpoint_disabled");
    let ping = stage.plugin.post(&format!("{}/test", endpoint.path)).by(&alice).send();
    assert_problem(&ping, 409, "endpoint_disabled");

    stage.status.set(204);
    let enabled = stage.plugin.patch(&endpoint.path).by(&alice).json(json!({ "active": true })).send().json();
    assert_eq!((&enabled["disabled_reason"], &enabled["failing_since"]), (&Value::Null, &Value::Null));
    assert_eq!(stage.retry(&alice, &endpoint, &log[0]).status(), 202);
    stage.plugin.run_due();
    assert_eq!(stage.sent(), 2);
}

#[test]
fn an_endpoint_that_fails_for_days_is_disabled() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.status.set(500);
    for _ in 0..5 {
        stage.publish("items.created", Some(alice.id));
        stage.plugin.run_due();
        assert_eq!(stage.show(&alice, &endpoint)["active"], true);
        stage.plugin.advance(24 * HOUR);
    }
    stage.plugin.run_due();
    let shown = stage.show(&alice, &endpoint);
    let reason = json!("All attempts have failed for five days");
    assert_eq!((&shown["active"], &shown["disabled_reason"]), (&json!(false), &reason));
}

#[test]
fn the_last_failure_ends_in_the_log_and_not_in_the_dead_letters() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.status.set(500);
    stage.publish("items.created", Some(alice.id));
    for _ in 0..60 {
        assert_eq!(stage.plugin.run_due().len(), 1);
        stage.plugin.advance(HOUR);
    }
    assert!(stage.plugin.run_due()[0].result.is_ok());
    let log = stage.log(&alice, &endpoint);
    assert_eq!((&log[0]["state"], &log[0]["attempts"]), (&json!("failed"), &json!(61)));
    stage.plugin.advance(24 * HOUR);
    assert!(stage.plugin.run_due().is_empty() && stage.plugin.dead_letters().is_empty());
}

#[test]
fn a_server_that_the_operator_does_not_allow_gets_no_request() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let response = stage.create(&alice, json!({ "url": "https://other.example/", "topics": ["items.created"] }));
    let path = format!("/{}", response.json()["endpoint"]["id"].as_str().unwrap());
    let endpoint = Endpoint { path, secret: String::new() };
    stage.publish("items.created", Some(alice.id));
    stage.plugin.run_due();
    assert_eq!(stage.log(&alice, &endpoint)[0]["error"], "The operator does not allow requests to this server");
}
