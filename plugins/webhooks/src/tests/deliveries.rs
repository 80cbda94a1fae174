//! Messages: their form, who gets them, and the log.

use super::*;
use crate::secret::sign;
use std::time::Duration;
use wharf_sdk::events::UserDeleted;
use wharf_sdk::sql::{execute, params};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn an_event_is_sent_and_signed_as_the_specification_says() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    let id = Uuid::new_v4();
    stage.publish_as(id, "items.created", Some(alice.id));
    assert_eq!(stage.sent(), 0, "the delivery of the event only stores it");
    assert!(stage.plugin.run_due()[0].result.is_ok());

    let request = stage.latest();
    assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", "https://hooks.example/in"));
    assert_eq!((request.redirects, header(&request, "content-type")), (Some(0), "application/json"));
    let body = String::from_utf8(request.body.clone()).unwrap();
    let expected =
        r#"{"type":"items.created","timestamp":"2026-11-30T08:00:00.500000Z","data":{"id":"i1","title":"Tea"}}"#;
    assert_eq!(body, expected);
    assert_eq!(header(&request, "webhook-id"), id.to_string());
    let timestamp: i64 = header(&request, "webhook-timestamp").parse().unwrap();
    assert!(timestamp > 1_700_000_000, "the time of the attempt in seconds: {timestamp}");
    let signature = sign(&endpoint.secret, id, timestamp, &body).unwrap();
    assert_eq!(header(&request, "webhook-signature"), signature);

    let log = stage.log(&alice, &endpoint);
    assert_eq!((log.len(), &log[0]["state"], &log[0]["response_status"]), (1, &json!("delivered"), &json!(204)));
    assert_eq!((&log[0]["message_id"], &log[0]["topic"]), (&json!(id), &json!("items.created")));
    assert_eq!((&log[0]["attempts"], &log[0]["error"]), (&json!(1), &Value::Null));
}

#[test]
fn an_event_that_comes_twice_is_sent_once() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoints = [stage.register(&alice, &["items.created"]), stage.register(&alice, &["items.created"])];
    let id = Uuid::new_v4();
    stage.publish_as(id, "items.created", Some(alice.id));
    stage.publish_as(id, "items.created", Some(alice.id));
    stage.plugin.run_due();
    stage.publish_as(id, "items.created", Some(alice.id));
    assert!(stage.plugin.run_due().is_empty());
    assert_eq!(stage.sent(), 2, "once to each endpoint");
    for endpoint in &endpoints {
        assert_eq!(stage.log(&alice, endpoint).len(), 1);
    }
}

#[test]
fn an_endpoint_gets_its_topics_about_its_owner() {
    let stage = Stage::new();
    let (alice, bob) = (stage.user("alice@example.com"), stage.user("bob@example.com"));
    stage.register(&alice, &["items.created", "user.created"]);
    let sent = |topic: &str, audience: Option<Uuid>| {
        let before = stage.sent();
        stage.publish(topic, audience);
        stage.plugin.run_due();
        stage.sent() - before
    };
    assert_eq!(sent("items.created", Some(alice.id)), 1);
    assert_eq!(sent("items.deleted", Some(alice.id)), 0, "another topic");
    assert_eq!(sent("items.created", Some(bob.id)), 0, "about somebody else");
    assert_eq!(sent("items.created", None), 0, "about nobody");
    assert_eq!(sent("user.created", None), 0, "an event of the host");
    stage.plugin.deactivate_user(alice.id);
    assert_eq!(sent("items.created", Some(alice.id)), 0, "the owner is deactivated");
    stage.plugin.remove_user(alice.id);
    assert_eq!(sent("items.created", Some(alice.id)), 0, "the owner does not exist");
}

