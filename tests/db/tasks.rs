//! Tasks in the host's database: the intake, claims, leases, ends, lanes, upkeep and schedules.

use std::time::Duration;

use uuid::Uuid;
use wharf::clock::Timestamp;
use wharf::config::{Database, Secret};
use wharf::db::task::status::{self, JobState};
use wharf::db::task::{Claim, ClaimedTask, Recovered, TaskEnd};
use wharf::db::{Db, event_stream, intake, schedule, task};
use wharf::id::{EventId, JobId, PluginName, UserId};
use wharf::message::{Message, NewEvent, NewJob, Priority};

use crate::support::patience::PATIENCE;
use crate::support::polling::until;
use crate::support::postgres::{self, TestDatabase};

pub(super) const OWNER: &str = "node/1";
const LEASE: i64 = 60;
pub(super) const DELIVERIES: &str = "mailer/items.created/1";
pub(super) const JOBS: &str = "mailer/send/1";

/// Turns functions that take a `&Db` into tests: `name::sqlite` and `name::postgres`.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use crate::support::postgres;

            #[tokio::test]
            async fn sqlite() {
                let (_dir, db) = super::open(None).await;
                super::$name(&db).await;
                db.close().await;
            }

            #[tokio::test]
            async fn postgres() {
                let Some(database) = postgres::database().await else { return };
                let (_dir, db) = super::open(Some(&database)).await;
                super::$name(&db).await;
                db.close().await;
            }
        })*
    };
}
pub(super) use on_both;

on_both! {
    deliveries_with_one_key_run_in_the_order_of_their_commits,
    a_batch_of_events_keeps_its_order_and_reaches_only_subscribers,
    a_dead_delivery_makes_the_next_one_ready,
    only_live_releases_receive_events,
    a_task_that_is_interrupted_again_and_again_is_dead,
    tasks_of_earlier_processes_of_a_node_are_given_back,
    each_task_is_claimed_by_one_process,
    an_attempt_whose_claim_was_lost_changes_nothing,
    a_cancelled_job_belongs_to_nobody,
    a_job_with_a_key_is_dropped_while_another_one_waits_or_runs,
    ended_jobs_and_events_are_deleted_when_nothing_needs_them,
    only_the_newest_ended_tasks_of_a_plugin_are_kept,
    a_lane_that_waits_for_nothing_is_freed,
    the_tasks_of_a_plugin_are_deleted_with_its_data,
    a_time_of_a_schedule_has_one_job,
}

pub(super) async fn open(database: Option<&TestDatabase>) -> (tempfile::TempDir, Db) {
    let url = database.map(|database| Secret::new(database.url.clone()));
    let settings = Database { url, connections: 2, timeout: PATIENCE, ..Database::default() };
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&settings, dir.path()).await.unwrap();
    (dir, db)
}

/// Runs a statement on either database.
macro_rules! execute {
    ($db:expr, $sql:expr $(, $value:expr)*) => {
        match $db {
            Db::Sqlite(pool) => drop(sqlx::query($sql)$(.bind($value))*.execute(pool).await.unwrap()),
            Db::Postgres(pool) => drop(sqlx::query($sql)$(.bind($value))*.execute(pool).await.unwrap()),
        }
    };
}
pub(super) use execute;

pub(super) fn plugin(name: &str) -> PluginName {
    name.parse().unwrap()
}

/// Records a plugin whose live release subscribes to `items.created`.
pub(super) async fn add_plugin(db: &Db, name: &'static str) {
    const RELEASE: &str = "INSERT INTO releases \
        (plugin, number, digest, mount, declaration, grants, settings, created_at) \
        VALUES ($1, 1, 'digest', '/x', '{}', '{}', '{}', 0)";
    let component = vec![0_u8];
    execute!(
        db,
        "INSERT INTO artifacts (digest, component) VALUES ('digest', $1) ON CONFLICT DO NOTHING",
        component.clone()
    );
    execute!(db, "INSERT INTO plugins (name, mount, state, live_release) VALUES ($1, '/x', 'live', 1)", name);
    execute!(db, RELEASE, name);
    execute!(db, "INSERT INTO release_subscriptions (plugin, release, topic) VALUES ($1, 1, 'items.created')", name);
}

