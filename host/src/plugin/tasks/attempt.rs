//! One attempt of a task: finds what the live release declares about it, runs it, and stores its end. A task that cannot
//! run now is postponed, and the attempt does not count. A task that the live release does not declare is dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::counts::AttemptOutcome;
use super::outcome::{TaskRules, counted, end_of};
use crate::capability::{Dependencies, RunningTask};
use crate::db::plugin as plugins;
use crate::db::task::{self, ClaimedTask, TaskEnd};
use crate::error::{Kind, Result};
use crate::plugin::registry::Registry;
use crate::plugin::release::Release;
use crate::plugin::sandbox::{TaskCall, TaskOutcome, Work};

/// The time between two attempts to store an end while the database cannot be reached.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// How often an end is tried that the database refuses. Afterwards the task counts as interrupted.
const MAX_REFUSALS: u32 = 3;

impl Registry {
    /// Runs an attempt of a claimed task and stores its end. `is_ending` is set before the end is stored.
    pub(super) async fn attempt_task(&self, task: &ClaimedTask, is_ending: &AtomicBool) {
        let (outcome, rules) = self.run_claimed(task).await;
        let plugin = &task.plugin;
        let reason = match &outcome {
            TaskOutcome::Done(_) => None,
            TaskOutcome::Retry(reason) | TaskOutcome::Reject(reason) | TaskOutcome::NotCounted(reason) => {
                Some(reason.clone())
            }
        };
        if !matches!(outcome, TaskOutcome::NotCounted(_)) {
            self.holds.end(plugin);
        }
        let random = self.random.bytes().map_or(u64::MAX, u64::from_be_bytes);
        let hold = || self.holds.extend(plugin, Instant::now());
        let end = end_of(outcome, task, rules, (self.clock.now(), random), hold);
        is_ending.store(true, Ordering::SeqCst);
        if !self.store_end(task, &end).await {
            return;
        }
        let outcome = counted(&end);
        self.task_counts.count(plugin, outcome);
        let Some(reason) = reason else { return };
        let (seq, name, attempts) = (task.seq, task.name.as_str(), task.attempts);
        if outcome == AttemptOutcome::Dead && self.task_counts.may_warn(plugin, Instant::now()) {
            tracing::warn!(%plugin, task = seq, name, attempts, reason, "a task failed for the last time");
        } else {
            tracing::debug!(%plugin, task = seq, name, attempts, ?outcome, reason, "a task did not succeed");
        }
    }

    /// Runs a task, if that is possible now.
    async fn run_claimed(&self, task: &ClaimedTask) -> (TaskOutcome, TaskRules) {
        let live = self.generation().plugins.live.get(&task.plugin).cloned();
        let Some(release) = live else {
            return (TaskOutcome::NotCounted("its plugin is not served".to_owned()), TaskRules::NONE);
        };
        let run = match task.event_seq {
            Some(event) => self.run_delivery(task, event, &release).await,
            None => self.run_job(task, &release).await,
        };
        match run {
            Ok(ran) => ran,
            Err(error) => (TaskOutcome::NotCounted(error.report()), TaskRules::NONE),
        }
    }

    async fn run_delivery(
        &self,
        task: &ClaimedTask,
        event: i64,
        release: &Arc<Release>,
    ) -> Result<(TaskOutcome, TaskRules)> {
        let subscriptions = &release.record.declaration.messages.subscriptions;
        let declared = subscriptions.iter().enumerate().find(|(_, declared)| declared.topic.as_str() == task.name);
        let Some((index, declared)) = declared else { return self.undeclared(task, release).await };
        let rules = TaskRules { retry: declared.retry, ..TaskRules::NONE };
        let Some(event) = task::event(&self.db, event).await? else {
            return Ok((TaskOutcome::Reject("its event is not in the database any more".to_owned()), rules));
        };
        let work = Work::Delivery {
            subscription: u32::try_from(index).unwrap_or(u32::MAX),
            id: event.id,
            topic: &task.name,
            key: event.ordering_key.as_deref(),
            audience: event.audience,
            payload: &event.payload,
            published_at: event.published_at,
            attempt: attempt_of(task),
        };
        Ok((self.run_work(task, release, work, release.limits.deadline).await?, rules))
    }

