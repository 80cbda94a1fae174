//! The fate of a task after an attempt: the end that is stored, and the wait before the next attempt. Only computes.

use std::time::Duration;

use super::counts::AttemptOutcome;
use crate::capability::declared_messages::RetryPolicy;
use crate::clock::Timestamp;
use crate::db::task::{ClaimedTask, TaskEnd};
use crate::plugin::sandbox::TaskOutcome;

/// The longest wait between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60 * 60);

/// The rules of the release for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskRules {
    pub(super) retry: RetryPolicy,
    /// How long a job that succeeded is kept.
    pub(super) keep: Duration,
}

impl TaskRules {
    /// The rules for a task that the release does not declare: it is not repeated.
    pub(super) const NONE: Self = Self { retry: RetryPolicy { retries: 0, backoff_ms: 0 }, keep: Duration::ZERO };
}

/// Returns the end of an attempt. `random` chooses the wait before the next one; `hold` returns the wait after one that
/// does not count.
pub(super) fn end_of(
    outcome: TaskOutcome,
    task: &ClaimedTask,
    rules: TaskRules,
    (now, random): (Timestamp, u64),
    hold: impl FnOnce() -> Duration,
) -> TaskEnd {
    match outcome {
        TaskOutcome::Done(_) if task.event_seq.is_some() => TaskEnd::Delivered,
        TaskOutcome::Done(output) => TaskEnd::Succeeded { output, keep_until: now.plus(rules.keep) },
        TaskOutcome::Retry(reason) if task.attempts <= i64::from(rules.retry.retries) => {
            TaskEnd::Retry { reason, due_at: now.plus(backoff(rules.retry, task.attempts, random)) }
        }
        TaskOutcome::Retry(reason) | TaskOutcome::Reject(reason) => TaskEnd::Dead { reason },
        TaskOutcome::NotCounted(_) => TaskEnd::Postponed { due_at: now.plus(hold()) },
    }
}

/// Returns how an end is counted.
pub(super) fn counted(end: &TaskEnd) -> AttemptOutcome {
    match end {
        TaskEnd::Delivered => AttemptOutcome::Delivered,
        TaskEnd::Succeeded { .. } => AttemptOutcome::Succeeded,
        TaskEnd::Retry { .. } => AttemptOutcome::Retried,
        TaskEnd::Postponed { .. } => AttemptOutcome::Postponed,
        TaskEnd::Dead { .. } => AttemptOutcome::Dead,
    }
}

/// Returns the wait after a failed attempt, the first of which has the number 1: a random part of the longest wait, which
/// doubles with each attempt. So tasks that failed together do not all come back together.
fn backoff(policy: RetryPolicy, attempts: i64, random: u64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or_default().min(31);
    let longest = Duration::from_millis(u64::from(policy.backoff_ms)).saturating_mul(1 << doublings);
    let micros = longest.min(LONGEST_BACKOFF).as_micros();
    let part = (micros * u128::from(random)) >> u64::BITS;
    Duration::from_micros(u64::try_from(part).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::JobId;

    const RULES: TaskRules =
        TaskRules { retry: RetryPolicy { retries: 2, backoff_ms: 1_000 }, keep: Duration::from_secs(60) };
    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn job(attempts: i64) -> ClaimedTask {
        ClaimedTask {
            seq: 1,
            id: Some(JobId(uuid::Uuid::nil())),
            plugin: "items".parse().unwrap(),
            name: "cleanup".to_owned(),
            event_seq: None,
            payload: Some("{}".to_owned()),
            lane: None,
            scheduled_at: None,
            attempts,
            claims: attempts,
            depth: 0,
            request_id: None,
            created_at: NOW,
        }
    }

    fn end(outcome: TaskOutcome, task: &ClaimedTask) -> TaskEnd {
        end_of(outcome, task, RULES, (NOW, u64::MAX), || Duration::from_secs(4))
    }

    #[test]
    fn a_job_that_succeeds_is_kept_and_a_delivery_is_not() {
        let output = Some("7".to_owned());
        let kept = TaskEnd::Succeeded { output: output.clone(), keep_until: NOW.plus(Duration::from_secs(60)) };
        assert_eq!(end(TaskOutcome::Done(output), &job(1)), kept);
        let delivery = ClaimedTask { event_seq: Some(1), ..job(1) };
        assert_eq!(end(TaskOutcome::Done(None), &delivery), TaskEnd::Delivered);
    }

    #[test]
    fn a_failure_is_repeated_as_often_as_declared() {
        let retry = || TaskOutcome::Retry("not yet".to_owned());
        for attempt in [1, 2] {
            assert!(matches!(end(retry(), &job(attempt)), TaskEnd::Retry { reason, .. } if reason == "not yet"));
        }
        let dead = TaskEnd::Dead { reason: "not yet".to_owned() };
        assert_eq!(end(retry(), &job(3)), dead);
        assert_eq!(end(TaskOutcome::Reject("not yet".to_owned()), &job(1)), dead);
        let undeclared = end_of(retry(), &job(1), TaskRules::NONE, (NOW, 0), || Duration::ZERO);
        assert_eq!(undeclared, dead);
    }

    #[test]
    fn an_attempt_that_does_not_count_is_never_the_last() {
        let postponed = TaskEnd::Postponed { due_at: NOW.plus(Duration::from_secs(4)) };
        assert_eq!(end(TaskOutcome::NotCounted("paused".to_owned()), &job(1_000)), postponed);
    }

    #[test]
    fn the_wait_is_a_random_part_of_one_that_doubles_up_to_an_hour() {
        let longest = |attempts| backoff(RULES.retry, attempts, u64::MAX).as_secs_f64().round();
        let waits: Vec<f64> = [1, 2, 3, 4, 12, 13, 1_000].map(longest).into();
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 2048.0, 3600.0, 3600.0]);
        assert_eq!(backoff(RULES.retry, 4, 0), Duration::ZERO);
        assert_eq!(backoff(RULES.retry, 4, u64::MAX / 2 + 1), Duration::from_secs(4));
        assert_eq!(backoff(RetryPolicy { retries: 1, backoff_ms: 0 }, 1, u64::MAX), Duration::ZERO);
        let most = RetryPolicy { retries: 1, backoff_ms: u32::MAX };
        assert!(backoff(most, i64::MAX, u64::MAX) <= LONGEST_BACKOFF);
    }
}
