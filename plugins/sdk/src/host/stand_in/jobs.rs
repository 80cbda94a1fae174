//! The queue of a test: its jobs run when the test asks for that.

use super::messages::{Kind, MAX_DEPTH, Message, Task, check_key, check_length, check_payload};
use super::state::with;
use crate::Uuid;
use crate::bindings::imports::wharf::jobs::queue::{Error, Job, JobStatus, State};
use std::time::Duration;

/// The longest delay, as in the host.
const MAX_DELAY: Duration = Duration::from_secs(366 * 24 * 60 * 60);

pub(crate) fn enqueue(job: &Job) -> Result<String, Error> {
    with(|host| {
        let Some(validator) = host.messages.declared.jobs.get(job.name.as_str()) else {
            let text = format!("neither `jobs: […]` nor `schedules: […]` lists the job `{}`", job.name);
            return Err(Error::Invalid(text));
        };
        check_key(job.dedup_key.as_deref()).map_err(Error::Invalid)?;
        let delay = Duration::from_millis(job.delay_ms);
        if delay > MAX_DELAY {
            return Err(Error::Invalid(format!("the delay is longer than {} days", MAX_DELAY.as_secs() / 86_400)));
        }
        check_length(&job.payload).map_err(Error::Limit)?;
        let depth = host.messages.next_depth().ok_or_else(|| Error::Limit(format!("depth: {MAX_DEPTH}")))?;
        check_payload(validator, &job.payload).map_err(Error::Invalid)?;
        let id = Uuid::new_v4();
        let Job { name, payload, priority, dedup_key, .. } = job.clone();
        let task = Task {
            id,
            kind: Kind::Job { name, priority, dedup_key, scheduled_at: None },
            payload,
            state: State::Waiting,
            due_at: host.clock + delay,
            attempts: 0,
            reason: None,
            output: None,
            progress: None,
            keep_until: None,
            depth,
            request_id: host.request_id.clone(),
        };
        host.hand_over(Message::Job(task));
        Ok(id.to_string())
    })
}

pub(crate) fn cancel(id: &str) -> Result<(), Error> {
    let job = parse(id)?;
    with(|host| host.hand_over(Message::Cancel { job, at: host.clock }));
    Ok(())
}

pub(crate) fn status(id: &str) -> Result<Option<JobStatus>, Error> {
    let id = parse(id)?;
    Ok(with(|host| {
        let is_known = |task: &Task| task.keep_until.is_none_or(|until| until > host.clock);
        let is_meant = |task: &&Task| task.id == id && !task.is_delivery() && is_known(task);
        let job = host.messages.tasks.iter().find(is_meant)?;
        Some(JobStatus {
            state: job.state,
            attempts: job.attempts,
            progress: job.progress,
            output: job.output.clone(),
            reason: job.reason.clone(),
        })
    }))
}

#[allow(clippy::unnecessary_wraps, reason = "the host can fail")]
pub(crate) fn report_progress(done: u64, total: u64) -> Result<(), Error> {
    with(|host| host.messages.report(done, total));
    Ok(())
}

fn parse(id: &str) -> Result<Uuid, Error> {
    Uuid::parse_str(id).map_err(|_| Error::Invalid("the id is no UUID".to_owned()))
}