#[test]
fn a_superuser_gets_all_events_until_they_lose_the_privilege() {
    let stage = Stage::new();
    let (alice, root) = (stage.user("alice@example.com"), stage.superuser("root@example.com"));
    let endpoint = stage.register(&root, &["items.created", "user.created"]);
    for audience in [Some(alice.id), Some(root.id), None] {
        stage.publish("items.created", audience);
    }
    stage.publish("user.created", None);
    stage.plugin.run_due();
    assert_eq!(stage.sent(), 4);

    // One event waits while the account is demoted.
    stage.publish("items.created", Some(alice.id));
    stage.plugin.add_user(&Caller { superuser: false, ..root.clone() }, None);
    stage.publish("items.created", Some(alice.id));
    stage.publish("user.created", None);
    assert_eq!(stage.plugin.run_due().len(), 1);
    assert_eq!(stage.sent(), 4);
    let log = stage.log(&root, &endpoint);
    let error = json!("The owner of the endpoint may not receive the event");
    assert_eq!((&log[0]["state"], &log[0]["error"], &log[0]["attempts"]), (&json!("failed"), &error, &json!(0)));
    stage.publish("items.created", Some(root.id));
    stage.plugin.run_due();
    assert_eq!(stage.sent(), 5, "their own events still come");
}

#[test]
fn the_endpoints_of_a_deleted_user_are_deleted() {
    let stage = Stage::new();
    let (alice, root) = (stage.user("alice@example.com"), stage.superuser("root@example.com"));
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.register(&root, &["user.deleted"]);
    stage.publish("items.created", Some(alice.id));
    stage.plugin.remove_user(alice.id);
    stage.plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
    assert_problem(&stage.plugin.get(&endpoint.path).by(&alice).send(), 404, "endpoint_not_found");
    assert!(stage.plugin.run_due().iter().all(|attempt| attempt.result.is_ok()));
    assert_eq!(stage.sent(), 1, "the event about the deletion, to the superuser");
    assert_eq!(header(&stage.latest(), "webhook-id").len(), 36);
    let body: Value = wharf_sdk::serde_json::from_slice(&stage.latest().body).unwrap();
    assert_eq!((&body["type"], &body["data"]), (&json!("user.deleted"), &json!({ "id": alice.id })));
}

#[test]
fn both_secrets_sign_for_a_day_after_a_rotation() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    let rotated = stage.plugin.post(&format!("{}/secret", endpoint.path)).by(&alice).send().json();
    let secret = rotated["secret"].as_str().unwrap();
    assert_ne!(secret, endpoint.secret);
    let signatures = |secrets: &[&str]| {
        stage.publish("items.created", Some(alice.id));
        stage.plugin.run_due();
        let request = stage.latest();
        let body = String::from_utf8(request.body.clone()).unwrap();
        let id = header(&request, "webhook-id").parse().unwrap();
        let timestamp = header(&request, "webhook-timestamp").parse().unwrap();
        let expected: Vec<_> = secrets.iter().map(|secret| sign(secret, id, timestamp, &body).unwrap()).collect();
        assert_eq!(header(&request, "webhook-signature"), expected.join(" "));
    };
    signatures(&[secret, &endpoint.secret]);
    stage.plugin.advance(DAY);
    signatures(&[secret]);
    let kept = || {
        let all = "SELECT COUNT(*) FROM endpoint WHERE previous_secret IS NOT NULL";
        stage.plugin.run(|| wharf_sdk::sql::query_value::<i64>(all, params![])).unwrap()
    };
    assert_eq!(kept(), 1);
    assert!(stage.plugin.run_schedule("prune").result.is_ok());
    assert_eq!((kept(), &stage.show(&alice, &endpoint)["previous_secret_until"]), (0, &Value::Null));
}

