//! `wharf:events` through a guest: events that belong to transactions, their deliveries, and the changes of the plugins
//! that receive them. The table of tasks is tested in `db`, the streams of clients in `http`.

use std::time::Duration;

use serde_json::{Value, json};
use wharf::clock::Timestamp;

use crate::plugin::releases::operate;
use crate::support::polling::until;
use crate::support::worker::{LISTENER, WORKER, Worker, worker};
use crate::support::{Setup, TestHost, both};

both!(
    an_event_is_published_if_its_transaction_commits,
    a_wrong_event_is_refused_and_leaves_the_transaction_usable,
    events_with_one_key_arrive_in_their_order => roomy(),
    each_subscriber_hears_for_itself,
    events_of_the_host_are_heard,
    a_failed_delivery_is_repeated_and_then_a_dead_letter => hasty(),
    the_wait_before_a_repetition_doubles => Setup::default().with_manual_clock(),
    a_dead_letter_is_delivered_after_its_cause_was_repaired,
    the_request_and_the_length_of_the_chain_are_carried,
    a_pause_only_delays_a_delivery,
    a_revocation_only_delays_a_delivery,
    a_delivery_may_end_on_a_replaced_release,
    a_delivery_that_a_replaced_release_does_not_end_begins_again => Setup::default().with(|config| {
        config.plugins.drain_time = Duration::from_millis(10);
    }),
    a_release_that_subscribes_no_more_leaves_a_dead_letter => Setup::default().with_manual_clock(),
    deliveries_of_a_removed_plugin_wait_unless_its_data_is_deleted => Setup::default().with_manual_clock(),
    a_canary_hears_nothing_until_it_is_promoted,
);

/// Many deliveries at once.
fn roomy() -> Setup {
    Setup::default().with(|config| config.plugins.background_per_plugin = 8)
}

/// Little CPU time for tasks, with [`HASTY`].
pub(super) fn hasty() -> Setup {
    Setup::default().with(|config| config.plugins.task_cpu_time = Duration::from_millis(300))
}

/// The grants of a worker, and a limit that is not above the one of tasks.
pub(super) const HASTY: &str = "grant=events,jobs,sql&limit=cpu_time=300ms";

/// Returns a member of a task that is a text.
pub(super) fn text<'a>(task: &'a Value, member: &str) -> &'a str {
    task[member].as_str().unwrap_or_else(|| panic!("{member}: {task}"))
}

/// Returns the step that publishes an event whose subscribers note a word.
fn saying(word: &str) -> Value {
    json!(["publish", "said", null, { "steps": [["note", word]] }])
}

/// Deploys a worker that hears itself.
async fn deploy_echo(host: &TestHost) -> Worker {
    Worker::deploy(host, json!({ "subscriptions": [["worker.said"]] })).await
}

async fn an_event_is_published_if_its_transaction_commits(host: &TestHost) {
    let worker = deploy_echo(host).await;
    worker.act(json!([["begin"], saying("rolled back"), ["rollback"]])).await;
    worker.act(json!([["begin"], saying("left open")])).await;
    worker.act(json!([["begin"], saying("forgotten"), ["forget"]])).await;
    worker.post(&json!([["begin"], saying("trapped"), ["trap"]])).await.has_code(502, "plugin_trap");
    let failing = json!([["begin"], saying("failed"), ["sql", "SELECT * FROM nowhere"], ["commit"]]);
    assert!(worker.act(failing).await[3]["error"].is_string());
    worker.act(json!([["begin"], saying("committed"), ["note", "with it"], ["commit"]])).await;
    worker.noted(&["with it", "committed"]).await;
    worker.done(saying("on its own")).await;
    worker.noted(&["with it", "committed", "on its own"]).await;
    worker.states(&[]).await;
}

