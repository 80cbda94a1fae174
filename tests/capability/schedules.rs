//! The schedules of `wharf:jobs` through a guest, with a clock that the test moves. The rules for the times themselves are
//! unit tests of the host.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use wharf::clock::Timestamp;

use super::events::text;
use crate::plugin::releases::operate;
use crate::support::polling::until;
use crate::support::worker::Worker;
use crate::support::{TestHost, both};

/// A Monday.
const START: &str = "2027-03-01T08:00:00Z";

both!(
    a_job_runs_once_at_each_time => Setup::default().with_clock_at(START),
    a_time_that_daylight_saving_skips_comes_after_the_gap => Setup::default().with_clock_at("2027-03-27T23:00:00Z"),
    a_time_that_daylight_saving_repeats_comes_once => Setup::default().with_clock_at("2027-10-30T23:00:00Z"),
    times_during_which_the_host_was_down_are_missed => Setup::default().with_clock_at(START),
    a_schedule_is_paused_and_run_by_operators => Setup::default().with_clock_at(START),
    an_upgrade_changes_the_schedules => Setup::default().with_clock_at(START),
    a_change_of_the_release_changes_its_schedules_at_once => Setup::default().with_clock_at(START),
    a_pause_outlives_a_release_without_the_schedule => Setup::default().with_clock_at(START),
    a_job_that_is_run_for_a_paused_plugin_waits => Setup::default().with_clock_at(START),
    a_job_that_still_runs_drops_the_next_time => Setup::default().with_clock_at(START),
    a_clock_that_is_set_back_repeats_no_time => Setup::default().with_clock_at(START),
    a_paused_plugin_misses_times => Setup::default().with_clock_at(START),
    schedules_end_with_their_plugin => Setup::default().with_clock_at(START),
    a_pause_of_a_schedule_ends_with_its_plugin => Setup::default().with_clock_at(START),
    a_release_that_comes_back_after_a_removal_has_its_schedules => Setup::default().with_clock_at(START),
    a_chain_that_a_schedule_began_has_no_request => Setup::default().with_clock_at(START),
);

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Within the time after which a time was missed.
const MOMENT: Duration = Duration::from_secs(5);

/// Returns a schedule whose job notes its time.
fn schedule(name: &str, cron: &str, changes: Value) -> Value {
    let payload = json!({ "steps": [["note", format!("{name} {{scheduled}}")]] });
    let mut schedule = json!({ "name": name, "cron": cron, "job": "work", "payload": payload });
    for (name, value) in changes.as_object().unwrap() {
        schedule[name] = value.clone();
    }
    schedule
}

/// Returns the note of the job of a schedule.
fn note(name: &str, time: &str) -> String {
    format!("{name} {}", time.parse::<Timestamp>().unwrap().0)
}

/// Returns a schedule as operators see it.
async fn found(host: &TestHost, name: &str) -> Option<Value> {
    let schedules = host.superuser().get("/schedules/").await.ok();
    schedules["data"].as_array().unwrap().iter().find(|schedule| schedule["name"] == name).cloned()
}

/// Waits until the next time of a schedule is this one, and returns the schedule.
async fn next(host: &TestHost, name: &str, time: &str) -> Value {
    until(&format!("{name} to come next at {time}"), async || {
        found(host, name).await.filter(|schedule| schedule["next_at"] == time)
    })
    .await
}

async fn change(host: &TestHost, name: &str, operation: &str) {
    let path = format!("/schedules/worker/{name}/{operation}");
    host.superuser().request(Method::POST, &path).send().await.ok();
}

async fn a_job_runs_once_at_each_time(host: &TestHost) {
    let worker = Worker::deploy(host, json!({ "schedules": [schedule("daily", "0 9 * * *", json!({}))] })).await;
    let daily = next(host, "daily", "2027-03-01T09:00:00Z").await;
    assert_eq!((text(&daily, "plugin"), text(&daily, "missed"), &daily["last_at"]), ("worker", "skip", &Value::Null));
    host.clock().advance(HOUR + MOMENT);
    let first = note("daily", "2027-03-01T09:00:00Z");
    worker.noted(&[&first]).await;
    let daily = next(host, "daily", "2027-03-02T09:00:00Z").await;
    assert_eq!(daily["last_at"], "2027-03-01T09:00:00Z");
    let task = &worker.states(&["done"]).await[0];
    let scheduled = ["schedule", "scheduled_at"].map(|member| text(task, member));
    assert_eq!((scheduled, &task["request_id"]), (["daily", "2027-03-01T09:00:00Z"], &Value::Null));
    host.clock().advance(DAY);
    worker.noted(&[&first, &note("daily", "2027-03-02T09:00:00Z")]).await;
}

