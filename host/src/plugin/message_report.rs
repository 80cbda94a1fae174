//! The declared events and jobs of a plugin as operators see them: in the report on a file, and in the operator API. Leaves
//! out schemas and payloads.

use schemars::JsonSchema;
use serde::Serialize;

use crate::capability::DeclaredMessages;
use crate::capability::declared_messages::{DeclaredJob, DeclaredSchedule, DeclaredSubscription, DeclaredTopic};

/// Events and jobs.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MessageReport {
    /// Topics of events that it publishes.
    pub topics: Vec<TopicReport>,
    /// Topics of events that it receives.
    pub subscriptions: Vec<SubscriptionReport>,
    /// Jobs that it runs.
    pub jobs: Vec<JobReport>,
    /// Schedules on which jobs run.
    pub schedules: Vec<ScheduleReport>,
}

/// A topic.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TopicReport {
    /// The name without that of the plugin.
    pub name: String,
    /// Its meaning.
    pub summary: String,
    /// The callers whose clients may receive the events; null: none.
    pub access: Option<String>,
}

/// A subscription.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SubscriptionReport {
    /// The whole name of the topic.
    pub topic: String,
    /// How often a failed delivery is repeated.
    pub retries: u32,
    /// The longest wait before the first repetition, in milliseconds. It doubles each time.
    pub backoff_ms: u32,
}

/// A job.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct JobReport {
    /// The name.
    pub name: String,
    /// How often a failed attempt is repeated.
    pub retries: u32,
    /// The longest wait before the first repetition, in milliseconds. It doubles each time.
    pub backoff_ms: u32,
    /// The time limit of an attempt, in milliseconds.
    pub deadline_ms: u32,
    /// How many of them run at once.
    pub concurrency: u32,
    /// How long one that ended is kept, in milliseconds.
    pub keep_ms: u64,
}

/// A schedule.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ScheduleReport {
    /// The name.
    pub name: String,
    /// Minute, hour, day of the month, month and day of the week.
    pub cron: String,
    /// A name of the IANA time zone database.
    pub time_zone: String,
    /// The treatment of times that passed while the host did not run or the plugin was paused: `skip` (nothing) or `once`
    /// (the job runs once).
    pub missed: &'static str,
    /// The job.
    pub job: String,
}

impl MessageReport {
    /// Describes what a release declares.
    pub fn of(messages: &DeclaredMessages) -> Self {
        let topic = |DeclaredTopic { name, summary, access, .. }: &DeclaredTopic| TopicReport {
            name: name.clone(),
            summary: summary.clone(),
            access: access.as_ref().map(ToString::to_string),
        };
        let subscription = |DeclaredSubscription { topic, retry }: &DeclaredSubscription| SubscriptionReport {
            topic: topic.to_string(),
            retries: retry.retries,
            backoff_ms: retry.backoff_ms,
        };
        let job = |job: &DeclaredJob| JobReport {
            name: job.name.clone(),
            retries: job.retry.retries,
            backoff_ms: job.retry.backoff_ms,
            deadline_ms: job.deadline_ms,
            concurrency: job.concurrency,
            keep_ms: job.keep_ms,
        };
        let schedule = |schedule: &DeclaredSchedule| ScheduleReport {
            name: schedule.name.clone(),
            cron: schedule.cron.clone(),
            time_zone: schedule.time_zone.clone(),
            missed: schedule.missed.as_str(),
            job: schedule.job.clone(),
        };
        Self {
            topics: messages.topics.iter().map(topic).collect(),
            subscriptions: messages.subscriptions.iter().map(subscription).collect(),
            jobs: messages.jobs.iter().map(job).collect(),
            schedules: messages.schedules.iter().map(schedule).collect(),
        }
    }
}