async fn a_wrong_event_is_refused_and_leaves_the_transaction_usable(host: &TestHost) {
    let schema = json!({ "type": "object", "required": ["steps"] });
    let changes = json!({ "topics": [["said", schema]], "subscriptions": [["worker.said"]] });
    let worker = Worker::deploy(host, changes).await;
    let good = json!({ "steps": [] });
    let wrong = [
        (json!(["publish", "said", null, {}]), "payload.steps: Field required"),
        (json!(["publish", "said", null, { "raw": "{" }]), "payload: not JSON"),
        (json!(["publish", "sung", null, good]), "topic: the plugin declares no topic 'sung'"),
        (json!(["publish", "worker.said", null, good]), "topic: the plugin declares no topic 'worker.said'"),
        (json!(["publish", "said", { "letters": 201 }, good]), "key: longer than 200 bytes"),
    ];
    for (event, reason) in &wrong {
        let outcomes = worker.act(json!([["begin"], event, ["note", "kept"], ["commit"]])).await;
        let error = outcomes[1]["error"].as_str().unwrap();
        assert!(error.starts_with("Error::Invalid(") && error.contains(reason), "{error}");
        assert_eq!(outcomes[3], json!({ "ok": null }));
    }
    worker.noted(&["kept"; 5]).await;
    worker.done(saying("good")).await;
    worker.noted(&["kept", "kept", "kept", "kept", "kept", "good"]).await;
    const PUBLISHED: &str = "SELECT topic FROM events WHERE source = 'worker'";
    let published = host.texts(PUBLISHED, &PUBLISHED.replace("events", "wharf.events")).await;
    assert_eq!(published, ["worker.said"]);
}

async fn events_with_one_key_arrive_in_their_order(host: &TestHost) {
    let publisher = Worker::deploy(host, json!({})).await;
    let first = Worker::deploy_listener(host, "first", "1.0.0").await;
    let second = Worker::deploy_listener(host, "second", "1.0.0").await;
    let mut events = Vec::new();
    for number in 1..=4 {
        for key in ["a", "b"] {
            let fails = json!(["before-attempt", number % 3 + 1, [["retry", "not yet"]]]);
            let refuses = json!(["only", "second", if number == 2 { json!([["reject", "never"]]) } else { json!([]) }]);
            let payload = json!({ "steps": [fails, refuses, ["note", format!("{{key}}{number}")]] });
            events.push(json!(["publish", "said", key, payload]));
        }
    }
    publisher.act(Value::Array(events)).await;
    let of_key = |notes: &[String], key: &str| -> Vec<String> {
        notes.iter().filter(|note| note.starts_with(key)).cloned().collect()
    };
    let notes = first.notes_when(8).await;
    assert_eq!(of_key(&notes, "a"), ["a1", "a2", "a3", "a4"]);
    assert_eq!(of_key(&notes, "b"), ["b1", "b2", "b3", "b4"]);
    first.states(&[]).await;
    // A dead letter does not hold up the others.
    let notes = second.notes_when(6).await;
    assert_eq!(of_key(&notes, "a"), ["a1", "a3", "a4"]);
    assert_eq!(of_key(&notes, "b"), ["b1", "b3", "b4"]);
    for dead in second.states(&["dead", "dead"]).await {
        assert_eq!(text(&dead, "reason"), "never");
    }
}

async fn each_subscriber_hears_for_itself(host: &TestHost) {
    let publisher = deploy_echo(host).await;
    publisher.done(saying("before")).await;
    publisher.noted(&["before"]).await;

    let listener = worker(json!({ "name": "listener", "subscriptions": [["worker.said"]] }));
    let refused = host.superuser().deploy(&listener.0, WORKER).await.has_code(403, "grant_missing");
    assert!(refused.contains("events.hear=worker.said"), "{refused}");
    let listener = Worker::deploy_listener(host, "listener", "1.0.0").await;
    // It hears what is published after its deploy, and its failure is its own.
    publisher.publish(json!([["only", "listener", [["reject", "too loud"]]], ["note", "loud"]])).await;
    publisher.noted(&["before", "loud"]).await;
    let dead = listener.states(&["dead"]).await;
    assert_eq!((text(&dead[0], "name"), text(&dead[0], "reason")), ("worker.said", "too loud"));
    publisher.done(saying("low")).await;
    publisher.noted(&["before", "loud", "low"]).await;
    listener.noted(&["low"]).await;
}

