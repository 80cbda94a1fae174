//! Jobs: work that the plugin does after the response, later, or at certain times.
//!
//! A job is a function with `#[job]`, listed in `jobs: […]` of `plugin!`. The attribute adds two functions to it, which
//! check the type of the payload: `send_summary::enqueue(&payload)`, and `send_summary::job(&payload)` for a delay, a
//! priority or a key. While a transaction of [`sql`](crate::sql) is open, the job belongs to it: it is enqueued if the
//! transaction commits.
//!
//! A function with `#[schedule]`, listed in `schedules: […]`, is a job that the host enqueues at certain times. It takes
//! the options of a job, and has no payload or one with a `Default`.
//!
//! The payload of another type does not compile:
//!
//! ```compile_fail
//! # use wharf_sdk::prelude::*;
//! # plugin! { name: "press", summary: "Prints", routes: [], jobs: [print] }
//! #[job]
//! fn print(_pages: Job<u32>) {}
//!
//! let _ = print::enqueue("five");
//! ```
//!
//! A job runs at least once: at a failure again later, and perhaps although it succeeded. So its work has to be
//! idempotent, or it recognises a job by its [`id`](Job::id).
//!
//! ```
//! use std::time::Duration;
//! use wharf_sdk::jobs;
//! use wharf_sdk::prelude::*;
//!
//! plugin! {
//!     name: "reports",
//!     summary: "Reports",
//!     routes: [order, progress],
//!     jobs: [write_report],
//!     schedules: [nightly],
//! }
//!
//! #[derive(serde::Serialize, serde::Deserialize, JsonSchema)]
//! struct Report {
//!     year: u16,
//! }
//!
//! #[post("/{year}", status = 202)]
//! fn order(Path(year): Path<u16>) -> Result<Json<Uuid>> {
//!     Ok(Json(write_report::job(&Report { year }).delay(Duration::from_secs(5)).dedup(year).enqueue()?))
//! }
//!
//! #[get("/{id}")]
//! fn progress(Path(id): Path<Uuid>) -> Result<Json<Option<u64>>> {
//!     Ok(Json(jobs::status(id)?.and_then(|status| status.progress).map(|(done, _)| done)))
//! }
//!
//! #[job(retries = 5, backoff = "10s", deadline = "60s", concurrency = 1, keep = "1h")]
//! fn write_report(job: Job<Report>) -> Result<String, TaskError> {
//!     if job.payload.year < 1970 {
//!         return Err(TaskError::reject("there are no numbers of that year"));
//!     }
//!     job.progress(1, 1)?;
//!     Ok(format!("The report of {}", job.payload.year))
//! }
//!
//! /// Runs at six in the morning in Berlin.
//! #[schedule("0 6 * * *", tz = "Europe/Berlin", missed = skip)]
//! fn nightly() -> Result<()> {
//!     write_report::enqueue(&Report { year: 2026 })?;
//!     Ok(())
//! }
//! ```

use crate::bindings::imports::wharf::jobs::queue as wit;
use crate::bindings::worker_role::exports::wharf::jobs::worker;
use crate::host::jobs as host;
use crate::task::TaskError;
use crate::{Problem, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Display;
use std::time::Duration;
use uuid::Uuid;

pub use wit::{Error, Priority, State};

/// Enqueues a job and returns its id: `jobs::enqueue(send_summary::job(&payload).delay(time))`. While a transaction is open,
/// the job belongs to it. The id of a job that its [`dedup`](NewJob::dedup) key drops stays unknown to the host.
///
/// # Errors
/// As [`cancel`].
pub fn enqueue(job: NewJob) -> Result<Uuid, Error> {
    let NewJob { raw, invalid } = job;
    if let Some(reason) = invalid {
        return Err(Error::Invalid(reason));
    }
    let id = host::enqueue(&raw).inspect_err(note_conflict)?;
    Uuid::parse_str(&id).map_err(|_| Error::Invalid("the host returned an id that is no UUID".to_owned()))
}

/// Cancels a job of this plugin. A running job is stopped. A job that has ended stays as it is. While a transaction is
/// open, this belongs to it.
///
/// # Errors
/// See [`Error`]; `?` in a handler turns it into a problem response.
pub fn cancel(id: Uuid) -> Result<(), Error> {
    host::cancel(&id.to_string()).inspect_err(note_conflict)
}

/// Returns the status of a job of this plugin. `None` means that it is unknown: its transaction was not committed, its
/// [`dedup`](NewJob::dedup) key dropped it, it succeeded longer ago than its `keep`, it was cancelled more than a day ago, or
/// an operator dropped it as a dead letter.
///
/// # Errors
/// As [`cancel`].
pub fn status(id: Uuid) -> Result<Option<Status>, Error> {
    let status = host::status(&id.to_string())?;
    Ok(status.map(|wit::JobStatus { state, attempts, progress, output, reason }| {
        let output = output.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
        Status { state, attempts, progress, output, reason }
    }))
}

/// The status of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Whether it waits, runs or has ended, and how.
    pub state: State,
    /// Attempts that began.
    pub attempts: u32,
    /// The latest report: done, total.
    pub progress: Option<(u64, u64)>,
    /// The value that a job returned at its success.
    pub output: Option<Value>,
    /// The reason of the latest failure.
    pub reason: Option<String>,
}

