//! The events, jobs and mails of a test: what the plugin published, enqueued and sent, and the tasks that this causes. Owns
//! the rules of the host about them: schemas, deduplication, order, depth and the repetition of failed attempts.

use crate::Uuid;
use crate::bindings::imports::wharf::email::outbox;
use crate::bindings::imports::wharf::jobs::queue::{Priority, State};
use jsonschema::Validator;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest chain of events and jobs that cause each other, as in the host.
pub(crate) const MAX_DEPTH: u32 = 16;

/// The longest key in bytes, as in the host.
pub(crate) const MAX_KEY: usize = 200;

/// The longest payload of a grant that says nothing else, in bytes.
const MAX_PAYLOAD: usize = 256 * 1024;

/// The part of a reason that the host keeps, in characters.
const MAX_REASON: usize = 300;

/// The longest wait between two attempts, as in the host.
const MAX_BACKOFF: Duration = Duration::from_secs(3600);

/// How long a cancelled job is known, as in the host.
const KEEP_CANCELLED: Duration = Duration::from_secs(24 * 60 * 60);

/// A mail with a deduplication key keeps others with it out for this time, as in the host.
const MAIL_DEDUPLICATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The declarations that messages must fit.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) plugin: &'static str,
    /// The topics without the plugin's name.
    pub(crate) topics: BTreeMap<&'static str, Validator>,
    /// The jobs.
    pub(crate) jobs: BTreeMap<&'static str, Validator>,
    /// The whole names of the topics that the plugin subscribes to, in the order of its declaration.
    pub(crate) subscriptions: Vec<&'static str>,
}

/// A published event.
#[derive(Clone, Debug)]
pub(crate) struct StoredEvent {
    pub(crate) id: Uuid,
    /// Without the plugin's name.
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) payload: String,
    pub(crate) audience: Option<String>,
    /// In microseconds since 1970.
    pub(crate) published_at: i64,
    pub(crate) depth: u32,
    pub(crate) request_id: Option<String>,
}

/// A message of the plugin that is stored at once or at the commit.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Event(StoredEvent),
    Job(Task),
    Cancel {
        job: Uuid,
        /// By the test's clock.
        at: Duration,
    },
    Mail(StoredMail),
}

/// A mail that was queued.
#[derive(Clone, Debug)]
pub(crate) struct StoredMail {
    pub(crate) id: Uuid,
    /// By the test's clock.
    pub(crate) queued_at: Duration,
    pub(crate) message: outbox::Message,
}

/// A job, or the delivery of an event of the plugin to itself.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// That of the job or of the event.
    pub(crate) id: Uuid,
    pub(crate) kind: Kind,
    pub(crate) payload: String,
    pub(crate) state: State,
    /// The time of the test's clock at which it may start.
    pub(crate) due_at: Duration,
    pub(crate) attempts: u32,
    pub(crate) reason: Option<String>,
    pub(crate) output: Option<String>,
    pub(crate) progress: Option<(u64, u64)>,
    /// The time of the test's clock from which the plugin does not know it any more. A dead letter stays.
    pub(crate) keep_until: Option<Duration>,
    pub(crate) depth: u32,
    pub(crate) request_id: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Job {
        name: String,
        priority: Priority,
        dedup_key: Option<String>,
        /// In microseconds since 1970.
        scheduled_at: Option<i64>,
    },
    Delivery {
        /// The position in the declaration.
        subscription: u32,
        key: Option<String>,
        audience: Option<String>,
        published_at: i64,
    },
}

/// The end of an attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Option<String>),
    Retry(String),
    Reject(String),
}

/// The declaration of a task, as far as its end depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) retries: u32,
    pub(crate) backoff: Duration,
    /// How long the plugin knows a job that succeeded.
    pub(crate) keep: Duration,
}

