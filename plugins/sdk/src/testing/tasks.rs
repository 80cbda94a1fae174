//! Events and jobs of a plugin under test: what it published and enqueued, and the attempts that the test asks for.
//!
//! Nothing runs by itself. The clock of the test stands still for delays and repetitions until the test advances it.

use super::TestPlugin;
use crate::bindings::subscriber_role::exports::wharf::events::subscriber;
use crate::bindings::worker_role::exports::wharf::jobs::worker;
use crate::events::Event;
use crate::host::stand_in::messages::{Kind, Outcome, Rules, Running, Task};
use crate::host::stand_in::{now_micros, state};
use crate::jobs::{Priority, State};
use crate::{TaskError, Timestamp, Uuid};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// The longest output of a job in bytes, as in the host.
const MAX_OUTPUT: usize = 64 * 1024;

/// An event that the plugin published.
#[derive(Clone, Debug, PartialEq)]
pub struct TestEvent {
    /// The id that publishing it returned.
    pub id: Uuid,
    /// The topic without the plugin's name, as in `#[topic("created")]`.
    pub topic: String,
    /// The key.
    pub key: Option<String>,
    /// The payload.
    pub payload: Value,
    /// The account whose clients may receive it.
    pub audience: Option<Uuid>,
}

/// A job that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct TestJob {
    /// The id that enqueueing it returned.
    pub id: Uuid,
    /// The name: `send-summary`.
    pub name: String,
    /// The payload.
    pub payload: Value,
    /// The priority.
    pub priority: Priority,
    /// The deduplication key.
    pub dedup_key: Option<String>,
    /// The time until it may start.
    pub due_in: Duration,
    /// The number of attempts that failed.
    pub attempts: u32,
}

/// One call of a handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The name of the job, or the whole name of the topic.
    pub name: String,
    /// 1 for the first attempt.
    pub number: u32,
    /// The output of a job as JSON, or the failure.
    pub result: Result<Option<Value>, TaskError>,
}

/// A task that the host would keep for its operator: each attempt failed, or it was rejected.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The name of the job, or the whole name of the topic.
    pub name: String,
    /// The payload.
    pub payload: Value,
    /// The reason of the latest failure, as far as the host keeps it: the first 300 characters.
    pub reason: String,
}

/// The arguments of one call of a handler.
enum Call {
    Job(worker::Task),
    Delivery(u32, subscriber::Event),
}

impl TestPlugin {
    /// Returns the events that the plugin has published so far. Those of a transaction that was rolled back are not among
    /// them.
    pub fn events(&self) -> Vec<TestEvent> {
        let host = self.host.borrow();
        let events = host.messages.events.iter().map(|event| TestEvent {
            id: event.id,
            topic: event.topic.clone(),
            key: event.key.clone(),
            payload: parsed(&event.payload),
            audience: event.audience.as_deref().and_then(|id| Uuid::parse_str(id).ok()),
        });
        events.collect()
    }

    /// Returns the jobs that wait, in the order in which they were enqueued.
    pub fn jobs(&self) -> Vec<TestJob> {
        let host = self.host.borrow();
        let waiting = host.messages.tasks.iter().filter(|task| task.state == State::Waiting);
        let job = |task: &Task| match &task.kind {
            Kind::Job { name, priority, dedup_key, .. } => Some(TestJob {
                id: task.id,
                name: name.clone(),
                payload: parsed(&task.payload),
                priority: *priority,
                dedup_key: dedup_key.clone(),
                due_in: task.due_at.saturating_sub(host.clock),
                attempts: task.attempts,
            }),
            Kind::Delivery { .. } => None,
        };
        waiting.filter_map(job).collect()
    }

