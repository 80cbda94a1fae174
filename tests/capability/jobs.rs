//! `wharf:jobs` through a guest: jobs that belong to transactions, their order, their limits, and their ends. The table of
//! tasks is tested in `db`, schedules in `schedules`.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::events::{HASTY, given_back, hasty, text};
use crate::plugin::releases::operate;
use crate::support::polling::until;
use crate::support::worker::{WORKER, Worker, worker};
use crate::support::{TestHost, both};

both!(
    a_job_is_enqueued_if_its_transaction_commits,
    a_wrong_job_is_refused,
    a_job_has_a_status_until_it_is_not_kept_any_more => Setup::default().with_manual_clock(),
    the_highest_priority_starts_first => Setup::default().with(|config| config.plugins.background_per_plugin = 1),
    a_job_with_a_key_is_dropped_while_another_one_waits_or_runs,
    a_cancelled_job_does_not_start_or_stops,
    a_failed_job_is_repeated_and_then_a_dead_letter => hasty(),
    an_attempt_ends_at_its_deadline,
    no_more_jobs_run_than_declared_and_granted => Setup::default().with(|config| {
        config.plugins.background_per_plugin = 8;
    }),
    a_host_that_stops_gives_its_jobs_back => Setup::default().with(|config| {
        config.server.shutdown_grace = Duration::from_millis(300);
    }),
    a_pause_or_an_upgrade_only_delays_a_job => Setup::default().with(|config| {
        config.plugins.drain_time = Duration::from_millis(10);
    }),
    jobs_of_a_removed_plugin_wait_unless_its_data_is_deleted => Setup::default().with_manual_clock(),
    a_release_without_the_job_leaves_a_dead_letter => Setup::default().with_manual_clock(),
    a_job_that_only_a_canary_declares_waits_for_its_end,
);

const MINUTE: Duration = Duration::from_secs(60);

/// Returns the step that enqueues a job that notes a word.
fn noting(word: &str) -> Value {
    json!(["enqueue", "work", { "steps": [["note", word]] }])
}

async fn a_job_is_enqueued_if_its_transaction_commits(host: &TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    worker.act(json!([["begin"], noting("rolled back"), ["rollback"]])).await;
    worker.act(json!([["begin"], noting("left open")])).await;
    worker.post(&json!([["begin"], noting("trapped"), ["trap"]])).await.has_code(502, "plugin_trap");
    let wrong = json!(["enqueue", "walk", {}]);
    let outcomes = worker.act(json!([["begin"], wrong, noting("committed"), ["note", "with it"], ["commit"]])).await;
    assert_eq!(outcomes[4], json!({ "ok": null }));
    worker.noted(&["with it", "committed"]).await;
    worker.done(noting("on its own")).await;
    worker.noted(&["with it", "committed", "on its own"]).await;
    worker.states(&["done", "done"]).await;
}

async fn a_wrong_job_is_refused(host: &TestHost) {
    let schema = json!({ "type": "object", "required": ["steps"] });
    let worker = Worker::deploy(host, json!({ "jobs": [{ "name": "work", "schema": schema }] })).await;
    let good = json!({ "steps": [] });
    const YEARS: u64 = 1_000_000_000_000;
    for (job, reason) in [
        (json!(["enqueue", "walk", good]), "name: the plugin declares no job 'walk'"),
        (json!(["enqueue", "work", {}]), "payload.steps: Field required"),
        (json!(["enqueue", "work", { "raw": "[" }]), "payload: not JSON"),
        (json!(["enqueue", "work", good, { "delay_ms": YEARS }]), "delay-ms: more than 366 days"),
        (json!(["enqueue", "work", good, { "dedup_key": { "letters": 201 } }]), "dedup-key: longer than 200 bytes"),
    ] {
        let error = worker.refused(job).await;
        assert!(error.starts_with("Error::Invalid(") && error.contains(reason), "{error}");
    }
    for unknown in ["", "7", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"] {
        assert_eq!(worker.status(unknown).await, Value::Null);
        worker.done(json!(["cancel", unknown])).await;
    }
    assert!(worker.tasks("").await.is_empty());
}