#[test]
fn a_test_of_an_endpoint_sends_it_a_ping() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.register(&alice, &["items.created"]);
    let response = stage.plugin.post(&format!("{}/test", endpoint.path)).by(&alice).send();
    assert_eq!((response.status(), &response.json()["state"]), (202, &json!("waiting")));
    stage.plugin.run_due();
    assert_eq!(stage.sent(), 1);
    let body: Value = wharf_sdk::serde_json::from_slice(&stage.latest().body).unwrap();
    assert_eq!(body["type"], "webhooks.ping");
    assert_eq!(format!("/{}", body["data"]["endpoint_id"].as_str().unwrap()), endpoint.path);
    assert_eq!(stage.log(&alice, &endpoint)[0]["state"], "delivered");
}

#[test]
fn a_delivery_can_be_sent_again_with_the_same_id() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.publish("items.created", Some(alice.id));
    stage.plugin.run_due();
    let first = stage.latest();
    let log = stage.log(&alice, &endpoint);
    assert_eq!(stage.retry(&alice, &endpoint, &log[0]).status(), 202);
    assert_eq!(stage.retry(&alice, &endpoint, &log[0]).status(), 202, "it waits already");
    assert_eq!(stage.plugin.run_due().len(), 1);
    let second = stage.latest();
    assert_eq!((stage.sent(), &second.body), (2, &first.body));
    assert_eq!(header(&first, "webhook-id"), header(&second, "webhook-id"));
    assert_eq!(stage.log(&alice, &endpoint)[0]["attempts"], 2);
    let unknown = stage.retry(&alice, &endpoint, &json!({ "id": Uuid::nil() }));
    assert_problem(&unknown, 404, "delivery_not_found");
}

#[test]
fn a_retry_is_sent_also_before_the_host_has_recorded_the_end_of_the_job() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created"]);
    stage.publish("items.created", Some(alice.id));
    // As after the job has sent it: the host still has the job.
    let end = || execute("UPDATE delivery SET state = 'delivered'", params![]);
    for retries in 1..=2 {
        stage.plugin.run(end).unwrap();
        let log = stage.log(&alice, &endpoint);
        assert_eq!(stage.retry(&alice, &endpoint, &log[0]).status(), 202, "retry {retries}");
        assert_eq!(stage.retry(&alice, &endpoint, &log[0]).status(), 202, "it waits already");
    }
    assert_eq!(stage.plugin.run_due().len(), 3, "the first job, and one for each retry");
    assert_eq!(stage.sent(), 1, "the others find that it has ended");
    assert_eq!(stage.newest(&alice, &endpoint)["state"], "delivered");
}

#[test]
fn the_log_has_pages_newest_first() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let endpoint = stage.register(&alice, &["items.created", "items.updated"]);
    stage.publish("items.created", Some(alice.id));
    stage.plugin.advance(Duration::from_secs(1));
    stage.publish("items.updated", Some(alice.id));
    let page = |query: &str| {
        let list = stage.plugin.get(&format!("{}/deliveries?{query}", endpoint.path)).by(&alice).send().json();
        (list["count"].clone(), list["data"].as_array().unwrap().clone())
    };
    let (count, all) = page("");
    assert_eq!(
        (count, &all[0]["topic"], &all[1]["topic"]),
        (json!(2), &json!("items.updated"), &json!("items.created"))
    );
    assert_eq!(page("skip=1&limit=1"), (json!(2), vec![all[1].clone()]));
}

/// Adds so many deliveries of one endpoint to the database.
fn add(stage: &Stage, endpoint: &Endpoint, count: i64, state: &str) {
    const NUMBERED: &str = "WITH RECURSIVE n (id, i) AS (SELECT '', 0 UNION ALL
        SELECT printf('00000000-0000-4000-8000-%012d', i + 1), i + 1 FROM n WHERE i < $1)";
    let now = stage.plugin.run(Timestamp::now);
    let endpoint = endpoint.path.trim_start_matches('/');
    stage.plugin.run(|| {
        let messages = "INSERT INTO message SELECT id, 'items.created', NULL, '{}', $2 FROM n WHERE i > 0";
        execute(&format!("{NUMBERED} {messages}"), params![count, now]).unwrap();
        let deliveries = "INSERT INTO delivery (id, message_id, endpoint_id, state, attempts, created_at)
            SELECT id, id, $2, $3, 0, $4 FROM n WHERE i > 0";
        execute(&format!("{NUMBERED} {deliveries}"), params![count, endpoint, state, now]).unwrap();
    });
}

