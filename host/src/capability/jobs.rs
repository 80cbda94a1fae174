//! `wharf:jobs`: jobs that the release declares. `capability::hand_over` stores them, and `plugin::tasks` runs them. A
//! plugin sees its own jobs only.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use wasmtime::component::{HasSelf, Linker};

use super::grant::Grants;
use super::hand_over::{MessageServices, Refusal, convert_refusals};
use super::message_check::{Counted, MessageLimits, PayloadSchemas, check_key, compile};
use super::message_rate::MessageRates;
use super::parameter::{parameters, printable};
use super::waiting_work::WaitingWork;
use super::{Boot, CallContext, Candidate, Capability, Dependency, Guest, HostCalls, Limit};
use crate::config;
use crate::db::plugin_data::PluginData;
use crate::db::task::status::{self as table, JobState, JobStatus};
use crate::error::Result;
use crate::id::JobId;
use crate::message::{Message, NewJob, Priority};

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-jobs; world imports { import wharf:jobs/queue@0.1.0; }",
        path: "../wit",
        imports: { default: async | trappable },
    });
}
use bindings::wharf::jobs::queue;

/// The longest delay of a job.
const MAX_DELAY: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Reports of progress within this time after the last one are left out.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The most messages of an outbox in which a job is looked for. They are the oldest, which the relay moves next.
const OUTBOX_MESSAGES: usize = 64;

parameters! {
    /// The limits that a grant may change.
    Quota {
        rate: u32 = jobs_rate,
        payload: usize = jobs_payload,
        volume: u64 = jobs_volume,
        waiting: u64 = jobs_waiting,
        time: Duration = jobs_time,
        concurrency: u32 = jobs_concurrency,
    }
}

impl Grants {
    /// Returns the limits of the jobs of a plugin with these grants; `None` if it may have none.
    ///
    /// # Errors
    /// A stored parameter is not valid in this version.
    pub fn jobs(&self, host: &config::Plugins) -> Result<Option<Quota>> {
        self.parameters::<Jobs>(host)
    }
}

/// The capability.
pub struct Jobs {
    services: MessageServices,
    data: Arc<PluginData>,
    rates: MessageRates,
    waiting: WaitingWork,
}

/// The state of one release.
pub struct JobsRelease {
    services: MessageServices,
    data: Arc<PluginData>,
    /// The jobs that it declares.
    jobs: PayloadSchemas,
    limits: MessageLimits,
    /// The rate of the grant.
    rate: u32,
    waiting: WaitingWork,
    /// The most jobs that may wait.
    most_waiting: u64,
}

/// The state of one call.
pub struct JobsCall {
    release: Arc<JobsRelease>,
    /// The monotonic time of the last report of progress that was stored.
    reported: Option<Duration>,
}

impl Capability for Jobs {
    const NAME: &'static str = "jobs";
    const MEANING: &'static str = "may work without a request: later, again after a failure, and on a schedule";
    const INTERFACES: &'static [&'static str] = &["wharf:jobs/queue@0.1.0"];
    type Grant = Quota;
    type Release = Arc<JobsRelease>;
    type Call = JobsCall;

    async fn open(boot: &Boot) -> Result<Self> {
        let Boot { config, clock, random, db, data, .. } = boot;
        let services = MessageServices::new(db.clone(), clock.clone(), random.clone());
        let rates = MessageRates::new(clock.clone(), config.plugins.jobs_rate);
        let waiting = WaitingWork::jobs(db.clone(), clock.clone());
        Ok(Self { services, data: Arc::clone(data), rates, waiting })
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        queue::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<Arc<JobsRelease>> {
        let declared = candidate.messages.jobs.iter().map(|job| (job.name.clone(), job.schema.clone()));
        let jobs = compile("job", declared.collect()).await?;
        let counted = Counted { rate: Limit::JobsRate, payload: Limit::JobsPayload, volume: Limit::JobsVolume };
        let rate = self.rates.plugin(candidate.plugin);
        let limits = MessageLimits { rate, payload: quota.payload, volume: quota.volume, counted };
        let (services, data, waiting) = (self.services.clone(), Arc::clone(&self.data), self.waiting.clone());
        let Quota { rate, waiting: most_waiting, .. } = quota;
        Ok(Arc::new(JobsRelease { services, data, jobs, limits, rate, waiting, most_waiting }))
    }

    fn max_input_bytes(release: &Arc<JobsRelease>) -> usize {
        release.limits.payload
    }

    fn serve(release: &Arc<JobsRelease>) {
        release.limits.rate.set(release.rate);
    }

    fn enter(release: &Arc<JobsRelease>, _: &Arc<CallContext>) -> JobsCall {
        JobsCall { release: Arc::clone(release), reported: None }
    }
}