async fn a_job_has_a_status_until_it_is_not_kept_any_more(host: &TestHost) {
    let worker = Worker::deploy(host, json!({ "jobs": [{ "name": "work", "keep_ms": 60_000 }] })).await;
    let steps = json!([["progress", 1, 3], ["await", "go"], ["progress", 2, 3], ["output", "done"]]);
    let id = worker.enqueue(steps, json!({ "delay_ms": 60_000 })).await;
    let status = |state: &str, attempts: u32, progress: Value, output: Value| {
        let mut status = json!({ "state": state, "attempts": attempts, "reason": null });
        status["progress"] = progress;
        status["output"] = output;
        status
    };
    let reached = async |expected: Value| {
        until("the status of the job", async || (worker.status(&id).await == expected).then_some(())).await;
    };
    let waiting = status("waiting", 0, Value::Null, Value::Null);
    assert_eq!(worker.status(&id).await, waiting);
    let task = worker.states(&["ready"]).await;
    assert_eq!(text(&task[0], "due_at"), host.clock().now().plus(MINUTE).to_string());
    host.clock().advance(MINUTE);
    // The clock stands still, so the second report comes within a second after the first one.
    reached(status("running", 1, json!([1, 3]), Value::Null)).await;
    worker.flag("go").await;
    reached(status("succeeded", 1, json!([1, 3]), json!("done"))).await;
    host.clock().advance(MINUTE - Duration::from_millis(1));
    reached(status("succeeded", 1, json!([1, 3]), json!("done"))).await;
    host.clock().advance(Duration::from_millis(1));
    assert_eq!(worker.status(&id).await, Value::Null);
}

async fn the_highest_priority_starts_first(host: &TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    worker.enqueue(json!([["await", "go"]]), json!({})).await;
    worker.states(&["running"]).await;
    for priority in ["low", "normal", "high", "low"] {
        worker.enqueue(json!([["note", priority]]), json!({ "priority": priority })).await;
    }
    worker.states(&["running", "ready", "ready", "ready", "ready"]).await;
    worker.flag("go").await;
    worker.noted(&["high", "normal", "low", "low"]).await;
}

async fn a_job_with_a_key_is_dropped_while_another_one_waits_or_runs(host: &TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    let unknown = async |id: String| {
        until("the job to be dropped", async || worker.status(&id).await.is_null().then_some(())).await;
    };
    let keyed = json!({ "dedup_key": "nightly" });
    worker.enqueue(json!([["await", "go"], ["note", "first"]]), keyed.clone()).await;
    worker.states(&["running"]).await;
    unknown(worker.enqueue(json!([["note", "second"]]), keyed.clone()).await).await;
    // Another key, and another job that has only this key in common.
    worker.enqueue(json!([["note", "other key"]]), json!({ "dedup_key": "daily" })).await;
    worker.noted(&["other key"]).await;
    worker.flag("go").await;
    worker.noted(&["other key", "first"]).await;
    worker.states(&["done", "done"]).await;
    worker.enqueue(json!([["note", "third"]]), keyed.clone()).await;
    worker.noted(&["other key", "first", "third"]).await;

    let later = json!({ "dedup_key": "nightly", "delay_ms": 3_600_000 });
    let waiting = worker.enqueue(json!([]), later).await;
    worker.states(&["done", "done", "done", "ready"]).await;
    unknown(worker.enqueue(json!([["note", "fourth"]]), keyed.clone()).await).await;
    worker.done(json!(["cancel", waiting])).await;
    worker.enqueue(json!([["note", "fifth"]]), keyed).await;
    worker.noted(&["other key", "first", "third", "fifth"]).await;
}

async fn a_cancelled_job_does_not_start_or_stops(host: &TestHost) {
    let worker = Worker::deploy(host, json!({ "jobs": [{ "name": "work", "concurrency": 1 }] })).await;
    let running = worker.enqueue(json!([["await", "never"]]), json!({})).await;
    let waiting = worker.enqueue(json!([["note", "never"]]), json!({ "delay_ms": 3_600_000 })).await;
    worker.states(&["running", "ready"]).await;
    worker.act(json!([["begin"], ["cancel", running], ["rollback"]])).await;
    worker.act(json!([["begin"], ["cancel", waiting], ["commit"]])).await;
    worker.states(&["running", "cancelled"]).await;
    worker.done(json!(["cancel", running])).await;
    worker.states(&["cancelled", "cancelled"]).await;
    for job in [&running, &waiting] {
        assert_eq!(worker.status(job).await["state"], "cancelled");
    }
    // The place of the one that was stopped is free.
    let next = worker.enqueue(json!([["note", "next"]]), json!({})).await;
    worker.noted(&["next"]).await;
    worker.states(&["cancelled", "cancelled", "done"]).await;
    worker.done(json!(["cancel", next])).await;
    assert_eq!(worker.status(&next).await["state"], "succeeded");
}