pub(super) fn event(id: u128, key: Option<&str>) -> Message {
    Message::Event(NewEvent {
        id: EventId(Uuid::from_u128(id)),
        topic: "items.created".parse().unwrap(),
        key: key.map(str::to_owned),
        payload: format!(r#"{{"id":{id}}}"#),
        audience: None,
        depth: 0,
        request_id: Some("request".to_owned()),
        at: Timestamp(i64::try_from(id).unwrap()),
    })
}

fn new_job(id: u128, dedup_key: Option<&str>) -> NewJob {
    NewJob {
        id: JobId(Uuid::from_u128(id)),
        name: "send".to_owned(),
        payload: "{}".to_owned(),
        due_at: Timestamp(1),
        priority: Priority::Normal,
        dedup_key: dedup_key.map(str::to_owned),
        scheduled: None,
        depth: 0,
        request_id: None,
        at: Timestamp(1),
    }
}

pub(super) fn job(id: u128, dedup_key: Option<&str>) -> Message {
    Message::Job(new_job(id, dedup_key))
}

pub(super) async fn store(db: &Db, source: &str, messages: &[Message]) {
    intake::store(db, &plugin(source), messages).await.unwrap();
}

pub(super) async fn claim(db: &Db, queue: &str, now: i64) -> Vec<ClaimedTask> {
    claim_for(db, queue, OWNER, now, 100).await
}

async fn claim_for(db: &Db, queue: &str, owner: &str, now: i64, limit: usize) -> Vec<ClaimedTask> {
    let lease = (Timestamp(now), Timestamp(now + LEASE));
    task::claim(db, queue, owner, lease, limit).await.unwrap()
}

pub(super) async fn end(db: &Db, task: &ClaimedTask, end: TaskEnd) -> bool {
    task::end(db, task, &end, Timestamp(50)).await.unwrap()
}

/// Returns the ids of the events that tasks deliver.
async fn delivered(db: &Db, tasks: &[ClaimedTask]) -> Vec<u128> {
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task::event(db, task.event_seq.unwrap()).await.unwrap().unwrap().id.0.as_u128());
    }
    ids
}

async fn deliveries_with_one_key_run_in_the_order_of_their_commits(db: &Db) {
    add_plugin(db, "mailer").await;
    // A relay that lost the response repeats itself.
    for _ in 0..2 {
        store(db, "items", &[event(1, Some("a")), event(2, Some("a")), event(3, None)]).await;
    }
    let queues = task::ready_queues(db).await.unwrap();
    assert_eq!(
        queues.iter().map(|queue| (queue.queue.as_str(), queue.due_at.0)).collect::<Vec<_>>(),
        [(DELIVERIES, 1)]
    );

    let claimed = claim(db, DELIVERIES, 10).await;
    assert_eq!(delivered(db, &claimed).await, [1, 3]);
    assert_eq!((claimed[0].attempts, claimed[0].request_id.as_deref()), (1, Some("request")));
    assert!(end(db, &claimed[0], TaskEnd::Retry { reason: "no".to_owned(), due_at: Timestamp(20) }).await);
    assert!(claim(db, DELIVERIES, 19).await.is_empty(), "a delivery that is repeated keeps its place");
    let claimed = claim(db, DELIVERIES, 20).await;
    assert_eq!((delivered(db, &claimed).await, claimed[0].attempts), (vec![1], 2));
    assert!(end(db, &claimed[0], TaskEnd::Postponed { due_at: Timestamp(20) }).await);
    let claimed = claim(db, DELIVERIES, 20).await;
    assert_eq!(
        (delivered(db, &claimed).await, claimed[0].attempts),
        (vec![1], 2),
        "a postponed attempt does not count"
    );
    assert!(end(db, &claimed[0], TaskEnd::Delivered).await);
    assert!(!end(db, &claimed[0], TaskEnd::Delivered).await, "it has ended");
    assert_eq!(delivered(db, &claim(db, DELIVERIES, 20).await).await, [2]);
}

