//! The run of a delivery or a job: one attempt in a fresh instance, without a client and without a caller. Owns the
//! difference between an attempt that failed and one that does not count: a failure of the host, of an operator's making or
//! of a lack of slots is not the plugin's. Knows neither the queue nor what follows from an outcome.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::execution::{Stop, run_until};
use super::{Sandbox, context_of};
use crate::capability::{CallContext, Dependencies, Dependency, Limit, RunningTask};
use crate::clock::Timestamp;
use crate::error::{Error, code};
use crate::id::{EventId, JobId, UserId};
use crate::plugin::artifact::printable;
use crate::plugin::interface::subscriber::exports::wharf::events::subscriber;
use crate::plugin::interface::worker::exports::wharf::jobs::worker;
use crate::plugin::limits::CallLimits;
use crate::plugin::release::{Prepared, Release};

/// The longest output of a job, in bytes. It is stored in the host's database.
const MAX_OUTPUT: usize = 64 * 1024;

/// One attempt of a task.
#[derive(Debug, Clone, Copy)]
pub struct TaskCall<'a> {
    /// The task.
    pub context: RunningTask,
    /// The request that caused it.
    pub request_id: Option<&'a Arc<str>>,
    /// The work.
    pub work: Work<'a>,
    /// The time limit.
    pub deadline: Duration,
}

/// The work of a task.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// The delivery of an event.
    Delivery {
        /// The index of the subscription in the declaration.
        subscription: u32,
        /// The id of the event.
        id: EventId,
        /// The whole name of the topic.
        topic: &'a str,
        /// The ordering key.
        key: Option<&'a str>,
        /// The account whose clients may receive it.
        audience: Option<UserId>,
        /// JSON.
        payload: &'a str,
        /// When it was published.
        published_at: Timestamp,
        /// 1 for the first attempt.
        attempt: u32,
    },
    /// A job.
    Job {
        /// The index of the job in the declaration.
        job: u32,
        /// The id of the job.
        id: JobId,
        /// JSON.
        payload: &'a str,
        /// 1 for the first attempt.
        attempt: u32,
        /// The time of the schedule that caused it.
        scheduled_at: Option<Timestamp>,
    },
}

/// How an attempt ended. The texts are short and on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskOutcome {
    /// It succeeded, with the output of a job.
    Done(Option<String>),
    /// It failed and may be repeated.
    Retry(String),
    /// It failed, and a repetition would not help.
    Reject(String),
    /// It did not run, or not to its end, and that is not its fault.
    NotCounted(String),
}

/// The return value of a guest.
enum Returned {
    Output(Option<String>),
    Retry(String),
    Reject(String),
    /// The release has no such role.
    NoRole(&'static str),
}

impl Returned {
    /// Returns the bytes of its text.
    fn bytes(&self) -> usize {
        match self {
            Self::Output(output) => output.as_ref().map_or(0, String::len),
            Self::Retry(reason) | Self::Reject(reason) => reason.len(),
            Self::NoRole(_) => 0,
        }
    }
}

impl Sandbox {
    /// Returns the number of background slots that are free.
    pub fn free_background_slots(&self) -> usize {
        self.background_slots.available_permits()
    }