#[test]
fn a_delivery_beyond_the_room_of_its_endpoint_is_in_the_log_and_can_be_retried() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let (full, other) = (stage.register(&alice, &["items.created"]), stage.register(&alice, &["items.created"]));
    add(&stage, &full, 1_000, "waiting");
    stage.plugin.advance(Duration::from_secs(1));
    stage.publish("items.created", Some(alice.id));
    assert_eq!(stage.plugin.run_due().len(), 1);
    let dropped = stage.newest(&alice, &full);
    assert_eq!(dropped["state"], "failed");
    assert!(dropped["error"].as_str().unwrap().starts_with("Too many deliveries"));
    assert_eq!(stage.log(&alice, &other)[0]["state"], "delivered");
    let ping = stage.plugin.post(&format!("{}/test", full.path)).by(&alice).send();
    assert_problem(&ping, 409, "too_many_deliveries");
    let set_state = |state: &str| execute("UPDATE delivery SET state = $1 WHERE id LIKE '00000000-%'", params![state]);
    stage.plugin.run(|| set_state("failed")).unwrap();
    assert_eq!(stage.retry(&alice, &full, &dropped).status(), 202);
    stage.plugin.run_due();
    assert_eq!(stage.newest(&alice, &full)["state"], "delivered");
}

#[test]
fn a_delivery_that_waits_without_a_job_can_be_retried_although_its_endpoint_is_full() {
    let stage = Stage::new();
    let root = stage.superuser("root@example.com");
    let full = stage.register(&root, &["items.created"]);
    // As after an operator has dropped their jobs.
    add(&stage, &full, 1_000, "waiting");
    let waiting = stage.newest(&root, &full);
    assert_eq!(stage.retry(&root, &full, &waiting).status(), 202);
    assert_eq!(stage.plugin.run_due().len(), 1);
    let log = stage.log(&root, &full);
    let sent = log.iter().find(|delivery| delivery["id"] == waiting["id"]);
    assert_eq!(sent.map(|delivery| &delivery["state"]), Some(&json!("delivered")));
    assert_eq!(stage.sent(), 1);
}

#[test]
fn an_account_with_many_deliveries_does_not_delay_those_of_others() {
    let stage = Stage::new();
    let (alice, bob) = (stage.user("alice@example.com"), stage.user("bob@example.com"));
    stage.register(&alice, &["items.created"]);
    stage.register(&alice, &["items.created"]);
    stage.register(&bob, &["items.created"]);
    for _ in 0..4 {
        stage.publish("items.created", Some(alice.id));
    }
    let id = Uuid::new_v4();
    stage.publish_as(id, "items.created", Some(bob.id));
    assert_eq!(stage.plugin.run_due().len(), 9);
    let seen = stage.seen.borrow();
    let place = seen.iter().position(|request| header(request, "webhook-id") == id.to_string());
    // The number of waiting deliveries is read once for an event, which has two receivers here.
    assert_eq!(place, Some(6));
}

#[test]
fn an_event_with_many_receivers_is_sent_to_each_once() {
    let stage = Stage::new();
    let mut expected = 0;
    for number in 0..11 {
        let root = stage.superuser(&format!("root{number}@example.com"));
        for _ in 0..10 {
            stage.register(&root, &["user.created"]);
            expected += 1;
        }
    }
    let id = Uuid::new_v4();
    for _ in 0..2 {
        stage.publish_as(id, "user.created", None);
    }
    stage.plugin.run_due();
    assert_eq!((stage.sent(), expected), (110, 110));
}