/// There are more than nine events, and their ids have another order.
async fn a_batch_of_events_keeps_its_order_and_reaches_only_subscribers(db: &Db) {
    let payload = r#"{"text": "\u0000 \"\\ \n é 😀 \ud83d\ude00", "number": 1.0}"#;
    let key = "\"\\\u{1}\n é 😀";
    let new = |id: u128, topic: &str| NewEvent {
        id: EventId(Uuid::from_u128(id)),
        topic: topic.parse().unwrap(),
        key: (id == 1).then(|| key.to_owned()),
        payload: payload.to_owned(),
        audience: (id == 1).then(|| UserId(Uuid::from_u128(7))),
        depth: 3,
        request_id: None,
        at: Timestamp(1),
    };
    let mut batch: Vec<Message> = (1..=12)
        .rev()
        .map(|id| Message::Event(new(id, if id % 3 == 0 { "items.created" } else { "items.deleted" })))
        .collect();
    batch.extend_from_within(..3);
    add_plugin(db, "mailer").await;
    for _ in 0..2 {
        store(db, "items", &batch).await;
    }

    let stored = event_stream::after(db, 0, 100).await.unwrap();
    let ids: Vec<u128> = stored.iter().map(|event| event.id.0.as_u128()).collect();
    assert_eq!(ids, (1..=12).rev().collect::<Vec<_>>());
    assert!(stored.iter().all(|event| event.payload == payload && event.published_at == Timestamp(1)));
    assert!(stored.iter().all(|event| event.source == Some(plugin("items"))));
    let last = &stored[11];
    assert_eq!((last.topic.as_str(), last.ordering_key.as_deref()), ("items.deleted", Some(key)));
    assert_eq!(last.audience, Some(UserId(Uuid::from_u128(7))));
    assert_eq!((stored[0].ordering_key.as_deref(), stored[0].audience), (None, None));

    let queues = task::ready_queues(db).await.unwrap();
    assert_eq!(queues.iter().map(|queue| queue.queue.as_str()).collect::<Vec<_>>(), [DELIVERIES]);
    let claimed = claim(db, DELIVERIES, 10).await;
    assert_eq!(delivered(db, &claimed).await, [12, 9, 6, 3]);
    assert_eq!((claimed[0].depth, claimed[0].request_id.as_deref()), (3, None));
    store(db, "items", &batch).await;
    assert!(claim(db, DELIVERIES, 10).await.is_empty(), "a repetition delivers nothing");
}

async fn a_dead_delivery_makes_the_next_one_ready(db: &Db) {
    add_plugin(db, "mailer").await;
    add_plugin(db, "other").await;
    store(db, "items", &[event(1, Some("a")), event(2, Some("a"))]).await;
    let claimed = claim(db, DELIVERIES, 10).await;
    assert!(end(db, &claimed[0], TaskEnd::Dead { reason: "no".to_owned() }).await);
    assert_eq!(delivered(db, &claim(db, DELIVERIES, 10).await).await, [2]);
    let others = claim(db, "other/items.created/1", 10).await;
    assert_eq!(delivered(db, &others).await, [1], "each plugin has its own order");
}

async fn only_live_releases_receive_events(db: &Db) {
    add_plugin(db, "mailer").await;
    execute!(db, "UPDATE plugins SET live_release = 2 WHERE name = $1", "mailer");
    store(db, "items", &[event(1, None)]).await;
    execute!(db, "UPDATE plugins SET live_release = 1, paused = TRUE WHERE name = $1", "mailer");
    store(db, "items", &[event(2, None)]).await;
    assert_eq!(delivered(db, &claim(db, DELIVERIES, 10).await).await, [2], "a pause misses nothing");
}