/// In Berlin, 2:00 to 3:00 is missing on 28 March 2027; 3:00 is 1:00 UTC.
async fn a_time_that_daylight_saving_skips_comes_after_the_gap(host: &TestHost) {
    let nightly = schedule("nightly", "30 2 * * *", json!({ "time_zone": "Europe/Berlin" }));
    let worker = Worker::deploy(host, json!({ "schedules": [nightly] })).await;
    next(host, "nightly", "2027-03-28T01:00:00Z").await;
    host.clock().advance(2 * HOUR + MOMENT);
    worker.noted(&[&note("nightly", "2027-03-28T01:00:00Z")]).await;
    next(host, "nightly", "2027-03-29T00:30:00Z").await;
}

/// In Berlin, 2:00 to 3:00 comes twice on 31 October 2027: from 0:00 and from 1:00 UTC.
async fn a_time_that_daylight_saving_repeats_comes_once(host: &TestHost) {
    let berlin = json!({ "time_zone": "Europe/Berlin" });
    let schedules = json!([schedule("nightly", "30 2 * * *", berlin), schedule("marker", "30 1 * * *", json!({}))]);
    let worker = Worker::deploy(host, json!({ "schedules": schedules })).await;
    next(host, "nightly", "2027-10-31T00:30:00Z").await;
    host.clock().advance(HOUR + HOUR / 2 + MOMENT);
    let once = note("nightly", "2027-10-31T00:30:00Z");
    worker.noted(&[&once]).await;
    next(host, "nightly", "2027-11-01T01:30:00Z").await;
    host.clock().advance(HOUR);
    worker.noted(&[&once, &note("marker", "2027-10-31T01:30:00Z")]).await;
}

async fn times_during_which_the_host_was_down_are_missed(host: &mut TestHost) {
    let schedules = json!([
        schedule("skip", "0 9 * * *", json!({ "missed": "skip" })),
        schedule("once", "0 9 * * *", json!({ "missed": "once" })),
    ]);
    Worker::deploy(host, json!({ "schedules": schedules })).await;
    for name in ["skip", "once"] {
        next(host, name, "2027-03-01T09:00:00Z").await;
    }
    let clock = host.clock().clone();
    host.restart_after(async |_| clock.advance(3 * DAY)).await;
    let worker = Worker::of(host, "worker");
    worker.noted(&[&note("once", "2027-03-01T09:00:00Z")]).await;
    assert_eq!(next(host, "skip", "2027-03-04T09:00:00Z").await["last_at"], Value::Null);
    next(host, "once", "2027-03-04T09:00:00Z").await;
    worker.states(&["done"]).await;
}

async fn a_schedule_is_paused_and_run_by_operators(host: &TestHost) {
    let schedules = json!([
        schedule("daily", "0 9 * * *", json!({})),
        schedule("marker", "30 9 * * *", json!({ "missed": "once" }))
    ]);
    let worker = Worker::deploy(host, json!({ "schedules": schedules })).await;
    next(host, "daily", "2027-03-01T09:00:00Z").await;
    change(host, "daily", "pause").await;
    let paused = found(host, "daily").await.unwrap();
    assert_eq!((&paused["paused"], &paused["next_at"]), (&json!(true), &Value::Null));
    host.clock().advance(2 * HOUR);
    let marker = note("marker", "2027-03-01T09:30:00Z");
    worker.noted(&[&marker]).await;
    // A job that an operator wants runs also while its schedule is paused.
    change(host, "daily", "run").await;
    let wanted = format!("daily {}", host.clock().now().0);
    worker.noted(&[&marker, &wanted]).await;
    // The time that passed during the pause was not missed.
    change(host, "daily", "resume").await;
    let daily = next(host, "daily", "2027-03-02T09:00:00Z").await;
    assert_eq!((&daily["paused"], &daily["last_at"]), (&json!(false), &Value::Null));
    host.clock().advance(23 * HOUR + MOMENT);
    worker.noted(&[&marker, &wanted, &note("daily", "2027-03-02T09:00:00Z")]).await;
}

