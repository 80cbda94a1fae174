//! Events and jobs: floods, more jobs than are worked off, chains without an end, work that never ends or fills memory, and
//! messages beyond each bound.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Arena, CountedBy};
use crate::plugin::releases::operate;
use crate::support::polling::until;
use crate::support::worker::{WORKER, Worker, worker};
use crate::support::{Setup, TestHost, both};

both!(ten_thousand_dead_letters_delay_no_job, keys_of_a_mebibyte_are_refused,);

/// Dead letters of the attacker.
const DEAD: CountedBy = CountedBy::Host("wharf_task_outcomes_total{plugin=\"attacker\",outcome=\"dead\"}");

/// Opens an arena whose attacker is a worker, with another worker next to it.
async fn open(settings: &[(&str, &str)], limits: &str) -> (Arena, Worker, Worker) {
    let arena = Arena::open(settings, "").await;
    arena.superuser.delete("/plugins/attacker?delete_data=true").await.ok();
    let attacker = deploy(&arena, "attacker", limits).await;
    let bystander = deploy(&arena, "bystander", "").await;
    (arena, attacker, bystander)
}

async fn deploy(arena: &Arena, name: &str, limits: &str) -> Worker {
    let subscription = json!([format!("{name}.said"), 1, 1]);
    let jobs = json!([{ "name": "work", "retries": 1 }, { "name": "brief", "retries": 1, "deadline_ms": 500 }]);
    let declared = json!({ "name": name, "subscriptions": [subscription], "jobs": jobs });
    arena.superuser.deploy(&worker(declared).0, &format!("{WORKER}{limits}")).await.ok();
    let worker = Worker::new(name, arena.client.clone(), arena.superuser.clone());
    // A plugin has counts as soon as one of its tasks has ended.
    work(&worker).await;
    worker
}

/// Runs a job of a worker to its end.
async fn work(worker: &Worker) {
    let job = worker.enqueue(json!([]), json!({})).await;
    until("the end of a job", async || (worker.status(&job).await["state"] == "succeeded").then_some(())).await;
}