async fn a_task_that_is_interrupted_again_and_again_is_dead(db: &Db) {
    add_plugin(db, "mailer").await;
    store(db, "items", &[event(1, Some("a")), event(2, Some("a"))]).await;
    let mut now = 10;
    for earlier in 0..10 {
        let claimed = claim(db, DELIVERIES, now).await;
        assert_eq!((delivered(db, &claimed).await, claimed[0].attempts), (vec![1], 1));
        let early = task::recover(db, Timestamp(now + LEASE - 1), None).await.unwrap();
        assert_eq!(early, Recovered::default());
        now += LEASE;
        let recovered = task::recover(db, Timestamp(now), None).await.unwrap();
        assert_eq!(recovered, Recovered { given_back: 1, dead: vec![] });
        assert!(!end(db, &claimed[0], TaskEnd::Delivered).await, "its lease is over");
        assert!(earlier == 0 || claim(db, DELIVERIES, now).await.is_empty(), "it waits after the second time");
        now += earlier * 1_000_000;
    }
    claim(db, DELIVERIES, now).await;
    let recovered = task::recover(db, Timestamp(now + LEASE), None).await.unwrap();
    assert_eq!(recovered, Recovered { given_back: 0, dead: vec![plugin("mailer")] });
    assert_eq!(delivered(db, &claim(db, DELIVERIES, now).await).await, [2]);
}

async fn tasks_of_earlier_processes_of_a_node_are_given_back(db: &Db) {
    store(db, "mailer", &[job(1, None)]).await;
    claim_for(db, JOBS, "node/1", 10, 1).await;
    for other in ["nod", "node/1", "other"] {
        assert_eq!(task::recover(db, Timestamp(11), Some(other)).await.unwrap(), Recovered::default(), "{other}");
    }
    let recovered = task::recover(db, Timestamp(11), Some("node")).await.unwrap();
    assert_eq!(recovered, Recovered { given_back: 1, dead: vec![] });
    let claimed = claim(db, JOBS, 11).await;
    task::end_lease(db, claimed[0].claim(), Timestamp(12)).await.unwrap();
    let recovered = task::recover(db, Timestamp(12), None).await.unwrap();
    assert_eq!(recovered, Recovered { given_back: 1, dead: vec![] }, "a process can end a lease");
}

async fn each_task_is_claimed_by_one_process(db: &Db) {
    let jobs: Vec<Message> = (1..=5).map(|id| job(id, None)).collect();
    store(db, "mailer", &jobs).await;
    assert!(claim_for(db, JOBS, "node/1", 0, 3).await.is_empty(), "no job is due yet");
    let first = claim_for(db, JOBS, "node/1", 1, 3).await;
    let second = claim_for(db, JOBS, "node/2", 1, 100).await;
    assert_eq!((first.len(), second.len()), (3, 2));
    let numbers = |tasks: &[ClaimedTask]| tasks.iter().map(|task| task.seq).collect::<Vec<_>>();
    assert_eq!(sorted(&task::owned(db, "node/1").await.unwrap()), numbers(&first));
    assert_eq!(sorted(&task::renew(db, "node/2", Timestamp(90)).await.unwrap()), numbers(&second));

    assert_eq!(task::give_back(db, "node/1", Timestamp(5)).await.unwrap(), 3);
    let again = claim_for(db, JOBS, "node/2", 5, 100).await;
    assert_eq!(numbers(&again), numbers(&first));
    assert!(again.iter().all(|task| task.attempts == 1), "the attempts that were given back do not count");
}

fn sorted(claims: &[Claim]) -> Vec<i64> {
    let mut numbers: Vec<i64> = claims.iter().map(|claim| claim.seq).collect();
    numbers.sort_unstable();
    numbers
}

