//! Jobs and schedules, tested through the stand-in for the host.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use wharf_sdk::cache;
use wharf_sdk::jobs::{self, Priority, State};
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::json;
use wharf_sdk::sql;
use wharf_sdk::testing::{TestPlugin, describe};

plugin! {
    name: "press",
    summary: "Prints",
    routes: [],
    jobs: [print, jam, chain, echo],
    schedules: [nightly, weekly],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Paper {
    #[schemars(range(min = 1))]
    pages: u32,
}

#[job]
fn print(job: Job<Paper>) -> Result<u32, TaskError> {
    job.progress(u64::from(job.payload.pages), 10)?;
    // Within a second.
    job.progress(10, 10)?;
    match job.payload.pages {
        13 => Err(TaskError::reject("nobody reads page 13")),
        pages => Ok(pages),
    }
}

#[job(name = "paper-jam", retries = 2, backoff = "1m", deadline = "500ms", concurrency = 3, keep = "24h")]
fn jam() -> Result<()> {
    Err(Problem::new(503, "jammed", "The paper is jammed"))
}

#[job]
fn chain() -> Result<(), jobs::Error> {
    chain::enqueue().map(|_| ())
}

/// Returns a text, or fails with it.
#[job]
fn echo(job: Job<String>) -> Result<String, TaskError> {
    if job.payload.starts_with('!') { Err(TaskError::reject(job.payload)) } else { Ok(job.payload) }
}

#[schedule("0 6 * * *", tz = "Europe/Berlin", missed = once, retries = 1)]
fn nightly(job: Job<Option<Paper>>) -> Result<bool, TaskError> {
    print::enqueue(&job.payload.unwrap_or(Paper { pages: 1 }))?;
    Ok(job.scheduled_at.is_some())
}

#[schedule("*/5 0-4 * * 1")]
fn weekly() {}

fn printed(plugin: &TestPlugin, pages: u32) -> Result<Uuid, jobs::Error> {
    plugin.run(|| print::enqueue(&Paper { pages }))
}

#[test]
fn a_job_waits_until_the_test_runs_it_and_its_status_has_the_output() {
    let plugin = TestPlugin::new(&PLUGIN);
    let id = printed(&plugin, 5).unwrap();
    let status = || plugin.run(|| jobs::status(id)).unwrap().unwrap();
    let waiting = plugin.jobs();
    assert_eq!((waiting.len(), waiting[0].id, waiting[0].name.as_str()), (1, id, "print"));
    assert_eq!((&waiting[0].payload, waiting[0].priority), (&json!({ "pages": 5 }), Priority::Normal));
    assert_eq!((status().state, status().attempts), (State::Waiting, 0));

    assert_eq!(plugin.run_due()[0].result, Ok(Some(json!(5))));
    assert!(plugin.jobs().is_empty());
    let ended = status();
    assert_eq!((ended.state, ended.attempts, ended.progress), (State::Succeeded, 1, Some((5, 10))));
    assert_eq!((ended.output, ended.reason), (Some(json!(5)), None));
    assert_eq!(plugin.run(|| jobs::status(Uuid::nil())), Ok(None));
}

#[test]
fn a_job_belongs_to_the_open_transaction() {
    let plugin = TestPlugin::new(&PLUGIN);
    let work = |then_fails: bool| {
        plugin.run(|| {
            sql::transaction(|_| {
                print::enqueue(&Paper { pages: 1 })?;
                if then_fails { Err(Problem::internal("no")) } else { Ok(()) }
            })
        })
    };
    work(true).unwrap_err();
    assert!(plugin.jobs().is_empty());
    work(false).unwrap();
    assert_eq!(plugin.jobs().len(), 1);

    let id = plugin.jobs()[0].id;
    let cancelled = plugin.run(|| {
        sql::transaction(|_| {
            jobs::cancel(id)?;
            Err::<(), Problem>(Problem::internal("no"))
        })
    });
    cancelled.unwrap_err();
    assert_eq!(plugin.jobs().len(), 1, "the cancellation was rolled back");
}

#[test]
fn a_delay_ends_when_the_test_advances_the_clock() {
    let plugin = TestPlugin::new(&PLUGIN);
    let before = plugin.run(Timestamp::now);
    plugin.run(|| jobs::enqueue(print::job(&Paper { pages: 2 }).delay(Duration::from_secs(60)))).unwrap();
    assert_eq!(plugin.jobs()[0].due_in, Duration::from_secs(60));
    plugin.advance(Duration::from_secs(59));
    assert!(plugin.run_due().is_empty());
    plugin.advance(Duration::from_secs(1));
    assert_eq!(plugin.run_due().len(), 1);
    assert!(plugin.run(Timestamp::now).unix_micros() - before.unix_micros() >= 60_000_000);
}

#[test]
fn a_delay_of_more_than_a_year_is_refused() {
    let plugin = TestPlugin::new(&PLUGIN);
    let enqueue = |days: u64| {
        let delay = Duration::from_secs(days * 86_400);
        plugin.run(|| print::job(&Paper { pages: 1 }).delay(delay).enqueue())
    };
    enqueue(366).unwrap();
    assert!(matches!(enqueue(367), Err(jobs::Error::Invalid(reason)) if reason.contains("366 days")));
    assert_eq!(plugin.jobs().len(), 1);
}

#[test]
fn the_clock_of_a_test_ends_cached_values_too() {
    let plugin = TestPlugin::new(&PLUGIN);
    plugin.run(|| cache::set("rate", b"1", Some(Duration::from_secs(86_400)), &[])).unwrap();
    plugin.advance(Duration::from_secs(3_600));
    assert!(plugin.run(|| cache::get("rate")).unwrap().is_some());
    plugin.advance(Duration::from_secs(82_800));
    assert_eq!(plugin.run(|| cache::get("rate")), Ok(None));
}

#[test]
fn a_counter_keeps_the_time_of_its_first_increment() {
    let plugin = TestPlugin::new(&PLUGIN);
    let minute = Duration::from_secs(60);
    let count = || plugin.run(|| cache::increment("attempts", 1, Some(minute)));
    assert_eq!(count(), Ok(1));
    plugin.advance(minute / 2);
    assert_eq!(count(), Ok(2));
    plugin.advance(minute / 2);
    assert_eq!(count(), Ok(1));

    plugin.run(|| cache::set("word", b"one", None, &["words"])).unwrap();
    let refused = plugin.run(|| cache::increment("word", 1, None));
    assert!(matches!(refused, Err(cache::Error::Limit(limit)) if limit.starts_with("counter: ")));
    assert_eq!(plugin.run(|| cache::get("word")), Ok(Some(b"one".to_vec())));
    plugin.run(|| cache::set("number", b"1", None, &["numbers"])).unwrap();
    assert_eq!(plugin.run(|| cache::increment("number", 1, None)), Ok(2));
    assert!(plugin.run(|| cache::increment("number", i64::MAX, None)).is_err());
    plugin.run(|| cache::invalidate("numbers")).unwrap();
    assert_eq!(plugin.run(|| cache::get("number")), Ok(None), "it kept its tags");
}

#[test]
fn a_job_with_a_higher_priority_starts_first() {
    let plugin = TestPlugin::new(&PLUGIN);
    for (pages, priority) in [(1, Priority::Low), (2, Priority::Normal), (3, Priority::High), (4, Priority::High)] {
        plugin.run(|| print::job(&Paper { pages }).priority(priority).enqueue()).unwrap();
    }
    let results: Vec<_> = plugin.run_due().into_iter().map(|attempt| attempt.result.unwrap().unwrap()).collect();
    assert_eq!(results, [json!(3), json!(4), json!(2), json!(1)]);
}

#[test]
fn a_job_with_the_key_of_one_that_waits_is_dropped() {
    let plugin = TestPlugin::new(&PLUGIN);
    let enqueue = || plugin.run(|| print::job(&Paper { pages: 1 }).dedup("daily").enqueue()).unwrap();
    let first = enqueue();
    let dropped = enqueue();
    assert_eq!(plugin.jobs().into_iter().map(|job| job.id).collect::<Vec<_>>(), [first]);
    assert_eq!(plugin.run(|| jobs::status(dropped)), Ok(None));
    plugin.run_due();
    let second = enqueue();
    assert_eq!(plugin.jobs()[0].id, second);
}

#[test]
fn a_cancelled_job_does_not_run() {
    let plugin = TestPlugin::new(&PLUGIN);
    let id = printed(&plugin, 1).unwrap();
    plugin.run(|| jobs::cancel(id)).unwrap();
    assert!(plugin.run_due().is_empty());
    assert_eq!(plugin.run(|| jobs::status(id)).unwrap().unwrap().state, State::Cancelled);
}

#[test]
fn an_ended_job_is_known_for_a_while() {
    let plugin = TestPlugin::new(&PLUGIN);
    let [succeeded, cancelled, failed] = [1, 2, 13].map(|pages| printed(&plugin, pages).unwrap());
    plugin.run(|| jobs::cancel(cancelled)).unwrap();
    plugin.run_due();
    let known = || [succeeded, cancelled, failed].map(|id| plugin.run(|| jobs::status(id)).unwrap().is_some());
    let moment = Duration::from_millis(1);
    plugin.advance(Duration::from_secs(3_600) - moment);
    assert_eq!(known(), [true, true, true]);
    plugin.advance(moment);
    assert_eq!(known(), [false, true, true]);
    plugin.advance(Duration::from_secs(23 * 3_600) - moment);
    assert_eq!(known(), [false, true, true]);
    plugin.advance(moment);
    assert_eq!(known(), [false, false, true], "a dead letter stays");
}

#[test]
fn a_job_has_the_bounds_of_the_host() {
    let plugin = TestPlugin::new(&PLUGIN);
    let enqueue = |text: String| plugin.run(|| echo::enqueue(&text));
    // With the quotes.
    enqueue("x".repeat(256 * 1024 - 2)).unwrap();
    let refused = enqueue("x".repeat(256 * 1024 - 1));
    assert_eq!(refused, Err(jobs::Error::Limit("payload: 262144".to_owned())));
    plugin.run_due();
    assert_eq!(plugin.dead_letters()[0].reason, "its output is longer than 65536 bytes");

    enqueue("x".repeat(64 * 1024 - 2)).unwrap();
    assert!(plugin.run_due()[0].result.is_ok());
    enqueue("x".repeat(64 * 1024 - 1)).unwrap();
    assert!(matches!(&plugin.run_due()[0].result, Err(TaskError::Reject(_))));

    let id = enqueue(format!("!\n{}", "x".repeat(400))).unwrap();
    plugin.run_due();
    let reason = format!("! {}…", "x".repeat(298));
    assert_eq!(plugin.run(|| jobs::status(id)).unwrap().unwrap().reason.as_ref(), Some(&reason));
    assert_eq!(plugin.dead_letters()[2].reason, reason);
}

#[test]
fn a_failed_job_is_repeated_as_declared_and_then_becomes_a_dead_letter() {
    let plugin = TestPlugin::new(&PLUGIN);
    let id = plugin.run(jam::enqueue).unwrap();
    assert_eq!(plugin.run_due().len(), 1);
    // The wait doubles.
    for (wait, number) in [(60, 2), (120, 3)] {
        plugin.advance(Duration::from_secs(wait - 1));
        assert!(plugin.run_due().is_empty());
        plugin.advance(Duration::from_secs(1));
        let attempts = plugin.run_due();
        assert_eq!((attempts.len(), attempts[0].number), (1, number));
    }
    assert!(plugin.jobs().is_empty());
    let dead = plugin.dead_letters();
    assert_eq!((dead[0].name.as_str(), &dead[0].payload), ("paper-jam", &json!(null)));
    assert_eq!(dead[0].reason, "503 jammed: The paper is jammed");
    assert_eq!(plugin.run(|| jobs::status(id)).unwrap().unwrap().attempts, 3);
}

#[test]
fn a_rejected_job_becomes_a_dead_letter_at_once() {
    let plugin = TestPlugin::new(&PLUGIN);
    printed(&plugin, 13).unwrap();
    plugin.run_due();
    assert_eq!(plugin.dead_letters()[0].reason, "nobody reads page 13");
}

#[test]
fn a_payload_must_fit_the_schema_of_the_job() {
    let plugin = TestPlugin::new(&PLUGIN);
    let refused = printed(&plugin, 0).unwrap_err();
    assert!(matches!(refused, jobs::Error::Invalid(reason) if reason.contains("does not fit its schema")));
}

#[test]
fn an_endless_chain_of_jobs_ends_at_the_depth_of_the_host() {
    let plugin = TestPlugin::new(&PLUGIN);
    plugin.run(chain::enqueue).unwrap();
    let attempts = plugin.run_due();
    assert_eq!(attempts.len(), 17);
    assert!(attempts[16].result.as_ref().is_err_and(|error| error.to_string().contains("depth: 16")));
}

#[test]
fn a_schedule_runs_when_the_test_says_so() {
    let plugin = TestPlugin::new(&PLUGIN);
    assert_eq!(plugin.run_schedule("nightly").result, Ok(Some(json!(true))));
    assert_eq!(plugin.jobs()[0].payload, json!({ "pages": 1 }));
    assert_eq!(plugin.run_schedule("weekly").result, Ok(None));
    plugin.run(|| nightly::enqueue(&Some(Paper { pages: 2 }))).unwrap();
    let results: Vec<_> = plugin.run_due().into_iter().map(|attempt| (attempt.name, attempt.result)).collect();
    let expected = [("print", json!(1)), ("nightly", json!(false)), ("print", json!(2))]
        .map(|(name, output)| (name.to_owned(), Ok::<_, TaskError>(Some(output))));
    assert_eq!(results, expected);
}

#[test]
fn jobs_and_schedules_are_declared_with_their_options() {
    let described = describe(&PLUGIN);
    let names: Vec<_> = described["jobs"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["print", "paper-jam", "chain", "echo", "nightly", "weekly"]);
    assert_eq!(described["jobs"][0]["schema"]["properties"]["pages"]["minimum"], 1);
    assert_eq!(
        described["schedules"][0],
        json!({ "name": "nightly", "cron": "0 6 * * *", "time_zone": "Europe/Berlin" })
    );
    assert_eq!(described["schedules"][1]["time_zone"], "UTC");

    let [first, second, ..] = PLUGIN.jobs else { panic!("{:?}", PLUGIN.jobs) };
    assert_eq!((first.retries, first.backoff_ms, first.deadline_ms), (5, 10_000, 60_000));
    assert_eq!((first.concurrency, first.keep_ms), (1, 3_600_000));
    assert_eq!((second.retries, second.backoff_ms, second.deadline_ms), (2, 60_000, 500));
    assert_eq!((second.concurrency, second.keep_ms), (3, 86_400_000));
}
