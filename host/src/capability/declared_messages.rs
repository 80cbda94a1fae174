//! The declaration of a release about events and jobs: the topics that it publishes, the topics that it subscribes to, its
//! jobs and its schedules. `plugin::declared_messages` checks it at the deploy, and it is stored with the release; the
//! capabilities `events` and `jobs` hold messages against it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::message::Topic;
use crate::route::Access;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeclaredMessages {
    /// The topics that it publishes.
    pub topics: Vec<DeclaredTopic>,
    /// The topics that it subscribes to, in the order of the declaration.
    pub subscriptions: Vec<DeclaredSubscription>,
    /// The jobs that it runs, in the order of the declaration.
    pub jobs: Vec<DeclaredJob>,
    /// Its schedules.
    pub schedules: Vec<DeclaredSchedule>,
}

/// A topic of the plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclaredTopic {
    /// The name without that of the plugin.
    pub name: String,
    /// Its meaning.
    pub summary: String,
    /// JSON Schema of the payloads.
    pub schema: Value,
    /// The callers whose clients may receive the events; `None`: no client.
    pub access: Option<Access>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredSubscription {
    /// The topic.
    pub topic: Topic,
    /// How often a failed delivery is repeated and how.
    #[serde(flatten)]
    pub retry: RetryPolicy,
}

/// How often a failed attempt is repeated, and after which wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The number of repetitions.
    pub retries: u32,
    /// The longest wait before the first one, in milliseconds. It doubles each time.
    pub backoff_ms: u32,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclaredJob {
    /// The name.
    pub name: String,
    /// JSON Schema of the payloads; `None`: any JSON.
    pub schema: Option<Value>,
    /// How often a failed attempt is repeated and how.
    #[serde(flatten)]
    pub retry: RetryPolicy,
    /// The time limit of an attempt, in milliseconds.
    pub deadline_ms: u32,
    /// How many of them run at once.
    pub concurrency: u32,
    /// How long one that ended is kept, in milliseconds.
    pub keep_ms: u64,
}

impl DeclaredJob {
    /// Returns how long one that ended is kept.
    pub fn keep(&self) -> Duration {
        Duration::from_millis(self.keep_ms)
    }
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredSchedule {
    /// The name.
    pub name: String,
    /// A cron expression of five fields.
    pub cron: String,
    /// A name of the IANA time zone database.
    pub time_zone: String,
    /// The treatment of times that passed while the host did not run or the plugin was paused.
    pub missed: MissedTimes,
    /// The job.
    pub job: String,
    /// Its payload, as JSON.
    pub payload: String,
}

/// The treatment of times of a schedule that passed while the host did not run or the plugin was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissedTimes {
    /// Nothing.
    Skip,
    /// The job runs once.
    Once,
}

impl MissedTimes {
    /// Returns the word that operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
        }
    }
}