    /// Runs an attempt with the parts of the release. It waits for no slot: the caller starts no more attempts than there
    /// are background slots.
    /// `dependencies` records the services of the host that failed meanwhile.
    pub async fn run_task(
        &self,
        release: &Release,
        parts: &Prepared,
        call: TaskCall<'_>,
        dependencies: &Dependencies,
    ) -> TaskOutcome {
        let not_counted = |reason: &str| TaskOutcome::NotCounted(reason.to_owned());
        // Also ends an attempt whose release was found before the pause.
        let paused = release.pause.token();
        let Ok(_slot) = self.background_slots.try_acquire() else {
            return not_counted("no background slot is free");
        };
        if release.revocations.any() {
            return not_counted(REVOKED);
        }
        // Pinned, because each of the two would move the attempt, which is large.
        let attempt = pin!(self.run_attempt(release, parts, call, dependencies));
        let running = release.calls.run(attempt);
        let outcome = match paused.run_until_cancelled(running).await {
            Some(Some(outcome)) => outcome,
            None => return not_counted("the plugin was paused"),
            Some(None) => return not_counted("the release was replaced and its drain time is over"),
        };
        match (outcome, dependencies.first_failure()) {
            // Its functions failed, which the guest may have taken for a reason to stop.
            (TaskOutcome::Retry(_) | TaskOutcome::Reject(_), _) if release.revocations.any() => not_counted(REVOKED),
            (TaskOutcome::Retry(reason), Some(failed)) => TaskOutcome::NotCounted(service_failed(failed, &reason)),
            (outcome, _) => outcome,
        }
    }