async fn events_of_the_host_are_heard(host: &TestHost) {
    let worker = Worker::deploy(host, json!({ "subscriptions": [["user.created"], ["user.deleted"]] })).await;
    let id = host.sign_up("ann@example.com").await.ok()["id"].as_str().unwrap().to_owned();
    host.superuser().delete(&format!("/users/{id}")).await.ok();
    worker.noted(&[&format!("user.created {id}"), &format!("user.deleted {id}")]).await;
}

async fn a_failed_delivery_is_repeated_and_then_a_dead_letter(host: &TestHost) {
    let worker = Worker::deploy_with(host, json!({ "subscriptions": [["worker.said", 2, 1]] }), HASTY).await;
    let cases = [
        (json!([["retry", "out of paper, attempt {attempt}"]]), 3, "out of paper, attempt 3"),
        (json!([["reject", "no such printer"]]), 1, "no such printer"),
        (json!([["trap"]]), 3, "The plugin failed"),
        (json!([["loop"]]), 3, "it exceeded its limit 'cpu_time'"),
        (json!([["grow"]]), 3, "it exceeded its limit 'memory'"),
    ];
    for (steps, ..) in &cases {
        worker.publish(steps.clone()).await;
    }
    worker.publish(json!([["before-attempt", 3, [["trap"]]], ["note", "attempt {attempt}"]])).await;
    worker.noted(&["attempt 3"]).await;
    let dead = worker.states(&["dead"; 5]).await;
    for (task, (_, attempts, reason)) in dead.iter().zip(&cases) {
        assert!(text(task, "reason").starts_with(reason), "{task}");
        assert_eq!((task["attempts"].as_i64(), task["interruptions"].as_i64()), (Some(*attempts), Some(0)), "{task}");
    }
}

async fn the_wait_before_a_repetition_doubles(host: &TestHost) {
    /// So many that the longest of their random waits is more than half of the longest possible one.
    const EVENTS: usize = 30;
    let worker = Worker::deploy(host, json!({ "subscriptions": [["worker.said", 3, 10_000]] })).await;
    let event = json!(["publish", "said", null, { "steps": [["retry", "attempt {attempt}"]] }]);
    worker.act(json!([["times", EVENTS, event]])).await;
    for (attempt, longest) in [(1, 10), (2, 20), (3, 40)] {
        let tasks = until("the failure of all attempts", async || {
            let tasks = worker.tasks("state=ready").await;
            (tasks.len() == EVENTS && tasks.iter().all(|task| task["attempts"] == attempt)).then_some(tasks)
        })
        .await;
        let due = tasks.iter().map(|task| text(task, "due_at").parse::<Timestamp>().unwrap());
        let wait = due.max().unwrap().since(host.clock().now());
        let possible = Duration::from_secs(longest / 2)..=Duration::from_secs(longest);
        assert!(possible.contains(&wait), "attempt {attempt}: {wait:?}");
        host.clock().advance(wait);
    }
    let dead = worker.states(&["dead"; EVENTS]).await;
    assert_eq!((&dead[0]["attempts"], text(&dead[0], "reason")), (&json!(4), "attempt 4"));
}

async fn a_dead_letter_is_delivered_after_its_cause_was_repaired(host: &TestHost) {
    let subscriptions = json!([["worker.said", 0, 1]]);
    let worker = Worker::deploy(host, json!({ "subscriptions": subscriptions })).await;
    let insert = json!(["sql", "INSERT INTO later (a) VALUES (1)"]);
    worker.publish(json!([["must", insert], ["note", "{version} {attempt}"]])).await;
    let dead = worker.states(&["dead"]).await;
    assert!(text(&dead[0], "reason").contains("later"), "{dead:?}");
    let migrations = json!([["0002", "CREATE TABLE later (a BIGINT)"]]);
    let repaired = json!({ "version": "2.0.0", "subscriptions": subscriptions, "migrations": migrations });
    Worker::deploy(host, repaired).await;
    worker.states(&["dead"]).await;
    worker.retry(&dead[0]).await;
    worker.noted(&["2.0.0 1"]).await;
    worker.states(&[]).await;
}

