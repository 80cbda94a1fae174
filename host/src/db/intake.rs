//! The intake: turns messages into events and tasks, and queues mails (`db::email::plugin_mail`). Owns the SQL that stores
//! events and tasks, and the order of deliveries.
//!
//! Everything here happens in one transaction: that of a change of the host, or one of the relay. A message that was stored
//! before is left out, so a relay can repeat itself. The order of events is that of their commits: on PostgreSQL, one lock
//! lets one transaction at a time store events, and a lock of each lane keeps the end of a task (`db::task`) from
//! overlooking a task that is just being added behind it. A transaction stores its events last, so that it waits for
//! nothing while it holds these locks. Its commit gives the signal that there are messages (`signals`).

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::email::plugin_mail::store_mail;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{EventId, PluginName, UserId};
use crate::message::{Message, NewEvent, NewJob, Priority, Topic, queue_name};

/// How long a cancelled job is kept.
pub(super) const KEEP_CANCELLED: Duration = Duration::from_secs(24 * 60 * 60);

/// The lock of all transactions that store events. A random number.
pub(super) const EVENT_LOCK: i64 = 0x6a1e_5c07_93d2_4bf1;

/// The subscriptions of live releases to the topic `$topic`, with their plugins.
macro_rules! subscriptions {
    ($topic:literal) => {
        concat!(
            "release_subscriptions s JOIN plugins p ON p.name = s.plugin AND p.live_release = s.release WHERE s.topic = ",
            $topic,
            " AND p.state = 'live'"
        )
    };
}

/// Inserts the events of [`event_rows`], `$1`, that are not stored yet, of the source `$2`. Returns the number of each, and
/// how many subscribe to its topic. PostgreSQL reads that after the lock of events was taken. Each transaction that makes a
/// release live stores an event too, so it has ended before that or begins to subscribe afterwards.
///
/// The numbers have the order of the rows: both databases sort the rows first and insert one after the other
/// (<https://www.postgresql.org/message-id/29386.1528813619@sss.pgh.pa.us>). RETURNING promises no order.
macro_rules! insert_events {
    ($rows:literal) => {
        concat!(
            "INSERT INTO events (id, topic, source, ordering_key, payload, audience, depth, request_id, published_at) ",
            $rows,
            " ON CONFLICT (id) DO NOTHING RETURNING id, seq, (SELECT COUNT(*) FROM ",
            subscriptions!("events.topic"),
            ")"
        )
    };
}

pub(super) const INSERT_EVENTS_ON_SQLITE: &str = insert_events!(
    "SELECT value ->> 'id', value ->> 'topic', $2, value ->> 'ordering_key', value ->> 'payload', value ->> 'audience', \
     value ->> 'depth', value ->> 'request_id', value ->> 'published_at' FROM json_each($1) WHERE TRUE ORDER BY key"
);

pub(super) const INSERT_EVENTS_ON_POSTGRES: &str = insert_events!(
    "SELECT id, topic, $2, ordering_key, payload, audience, depth, request_id, published_at \
     FROM ROWS FROM (json_to_recordset(CAST($1 AS json)) AS (id uuid, topic text, ordering_key text, payload text, \
     audience uuid, depth bigint, request_id text, published_at bigint)) WITH ORDINALITY AS listed ORDER BY ordinality"
);

/// Adds a delivery for each plugin whose live release subscribes. `$2` is the end of the name of the queue.
pub(super) const FAN_OUT: &str = concat!(
    "INSERT INTO tasks \
    (plugin, kind, queue, name, event_seq, lane, state, due_at, first_due_at, depth, request_id, created_at) \
    SELECT s.plugin, 'delivery', s.plugin || $2, $1, $3, $4, \
        CASE WHEN EXISTS (SELECT 1 FROM tasks b WHERE b.plugin = s.plugin AND b.lane = $4 \
            AND b.state IN ('ready', 'blocked', 'running')) THEN 'blocked' ELSE 'ready' END, $5, $5, $6, $7, $5 FROM ",
    subscriptions!("$1")
);