/// The process can have the task again: another one gave it back, or the response to the end of its attempt was lost.
async fn an_attempt_whose_claim_was_lost_changes_nothing(db: &Db) {
    store(db, "mailer", &[job(1, None)]).await;
    let lost = claim(db, JOBS, 10).await;
    task::recover(db, Timestamp(10 + LEASE), None).await.unwrap();
    let held = claim(db, JOBS, 10 + LEASE).await;
    assert_eq!((held[0].seq, held[0].attempts), (lost[0].seq, lost[0].attempts));

    let succeeded = || TaskEnd::Succeeded { output: None, keep_until: Timestamp(1_000) };
    for ended in [succeeded(), TaskEnd::Dead { reason: "no".to_owned() }, TaskEnd::Postponed { due_at: Timestamp(1) }] {
        assert!(!end(db, &lost[0], ended).await);
    }
    assert!(!end(db, &lost[0], TaskEnd::Retry { reason: "no".to_owned(), due_at: Timestamp(1) }).await);
    task::end_lease(db, lost[0].claim(), Timestamp(1)).await.unwrap();
    assert_eq!(task::recover(db, Timestamp(20 + LEASE), None).await.unwrap(), Recovered::default());
    status::report_progress(db, lost[0].claim(), (1, 2)).await.unwrap();
    assert_eq!(task::renew(db, OWNER, Timestamp(900)).await.unwrap(), [held[0].claim()], "only one claim is left");
    let id = JobId(Uuid::from_u128(1));
    let found = status::find(db, &plugin("mailer"), id, Timestamp(20)).await.unwrap().unwrap();
    assert_eq!((found.state, found.progress), (JobState::Running, None));

    assert!(end(db, &held[0], succeeded()).await);
}

async fn a_cancelled_job_belongs_to_nobody(db: &Db) {
    let cancel = |id: u128| Message::Cancel { job: JobId(Uuid::from_u128(id)), at: Timestamp(5) };
    store(db, "mailer", &[job(1, None), job(2, None), cancel(2)]).await;
    let claimed = claim(db, JOBS, 10).await;
    assert_eq!(claimed.iter().map(|task| task.id).collect::<Vec<_>>(), [Some(JobId(Uuid::from_u128(1)))]);
    store(db, "other", &[cancel(1)]).await;
    assert_eq!(task::owned(db, OWNER).await.unwrap().len(), 1, "another plugin cannot cancel it");
    store(db, "mailer", &[cancel(1)]).await;
    assert!(task::owned(db, OWNER).await.unwrap().is_empty());
    assert!(!end(db, &claimed[0], TaskEnd::Retry { reason: "no".to_owned(), due_at: Timestamp(1) }).await);
    assert!(claim(db, JOBS, 100).await.is_empty());
}

async fn a_job_with_a_key_is_dropped_while_another_one_waits_or_runs(db: &Db) {
    store(db, "mailer", &[job(1, Some("key")), job(2, Some("key")), job(3, Some("other"))]).await;
    let claimed = claim(db, JOBS, 10).await;
    assert_eq!(claimed.len(), 2);
    store(db, "mailer", &[job(4, Some("key"))]).await;
    assert!(claim(db, JOBS, 10).await.is_empty());
    assert!(end(db, &claimed[0], TaskEnd::Succeeded { output: None, keep_until: Timestamp(100) }).await);
    store(db, "mailer", &[job(5, Some("key"))]).await;
    assert_eq!(claim(db, JOBS, 10).await.len(), 1);
}

async fn ended_jobs_and_events_are_deleted_when_nothing_needs_them(db: &Db) {
    let hour = Duration::from_secs(3600);
    let later = |duration: Duration| Timestamp(10).plus(duration);
    add_plugin(db, "mailer").await;
    store(db, "items", &[event(1, None), event(2, None)]).await;
    store(db, "mailer", &[job(1, None)]).await;
    let (deliveries, jobs) = (claim(db, DELIVERIES, 10).await, claim(db, JOBS, 10).await);
    assert!(end(db, &deliveries[0], TaskEnd::Delivered).await);
    assert!(end(db, &jobs[0], TaskEnd::Succeeded { output: Some("1".to_owned()), keep_until: later(hour) }).await);
    assert_eq!(task::prune(db, later(hour / 2), hour).await.unwrap(), (0, 0));
    assert_eq!(task::prune(db, later(hour), hour).await.unwrap(), (1, 1), "one event is still to be delivered");
    assert_eq!(task::prune(db, later(2 * hour), hour).await.unwrap(), (0, 0));
    assert!(end(db, &deliveries[1], TaskEnd::Delivered).await);
    assert_eq!(task::prune(db, later(2 * hour), hour).await.unwrap(), (0, 1));
}