    async fn run_attempt(
        &self,
        release: &Release,
        parts: &Prepared,
        call: TaskCall<'_>,
        dependencies: &Dependencies,
    ) -> TaskOutcome {
        let limits = CallLimits {
            cpu_time: self.task_cpu_time.max(release.limits.cpu_time).min(call.deadline),
            deadline: call.deadline,
            ..release.limits.clone()
        };
        let context = CallContext { task: Some(call.context), ..context_of(release, call.request_id) };
        let slot = release.bulkhead.cpu_queue().slot();
        let mut store = self.release_store(release, parts, context, &limits, dependencies, slot.clone());
        let budget = store.data().limits.budget.clone();
        let request_id = call.request_id.map(|id| &**id);
        let work = async {
            let began = Instant::now();
            let returned = match call.work {
                Work::Delivery { subscription, id, topic, key, audience, payload, published_at, attempt } => {
                    let Some(role) = &parts.subscriber else { return Ok(Returned::NoRole("receives no events")) };
                    let _payload = budget.reserve(payload.len())?;
                    let guest = role.instantiate_async(&mut store).await?;
                    release.stats.instantiated(began.elapsed());
                    let (id, audience) = (id.to_string(), audience.map(|account| account.to_string()));
                    let event = subscriber::Event {
                        id: &id,
                        topic,
                        key,
                        audience: audience.as_deref(),
                        payload,
                        published_at: published_at.0,
                        attempt,
                        request_id,
                    };
                    match guest.wharf_events_subscriber().call_receive(&mut store, subscription, event).await? {
                        Ok(()) => Returned::Output(None),
                        Err(subscriber::Failure::Retry(reason)) => Returned::Retry(reason),
                        Err(subscriber::Failure::Reject(reason)) => Returned::Reject(reason),
                    }
                }
                Work::Job { job, id, payload, attempt, scheduled_at } => {
                    let Some(role) = &parts.worker else { return Ok(Returned::NoRole("runs no jobs")) };
                    let _payload = budget.reserve(payload.len())?;
                    let guest = role.instantiate_async(&mut store).await?;
                    release.stats.instantiated(began.elapsed());
                    let (id, scheduled_at) = (id.to_string(), scheduled_at.map(|at| at.0));
                    let task = worker::Task { id: &id, job, payload, attempt, scheduled_at, request_id };
                    match guest.wharf_jobs_worker().call_run(&mut store, task).await? {
                        Ok(output) => Returned::Output(output),
                        Err(worker::Failure::Retry(reason)) => Returned::Retry(reason),
                        Err(worker::Failure::Reject(reason)) => Returned::Reject(reason),
                    }
                }
            };
            store.data_mut().release_result();
            let _returned = budget.reserve(returned.bytes())?;
            Ok(returned)
        };
        let outcome = run_until(&slot, &release.stats, limits.deadline, work).await;
        release.usage.record_peak(budget.peak());
        // Includes a limit that the guest recovered from. The deadline is the task's own.
        let hit = budget.limit_hit();
        if let Some(limit) = hit {
            release.usage.hit(limit);
        }
        match outcome {
            Ok(returned) => check(returned),
            Err(stop) => stopped(stop, hit, limits.deadline),
        }
    }
}

/// The reason of an attempt that ended because of a revocation.
const REVOKED: &str = "a grant of the plugin was revoked";

fn service_failed(dependency: Dependency, reason: &str) -> String {
    format!("a service of the host failed ({}): {reason}", dependency.as_str())
}

/// Checks the return value of a guest.
fn check(returned: Returned) -> TaskOutcome {
    match returned {
        Returned::Output(Some(output)) if output.len() > MAX_OUTPUT => {
            TaskOutcome::Reject(format!("its output is longer than {MAX_OUTPUT} bytes"))
        }
        // PostgreSQL cannot store it.
        Returned::Output(Some(output)) if output.contains('\0') => {
            TaskOutcome::Reject("its output contains the character U+0000".to_owned())
        }
        Returned::Output(output) => TaskOutcome::Done(output),
        Returned::Retry(reason) => TaskOutcome::Retry(printable(&reason)),
        Returned::Reject(reason) => TaskOutcome::Reject(printable(&reason)),
        Returned::NoRole(lack) => TaskOutcome::NotCounted(format!("the live release {lack}")),
    }
}

/// Returns the outcome of an attempt that did not return; `hit` is the limit that the guest hit.
fn stopped(stop: Stop, hit: Option<Limit>, deadline: Duration) -> TaskOutcome {
    let error: Error = stop.into_error(hit);
    if [code::PLUGIN_BUSY, code::PLUGIN_REVOKED, code::DEPENDENCY_UNAVAILABLE].contains(error.code()) {
        return TaskOutcome::NotCounted(printable(&error.report()));
    }
    if *error.code() == code::PLUGIN_DEADLINE {
        return TaskOutcome::Retry(format!(
            "it did not end within its deadline of {}",
            humantime::format_duration(deadline)
        ));
    }
    TaskOutcome::Retry(match hit {
        Some(limit) => format!("it exceeded its limit '{}'", limit.as_str()),
        None => printable(&error.report()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_cannot_be_stored_is_rejected() {
        let output = |text: String| check(Returned::Output(Some(text)));
        assert_eq!(check(Returned::Output(None)), TaskOutcome::Done(None));
        assert_eq!(output("x".repeat(MAX_OUTPUT)), TaskOutcome::Done(Some("x".repeat(MAX_OUTPUT))));
        assert!(matches!(output("x".repeat(MAX_OUTPUT + 1)), TaskOutcome::Reject(_)));
        assert!(matches!(output("a\0b".to_owned()), TaskOutcome::Reject(_)));
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let reason = format!("a\nb\0{}", "x".repeat(10_000));
        let outcomes = [check(Returned::Retry(reason.clone())), check(Returned::Reject(reason))];
        let [TaskOutcome::Retry(retry), TaskOutcome::Reject(reject)] = &outcomes else { panic!("{outcomes:?}") };
        assert_eq!(retry, reject);
        assert!(retry.starts_with("a b xxx") && retry.len() < 400);
    }

    #[test]
    fn a_limit_and_a_trap_may_be_repeated_and_a_full_pool_does_not_count() {
        let failed = |error: wasmtime::Error, hit| stopped(Stop::Failed(error), hit, Duration::from_secs(30));
        let trap = || wasmtime::Error::msg("unreachable");
        assert_eq!(failed(trap(), None), TaskOutcome::Retry("The plugin failed: unreachable; unreachable".to_owned()));
        let limit = TaskOutcome::Retry("it exceeded its limit 'cpu_time'".to_owned());
        assert_eq!(failed(trap(), Some(Limit::CpuTime)), limit);
        let late = stopped(Stop::Deadline, None, Duration::from_secs(30));
        assert_eq!(late, TaskOutcome::Retry("it did not end within its deadline of 30s".to_owned()));
        let revoked = wasmtime::Error::new(crate::capability::Revoked("sql"));
        assert!(matches!(failed(revoked, None), TaskOutcome::NotCounted(_)));
    }
}