async fn a_failed_job_is_repeated_and_then_a_dead_letter(host: &TestHost) {
    let worker = Worker::deploy_with(host, json!({ "jobs": [{ "name": "work", "retries": 2 }] }), HASTY).await;
    let cases = [
        (json!([["retry", "attempt {attempt}"]]), 3, "attempt 3"),
        (json!([["reject", "no such printer"]]), 1, "no such printer"),
        (json!([["trap"]]), 3, "The plugin failed"),
        (json!([["loop"]]), 3, "it exceeded its limit 'cpu_time'"),
        (json!([["grow"]]), 3, "it exceeded its limit 'memory'"),
        (json!([["output", { "letters": 65_537 }]]), 1, "its output is longer than 65536 bytes"),
    ];
    let mut ids = Vec::new();
    for (steps, ..) in &cases {
        ids.push(worker.enqueue(steps.clone(), json!({})).await);
    }
    let long = worker.enqueue(json!([["output", { "letters": 65_536 }]]), json!({})).await;
    let steps = json!([["before-attempt", 3, [["trap"]]], ["note", "attempt {attempt}"]]);
    let third = worker.enqueue(steps, json!({})).await;
    let dead = worker.states(&["dead", "dead", "dead", "dead", "dead", "dead", "done", "done"]).await;
    for ((task, id), (_, attempts, reason)) in dead.iter().zip(&ids).zip(&cases) {
        assert_eq!((text(task, "job_id"), task["attempts"].as_i64()), (id.as_str(), Some(*attempts)), "{task}");
        let status = worker.status(id).await;
        assert_eq!((text(&status, "state"), status["attempts"].as_i64()), ("failed", Some(*attempts)));
        assert!(text(&status, "reason").starts_with(reason), "{status}");
    }
    assert_eq!(worker.status(&long).await["output"], "x".repeat(65_536));
    worker.noted(&["attempt 3"]).await;
    assert_eq!(worker.status(&third).await["attempts"], 3);
}

async fn an_attempt_ends_at_its_deadline(host: &TestHost) {
    let jobs = json!([
        { "name": "short", "deadline_ms": 100, "retries": 1 },
        { "name": "long", "deadline_ms": 3_600_000, "retries": 0 },
    ]);
    let worker = Worker::deploy_with(host, json!({ "jobs": jobs }), "grant=events,jobs.time=1s,sql").await;
    for job in ["short", "long"] {
        worker.done(json!(["enqueue", job, { "steps": [["sleep", 3_600_000]] }])).await;
    }
    let dead = worker.states(&["dead", "dead"]).await;
    for (task, attempts, deadline) in [(&dead[0], 2, "100ms"), (&dead[1], 1, "1s")] {
        assert_eq!(text(task, "reason"), format!("it did not end within its deadline of {deadline}"));
        assert_eq!(task["attempts"], attempts, "{task}");
    }
}

async fn no_more_jobs_run_than_declared_and_granted(host: &TestHost) {
    let changes = json!({
        "jobs": [{ "name": "work", "concurrency": 2 }, { "name": "other", "concurrency": 8 }],
        "subscriptions": [["worker.said"]],
    });
    let worker = Worker::deploy_with(host, changes, "grant=events,jobs.concurrency=3,sql").await;
    let steps = json!({ "steps": [["await", "go"]] });
    for job in ["work", "work", "work", "other", "other"] {
        worker.done(json!(["enqueue", job, steps])).await;
    }
    // Two of the first, and three together.
    let full = ["running", "running", "ready", "running", "ready"];
    worker.states(&full).await;
    // A delivery needs none of the places of jobs.
    worker.publish(json!([["note", "delivered"]])).await;
    worker.noted(&["delivered"]).await;
    worker.states(&full).await;
    worker.flag("go").await;
    worker.states(&["done"; 5]).await;
}