#[test]
fn old_deliveries_and_those_beyond_the_bound_are_deleted() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let (many, few) = (stage.register(&alice, &["items.created"]), stage.register(&alice, &["items.updated"]));
    add(&stage, &many, 1_005, "failed");
    stage.plugin.advance(Duration::from_secs(1));
    stage.publish("items.created", Some(alice.id));
    stage.publish("items.updated", Some(alice.id));
    stage.plugin.run_due();
    let count = |endpoint: &Endpoint| {
        let path = format!("{}/deliveries?limit=1", endpoint.path);
        stage.plugin.get(&path).by(&alice).send().json()["count"].clone()
    };
    assert_eq!((count(&many), count(&few)), (json!(1_000), json!(1)), "a new delivery replaces those beyond the bound");
    assert_eq!(stage.newest(&alice, &many)["state"], "delivered", "the newest ones stay");
    let messages =
        || stage.plugin.run(|| wharf_sdk::sql::query_value::<i64>("SELECT COUNT(*) FROM message", params![]));
    assert_eq!(messages().unwrap(), 1_001);
    stage.plugin.advance(30 * DAY);
    stage.plugin.advance(Duration::from_secs(1));
    assert!(stage.plugin.run_schedule("prune").result.is_ok());
    assert_eq!((count(&many), count(&few), messages().unwrap()), (json!(0), json!(0), 0));
}

#[test]
fn the_messages_of_an_endpoint_are_deleted_with_it_unless_another_one_got_them() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    let (first, second) = (stage.register(&alice, &["items.created"]), stage.register(&alice, &["items.updated"]));
    let both = stage.register(&alice, &["items.updated"]);
    stage.publish("items.created", Some(alice.id));
    stage.publish("items.updated", Some(alice.id));
    stage.plugin.run_due();
    let topics = || {
        let all = || wharf_sdk::sql::query::<(String,)>("SELECT topic FROM message ORDER BY topic", params![]);
        stage.plugin.run(all).unwrap().into_iter().map(|(topic,)| topic).collect::<Vec<_>>()
    };
    assert_eq!(topics(), ["items.created", "items.updated"]);
    for (endpoint, left) in [(first, &["items.updated"][..]), (second, &["items.updated"]), (both, &[])] {
        assert_eq!(stage.plugin.delete(&endpoint.path).by(&alice).send().status(), 204);
        assert_eq!(topics(), left);
    }
}

/// The host admitted the request before it deleted the account.
#[test]
fn an_endpoint_that_is_created_during_the_deletion_of_its_account_does_not_stay() {
    let stage = Stage::new();
    let alice = stage.user("alice@example.com");
    stage.plugin.remove_user(alice.id);
    stage.plugin.deliver("user.deleted", UserDeleted { id: alice.id }).unwrap();
    let late = stage.register(&alice, &["items.created"]);
    stage.publish("items.created", Some(alice.id));
    stage.plugin.run_due();
    assert_eq!((stage.sent(), stage.log(&alice, &late).len()), (0, 0));
    assert!(stage.plugin.run_schedule("prune").result.is_ok());
    assert_problem(&stage.plugin.get(&late.path).by(&alice).send(), 404, "endpoint_not_found");
}

#[test]
fn the_endpoints_of_an_account_whose_deletion_was_missed_are_deleted_too() {
    let stage = Stage::new();
    let (alice, bob) = (stage.user("alice@example.com"), stage.user("bob@example.com"));
    let (gone, kept) = (stage.register(&alice, &["items.created"]), stage.register(&bob, &["items.created"]));
    stage.plugin.remove_user(alice.id);
    assert_eq!(stage.plugin.get(&gone.path).by(&alice).send().status(), 200);
    assert!(stage.plugin.run_schedule("prune").result.is_ok());
    assert_eq!(stage.plugin.get(&gone.path).by(&alice).send().status(), 404);
    assert_eq!(stage.plugin.get(&kept.path).by(&bob).send().status(), 200);
}