async fn only_the_newest_ended_tasks_of_a_plugin_are_kept(db: &Db) {
    add_plugin(db, "mailer").await;
    add_plugin(db, "other").await;
    store(db, "items", &[event(1, None), event(2, None), event(3, None), event(4, None)]).await;
    store(db, "mailer", &[job(1, None), job(2, None), job(3, None)]).await;
    for (number, delivery) in claim(db, DELIVERIES, 10).await.iter().enumerate() {
        let reason = "no".to_owned();
        assert!(number == 3 || end(db, delivery, TaskEnd::Dead { reason }).await);
    }
    for job in claim(db, JOBS, 10).await {
        assert!(end(db, &job, TaskEnd::Succeeded { output: None, keep_until: Timestamp(1_000) }).await);
    }
    assert!(task::trim(db, 3).await.unwrap().is_empty());
    assert_eq!(task::trim(db, 1).await.unwrap(), [(plugin("mailer"), 2)]);
    assert!(task::trim(db, 1).await.unwrap().is_empty());
    let job = |id| async move {
        let job = JobId(Uuid::from_u128(id));
        status::find(db, &plugin("mailer"), job, Timestamp(20)).await.unwrap().map(|found| found.state)
    };
    assert_eq!([job(1).await, job(2).await, job(3).await], [None, None, Some(JobState::Succeeded)]);
    assert_eq!(task::owned(db, OWNER).await.unwrap().len(), 1, "a task that runs stays");
    assert_eq!(claim(db, "other/items.created/1", 10).await.len(), 4, "tasks that wait stay");
}

async fn a_lane_that_waits_for_nothing_is_freed(db: &Db) {
    add_plugin(db, "mailer").await;
    let events: Vec<Message> = (0..6).map(|id| event(id + 1, Some(if id % 2 == 0 { "a" } else { "b" }))).collect();
    store(db, "items", &events).await;
    assert_eq!(task::unblock_lanes(db).await.unwrap(), 0);
    execute!(db, "DELETE FROM tasks WHERE state = 'ready' AND lane = $1", "items/b");
    assert_eq!(task::unblock_lanes(db).await.unwrap(), 1);
    assert_eq!(task::unblock_lanes(db).await.unwrap(), 0);
    assert_eq!(delivered(db, &claim(db, DELIVERIES, 10).await).await, [1, 4]);
}

async fn the_tasks_of_a_plugin_are_deleted_with_its_data(db: &Db) {
    add_plugin(db, "mailer").await;
    add_plugin(db, "other").await;
    store(db, "items", &[event(1, Some("a")), event(2, Some("a"))]).await;
    task::delete_of_plugin(db, &plugin("mailer")).await.unwrap();
    let queues = task::ready_queues(db).await.unwrap();
    assert_eq!(queues.iter().map(|queue| queue.queue.as_str()).collect::<Vec<_>>(), ["other/items.created/1"]);
}