pub(super) const INSERT_JOB: &str = "INSERT INTO tasks \
    (id, plugin, kind, queue, name, payload, dedup_key, schedule, scheduled_at, state, due_at, first_due_at, depth, request_id, \
    created_at) \
    VALUES ($1, $2, 'job', $3, $4, $5, $6, $7, $8, 'ready', $9, $9, $10, $11, $12) ON CONFLICT DO NOTHING";

const CANCEL_JOB: &str = "UPDATE tasks SET state = 'cancelled', owner = NULL, ended_at = $3, keep_until = $4 \
    WHERE id = $1 AND plugin = $2 AND state IN ('ready', 'running')";

/// A row of the table of events, without its number and source.
#[derive(Serialize)]
struct EventRow<'a> {
    id: EventId,
    topic: &'a Topic,
    ordering_key: Option<&'a str>,
    payload: &'a str,
    audience: Option<UserId>,
    depth: u32,
    request_id: Option<&'a str>,
    published_at: i64,
}

/// Returns the rows of events as a JSON array. So any number of them has one statement, which stays prepared.
pub(super) fn event_rows(events: &[&NewEvent]) -> Result<String> {
    let rows = events.iter().map(|event| EventRow {
        id: event.id,
        topic: &event.topic,
        ordering_key: event.key.as_deref(),
        payload: &event.payload,
        audience: event.audience,
        depth: event.depth,
        request_id: event.request_id.as_deref(),
        published_at: event.at.0,
    });
    let rows: Vec<EventRow<'_>> = rows.collect();
    serde_json::to_string(&rows).map_err(|error| Error::internal("events cannot be written as JSON").with_source(error))
}

/// Stores events in their order in the body of `on!`, at the end of the transaction `$tx`, and deliveries of those to whose
/// topics somebody subscribes. `$source` is the plugin that published them.
macro_rules! store_events {
    ($db:expr, $tx:expr, $source:expr, $events:expr) => {{
        let source: Option<&$crate::id::PluginName> = $source;
        let events: &[&$crate::message::NewEvent] = $events;
        $tx.stores_messages();
        $tx.take_lock($crate::db::intake::EVENT_LOCK).await?;
        let insert =
            $db.dialect($crate::db::intake::INSERT_EVENTS_ON_SQLITE, $crate::db::intake::INSERT_EVENTS_ON_POSTGRES);
        let stored: Vec<($crate::id::EventId, i64, i64)> = sqlx::query_as(insert)
            .bind($crate::db::intake::event_rows(events)?)
            .bind(source.cloned())
            .fetch_all(&mut *$tx)
            .await?;
        let heard = stored.into_iter().filter(|(_, _, subscribers)| *subscribers > 0);
        let mut heard: std::collections::BTreeMap<_, _> = heard.map(|(id, seq, _)| (id, seq)).collect();
        for event in events {
            let Some(seq) = heard.remove(&event.id) else { continue };
            let lane = event.lane();
            if let Some(lane) = &lane {
                $tx.take_lock($crate::db::intake::lane_lock(lane)).await?;
            }
            sqlx::query($crate::db::intake::FAN_OUT)
                .bind(event.topic.as_str())
                .bind($crate::db::intake::queue_ending(event))
                .bind(seq)
                .bind(lane)
                .bind(event.at)
                .bind(i64::from(event.depth))
                .bind(event.request_id.as_deref())
                .execute(&mut *$tx)
                .await?;
        }
    }};
}
pub(super) use store_events;

/// Stores an event of the host in the body of `on!`, at the end of the transaction `$tx` that makes the change. Nothing that
/// waits for a lock may follow.
macro_rules! publish {
    ($db:expr, $tx:expr, $cause:expr, $event:expr) => {{
        let event = $crate::message::host_event::HostEvent::published($event, $db.new_event_id()?, $cause);
        $crate::db::intake::store_events!($db, $tx, None, &[&event]);
    }};
}
pub(super) use publish;

/// Returns the part of the name of a delivery's queue after the plugin.
pub(super) fn queue_ending(event: &NewEvent) -> String {
    format!("/{}/{}", event.topic, Priority::Normal.digit())
}