async fn the_request_and_the_length_of_the_chain_are_carried(host: &TestHost) {
    let worker = deploy_echo(host).await;
    let job = json!({ "steps": [["note", "{name} {request}"], ["reject", "kept"]] });
    let event = json!({ "steps": [["note", "{name} {request}"], ["enqueue", "work", job], ["reject", "kept"]] });
    let response = worker.post(&json!([["publish", "said", null, event]])).await;
    let request = response.header("x-request-id").unwrap();
    worker.noted(&[&format!("worker.said {request}"), &format!("work {request}")]).await;
    let tasks = worker.states(&["dead", "dead"]).await;
    for (task, kind, depth) in [(&tasks[0], "delivery", 0), (&tasks[1], "job", 1)] {
        assert_eq!((text(task, "kind"), &task["depth"], text(task, "request_id")), (kind, &json!(depth), request));
    }
}

/// Stops a listener during a delivery by `stop`, publishes another event, and lets both be delivered after `go`.
async fn interrupt(host: &TestHost, stop: impl AsyncFnOnce(&TestHost), go: impl AsyncFnOnce(&TestHost)) {
    let publisher = Worker::deploy(host, json!({})).await;
    let listener = Worker::deploy_listener(host, "listener", "1.0.0").await;
    publisher.publish(json!([["must", ["await", "go"]], ["note", "attempt {attempt}"]])).await;
    listener.states(&["running"]).await;
    stop(host).await;
    let waiting = listener.states(&["ready"]).await;
    assert_eq!((&waiting[0]["attempts"], &waiting[0]["interruptions"]), (&json!(0), &json!(0)));
    publisher.done(saying("meanwhile")).await;
    listener.states(&["ready", "ready"]).await;
    go(host).await;
    listener.flag("go").await;
    let mut notes = listener.notes_when(2).await;
    notes.sort();
    assert_eq!(notes, ["attempt 1", "meanwhile"]);
    listener.states(&[]).await;
}

async fn a_pause_only_delays_a_delivery(host: &TestHost) {
    interrupt(
        host,
        async |host| drop(operate(host, "listener/pause").await.ok()),
        async |host| drop(operate(host, "listener/resume").await.ok()),
    )
    .await;
}

async fn a_revocation_only_delays_a_delivery(host: &TestHost) {
    const GRANT: &str = "/plugins/listener/grants/sql";
    interrupt(
        host,
        async |host| drop(host.superuser().delete(GRANT).await.ok()),
        async |host| drop(host.superuser().put(GRANT, &Value::Null).await.ok()),
    )
    .await;
}

async fn a_delivery_may_end_on_a_replaced_release(host: &TestHost) {
    let worker = deploy_echo(host).await;
    worker.publish(json!([["await", "go"], ["note", "{version} {attempt}"]])).await;
    worker.states(&["running"]).await;
    Worker::deploy(host, json!({ "version": "2.0.0", "subscriptions": [["worker.said"]] })).await;
    worker.flag("go").await;
    worker.noted(&["1.0.0 1"]).await;
    worker.states(&[]).await;
}

/// Waits until the only task, which ran as in `before`, was given back.
pub(super) async fn given_back(worker: &Worker, before: &[Value]) {
    until("the task to be given back", async || {
        // The end of its lease, or its next start.
        (worker.tasks("").await[0]["due_at"] != before[0]["due_at"]).then_some(())
    })
    .await;
}

async fn a_delivery_that_a_replaced_release_does_not_end_begins_again(host: &TestHost) {
    let worker = deploy_echo(host).await;
    worker.publish(json!([["await", "upgraded"], ["note", "{version} {attempt}"]])).await;
    let running = worker.states(&["running"]).await;
    Worker::deploy(host, json!({ "version": "2.0.0", "subscriptions": [["worker.said"]] })).await;
    given_back(&worker, &running).await;
    worker.flag("upgraded").await;
    worker.noted(&["2.0.0 1"]).await;
    worker.states(&[]).await;

    worker.publish(json!([["await", "rolled back"], ["note", "{version} {attempt}"]])).await;
    let running = worker.states(&["running"]).await;
    operate(host, "worker/rollback").await.ok();
    given_back(&worker, &running).await;
    worker.flag("rolled back").await;
    worker.noted(&["2.0.0 1", "1.0.0 1"]).await;
    worker.states(&[]).await;
}