async fn a_time_of_a_schedule_has_one_job(db: &Db) {
    add_plugin(db, "mailer").await;
    let mailer = plugin("mailer");
    schedule::set(db, &mailer, "daily", "{}", Timestamp(10)).await.unwrap();
    assert!(schedule::due(db, Timestamp(9), 100).await.unwrap().is_empty());
    let due = schedule::due(db, Timestamp(10), 100).await.unwrap();
    assert_eq!(due.iter().map(|due| (due.name.as_str(), due.plugin_paused)).collect::<Vec<_>>(), [("daily", false)]);
    let times = (Timestamp(10), Timestamp(20));
    for (id, is_first) in [(1, true), (2, false)] {
        let job = new_job(id, None);
        let stored = intake::store_scheduled(db, &mailer, "daily", times, Some(&job)).await.unwrap();
        assert_eq!(stored, is_first, "two processes");
    }
    assert_eq!(claim(db, JOBS, 10).await.len(), 1);
    let found = schedule::find(db, &mailer, "daily").await.unwrap().unwrap();
    assert_eq!((found.next_at, found.last_at), (Timestamp(20), Some(Timestamp(10))));

    assert!(schedule::set_paused(db, &mailer, "daily", true, Timestamp(20)).await.unwrap());
    assert!(schedule::due(db, Timestamp(20), 100).await.unwrap().is_empty());
    let times = (Timestamp(20), Timestamp(30));
    assert!(!intake::store_scheduled(db, &mailer, "daily", times, None).await.unwrap(), "an operator paused it");
    schedule::set(db, &mailer, "daily", "{\"changed\":true}", Timestamp(15)).await.unwrap();
    let found = schedule::of_plugin(db, &mailer).await.unwrap();
    assert!(found.len() == 1 && found[0].paused && found[0].next_at == Timestamp(15), "a change keeps the pause");

    schedule::delete_of_removed(db).await.unwrap();
    assert_eq!(schedule::list(db).await.unwrap().len(), 1);

    assert!(!schedule::keep_pause(db, &mailer, "daily", 0).await.unwrap(), "no room for it");
    assert!(schedule::keep_pause(db, &mailer, "daily", 1).await.unwrap());
    assert!(schedule::list(db).await.unwrap().is_empty(), "no release declares it");
    assert!(!schedule::set_paused(db, &mailer, "daily", false, Timestamp(20)).await.unwrap());
    schedule::set(db, &mailer, "daily", "{}", Timestamp(20)).await.unwrap();
    assert!(schedule::find(db, &mailer, "daily").await.unwrap().unwrap().paused, "it was kept");
    schedule::set(db, &mailer, "hourly", "{}", Timestamp(20)).await.unwrap();
    assert!(!schedule::keep_pause(db, &mailer, "hourly", 1).await.unwrap(), "it is not paused");
    schedule::delete(db, &mailer, "hourly").await.unwrap();
    execute!(db, "UPDATE plugins SET state = 'removed' WHERE name = $1", "mailer");
    schedule::delete_of_removed(db).await.unwrap();
    assert!(schedule::list(db).await.unwrap().is_empty());
}

/// On SQLite it is stored before the deletion begins, because there is one writer.
#[tokio::test]
async fn a_task_that_is_just_being_stored_with_an_event_is_deleted_with_the_data() {
    const LOCK: &str = "SELECT pg_advisory_xact_lock(CAST($1 AS BIGINT))";
    const TASK: &str = "INSERT INTO tasks \
        (id, plugin, kind, queue, name, payload, state, due_at, first_due_at, depth, created_at) \
        VALUES ($1, 'mailer', 'job', 'mailer/send/1', 'send', '{}', 'ready', 1, 1, 0, 1)";
    let Some(database) = postgres::database().await else { return };
    let (_dir, db) = open(Some(&database)).await;
    let Db::Postgres(pool) = &db else { unreachable!() };
    let mut storing = pool.begin().await.unwrap();
    sqlx::query(LOCK).bind(postgres::EVENT_LOCK).execute(&mut *storing).await.unwrap();
    let deleting = db.clone();
    let deletion = tokio::spawn(async move { task::delete_of_plugin(&deleting, &plugin("mailer")).await });
    until("the deletion to wait for the lock", async || {
        assert!(!deletion.is_finished(), "the deletion does not wait");
        postgres::is_lock_waited_for(&mut *storing).await.then_some(())
    })
    .await;
    sqlx::query(TASK).bind(Uuid::from_u128(1)).execute(&mut *storing).await.unwrap();
    storing.commit().await.unwrap();
    deletion.await.unwrap().unwrap();
    assert!(claim(&db, JOBS, 10).await.is_empty());
    db.close().await;
}