/// Returns the lock of a lane.
pub(super) fn lane_lock(lane: &str) -> i64 {
    let digest = Sha256::digest(lane.as_bytes());
    digest.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

/// Returns the statement that stores a job of a plugin.
macro_rules! insert_job {
    ($plugin:expr, $job:expr) => {{
        let (plugin, job): (&PluginName, &NewJob) = ($plugin, $job);
        let (schedule, scheduled_at) = match &job.scheduled {
            Some((schedule, at)) => (Some(schedule.as_str()), Some(*at)),
            None => (None, None),
        };
        sqlx::query(INSERT_JOB)
            .bind(job.id)
            .bind(plugin.clone())
            .bind(queue_name(plugin, &job.name, job.priority))
            .bind(job.name.as_str())
            .bind(job.payload.as_str())
            .bind(job.dedup_key.as_deref())
            .bind(schedule)
            .bind(scheduled_at)
            .bind(job.due_at)
            .bind(i64::from(job.depth))
            .bind(job.request_id.as_deref())
            .bind(job.at)
    }};
}

/// Stores messages of a plugin, in their order: all or none. Those that are stored already are left out.
///
/// # Errors
/// The database fails.
pub async fn store(db: &Db, plugin: &PluginName, messages: &[Message]) -> Result<()> {
    let events = messages.iter().filter_map(|message| match message {
        Message::Event(event) => Some(event),
        _ => None,
    });
    let events: Vec<&NewEvent> = events.collect();
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        if !events.is_empty() && events.len() < messages.len() {
            // Before the rows of jobs: a change of many tasks by an operator takes them in this order too.
            tx.take_lock(EVENT_LOCK).await?;
        }
        // Jobs and mails first: see the module.
        for message in messages {
            match message {
                Message::Event(_) => {}
                Message::Job(job) => {
                    tx.stores_messages();
                    insert_job!(plugin, job).execute(&mut *tx).await?;
                }
                Message::Cancel { job, at } => {
                    tx.stores_messages();
                    let keep_until = at.plus(KEEP_CANCELLED);
                    let cancel = sqlx::query(CANCEL_JOB).bind(*job).bind(plugin.clone()).bind(*at).bind(keep_until);
                    cancel.execute(&mut *tx).await?;
                }
                Message::Mail(mail) => store_mail!(tx, plugin, mail),
            }
        }
        if !events.is_empty() {
            store_events!(db, tx, Some(plugin), &events);
        }
        tx.commit().await?;
    });
    Ok(())
}

/// Moves a schedule to its next time and stores its job, unless another node did or an operator paused the schedule.
/// Returns whether it was this one. `job` is `None` if the time is skipped. While the job of an earlier time waits or runs,
/// none is stored, and the schedule keeps the earlier time as that of its latest job.
///
/// # Errors
/// The database fails.
pub async fn store_scheduled(
    db: &Db,
    plugin: &PluginName,
    schedule: &str,
    (due, next): (Timestamp, Timestamp),
    job: Option<&NewJob>,
) -> Result<bool> {
    const MOVE: &str = "UPDATE schedules SET next_at = $4 \
        WHERE plugin = $1 AND name = $2 AND next_at = $3 AND NOT paused";
    const ENQUEUED: &str = "UPDATE schedules SET last_at = $3 WHERE plugin = $1 AND name = $2";
    Ok(on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let moved = sqlx::query(MOVE).bind(plugin.clone()).bind(schedule).bind(due).bind(next);
        let is_ours = moved.execute(&mut *tx).await?.rows_affected() == 1;
        if let Some(job) = job.filter(|_| is_ours) {
            tx.stores_messages();
            if insert_job!(plugin, job).execute(&mut *tx).await?.rows_affected() == 1 {
                let enqueued = sqlx::query(ENQUEUED).bind(plugin.clone()).bind(schedule).bind(due);
                enqueued.execute(&mut *tx).await?;
            }
        }
        tx.commit().await?;
        is_ours
    }))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn the_commit_of_a_message_wakes_those_that_wait() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let event = NewEvent {
            id: EventId(Uuid::from_u128(1)),
            topic: "items.created".parse().unwrap(),
            key: None,
            payload: "{}".to_owned(),
            audience: None,
            depth: 0,
            request_id: None,
            at: Timestamp(1),
        };
        let added = db.signals().events_added();
        store(&db, &"items".parse().unwrap(), &[Message::Event(event)]).await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), added).await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), db.signals().tasks_added()).await.unwrap();
        db.close().await;
    }
}