/// A builder for a job; [`NewJob::enqueue`] enqueues it. `send_summary::job(&payload)` starts it.
#[derive(Clone, Debug)]
#[must_use]
pub struct NewJob {
    raw: wit::Job,
    /// Why the job cannot be enqueued.
    invalid: Option<String>,
}

/// Starts a job of this plugin. The functions that `#[job]` adds to a job call it.
#[doc(hidden)]
pub fn new_job<P: Serialize>(name: &str, payload: &P) -> NewJob {
    let (payload, invalid) = match serde_json::to_string(payload) {
        Ok(payload) => (payload, None),
        Err(error) => (String::new(), Some(format!("the payload: {error}"))),
    };
    let name = name.to_owned();
    NewJob { raw: wit::Job { name, payload, delay_ms: 0, priority: Priority::Normal, dedup_key: None }, invalid }
}

impl NewJob {
    /// Lets the job start after this time at the earliest. At most 366 days.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.raw.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Lets the job start before or after others that wait. Without it, the priority is [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.raw.priority = priority;
        self
    }

    /// Drops the job if another one of its name with this key waits or runs.
    pub fn dedup(mut self, key: impl Display) -> Self {
        self.raw.dedup_key = Some(key.to_string());
        self
    }

    /// Enqueues the job and returns its id, as [`enqueue`] does.
    ///
    /// # Errors
    /// As [`cancel`].
    pub fn enqueue(self) -> Result<Uuid, Error> {
        enqueue(self)
    }
}

/// The open transaction has lost if the job cannot be added to it.
fn note_conflict(error: &Error) {
    if *error == Error::Conflict {
        crate::sql::note_conflict();
    }
}

/// A job that runs. There is no caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Job<P> {
    /// The same at each attempt, and the one that enqueueing it returned.
    pub id: Uuid,
    /// The payload.
    pub payload: P,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The time of the schedule that caused it, if a schedule did.
    pub scheduled_at: Option<Timestamp>,
    /// The id of the request that caused it, if a request did.
    pub request_id: Option<String>,
}

impl<P> Job<P> {
    /// Reports how much of this job is done, for [`Status::progress`]. Within a second after a report, the host ignores
    /// further ones, also the last of the job. In a test, only the first report of an attempt counts.
    ///
    /// # Errors
    /// As [`cancel`].
    pub fn progress(&self, done: u64, total: u64) -> Result<(), Error> {
        host::report_progress(done, total)
    }
}

/// The type of the argument of a job.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the argument of a job",
    label = "not a job",
    note = "take `Job<T>`, where `T` derives `Serialize`, `Deserialize` and `JsonSchema`, or no argument"
)]
#[doc(hidden)]
pub trait FromTask: Sized {
    /// The payload.
    type Payload: Serialize + JsonSchema;

    /// Reads the job.
    ///
    /// # Errors
    /// The payload does not fit the type.
    fn from_task(task: worker::Task) -> Result<Self, TaskError>;
}

impl<P: Serialize + DeserializeOwned + JsonSchema> FromTask for Job<P> {
    type Payload = P;

    fn from_task(task: worker::Task) -> Result<Self, TaskError> {
        let worker::Task { id, payload, attempt, scheduled_at, request_id, .. } = task;
        let id = Uuid::parse_str(&id).map_err(|_| TaskError::reject("the host sent an id that is no UUID"))?;
        let payload = serde_json::from_str(&payload)
            .map_err(|error| TaskError::Reject(format!("the payload does not fit the job: {error}")))?;
        let scheduled_at = scheduled_at.map(Timestamp::from_unix_micros);
        Ok(Self { id, payload, attempt, scheduled_at, request_id })
    }
}

/// The type that a job returns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the return type of a job",
    label = "not an outcome",
    note = "return `()` or `Result<T, E>`, where `T` derives `Serialize` and `E` is `TaskError`, `Problem` or the error of a \
            capability"
)]
#[doc(hidden)]
pub trait JobOutcome {
    /// Returns the outcome for the host: the output as JSON, if there is one.
    ///
    /// # Errors
    /// The error of the handler, or that the output cannot be written as JSON.
    fn outcome(self) -> Result<Option<String>, TaskError>;
}

impl JobOutcome for () {
    fn outcome(self) -> Result<Option<String>, TaskError> {
        Ok(None)
    }
}

impl<T: Serialize, E: Into<TaskError>> JobOutcome for Result<T, E> {
    fn outcome(self) -> Result<Option<String>, TaskError> {
        let output = serde_json::to_string(&self.map_err(Into::<TaskError>::into)?);
        let output = output.map_err(|error| TaskError::Reject(format!("the output: {error}")))?;
        // `()` is written so.
        Ok(Some(output).filter(|output| output != "null"))
    }
}

/// 409 `transaction_conflict` for a lost transaction, 429 for a rate, a volume or a full queue, 503 for another limit and
/// while the queue cannot be reached, and 500 `plugin_error` for a job that is not declared or a payload that does not fit
/// it. The message itself goes to the plugin's log only.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::internal(format_args!("jobs: {message}")),
            Error::Limit(limit) => Self::message_limit("jobs", &limit),
            Error::Conflict => {
                Self::conflict("transaction_conflict", "The data was changed at the same time, try again")
            }
            Error::Unavailable => Self::new(503, "jobs_unavailable", "The queue cannot be reached, try again later"),
        }
    }
}