/// The attempt that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    /// The position of its task, if it is one of [`Messages::tasks`].
    pub(crate) task: Option<usize>,
    pub(crate) depth: u32,
    /// Whether it has reported its progress. The clock of the test stands still during an attempt, and the host ignores
    /// reports within a second after another one.
    pub(crate) has_reported: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) declared: Declared,
    /// Every event that was published, in order.
    pub(crate) events: Vec<StoredEvent>,
    /// Every task, also those that have ended, in order.
    pub(crate) tasks: Vec<Task>,
    /// Every mail that was queued, in order.
    pub(crate) mails: Vec<StoredMail>,
    /// The messages of the open transaction.
    pub(crate) uncommitted: Vec<Message>,
    pub(crate) running: Option<Running>,
}

impl Task {
    pub(crate) fn is_delivery(&self) -> bool {
        matches!(self.kind, Kind::Delivery { .. })
    }

    fn has_ended(&self) -> bool {
        !matches!(self.state, State::Waiting | State::Running)
    }

    fn priority(&self) -> Priority {
        match self.kind {
            Kind::Job { priority, .. } => priority,
            Kind::Delivery { .. } => Priority::Normal,
        }
    }

    /// Returns the key, if the deliveries with it keep their order.
    fn key(&self) -> Option<&str> {
        match &self.kind {
            Kind::Delivery { key, .. } => key.as_deref(),
            Kind::Job { .. } => None,
        }
    }

    fn is_duplicate_of(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (
                Kind::Job { name, dedup_key: Some(key), .. },
                Kind::Job { name: other_name, dedup_key: Some(other_key), .. },
            ) => (name, key) == (other_name, other_key) && !other.has_ended(),
            _ => false,
        }
    }
}

impl StoredMail {
    fn is_duplicate_of(&self, other: &Self) -> bool {
        let (key, other_key) = (&self.message.dedup_key, &other.message.dedup_key);
        key.is_some() && key == other_key && self.queued_at < other.queued_at + MAIL_DEDUPLICATION
    }
}

impl Messages {
    /// Returns the depth of a message that is handed over now; `None` if the chain is too long.
    pub(crate) fn next_depth(&self) -> Option<u32> {
        let depth = self.running.map_or(0, |running| running.depth + 1);
        (depth <= MAX_DEPTH).then_some(depth)
    }

    /// Stores the messages of the transaction that was committed.
    pub(crate) fn commit(&mut self) {
        for message in std::mem::take(&mut self.uncommitted) {
            self.store(message);
        }
    }