    /// Returns the tasks that failed for good.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let host = self.host.borrow();
        let dead = host.messages.tasks.iter().filter(|task| task.state == State::Failed);
        let letter = |task: &Task| DeadLetter {
            name: self.name_of(task),
            payload: parsed(&task.payload),
            reason: task.reason.clone().unwrap_or_default(),
        };
        dead.map(letter).collect()
    }

    /// Delivers an event of the host or of another plugin to the subscription of its topic, and returns the result of the
    /// handler.
    ///
    /// ```
    /// use wharf_sdk::events::UserDeleted;
    /// use wharf_sdk::prelude::*;
    /// use wharf_sdk::testing::TestPlugin;
    ///
    /// plugin! { name: "notes", summary: "Notes", routes: [], subscriptions: [forget] }
    ///
    /// #[subscribe("user.deleted")]
    /// fn forget(event: Event<UserDeleted>) -> Result<(), TaskError> {
    ///     match event.payload.id.is_nil() {
    ///         true => Err(TaskError::reject("nobody has this id")),
    ///         false => Ok(()),
    ///     }
    /// }
    ///
    /// let plugin = TestPlugin::new(&PLUGIN);
    /// plugin.deliver("user.deleted", UserDeleted { id: Uuid::new_v4() }).unwrap();
    /// assert!(plugin.deliver("user.deleted", UserDeleted { id: Uuid::nil() }).is_err());
    /// ```
    ///
    /// # Errors
    /// The error of the handler.
    ///
    /// # Panics
    /// If the plugin does not subscribe to the topic.
    pub fn deliver(&self, topic: &str, payload: impl Serialize) -> Result<(), TaskError> {
        self.deliver_as(Uuid::new_v4(), topic, payload)
    }

    /// Does the same for an event with this id. A test that delivers the same event twice uses it.
    ///
    /// # Errors
    /// As [`TestPlugin::deliver`].
    ///
    /// # Panics
    /// As [`TestPlugin::deliver`].
    pub fn deliver_as(&self, id: Uuid, topic: &str, payload: impl Serialize) -> Result<(), TaskError> {
        self.deliver_event(Event {
            id,
            topic: topic.to_owned(),
            key: None,
            audience: None,
            payload,
            published_at: Timestamp::from_unix_micros(self.now_micros()),
            attempt: 1,
            request_id: None,
        })
    }

    /// Does the same for any event, such as one with an audience.
    ///
    /// # Errors
    /// As [`TestPlugin::deliver`].
    ///
    /// # Panics
    /// As [`TestPlugin::deliver`].
    pub fn deliver_event<T: Serialize>(&self, event: Event<T>) -> Result<(), TaskError> {
        let Event { id, topic, key, audience, payload, published_at, attempt, request_id } = event;
        let mut subscriptions = (0..).zip(self.plugin.subscriptions);
        let index = subscriptions.find(|(_, subscription)| subscription.topic == topic).map(|(index, _)| index);
        let index = index.unwrap_or_else(|| panic!("the plugin does not subscribe to `{topic}`"));
        let event = subscriber::Event {
            id: id.to_string(),
            topic,
            key,
            audience: audience.map(|account| account.to_string()),
            payload: serde_json::to_string(&payload).expect("the payload can be written as JSON"),
            published_at: published_at.unix_micros(),
            attempt,
            request_id: request_id.clone(),
        };
        self.host.borrow_mut().messages.running = Some(Running { task: None, depth: 0, has_reported: false });
        let result = self.call(Call::Delivery(index, event), request_id);
        self.host.borrow_mut().messages.running = None;
        result.map(|_| ())
    }

    /// Runs the jobs that are due and delivers the plugin's own events to its own subscriptions, until nothing is due, and
    /// returns the attempts in their order. A failed attempt is repeated later: see [`TestPlugin::advance`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use wharf_sdk::prelude::*;
    /// use wharf_sdk::testing::{TestPlugin, user};
    ///
    /// plugin! { name: "mail", summary: "Sends reminders", routes: [order], jobs: [remind] }
    ///
    /// #[post("/")]
    /// fn order(Text(text): Text) -> Result<()> {
    ///     remind::job(&text).delay(Duration::from_secs(60)).enqueue()?;
    ///     Ok(())
    /// }
    ///
    /// #[job(retries = 1, backoff = "10s")]
    /// fn remind(job: Job<String>) -> Result<String, TaskError> {
    ///     match job.attempt {
    ///         1 => Err(TaskError::retry("the mail server is busy")),
    ///         _ => Ok(job.payload),
    ///     }
    /// }
    ///
    /// let plugin = TestPlugin::new(&PLUGIN);
    /// plugin.post("/").by(&user("alice@example.com")).body("tea").send().text();
    /// assert_eq!(plugin.jobs()[0].name, "remind");
    /// assert!(plugin.run_due().is_empty());
    /// plugin.advance(Duration::from_secs(60));
    /// assert!(plugin.run_due()[0].result.is_err());
    /// plugin.advance(Duration::from_secs(10));
    /// assert_eq!(plugin.run_due()[0].result, Ok(Some("tea".into())));
    /// ```
    pub fn run_due(&self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        loop {
            let host = self.host.borrow();
            let Some(index) = host.messages.next_due(host.clock) else { return attempts };
            drop(host);
            attempts.push(self.attempt(index));
        }
    }

    /// Enqueues the job of a schedule and runs it once, as `wharf schedules run` does: also while an earlier one waits for a
    /// repetition. When its time has come, the host leaves out the job in that case.
    ///
    /// # Panics
    /// If the plugin does not declare the schedule.
    pub fn run_schedule(&self, name: &str) -> Attempt {
        let schedule = self.plugin.schedules.iter().find(|schedule| schedule.name == name);
        let schedule = schedule.unwrap_or_else(|| panic!("the plugin does not declare the schedule `{name}`"));
        let scheduled_at = Some(self.now_micros());
        let mut host = self.host.borrow_mut();
        let due_at = host.clock;
        host.messages.tasks.push(Task {
            id: Uuid::new_v4(),
            kind: Kind::Job {
                name: schedule.job.name.to_owned(),
                priority: Priority::Normal,
                dedup_key: None,
                scheduled_at,
            },
            payload: (schedule.payload)(),
            state: State::Waiting,
            due_at,
            attempts: 0,
            reason: None,
            output: None,
            progress: None,
            keep_until: None,
            depth: 0,
            request_id: None,
        });
        let index = host.messages.tasks.len() - 1;
        drop(host);
        self.attempt(index)
    }

    /// Moves the clock of this plugin's host forward: for the delays of jobs, the waits before repetitions,
    /// [`Timestamp::now`](crate::Timestamp::now) and the cache. It runs nothing: see [`TestPlugin::run_due`] and
    /// [`TestPlugin::run_schedule`].
    pub fn advance(&self, time: Duration) {
        self.host.borrow_mut().clock += time;
    }

    fn now_micros(&self) -> i64 {
        state::enter(&self.host, now_micros)
    }

    /// Returns the name of the job, or the whole name of the topic.
    fn name_of(&self, task: &Task) -> String {
        match &task.kind {
            Kind::Job { name, .. } => name.clone(),
            Kind::Delivery { subscription, .. } => {
                let index = usize::try_from(*subscription).unwrap_or(usize::MAX);
                self.plugin.subscriptions.get(index).map(|declared| declared.topic.to_owned()).unwrap_or_default()
            }
        }
    }

    /// Makes one attempt of a task.
    fn attempt(&self, index: usize) -> Attempt {
        let task = self.host.borrow_mut().messages.begin(index).expect("the task exists");
        let name = self.name_of(&task);
        let number = task.attempts;
        let request_id = task.request_id.clone();
        let (call, rules) = self.call_of(task, &name);
        let result = self.call(call, request_id).and_then(checked_output);
        let outcome = match &result {
            Ok(output) => Outcome::Done(output.clone()),
            Err(TaskError::Retry(reason)) => Outcome::Retry(reason.clone()),
            Err(TaskError::Reject(reason)) => Outcome::Reject(reason.clone()),
        };
        let mut host = self.host.borrow_mut();
        let now = host.clock;
        host.messages.end(index, outcome, rules, now);
        Attempt { name, number, result: result.map(|output| output.as_deref().map(parsed)) }
    }

    /// Returns the call of a task, and the rules for its end.
    fn call_of(&self, task: Task, name: &str) -> (Call, Rules) {
        let Task { id, kind, payload, attempts, request_id, .. } = task;
        let id = id.to_string();
        match kind {
            Kind::Job { scheduled_at, .. } => {
                let declared = (0..).zip(self.plugin.all_jobs()).find(|(_, job)| job.name == name);
                let (job, declared) = declared.expect("the job is declared");
                let task = worker::Task { id, job, payload, attempt: attempts, scheduled_at, request_id };
                let (backoff, keep) = (milliseconds(declared.backoff_ms), Duration::from_millis(declared.keep_ms));
                (Call::Job(task), Rules { retries: declared.retries, backoff, keep })
            }
            Kind::Delivery { subscription, key, audience, published_at } => {
                let mut declared = (0..).zip(self.plugin.subscriptions);
                let (_, declared) =
                    declared.find(|(index, _)| *index == subscription).expect("the subscription is declared");
                let topic = declared.topic.to_owned();
                let event = subscriber::Event {
                    id,
                    topic,
                    key,
                    audience,
                    payload,
                    published_at,
                    attempt: attempts,
                    request_id,
                };
                let (backoff, keep) = (milliseconds(declared.backoff_ms), Duration::ZERO);
                (Call::Delivery(subscription, event), Rules { retries: declared.retries, backoff, keep })
            }
        }
    }

    /// Calls a handler without a caller. The output is JSON.
    fn call(&self, call: Call, request_id: Option<String>) -> Result<Option<String>, TaskError> {
        let mut host = self.host.borrow_mut();
        host.caller = None;
        host.request_id = request_id;
        drop(host);
        state::enter(&self.host, || match call {
            Call::Job(task) => self.plugin.run(task),
            Call::Delivery(subscription, event) => self.plugin.receive(subscription, event).map(|()| None),
        })
    }
}

/// Refuses an output that the host refuses.
fn checked_output(output: Option<String>) -> Result<Option<String>, TaskError> {
    match output {
        Some(output) if output.len() > MAX_OUTPUT => {
            Err(TaskError::Reject(format!("its output is longer than {MAX_OUTPUT} bytes")))
        }
        output => Ok(output),
    }
}

fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(u64::from(number))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("the SDK writes JSON")
}
