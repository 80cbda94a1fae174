//! Deliveries of events, jobs and schedules on the command line.

use reqwest::Method;
use serde_json::json;
use wharf::config::Database;

use super::{Process, failure, home, json_of, usage};
use crate::support::Component;
use crate::support::intake::Intake;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_and_jobs_are_repaired_on_the_command_line() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    superuser.deploy(&Component::hello().0, "").await.ok();
    superuser.request(Method::POST, "/plugins/hello/pause").send().await.ok();
    let intake = Intake::open(&Database::default(), &process.home.path().join("data")).await;
    intake.subscribe("hello", "items.changed").await;
    for round in 1..=4 {
        intake.enqueue("hello", "reindex", None, &json!({ "round": round }).to_string()).await;
        intake.publish("items.changed", None, r#"{"title":"Tea"}"#).await;
    }
    let run = |arguments: &[&str]| process.command(superuser.token(), arguments);
    let printed = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let numbers = |kind: &str| -> Vec<i64> {
        let list = json_of(&run(&[kind, "list", "--oldest", "--json"]));
        list["data"].as_array().unwrap().iter().map(|task| task["seq"].as_i64().unwrap()).collect()
    };
    let (events, jobs) = (numbers("events"), numbers("jobs"));
    assert_eq!((events.len(), jobs.len()), (4, 4));
    let [first, second, .., last] = jobs[..] else { unreachable!() };

    let listed = printed(&["jobs", "list", "--plugin", "hello", "--limit", "1"]);
    assert!(listed.contains(&last.to_string()) && listed.contains("reindex") && !listed.contains("round"), "{listed}");
    let shown = printed(&["jobs", "show", &first.to_string()]);
    assert!(shown.contains(r#"{"round":1}"#) && shown.contains("ready"), "{shown}");
    let shown = printed(&["events", "show", &events[0].to_string()]);
    assert!(shown.contains("items.changed") && shown.contains(r#"{"title":"Tea"}"#), "{shown}");
    let id = json_of(&run(&["jobs", "show", &first.to_string(), "--json"]))["job_id"].as_str().unwrap().to_owned();
    assert_eq!(printed(&["jobs", "show", &id]), printed(&["jobs", "show", &first.to_string()]));
    let unknown = failure(&run(&["jobs", "show", "00000000-0000-4000-8000-000000000000"]));
    assert!(unknown.contains("There is no job") && unknown.contains("wharf jobs list"), "{unknown}");
    assert!(usage(&run(&["jobs", "show", "first"])).contains("see `wharf events list` or `wharf jobs list`"));
    let queues = printed(&["events", "queues"]);
    assert!(
        queues.contains("hello/items.changed ") && queues.contains(" normal ") && !queues.contains("reindex"),
        "{queues}"
    );
    let nothing = failure(&run(&["jobs", "show", "999999"]));
    assert!(nothing.contains("code: task_not_found") && nothing.contains("wharf jobs list"), "{nothing}");

    // Each command is about its own kind.
    for (kind, verb, number, other) in [
        ("events", "show", first, "jobs"),
        ("events", "drop", first, "jobs"),
        ("jobs", "retry", events[0], "events"),
        ("jobs", "drop", events[0], "events"),
    ] {
        let refused = failure(&run(&[kind, verb, &number.to_string()]));
        assert!(refused.contains(&format!("use `wharf {other} {verb} {number}`")), "{refused}");
    }
    let waits = failure(&run(&["events", "retry", &events[0].to_string()]));
    assert!(waits.contains(&format!("`wharf events drop {}` deletes it", events[0])), "{waits}");
    json_of(&run(&["jobs", "cancel", &last.to_string(), "--json"]));
    intake.bury(&[first, second, events[0], events[1]]).await;
    let dead = printed(&["events", "list", "--state", "dead"]);
    assert!(dead.contains("out of paper"), "{dead}");
    let retried = json_of(&run(&["jobs", "retry", &first.to_string(), "--json"]));
    assert_eq!(retried, json!({ "message": format!("Job reindex of hello ({first}) waits again") }));
    // It changes jobs only, and those of this name only.
    assert_eq!(printed(&["jobs", "retry", "--plugin", "hello", "--name", "cleanup"]), "Retried 0 jobs\n");
    assert_eq!(printed(&["jobs", "retry", "--all"]), "Retried 1 job\n");

    for (kind, verb) in [("events", "retry"), ("jobs", "retry"), ("jobs", "drop")] {
        let unnamed = usage(&run(&[kind, verb]));
        let form = |rest: &str| format!("`wharf {kind} {verb} {rest}`");
        for form in [form("NUMBER"), form("--plugin NAME"), form("--all")] {
            assert!(unnamed.contains(&form), "{unnamed}");
        }
    }
    usage(&run(&["events", "drop", &events[0].to_string(), "--plugin", "hello"]));
    usage(&run(&["events", "drop", "--plugin", "hello", "--all", "--yes"]));
    // Without a terminal, a deletion of many needs --yes.
    let asked = usage(&run(&["events", "drop", "--plugin", "hello"]));
    assert!(asked.contains("all dead deliveries of hello") && asked.contains("--yes"), "{asked}");
    assert_eq!(numbers("events").len(), 4);
    printed(&["events", "drop", &events[2].to_string()]);
    assert_eq!(json_of(&run(&["events", "drop", "--plugin", "hello", "--yes", "--json"])), json!({ "changed": 2 }));
    let drop = ["events", "drop", "--all", "--state", "ready", "--name", "items.changed", "--yes"];
    assert_eq!(printed(&drop), "Dropped 1 delivery\n");
    assert_eq!(numbers("jobs").len(), 4);
    intake.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_or_plugin_that_does_not_exist_is_reported() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let run = |arguments: &[&str]| process.command(superuser.token(), arguments);
    assert_eq!(json_of(&run(&["schedules", "list", "--json"])), json!({ "data": [] }));
    let refused = failure(&run(&["jobs", "retry", "--plugin", "nope"]));
    assert!(refused.contains("There is no plugin 'nope'"), "{refused}");
    for operation in ["pause", "resume", "run"] {
        let refused = failure(&run(&["schedules", operation, "hello", "daily"]));
        assert!(refused.contains("code: plugin_not_found") && refused.contains("wharf plugin list"), "{refused}");
    }
    superuser.deploy(&Component::hello().0, "").await.ok();
    for operation in ["pause", "resume", "run"] {
        let refused = failure(&run(&["schedules", operation, "hello", "daily"]));
        assert!(refused.contains("code: schedule_not_found") && refused.contains("wharf schedules list"), "{refused}");
    }
}