impl Guest {
    /// Counts a call and returns the state of the release. After a revocation it cannot be used.
    fn jobs_release(&mut self) -> Result<Arc<JobsRelease>, Refusal> {
        self.charge(HostCalls::jobs)?;
        let call = self.entered.jobs()?;
        call.map(|call| Arc::clone(&call.release)).map_err(|_revoked| Refusal::Unavailable)
    }

    async fn enqueue_job(&mut self, job: queue::Job) -> Result<JobId, Refusal> {
        let release = self.jobs_release()?;
        let queue::Job { name, payload, delay_ms, priority, dedup_key } = job;
        let texts = [name.len(), payload.len(), dedup_key.as_ref().map_or(0, String::len)];
        let _reservation = self.reserve(texts.into_iter().fold(0, usize::saturating_add))?;
        let Some(schema) = release.jobs.get(&name) else {
            return Err(Refusal::Invalid(format!("name: the plugin declares no job '{}'", printable(&name))));
        };
        check_key("dedup-key", dedup_key.as_deref())?;
        let delay = Duration::from_millis(delay_ms);
        if delay > MAX_DELAY {
            return Err(Refusal::Invalid(format!("delay-ms: more than {} days", MAX_DELAY.as_secs() / 86_400)));
        }
        let services = &release.services;
        let depth = self.check_message(services, &release.limits, schema, &payload).await?;
        if !release.waiting.add(&self.context.plugin, 1, release.most_waiting) {
            self.usage.hit(Limit::JobsWaiting);
            return Err(Refusal::Limit(format!("waiting: {}", release.most_waiting)));
        }
        let id = JobId(services.random.uuid().map_err(wasmtime::Error::msg)?);
        let at = services.clock.now();
        let job = NewJob {
            id,
            name,
            payload,
            due_at: at.plus(delay),
            priority: priority.into(),
            dedup_key,
            scheduled: None,
            depth,
            request_id: self.context.request_id.as_deref().map(str::to_owned),
            at,
        };
        self.hand_over(services, Message::Job(job)).await?;
        Ok(id)
    }

    async fn cancel_job(&mut self, id: &str) -> Result<(), Refusal> {
        let release = self.jobs_release()?;
        let _reservation = self.reserve(id.len())?;
        let Some(job) = parse_id(id) else { return Ok(()) };
        self.take_rate(&release.limits)?;
        let at = release.services.clock.now();
        self.hand_over(&release.services, Message::Cancel { job, at }).await
    }

    async fn job_status(&mut self, id: &str) -> Result<Option<JobStatus>, Refusal> {
        let release = self.jobs_release()?;
        let _reservation = self.reserve(id.len())?;
        let Some(job) = parse_id(id) else { return Ok(None) };
        let stored = self.stored_status(&release, job).await?;
        if stored.is_some() || self.entered.sql.is_none() {
            return Ok(stored);
        }
        let waiting = release.data.outbox(&self.context.plugin, OUTBOX_MESSAGES).await;
        self.count_outcome(&waiting)?;
        let waiting = waiting?;
        let messages = waiting.iter().filter_map(|message| serde_json::from_str::<Message>(&message.text).ok());
        if let Some(state) = state_in_outbox(job, messages) {
            return Ok(Some(JobStatus { state, attempts: 0, progress: None, output: None, reason: None }));
        }
        // The relay may have stored it since the first look.
        match self.stored_status(&release, job).await? {
            None if waiting.len() >= OUTBOX_MESSAGES => Err(Refusal::Unavailable),
            stored => Ok(stored),
        }
    }