async fn a_release_that_subscribes_no_more_leaves_a_dead_letter(host: &TestHost) {
    const BACKOFF: Duration = Duration::from_secs(10);
    let worker = Worker::deploy(host, json!({ "subscriptions": [["worker.said", 3, 10_000]] })).await;
    worker.publish(json!([["before-attempt", 2, [["retry", "later"]]], ["note", "{version} {attempt}"]])).await;
    until("the failure of the first attempt", async || {
        (worker.states(&["ready"]).await[0]["attempts"] == 1).then_some(())
    })
    .await;
    Worker::deploy(host, json!({ "version": "2.0.0" })).await;
    host.clock().advance(BACKOFF);
    let dead = worker.states(&["dead"]).await;
    assert_eq!(text(&dead[0], "reason"), "release 2 of 'worker' does not subscribe to 'worker.said'");

    operate(host, "worker/rollback").await.ok();
    worker.retry(&dead[0]).await;
    until("the failure of an attempt", async || (worker.states(&["ready"]).await[0]["attempts"] == 1).then_some(()))
        .await;
    host.clock().advance(BACKOFF);
    worker.noted(&["1.0.0 2"]).await;
}

async fn deliveries_of_a_removed_plugin_wait_unless_its_data_is_deleted(host: &TestHost) {
    const BACKOFF: Duration = Duration::from_secs(10);
    let publisher = Worker::deploy(host, json!({})).await;
    let listening = json!({ "name": "listener", "subscriptions": [["worker.said", 3, 10_000]] });
    let listener = Worker::deploy_with(host, listening.clone(), LISTENER).await;
    let fails_once = json!([["before-attempt", 2, [["retry", "later"]]], ["note", "attempt {attempt}"]]);
    let has_failed = async || {
        until("the failure of an attempt", async || {
            (listener.states(&["ready"]).await[0]["attempts"] == 1).then_some(())
        })
        .await;
    };
    publisher.publish(fails_once.clone()).await;
    has_failed().await;
    host.superuser().delete("/plugins/listener").await.ok();
    host.clock().advance(BACKOFF);
    // A plugin that is removed hears nothing.
    publisher.done(saying("unheard")).await;
    let queued = listener.states(&["ready"]).await;
    assert_eq!(queued[0]["attempts"], 1);
    Worker::deploy_with(host, listening.clone(), LISTENER).await;
    listener.noted(&["attempt 2"]).await;
    listener.states(&[]).await;

    publisher.publish(fails_once).await;
    has_failed().await;
    host.superuser().delete("/plugins/listener?delete_data=true").await.ok();
    assert!(listener.tasks("").await.is_empty());
    Worker::deploy_with(host, listening, LISTENER).await;
    host.clock().advance(BACKOFF);
    publisher.done(saying("new")).await;
    listener.noted(&["new"]).await;
}

async fn a_canary_hears_nothing_until_it_is_promoted(host: &TestHost) {
    let publisher = Worker::deploy(host, json!({})).await;
    let listener = Worker::deploy_listener(host, "listener", "1.0.0").await;
    let candidate = json!({ "name": "listener", "version": "2.0.0", "subscriptions": [["worker.said"]] });
    host.superuser().deploy(&worker(candidate).0, "canary=header").await.ok();
    for _ in 0..3 {
        publisher.done(saying("{version}")).await;
    }
    listener.noted(&["1.0.0"; 3]).await;
    operate(host, "listener/promote").await.ok();
    publisher.done(saying("{version}")).await;
    listener.noted(&["1.0.0", "1.0.0", "1.0.0", "2.0.0"]).await;
}