    pub(crate) fn store(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                self.add_deliveries(&event);
                self.events.push(event);
            }
            Message::Job(job) => {
                if !self.tasks.iter().any(|other| job.is_duplicate_of(other)) {
                    self.tasks.push(job);
                }
            }
            Message::Cancel { job: id, at } => {
                let is_meant = |task: &&mut Task| task.id == id && !task.is_delivery() && !task.has_ended();
                if let Some(job) = self.tasks.iter_mut().find(is_meant) {
                    job.state = State::Cancelled;
                    job.keep_until = Some(at + KEEP_CANCELLED);
                }
            }
            Message::Mail(mail) => {
                if !self.mails.iter().any(|other| mail.is_duplicate_of(other)) {
                    self.mails.push(mail);
                }
            }
        }
    }

    /// Adds the deliveries of an event to the plugin's own subscriptions.
    fn add_deliveries(&mut self, event: &StoredEvent) {
        let topic = format!("{}.{}", self.declared.plugin, event.topic);
        for (subscription, subscribed) in (0..).zip(&self.declared.subscriptions) {
            if *subscribed == topic {
                self.tasks.push(Task {
                    id: event.id,
                    kind: Kind::Delivery {
                        subscription,
                        key: event.key.clone(),
                        audience: event.audience.clone(),
                        published_at: event.published_at,
                    },
                    payload: event.payload.clone(),
                    state: State::Waiting,
                    due_at: Duration::ZERO,
                    attempts: 0,
                    reason: None,
                    output: None,
                    progress: None,
                    keep_until: None,
                    depth: event.depth,
                    request_id: event.request_id.clone(),
                });
            }
        }
    }

    /// Returns the position of the task that starts next at this time.
    pub(crate) fn next_due(&self, now: Duration) -> Option<usize> {
        let is_due = |(index, task): &(usize, &Task)| {
            task.state == State::Waiting && task.due_at <= now && !self.is_behind_another(*index, task)
        };
        let due = self.tasks.iter().enumerate().filter(is_due);
        due.min_by_key(|(index, task)| (Reverse(task.priority()), task.due_at, *index)).map(|(index, _)| index)
    }

    /// Returns whether an earlier delivery with the same key has not ended.
    fn is_behind_another(&self, index: usize, task: &Task) -> bool {
        let Some(key) = task.key() else { return false };
        self.tasks.iter().take(index).any(|earlier| earlier.key() == Some(key) && !earlier.has_ended())
    }

    /// Begins an attempt of a task and returns the task.
    pub(crate) fn begin(&mut self, index: usize) -> Option<Task> {
        let task = self.tasks.get_mut(index)?;
        task.state = State::Running;
        task.attempts += 1;
        self.running = Some(Running { task: Some(index), depth: task.depth, has_reported: false });
        Some(task.clone())
    }

    /// Stores the progress of the job that runs, if this is the first report of its attempt.
    pub(crate) fn report(&mut self, done: u64, total: u64) {
        let Some(running) = self.running.as_mut().filter(|running| !running.has_reported) else { return };
        let task = running.task.and_then(|index| self.tasks.get_mut(index));
        if let Some(job) = task.filter(|task| !task.is_delivery()) {
            job.progress = Some((done, total));
            running.has_reported = true;
        }
    }

    /// Ends the attempt of a task. The wait before another attempt is the longest that the host would choose.
    pub(crate) fn end(&mut self, index: usize, outcome: Outcome, rules: Rules, now: Duration) {
        self.running = None;
        let Some(task) = self.tasks.get_mut(index).filter(|task| task.state == State::Running) else { return };
        match outcome {
            Outcome::Done(output) => {
                task.state = State::Succeeded;
                task.output = output;
                task.keep_until = Some(now + rules.keep);
            }
            Outcome::Retry(reason) if task.attempts <= rules.retries => {
                let doublings = 2_u32.saturating_pow(task.attempts.saturating_sub(1));
                task.state = State::Waiting;
                task.due_at = now + rules.backoff.saturating_mul(doublings).min(MAX_BACKOFF);
                task.reason = Some(kept(&reason));
            }
            Outcome::Retry(reason) | Outcome::Reject(reason) => {
                task.state = State::Failed;
                task.reason = Some(kept(&reason));
            }
        }
    }
}

/// Returns the part of a reason that the host keeps: its beginning, on one line.
fn kept(reason: &str) -> String {
    let mut kept: String = reason.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if reason.chars().nth(MAX_REASON).is_some() {
        kept.push('…');
    }
    kept
}

/// Checks the length of a payload.
///
/// # Errors
/// The limit, as the host names it.
pub(crate) fn check_length(payload: &str) -> Result<(), String> {
    match payload.len() > MAX_PAYLOAD {
        true => Err(format!("payload: {MAX_PAYLOAD}")),
        false => Ok(()),
    }
}

/// Checks a payload against a declared schema.
///
/// # Errors
/// Why it does not fit.
pub(crate) fn check_payload(validator: &Validator, payload: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(payload).map_err(|error| format!("the payload is no JSON: {error}"))?;
    validator.validate(&value).map_err(|error| format!("the payload does not fit its schema: {error}"))
}

/// Checks an ordering key or a deduplication key.
///
/// # Errors
/// Why the host would refuse it.
pub(crate) fn check_key(key: Option<&str>) -> Result<(), String> {
    match key {
        Some(key) if key.len() > MAX_KEY => Err(format!("the key has more than {MAX_KEY} bytes")),
        Some(key) if key.contains('\0') => Err("the key contains the character U+0000".to_owned()),
        _ => Ok(()),
    }
}