async fn an_upgrade_changes_the_schedules(host: &TestHost) {
    let names = async || -> Vec<String> {
        let schedules = host.superuser().get("/schedules/").await.ok();
        schedules["data"].as_array().unwrap().iter().map(|schedule| text(schedule, "name").to_owned()).collect()
    };
    let nine = |name: &str| schedule(name, "0 9 * * *", json!({}));
    let worker = Worker::deploy(host, json!({ "schedules": [nine("daily"), nine("gone"), nine("paused")] })).await;
    next(host, "paused", "2027-03-01T09:00:00Z").await;
    change(host, "paused", "pause").await;

    let ten = |name: &str| schedule(name, "0 10 * * *", json!({}));
    let schedules = json!([ten("daily"), ten("new"), ten("paused")]);
    Worker::deploy(host, json!({ "version": "2.0.0", "schedules": schedules })).await;
    next(host, "new", "2027-03-01T10:00:00Z").await;
    next(host, "daily", "2027-03-01T10:00:00Z").await;
    until("the end of a schedule", async || (names().await == ["daily", "new", "paused"]).then_some(())).await;
    let paused = until("the change of a paused schedule", async || {
        found(host, "paused").await.filter(|schedule| schedule["cron"] == "0 10 * * *")
    })
    .await;
    assert_eq!(paused["paused"], true);
    host.clock().advance(2 * HOUR + MOMENT);
    let mut notes = worker.notes_when(2).await;
    notes.sort();
    assert_eq!(notes, ["daily", "new"].map(|name| note(name, "2027-03-01T10:00:00Z")));

    operate(host, "worker/rollback").await.ok();
    next(host, "gone", "2027-03-02T09:00:00Z").await;
    until("the end of a schedule", async || (names().await == ["daily", "gone", "paused"]).then_some(())).await;
}

async fn a_change_of_the_release_changes_its_schedules_at_once(host: &TestHost) {
    let run = async || host.superuser().request(Method::POST, "/schedules/worker/daily/run").send().await;
    run().await.has_code(404, "plugin_not_found");
    let worker = Worker::deploy(host, json!({ "schedules": [schedule("daily", "0 9 * * *", json!({}))] })).await;
    run().await.ok();
    worker.notes_when(1).await;
    Worker::deploy(host, json!({ "version": "2.0.0" })).await;
    run().await.has_code(404, "schedule_not_found");
    assert_eq!(found(host, "daily").await, None);
    operate(host, "worker/rollback").await.ok();
    run().await.ok();
    worker.notes_when(2).await;
    host.superuser().delete("/plugins/worker").await.ok();
    assert_eq!(found(host, "daily").await, None);
    run().await.has_code(404, "plugin_not_found");
}

async fn a_pause_outlives_a_release_without_the_schedule(host: &mut TestHost) {
    Worker::deploy(host, json!({ "schedules": [schedule("daily", "0 9 * * *", json!({}))] })).await;
    change(host, "daily", "pause").await;
    Worker::deploy(host, json!({ "version": "2.0.0" })).await;
    assert_eq!(found(host, "daily").await, None);
    for operation in ["pause", "resume", "run"] {
        let path = format!("/schedules/worker/daily/{operation}");
        host.superuser().request(Method::POST, &path).send().await.has_code(404, "schedule_not_found");
    }
    host.clock().advance(2 * HOUR);
    host.restart().await;
    assert_eq!(found(host, "daily").await, None);
    operate(host, "worker/rollback").await.ok();
    let daily = found(host, "daily").await.unwrap();
    assert_eq!((&daily["paused"], &daily["next_at"]), (&json!(true), &Value::Null));
    change(host, "daily", "resume").await;
    next(host, "daily", "2027-03-02T09:00:00Z").await;
    assert!(Worker::of(host, "worker").tasks("").await.is_empty());
}

async fn a_job_that_is_run_for_a_paused_plugin_waits(host: &TestHost) {
    let worker = Worker::deploy(host, json!({ "schedules": [schedule("daily", "0 9 * * *", json!({}))] })).await;
    operate(host, "worker/pause").await.ok();
    let ran = host.superuser().request(Method::POST, "/schedules/worker/daily/run").send().await.ok();
    let message = text(&ran, "message");
    assert!(message.ends_with("was enqueued; it waits, because the plugin is paused"), "{message}");
    worker.states(&["ready"]).await;
    operate(host, "worker/resume").await.ok();
    worker.notes_when(1).await;
    let ran = host.superuser().request(Method::POST, "/schedules/worker/daily/run").send().await.ok();
    let message = text(&ran, "message");
    assert!(message.ends_with("was enqueued"), "{message}");
}

async fn a_job_that_still_runs_drops_the_next_time(host: &TestHost) {
    let payload = json!({ "steps": [["note", "{scheduled}"], ["await", "go"]] });
    let minutely = schedule("minutely", "* * * * *", json!({ "payload": payload }));
    let worker = Worker::deploy(host, json!({ "schedules": [minutely] })).await;
    let time = |minute: u32| format!("2027-03-01T08:{minute:02}:00Z");
    let micros = |minute: u32| time(minute).parse::<Timestamp>().unwrap().0.to_string();
    next(host, "minutely", &time(1)).await;
    host.clock().advance(MOMENT);
    for minute in 1..=3 {
        host.clock().advance(Duration::from_secs(60));
        let minutely = next(host, "minutely", &time(minute + 1)).await;
        assert_eq!(minutely["last_at"], time(1), "no other job was added");
        worker.states(&["running"]).await;
    }
    worker.noted(&[&micros(1)]).await;
    worker.flag("go").await;
    worker.states(&["done"]).await;
    host.clock().advance(Duration::from_secs(60));
    worker.noted(&[&micros(1), &micros(4)]).await;
}

