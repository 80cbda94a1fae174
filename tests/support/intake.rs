//! Deliveries of events and jobs, stored as the host stores them, but for a time far in the future: the host does not start
//! them, so a test finds them as it left them.

use std::path::Path;

use sqlx::AssertSqlSafe;
use uuid::Uuid;
use wharf::clock::Timestamp;
use wharf::config::Database;
use wharf::db::{Db, intake};
use wharf::id::{EventId, JobId, UserId};
use wharf::message::{Message, NewEvent, NewJob, Priority};

use super::host::TestHost;

/// 2096.
const LATER: Timestamp = Timestamp(4_000_000_000_000_000);

/// The host's database, opened a second time.
pub(crate) struct Intake(Db);

impl Intake {
    pub(crate) async fn open(settings: &Database, data_dir: &Path) -> Self {
        Self(Db::open(settings, data_dir).await.unwrap())
    }

    pub(crate) async fn of(host: &TestHost) -> Self {
        Self::open(&host.config().database, &host.config().server.data_dir).await
    }

    /// Runs a statement on the host's tables.
    pub(crate) async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.0 {
            Db::Sqlite(pool) => drop(sqlx::query(sql).execute(pool).await.unwrap()),
            Db::Postgres(pool) => drop(sqlx::query(sql).execute(pool).await.unwrap()),
        }
    }

    /// Subscribes the first release of a plugin to a topic.
    pub(crate) async fn subscribe(&self, plugin: &str, topic: &str) {
        self.execute(&format!(
            "INSERT INTO release_subscriptions (plugin, release, topic) VALUES ('{plugin}', 1, '{topic}')"
        ))
        .await;
    }

    /// Publishes an event of the plugin `items`.
    pub(crate) async fn publish(&self, topic: &str, key: Option<&str>, payload: &str) {
        let event = NewEvent { key: key.map(str::to_owned), ..event(topic, payload) };
        intake::store(&self.0, &"items".parse().unwrap(), &[Message::Event(event)]).await.unwrap();
    }

    /// Publishes events of a plugin without keys, in one transaction: the topic, the payload, and the account for whose
    /// clients it is.
    pub(crate) async fn announce(&self, plugin: &str, events: &[(&str, String, Option<&str>)]) {
        let message = |(topic, payload, audience): &(&str, String, Option<&str>)| {
            let audience = audience.map(|id| UserId(id.parse().unwrap()));
            Message::Event(NewEvent { audience, ..event(topic, payload) })
        };
        let messages: Vec<Message> = events.iter().map(message).collect();
        intake::store(&self.0, &plugin.parse().unwrap(), &messages).await.unwrap();
    }

    /// Enqueues a job.
    pub(crate) async fn enqueue(&self, plugin: &str, name: &str, dedup_key: Option<&str>, payload: &str) {
        let job = NewJob {
            id: JobId(Uuid::new_v4()),
            name: name.to_owned(),
            payload: payload.to_owned(),
            due_at: LATER,
            priority: Priority::Normal,
            dedup_key: dedup_key.map(str::to_owned),
            scheduled: None,
            depth: 0,
            request_id: None,
            at: LATER,
        };
        intake::store(&self.0, &plugin.parse().unwrap(), &[Message::Job(job)]).await.unwrap();
    }

    /// Makes tasks dead letters.
    pub(crate) async fn bury(&self, tasks: &[i64]) {
        let tasks: Vec<String> = tasks.iter().map(ToString::to_string).collect();
        self.execute(&format!(
            "UPDATE tasks SET state = 'dead', owner = NULL, attempts = 3, reason = 'out of paper', ended_at = 1 \
             WHERE seq IN ({})",
            tasks.join(", ")
        ))
        .await;
    }

    /// Lets another process run a task for ever.
    pub(crate) async fn run_elsewhere(&self, task: i64) {
        self.execute(&format!(
            "UPDATE tasks SET state = 'running', owner = 'elsewhere/1', due_at = {} WHERE seq = {task}",
            LATER.0
        ))
        .await;
    }

    pub(crate) async fn close(self) {
        self.0.close().await;
    }
}

fn event(topic: &str, payload: &str) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::new_v4()),
        topic: topic.parse().unwrap(),
        key: None,
        payload: payload.to_owned(),
        audience: None,
        depth: 0,
        request_id: None,
        at: LATER,
    }
}