/// Waits until this number of tasks is dead, and drops them.
async fn dead(arena: &Arena, attacker: &Worker, count: usize) -> Vec<Value> {
    let dead =
        until("the dead letters", async || Some(attacker.tasks("state=dead").await).filter(|dead| dead.len() == count))
            .await;
    let dropped = arena.superuser.post("/tasks/bulk/drop", &json!({ "plugin": "attacker" })).await.ok();
    assert_eq!(dropped["changed"], count);
    dead
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_messages_are_refused() {
    let settings = [("WHARF_PLUGIN_EVENTS_RATE", "50"), ("WHARF_PLUGIN_JOBS_RATE", "50")];
    let (mut arena, attacker, bystander) = open(&settings, "").await;
    let large = json!({ "letters": 300_000 });
    for (name, limit, times, step) in [
        ("a flood of events", "events.rate", 500, json!(["publish", "said", null, { "steps": [] }])),
        ("a flood of jobs", "jobs.rate", 500, json!(["enqueue", "work", { "steps": [] }])),
        ("a flood of cancellations", "jobs.rate", 500, json!(["cancel", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"])),
        ("large events", "events.payload", 20, json!(["publish", "said", null, large])),
        ("large jobs", "jobs.payload", 20, json!(["enqueue", "work", large])),
    ] {
        arena
            .attack(name, CountedBy::Limit(limit), async |_| {
                let counts = &attacker.act(json!([["times", times, step]])).await[0];
                let refusals = ["Error::Limit(\"rate: 50\")", "Error::Limit(\"payload: 262144\")"];
                let counts = counts.as_object().unwrap();
                assert!(counts.keys().all(|kind| kind == "ok" || refusals.contains(&kind.as_str())), "{counts:?}");
                assert!(refusals.iter().any(|refusal| counts.contains_key(*refusal)), "{counts:?}");
                work(&bystander).await;
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_enqueues_without_end_has_a_bounded_number_of_jobs() {
    const WAITING: u64 = 50;
    let settings = [("WHARF_PLUGIN_JOBS_RATE", "100000"), ("WHARF_PLUGIN_JOBS_WAITING", "50")];
    let (mut arena, attacker, bystander) = open(&settings, "").await;
    let later = json!(["enqueue", "work", { "steps": [] }, { "delay_ms": 3_600_000 }]);
    arena
        .attack("jobs without end", CountedBy::Limit("jobs.waiting"), async |arena| {
            let counts = &attacker.act(json!([["times", 500, later]])).await[0];
            let counts = counts.as_object().unwrap();
            assert!(counts.keys().all(|kind| kind == "ok" || kind == "Error::Limit(\"waiting: 50\")"), "{counts:?}");
            // Jobs on their way from the outbox are not counted, so some more get in.
            let enqueued = counts.get("ok").and_then(Value::as_u64).unwrap_or_default();
            assert!(enqueued <= 4 * WAITING, "{counts:?}");
            work(&bystander).await;
            // As an operator gets rid of them. Then there is room again.
            until("room for a job", async || {
                let ready = json!({ "plugin": "attacker", "state": "ready" });
                arena.superuser.post("/tasks/bulk/drop", &ready).await.ok();
                attacker.act(json!([["enqueue", "work", { "steps": [] }]])).await[0].get("ok").map(|_| ())
            })
            .await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_cause_each_other_end() {
    let (mut arena, attacker, _) = open(&[], "").await;
    let endless = json!({ "steps": [["must", ["again"]]] });
    for (name, step) in [
        ("events that cause each other", json!(["publish", "said", "key", endless])),
        ("jobs that cause each other", json!(["enqueue", "work", endless])),
    ] {
        arena
            .attack(name, CountedBy::Limit("messages.depth"), async |arena| {
                attacker.done(step.clone()).await;
                let last = &dead(arena, &attacker, 1).await[0];
                assert_eq!((&last["depth"], &last["reason"]), (&json!(16), &json!("Error::Limit(\"depth: 16\")")));
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_never_ends_or_takes_too_much_becomes_dead_letters() {
    let settings = [("WHARF_PLUGIN_TASK_CPU_TIME", "300ms")];
    let (mut arena, attacker, bystander) = open(&settings, "&limit=cpu_time=300ms").await;
    let event = |steps: Value| json!(["publish", "said", null, { "steps": steps }]);
    let job = |steps: Value| json!(["enqueue", "work", { "steps": steps }]);
    for (name, counted, step, reason) in [
        (
            "endless deliveries",
            CountedBy::Limit("cpu_time"),
            event(json!([["loop"]])),
            "it exceeded its limit 'cpu_time'",
        ),
        (
            "deliveries that fill memory",
            CountedBy::Limit("memory"),
            event(json!([["grow"]])),
            "it exceeded its limit 'memory'",
        ),
        ("deliveries that trap", DEAD, event(json!([["trap"]])), "The plugin failed"),
        ("endless jobs", CountedBy::Limit("cpu_time"), job(json!([["loop"]])), "it exceeded its limit 'cpu_time'"),
        ("jobs that fill memory", CountedBy::Limit("memory"), job(json!([["grow"]])), "it exceeded its limit 'memory'"),
        (
            "jobs that sleep",
            DEAD,
            json!(["enqueue", "brief", { "steps": [["sleep", 3_600_000]] }]),
            "it did not end within its deadline of 500ms",
        ),
        (
            "jobs with a large output",
            DEAD,
            job(json!([["output", { "letters": 1_000_000 }]])),
            "its output is longer than 65536 bytes",
        ),
    ] {
        arena
            .attack(name, counted, async |arena| {
                attacker.act(json!([step, step, step, step])).await;
                work(&bystander).await;
                for task in dead(arena, &attacker, 4).await {
                    assert!(task["reason"].as_str().unwrap().starts_with(reason), "{task}");
                }
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_does_not_hold_up_the_work_of_others() {
    const POISON: usize = 12;
    let settings = [("WHARF_PLUGIN_TASK_CPU_TIME", "300ms")];
    let (mut arena, attacker, bystander) = open(&settings, "&limit=cpu_time=300ms").await;
    arena
        .attack("a queue of poison", DEAD, async |arena| {
            attacker.act(json!([["times", POISON, ["enqueue", "work", { "steps": [["loop"]] }]]])).await;
            for _ in 0..5 {
                work(&bystander).await;
            }
            let left = attacker.tasks("state=ready").await.len();
            assert!(left > 0, "the others waited until all the poison was gone");
            dead(arena, &attacker, POISON).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_of_endless_jobs_has_one_job_at_a_time() {
    let setup = Setup::default().with(|config| config.plugins.task_cpu_time = Duration::from_millis(300));
    let host = TestHost::sqlite(setup.with_clock_at("2027-03-01T08:00:00Z")).await;
    let endless = json!({ "name": "endless", "cron": "* * * * *", "job": "work", "payload": { "steps": [["loop"]] } });
    let declared = json!({ "jobs": [{ "name": "work", "retries": 0 }], "schedules": [endless] });
    let worker = Worker::deploy_with(&host, declared, &format!("{WORKER}&limit=cpu_time=300ms")).await;
    let next = async |minute: u32| {
        until("the next time", async || {
            let schedules = host.superuser().get("/schedules/").await.ok();
            (schedules["data"][0]["next_at"] == format!("2027-03-01T08:{minute:02}:00Z")).then_some(())
        })
        .await;
    };
    next(1).await;
    for minute in 2..=6 {
        host.clock().advance(Duration::from_secs(60));
        next(minute).await;
        let tasks = worker.tasks("").await;
        let unfinished = tasks.iter().filter(|task| task["state"] != "dead").count();
        assert!(unfinished <= 1, "{tasks:#?}");
    }
    until("the end of all jobs", async || {
        worker.tasks("").await.iter().all(|task| task["state"] == "dead").then_some(())
    })
    .await;
    host.stop().await;
}

async fn ten_thousand_dead_letters_delay_no_job(host: &TestHost) {
    const COUNT: usize = 10_000;
    let worker = Worker::deploy(host, json!({})).await;
    let insert = |table: &str, id: &str, numbers: &str| {
        format!(
            "INSERT INTO {table} (id, plugin, kind, queue, name, payload, state, attempts, due_at, first_due_at, depth, \
             created_at, ended_at, reason) SELECT {id}, 'worker', 'job', 'worker/work/1', 'work', '{{\"steps\":[]}}', \
             'dead', 4, 0, 0, 0, 0, 0, 'poison' FROM {numbers}"
        )
    };
    let ending = "'-0000-4000-8000-000000000000'";
    let numbers =
        format!("(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {COUNT}) SELECT i FROM n)");
    let sqlite = insert("tasks", &format!("printf('%08x', i) || {ending}"), &numbers);
    let postgres = insert(
        "wharf.tasks",
        &format!("CAST(lpad(to_hex(i), 8, '0') || {ending} AS uuid)"),
        &format!("generate_series(1, {COUNT}) AS numbers (i)"),
    );
    host.run_sql(&sqlite, &postgres).await;
    worker.enqueue(json!([["note", "done"]]), json!({})).await;
    worker.noted(&["done"]).await;
    let page = host.superuser().get("/tasks/?state=dead&plugin=worker&limit=50").await.ok();
    assert_eq!(page["data"].as_array().unwrap().len(), 50);
    let queues = host.superuser().get("/queues").await.ok();
    assert_eq!(queues["data"][0]["dead"], COUNT);

    // As an operator gets rid of a flood.
    operate(host, "worker/pause").await.ok();
    let root = host.superuser();
    assert_eq!(root.post("/tasks/bulk/retry", &json!({ "plugin": "worker" })).await.ok()["changed"], COUNT);
    let ready = json!({ "plugin": "worker", "state": "ready" });
    assert_eq!(root.post("/tasks/bulk/drop", &ready).await.ok()["changed"], COUNT);
    operate(host, "worker/resume").await.ok();
    worker.enqueue(json!([["note", "again"]]), json!({})).await;
    worker.noted(&["done", "again"]).await;
}

async fn keys_of_a_mebibyte_are_refused(host: &TestHost) {
    let worker = Worker::deploy(host, json!({})).await;
    let key = json!({ "letters": 1 << 20 });
    for step in [
        json!(["publish", "said", key, { "steps": [] }]),
        json!(["enqueue", "work", { "steps": [] }, { "dedup_key": key }]),
    ] {
        let error = worker.refused(step).await;
        assert!(error.ends_with("key: longer than 200 bytes\")"), "{error}");
    }
    assert!(worker.tasks("").await.is_empty());
}