    /// Returns the status in the host's database.
    async fn stored_status(&mut self, release: &JobsRelease, job: JobId) -> Result<Option<JobStatus>, Refusal> {
        let MessageServices { db, clock, statements, .. } = &release.services;
        let wait = self.dependencies.wait_for(Dependency::Database);
        let _statement = statements.acquire().await;
        let found = table::find(db, &self.context.plugin, job, clock.now()).await;
        wait.over();
        found.map_err(|error| self.host_database_failed(&error))
    }

    async fn report_job_progress(&mut self, done: u64, total: u64) -> Result<(), Refusal> {
        let release = self.jobs_release()?;
        let Some(task) = self.context.task.filter(|task| task.is_job) else { return Ok(()) };
        let now = release.services.clock.monotonic();
        let Ok(call) = self.entered.jobs()? else { return Err(Refusal::Unavailable) };
        if call.reported.is_some_and(|reported| now.saturating_sub(reported) < REPORT_INTERVAL) {
            return Ok(());
        }
        call.reported = Some(now);
        let wait = self.dependencies.wait_for(Dependency::Database);
        let _statement = release.services.statements.acquire().await;
        let reported = table::report_progress(&release.services.db, task.claim, (done, total)).await;
        wait.over();
        reported.map_err(|error| self.host_database_failed(&error))
    }
}

/// A text that is no id is the id of no job.
fn parse_id(text: &str) -> Option<JobId> {
    text.parse::<Uuid>().ok().map(JobId)
}

/// Returns the state of a job among messages in their order; `None` if none of them enqueues it.
fn state_in_outbox(job: JobId, messages: impl Iterator<Item = Message>) -> Option<JobState> {
    messages.fold(None, |state, message| match message {
        Message::Job(new) if new.id == job => Some(JobState::Waiting),
        Message::Cancel { job: cancelled, .. } if cancelled == job => state.map(|_| JobState::Cancelled),
        _ => state,
    })
}

type QueueResult<T> = wasmtime::Result<Result<T, queue::Error>>;

/// Converts an outcome for the guest.
fn queue_result<T>(outcome: Result<T, Refusal>) -> QueueResult<T> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(refusal) => queue::Error::try_from(refusal).map(Err),
    }
}

impl queue::Host for Guest {
    async fn enqueue(&mut self, job: queue::Job) -> QueueResult<String> {
        queue_result(self.enqueue_job(job).await.map(|id| id.to_string()))
    }

    async fn cancel(&mut self, id: String) -> QueueResult<()> {
        queue_result(self.cancel_job(&id).await)
    }

    async fn status(&mut self, id: String) -> QueueResult<Option<queue::JobStatus>> {
        let found = self.job_status(&id).await;
        if let Ok(Some(status)) = &found {
            let texts = [&status.output, &status.reason].map(|text| text.as_ref().map_or(0, String::len));
            self.hold_result(self.reserve(texts.into_iter().fold(0, usize::saturating_add))?);
        }
        queue_result(found.map(|found| found.map(Into::into)))
    }

    async fn report_progress(&mut self, done: u64, total: u64) -> QueueResult<()> {
        queue_result(self.report_job_progress(done, total).await)
    }
}

impl From<queue::Priority> for Priority {
    fn from(priority: queue::Priority) -> Self {
        match priority {
            queue::Priority::Low => Self::Low,
            queue::Priority::Normal => Self::Normal,
            queue::Priority::High => Self::High,
        }
    }
}

impl From<JobStatus> for queue::JobStatus {
    fn from(status: JobStatus) -> Self {
        let JobStatus { state, attempts, progress, output, reason } = status;
        let state = match state {
            JobState::Waiting => queue::State::Waiting,
            JobState::Running => queue::State::Running,
            JobState::Succeeded => queue::State::Succeeded,
            JobState::Failed => queue::State::Failed,
            JobState::Cancelled => queue::State::Cancelled,
        };
        Self { state, attempts, progress, output, reason }
    }
}