async fn a_host_that_stops_gives_its_jobs_back(host: &mut TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    let id = worker.enqueue(json!([["await", "go"], ["note", "attempt {attempt}"]]), json!({})).await;
    worker.states(&["running"]).await;
    host.restart().await;
    let worker = Worker::of(host, "worker");
    worker.states(&["running"]).await;
    worker.flag("go").await;
    worker.noted(&["attempt 1"]).await;
    let done = worker.states(&["done"]).await;
    assert_eq!((&done[0]["attempts"], &done[0]["interruptions"]), (&json!(1), &json!(0)));
    assert_eq!(worker.status(&id).await["state"], "succeeded");
}

async fn a_pause_or_an_upgrade_only_delays_a_job(host: &TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    worker.enqueue(json!([["await", "go"], ["note", "{version} {attempt}"]]), json!({})).await;
    worker.states(&["running"]).await;
    operate(host, "worker/pause").await.ok();
    let waiting = worker.states(&["ready"]).await;
    assert_eq!(waiting[0]["attempts"], 0);
    operate(host, "worker/resume").await.ok();
    let running = worker.states(&["running"]).await;
    Worker::deploy(host, json!({ "version": "2.0.0" })).await;
    given_back(&worker, &running).await;
    worker.flag("go").await;
    worker.noted(&["2.0.0 1"]).await;
    worker.states(&["done"]).await;
}

async fn jobs_of_a_removed_plugin_wait_unless_its_data_is_deleted(host: &TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    let later = json!({ "delay_ms": 60_000 });
    worker.enqueue(json!([["note", "kept"]]), later.clone()).await;
    worker.states(&["ready"]).await;
    host.superuser().delete("/plugins/worker").await.ok();
    host.clock().advance(MINUTE);
    worker.states(&["ready"]).await;
    Worker::deploy(host, json!({})).await;
    worker.noted(&["kept"]).await;
    worker.states(&["done"]).await;

    worker.enqueue(json!([["note", "deleted"]]), later).await;
    worker.states(&["done", "ready"]).await;
    host.superuser().delete("/plugins/worker?delete_data=true").await.ok();
    assert!(worker.tasks("").await.is_empty());
    Worker::deploy(host, json!({})).await;
    host.clock().advance(MINUTE);
    worker.done(noting("new")).await;
    worker.noted(&["new"]).await;
}

async fn a_release_without_the_job_leaves_a_dead_letter(host: &TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    let id = worker.enqueue(json!([["note", "{version}"]]), json!({ "delay_ms": 60_000 })).await;
    worker.states(&["ready"]).await;
    Worker::deploy_with(host, json!({ "version": "2.0.0", "jobs": [{ "name": "other" }] }), WORKER).await;
    host.clock().advance(MINUTE);
    let dead = worker.states(&["dead"]).await;
    assert_eq!(text(&dead[0], "reason"), "release 2 of 'worker' has no job 'work'");
    assert_eq!(worker.status(&id).await["state"], "failed");
    operate(host, "worker/rollback").await.ok();
    worker.retry(&dead[0]).await;
    worker.noted(&["1.0.0"]).await;
}

async fn a_job_that_only_a_canary_declares_waits_for_its_end(host: &TestHost) {
    let live = Worker::deploy(host, json!({})).await;
    let begin_canary = async |version: &str, job: &str| {
        let jobs = json!([{ "name": "work" }, { "name": job }]);
        let canary = worker(json!({ "version": version, "jobs": jobs }));
        host.superuser().deploy(&canary.0, "canary=header").await.ok();
        let steps = json!([["enqueue", job, { "steps": [["note", "{version}"]] }]]);
        let request = host.superuser().request(Method::POST, "/worker/act").header("x-wharf-canary", "always");
        let outcomes = request.json(&steps).send().await.ok();
        assert!(outcomes[0]["ok"].is_string(), "{outcomes}");
    };
    begin_canary("2.0.0", "new").await;
    live.enqueue(json!([["note", "{version}"]]), json!({})).await;
    live.noted(&["1.0.0"]).await;
    live.states(&["ready", "done"]).await;
    operate(host, "worker/promote").await.ok();
    live.noted(&["1.0.0", "2.0.0"]).await;
    live.states(&["done", "done"]).await;

    begin_canary("3.0.0", "newer").await;
    live.states(&["done", "done", "ready"]).await;
    operate(host, "worker/abort").await.ok();
    let tasks = live.states(&["done", "done", "dead"]).await;
    assert_eq!(text(&tasks[2], "reason"), "release 2 of 'worker' has no job 'newer'");
}