async fn a_clock_that_is_set_back_repeats_no_time(host: &TestHost) {
    let worker = Worker::deploy(host, json!({ "schedules": [schedule("hourly", "0 * * * *", json!({}))] })).await;
    next(host, "hourly", "2027-03-01T09:00:00Z").await;
    host.clock().advance(HOUR + MOMENT);
    let first = note("hourly", "2027-03-01T09:00:00Z");
    worker.noted(&[&first]).await;
    host.clock().set_back(HOUR);
    worker.enqueue(json!([["note", "before nine"]]), json!({})).await;
    worker.noted(&[&first, "before nine"]).await;
    host.clock().advance(HOUR);
    worker.enqueue(json!([["note", "after nine"]]), json!({})).await;
    worker.noted(&[&first, "before nine", "after nine"]).await;
    host.clock().advance(HOUR);
    worker.noted(&[&first, "before nine", "after nine", &note("hourly", "2027-03-01T10:00:00Z")]).await;
}

async fn a_paused_plugin_misses_times(host: &TestHost) {
    let schedules = json!([
        schedule("skip", "0 9 * * *", json!({ "missed": "skip" })),
        schedule("once", "0 9 * * *", json!({ "missed": "once" })),
    ]);
    let worker = Worker::deploy(host, json!({ "schedules": schedules })).await;
    for name in ["skip", "once"] {
        next(host, name, "2027-03-01T09:00:00Z").await;
    }
    operate(host, "worker/pause").await.ok();
    host.clock().advance(HOUR + MOMENT);
    for name in ["skip", "once"] {
        next(host, name, "2027-03-02T09:00:00Z").await;
    }
    worker.states(&["ready"]).await;
    operate(host, "worker/resume").await.ok();
    worker.noted(&[&note("once", "2027-03-01T09:00:00Z")]).await;
}

async fn schedules_end_with_their_plugin(host: &TestHost) {
    let daily = json!({ "schedules": [schedule("daily", "0 9 * * *", json!({}))] });
    Worker::deploy(host, daily.clone()).await;
    next(host, "daily", "2027-03-01T09:00:00Z").await;
    host.superuser().delete("/plugins/worker").await.ok();
    until("the end of a schedule", async || found(host, "daily").await.is_none().then_some(())).await;
    host.clock().advance(2 * HOUR);
    let worker = Worker::deploy(host, daily).await;
    next(host, "daily", "2027-03-02T09:00:00Z").await;
    assert!(worker.tasks("").await.is_empty());
}

async fn a_pause_of_a_schedule_ends_with_its_plugin(host: &TestHost) {
    let daily = json!({ "schedules": [schedule("daily", "0 9 * * *", json!({}))] });
    Worker::deploy(host, daily.clone()).await;
    next(host, "daily", "2027-03-01T09:00:00Z").await;
    change(host, "daily", "pause").await;
    host.superuser().delete("/plugins/worker").await.ok();
    assert_eq!(found(host, "daily").await, None);
    Worker::deploy(host, daily).await;
    assert_eq!(next(host, "daily", "2027-03-01T09:00:00Z").await["paused"], false);
}

async fn a_release_that_comes_back_after_a_removal_has_its_schedules(host: &TestHost) {
    Worker::deploy(host, json!({ "schedules": [schedule("daily", "0 9 * * *", json!({}))] })).await;
    // Deployed once before the removal, so that its code is compiled and little time passes until the rollback.
    Worker::deploy(host, json!({})).await;
    operate(host, "worker/rollback?release=1").await.ok();
    next(host, "daily", "2027-03-01T09:00:00Z").await;
    host.superuser().delete("/plugins/worker").await.ok();
    Worker::deploy(host, json!({})).await;
    operate(host, "worker/rollback?release=1").await.ok();
    next(host, "daily", "2027-03-01T09:00:00Z").await;
}

async fn a_chain_that_a_schedule_began_has_no_request(host: &TestHost) {
    let kept = json!({ "steps": [["note", "{name} {request}"], ["reject", "kept"]] });
    let steps = json!([["publish", "said", null, kept], ["enqueue", "work", kept]]);
    let daily = schedule("daily", "0 9 * * *", json!({ "payload": { "steps": steps } }));
    let changes = json!({ "schedules": [daily], "subscriptions": [["worker.said"]] });
    let worker = Worker::deploy(host, changes).await;
    next(host, "daily", "2027-03-01T09:00:00Z").await;
    host.clock().advance(HOUR + MOMENT);
    let mut notes = worker.notes_when(2).await;
    notes.sort();
    assert_eq!(notes, ["work none", "worker.said none"]);
    for task in worker.states(&["done", "dead", "dead"]).await {
        assert_eq!(task["request_id"], Value::Null, "{task}");
    }
}