    async fn run_job(&self, task: &ClaimedTask, release: &Arc<Release>) -> Result<(TaskOutcome, TaskRules)> {
        let jobs = &release.record.declaration.messages.jobs;
        let declared = jobs.iter().enumerate().find(|(_, declared)| declared.name == task.name);
        let Some((index, declared)) = declared else { return self.undeclared(task, release).await };
        let rules = TaskRules { retry: declared.retry, keep: declared.keep() };
        let Some(id) = task.id else {
            return Ok((TaskOutcome::Reject("it has no id".to_owned()), rules));
        };
        let Some(quota) = release.record.grants.jobs(&self.limits)? else {
            return Ok((TaskOutcome::NotCounted("its plugin has no grant 'jobs'".to_owned()), rules));
        };
        let work = Work::Job {
            job: u32::try_from(index).unwrap_or(u32::MAX),
            id,
            payload: task.payload.as_deref().unwrap_or("null"),
            attempt: attempt_of(task),
            scheduled_at: task.scheduled_at,
        };
        let deadline = Duration::from_millis(u64::from(declared.deadline_ms)).min(quota.time);
        Ok((self.run_work(task, release, work, deadline).await?, rules))
    }

    async fn run_work(
        &self,
        task: &ClaimedTask,
        release: &Arc<Release>,
        work: Work<'_>,
        deadline: Duration,
    ) -> Result<TaskOutcome> {
        let parts = match self.use_prepared(release) {
            Some(parts) => parts,
            // Boxed, because it is large and happens rarely.
            None => Box::pin(self.prepare_release(release)).await?,
        };
        let request_id: Option<Arc<str>> = task.request_id.as_deref().map(Arc::from);
        let depth = u32::try_from(task.depth).unwrap_or(u32::MAX);
        let context = RunningTask { claim: task.claim(), is_job: task.event_seq.is_none(), depth };
        let dependencies = Dependencies::new(Arc::clone(&release.usage));
        let call = TaskCall { context, request_id: request_id.as_ref(), work, deadline };
        Ok(Box::pin(self.live.sandbox().run_task(release, &parts, call, &dependencies)).await)
    }

    /// Returns the outcome of a task that the release does not declare. While another release is recorded, as in the middle
    /// of a deploy, the task is one for that release.
    async fn undeclared(&self, task: &ClaimedTask, release: &Release) -> Result<(TaskOutcome, TaskRules)> {
        let (plugin, number) = (&task.plugin, release.record.number);
        let recorded = plugins::find(&self.db, plugin).await?.map(|stored| stored.live_release);
        if recorded.is_some_and(|recorded| recorded != number) {
            let reason = "another release becomes the live one".to_owned();
            return Ok((TaskOutcome::NotCounted(reason), TaskRules::NONE));
        }
        let reason = match task.event_seq {
            Some(_) => format!("release {number} of '{plugin}' does not subscribe to '{}'", task.name),
            None => format!("release {number} of '{plugin}' has no job '{}'", task.name),
        };
        Ok((TaskOutcome::Reject(reason), TaskRules::NONE))
    }

    /// Stores the end of an attempt. While the database cannot be reached, it is tried again: the task belongs to this
    /// process until another one takes it over. Returns whether it was stored.
    async fn store_end(&self, task: &ClaimedTask, end: &TaskEnd) -> bool {
        let (plugin, seq) = (&task.plugin, task.seq);
        let mut refusals = 0;
        loop {
            match task::end(&self.db, task, end, self.clock.now()).await {
                Ok(true) => return true,
                Ok(false) => {
                    tracing::debug!(%plugin, task = seq, "a task was cancelled, or belongs to another process now");
                    return false;
                }
                Err(error) if !matches!(error.kind(), Kind::Unavailable(_)) => {
                    refusals += 1;
                    if refusals >= MAX_REFUSALS {
                        tracing::error!(%plugin, task = seq, error = error.report(), "the end of a task is not stored");
                        return false;
                    }
                }
                Err(error) => {
                    tracing::debug!(%plugin, task = seq, error = error.report(), "the end of a task is not stored yet");
                }
            }
            tokio::time::sleep(STORE_INTERVAL).await;
        }
    }
}

/// Returns the number of an attempt, as the guest sees it.
fn attempt_of(task: &ClaimedTask) -> u32 {
    u32::try_from(task.attempts).unwrap_or(u32::MAX)
}