convert_refusals!(queue::Error);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt as _;

    use super::queue::Host as _;
    use super::*;
    use crate::capability::RunningTask;
    use crate::capability::message_fixture::{Fixture, hits};
    use crate::clock::Timestamp;
    use crate::db::task::{self, Claim, ClaimedTask, TaskEnd};
    use crate::message::MAX_DEPTH;

    fn job(name: &str, payload: &str) -> queue::Job {
        let (name, payload) = (name.to_owned(), payload.to_owned());
        queue::Job { name, payload, delay_ms: 0, priority: queue::Priority::Normal, dedup_key: None }
    }

    fn text(error: queue::Error) -> String {
        match error {
            queue::Error::Invalid(reason) => format!("invalid: {reason}"),
            queue::Error::Limit(limit) => format!("limit: {limit}"),
            queue::Error::Conflict => "conflict".to_owned(),
            queue::Error::Unavailable => "unavailable".to_owned(),
        }
    }

    async fn enqueue(guest: &mut Guest, job: queue::Job) -> Result<String, String> {
        guest.enqueue(job).await.unwrap().map_err(text)
    }

    async fn status(guest: &mut Guest, id: &str) -> Option<queue::JobStatus> {
        guest.status(id.to_owned()).await.unwrap().map_err(text).unwrap()
    }

    async fn state(guest: &mut Guest, id: &str) -> Option<queue::State> {
        status(guest, id).await.map(|status| status.state)
    }

    /// Claims the next task of the plugin, as the process `node/run`.
    async fn claim(fixture: &Fixture, queue: &str) -> ClaimedTask {
        let now = fixture.boot.clock.now();
        let lease = (now, now.plus(Duration::from_secs(60)));
        task::claim(&fixture.boot.db, queue, "node/run", lease, 1).await.unwrap().remove(0)
    }

    #[tokio::test]
    async fn a_plugin_sees_its_jobs_from_their_beginning_to_their_end() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs"], None).await;
        let id = enqueue(&mut guest, job("typed", r#"{"id": 1}"#)).await.unwrap();
        assert!(fixture.boot.db.signals().tasks_added().now_or_never().is_some(), "nobody is woken");
        assert_eq!(state(&mut guest, &id).await, Some(queue::State::Waiting));

        let claimed = claim(&fixture, "items/typed/1").await;
        assert_eq!((claimed.payload.as_deref(), claimed.request_id.as_deref()), (Some(r#"{"id": 1}"#), Some("r1")));
        let running = RunningTask { claim: claimed.claim(), is_job: true, depth: 0 };
        let mut worker = fixture.call(&["jobs"], Some(running)).await;
        worker.report_progress(1, 3).await.unwrap().unwrap();
        worker.report_progress(2, 3).await.unwrap().unwrap();
        let now = status(&mut guest, &id).await.unwrap();
        assert_eq!((now.state, now.attempts, now.progress), (queue::State::Running, 1, Some((1, 3))));
        fixture.boot.clock.advance(REPORT_INTERVAL);
        worker.report_progress(3, u64::MAX).await.unwrap().unwrap();
        let progress = status(&mut guest, &id).await.unwrap().progress;
        assert_eq!(progress, Some((3, i64::MAX.unsigned_abs())));

        let end = TaskEnd::Succeeded { output: Some("done".to_owned()), keep_until: Timestamp(i64::MAX) };
        let now = fixture.boot.clock.now();
        assert!(task::end(&fixture.boot.db, &claimed, &end, now).await.unwrap());
        let ended = status(&mut guest, &id).await.unwrap();
        assert_eq!((ended.state, ended.output.as_deref()), (queue::State::Succeeded, Some("done")));
        guest.cancel(id.clone()).await.unwrap().unwrap();
        assert_eq!(state(&mut guest, &id).await, Some(queue::State::Succeeded), "it has ended");
    }

    #[tokio::test]
    async fn a_job_is_unknown_as_soon_as_it_is_not_kept_any_more() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs"], None).await;
        let id = enqueue(&mut guest, job("any", "1")).await.unwrap();
        let claimed = claim(&fixture, "items/any/1").await;
        let now = fixture.boot.clock.now();
        let end = TaskEnd::Succeeded { output: None, keep_until: now.plus(Duration::from_secs(1)) };
        assert!(task::end(&fixture.boot.db, &claimed, &end, now).await.unwrap());
        assert_eq!(state(&mut guest, &id).await, Some(queue::State::Succeeded));
        fixture.boot.clock.advance(Duration::from_secs(1));
        assert_eq!(state(&mut guest, &id).await, None);
    }

    #[tokio::test]
    async fn a_job_of_another_plugin_or_of_nobody_is_unknown() {
        let mut fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs", "sql"], None).await;
        for id in ["", "7", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"] {
            assert_eq!(state(&mut guest, id).await, None, "{id:?}");
            guest.cancel(id.to_owned()).await.unwrap().unwrap();
        }
        let mut guest = fixture.call(&["jobs"], None).await;
        let id = enqueue(&mut guest, job("any", "1")).await.unwrap();
        fixture.plugin = "other".parse().unwrap();
        let mut other = fixture.call(&["jobs"], None).await;
        assert_eq!(state(&mut other, &id).await, None);
        other.cancel(id.clone()).await.unwrap().unwrap();
        assert_eq!(state(&mut guest, &id).await, Some(queue::State::Waiting));
    }

    #[tokio::test]
    async fn a_job_in_the_outbox_of_its_plugin_waits() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs", "sql"], None).await;
        let [first, second] =
            [enqueue(&mut guest, job("any", "1")).await.unwrap(), enqueue(&mut guest, job("any", "2")).await.unwrap()];
        let filled = fixture.boot.db.signals().filled_outboxes().now_or_never();
        assert_eq!(filled, Some(BTreeSet::from([fixture.plugin.clone()])));
        guest.cancel(second.clone()).await.unwrap().unwrap();
        let mut later = fixture.call(&["jobs", "sql"], None).await;
        assert_eq!(state(&mut later, &first).await, Some(queue::State::Waiting));
        assert_eq!(state(&mut later, &second).await, Some(queue::State::Cancelled));
    }

    #[tokio::test]
    async fn a_cancelled_job_does_not_start() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs"], None).await;
        let id = enqueue(&mut guest, job("any", "1")).await.unwrap();
        guest.cancel(id.clone()).await.unwrap().unwrap();
        assert_eq!(state(&mut guest, &id).await, Some(queue::State::Cancelled));
        assert!(task::ready_queues(&fixture.boot.db).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_job_is_due_after_its_delay_and_in_the_order_of_its_priority() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs"], None).await;
        let later = queue::Job { delay_ms: 5_000, priority: queue::Priority::High, ..job("any", "1") };
        enqueue(&mut guest, later).await.unwrap();
        let ready = task::ready_queues(&fixture.boot.db).await.unwrap();
        let due_at = fixture.boot.clock.now().plus(Duration::from_secs(5));
        assert_eq!(ready, [task::ReadyQueue { queue: "items/any/2".to_owned(), due_at }]);
    }

    #[tokio::test]
    async fn a_job_with_the_key_of_one_that_waits_is_dropped() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs"], None).await;
        let keyed = || queue::Job { dedup_key: Some("k".to_owned()), ..job("any", "1") };
        let first = enqueue(&mut guest, keyed()).await.unwrap();
        let second = enqueue(&mut guest, keyed()).await.unwrap();
        assert_eq!(state(&mut guest, &first).await, Some(queue::State::Waiting));
        assert_eq!(state(&mut guest, &second).await, None);
    }

    #[tokio::test]
    async fn a_wrong_job_is_refused_with_the_name_of_the_member() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs"], None).await;
        for (wrong, expected) in [
            (job("resize", "{}"), "invalid: name: the plugin declares no job 'resize'"),
            (job("typed", "{}"), "invalid: payload.id: Field required"),
            (job("any", "{}}"), "invalid: payload: not JSON ("),
            (queue::Job { delay_ms: u64::MAX, ..job("any", "1") }, "invalid: delay-ms: more than 366 days"),
            (queue::Job { dedup_key: Some("\0".to_owned()), ..job("any", "1") }, "invalid: dedup-key: contains "),
        ] {
            let refused = enqueue(&mut guest, wrong).await.unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[tokio::test]
    async fn the_limits_of_the_grant_are_refusals_that_name_them() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs.rate=1", "jobs.payload=1KiB"], None).await;
        let large = format!("\"{}\"", "x".repeat(1_024));
        assert_eq!(enqueue(&mut guest, job("any", &large)).await, Err("limit: payload: 1024".to_owned()));
        let id = enqueue(&mut guest, job("any", "1")).await.unwrap();
        assert_eq!(enqueue(&mut guest, job("any", "1")).await, Err("limit: rate: 1".to_owned()));
        assert_eq!(guest.cancel(id).await.unwrap().map_err(text), Err("limit: rate: 1".to_owned()));
        assert_eq!([Limit::JobsPayload, Limit::JobsRate].map(|limit| hits(&guest, limit)), [1, 2]);
        let mut guest = fixture.call(&["jobs.volume=1MiB"], None).await;
        let large = format!("\"{}\"", "x".repeat(200_000));
        for _ in 0..5 {
            enqueue(&mut guest, job("any", &large)).await.unwrap();
        }
        assert_eq!(enqueue(&mut guest, job("any", &large)).await, Err("limit: volume: 1048576".to_owned()));
        assert_eq!(hits(&guest, Limit::JobsVolume), 1);
        let claim = Claim { seq: 1, claims: 1 };
        let task = RunningTask { claim, is_job: true, depth: MAX_DEPTH };
        let mut deep = fixture.call(&["jobs"], Some(task)).await;
        assert_eq!(enqueue(&mut deep, job("any", "1")).await, Err("limit: depth: 16".to_owned()));
    }

    #[tokio::test]
    async fn a_job_is_refused_while_too_many_wait() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs.waiting=2"], None).await;
        let clock = fixture.boot.clock.clone();
        // The jobs are counted in the background, and again after a second.
        let mut add = async |new: fn() -> queue::Job| {
            while enqueue(&mut guest, new()).await.is_err() {
                clock.advance(Duration::from_secs(1));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        add(|| job("any", "1")).await;
        add(|| queue::Job { delay_ms: 1_000_000, ..job("any", "2") }).await;
        let mut other = fixture.call(&["jobs.waiting=2"], None).await;
        assert_eq!(enqueue(&mut other, job("any", "3")).await, Err("limit: waiting: 2".to_owned()));
        assert_eq!(hits(&other, Limit::JobsWaiting), 1);

        claim(&fixture, "items/any/1").await;
        add(|| job("any", "3")).await;
        assert_eq!(table::count_waiting(&fixture.boot.db, &fixture.plugin, 10).await.unwrap(), 2);
        assert_eq!(table::count_waiting(&fixture.boot.db, &fixture.plugin, 1).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn progress_outside_a_job_is_ignored_and_a_revoked_grant_ends_everything() {
        let fixture = Fixture::open(|_| ()).await;
        let mut guest = fixture.call(&["jobs"], None).await;
        let id = enqueue(&mut guest, job("any", "1")).await.unwrap();
        guest.report_progress(1, 2).await.unwrap().unwrap();
        assert_eq!(status(&mut guest, &id).await.unwrap().progress, None);
        fixture.capabilities.forbid(&fixture.plugin, "jobs");
        assert_eq!(enqueue(&mut guest, job("any", "1")).await, Err("unavailable".to_owned()));
        assert!(guest.status(id).await.unwrap().is_err());
        assert!(guest.report_progress(1, 2).await.unwrap().is_err());
    }

    #[test]
    fn the_limits_of_jobs_are_those_of_the_grant() {
        let host = config::Plugins::default();
        let limits = |grants: &[&str]| Grants::read(grants.iter().copied()).unwrap().jobs(&host).unwrap();
        assert!(limits(&["sql"]).is_none());
        let limits = limits(&["jobs.time=1h"]).unwrap();
        assert_eq!((limits.time, limits.concurrency), (Duration::from_secs(3600), host.jobs_concurrency));
    }
}
