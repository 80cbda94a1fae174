//! The engine that runs tasks, which are deliveries of events and jobs: looks for those that are due, claims as many as may
//! run, and runs each in a tokio task of its own. The database owns the tasks: a process only leases them, so whatever
//! happens to it, they run again.
//!
//! `turns` chooses the next ones, `attempt` runs one, `outcome` decides what becomes of it. `holds` lets a plugin rest whose
//! attempts do not count. One loop does all with the leases, so that no lease is judged while it changes.

mod attempt;
pub(super) mod counts;
pub(super) mod holds;
mod outcome;
mod turns;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::counts::{AttemptOutcome, OutcomeCounts};
use self::turns::{Bounds, Candidate, Load, Queue, Turns};
use super::registry::Registry;
use super::release::Release;
use crate::capability::Capability as _;
use crate::capability::events::Events;
use crate::capability::jobs::Jobs;
use crate::db::task::{self, Claim, Recovered};
use crate::error::Result;
use crate::id::PluginName;
use crate::outage::Outage;

/// The time between two looks into the database while nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a claimed task belongs to this process.
const LEASE: Duration = Duration::from_secs(60);
/// The time between two renewals of the leases, and two searches for those that ended.
const RENEW_INTERVAL: Duration = Duration::from_secs(20);
/// The time between two searches for lanes that wait for nothing. Every second time, what is not kept is deleted too.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(30);
/// The search for such lanes rests for this multiple of its own time: a paused plugin can have very many.
const SEARCH_REST: u32 = 50;
/// How long a process that stops tries to give back its tasks.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(3);

impl Registry {
    /// Runs tasks until `stopping`. Those that run then get `grace` to end; the others run again later, and these attempts
    /// do not count. Any number of processes may do this on one database.
    pub async fn run_tasks(self: Arc<Self>, stopping: &CancellationToken, grace: Duration) {
        let upkeep = self.keep_tasks_tidy(stopping);
        tokio::join!(Engine::new(Arc::clone(&self)).run(stopping, grace), upkeep);
    }

    /// Returns the number of attempts since the start of the process, by plugin and outcome.
    pub fn task_counts(&self) -> Vec<(PluginName, OutcomeCounts)> {
        self.task_counts.each()
    }

    /// Frees lanes that wait for nothing, and deletes what is not kept any more.
    async fn keep_tasks_tidy(&self, stopping: &CancellationToken) {
        let mut outage = Outage::of("the upkeep of tasks");
        let mut ticks = interval(UPKEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut prunes, mut next_search) = (false, Instant::now());
        while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            prunes = !prunes;
            match stopping.run_until_cancelled(self.tidy_tasks(prunes, &mut next_search)).await {
                None => return,
                Some(Ok(())) => outage.over(),
                Some(Err(error)) => outage.failed(&error),
            }
        }
    }

    async fn tidy_tasks(&self, prunes: bool, next_search: &mut Instant) -> Result<()> {
        let began = Instant::now();
        if began >= *next_search {
            let lanes = task::unblock_lanes(&self.db).await?;
            *next_search = Instant::now() + began.elapsed().saturating_mul(SEARCH_REST);
            if lanes > 0 {
                tracing::debug!(lanes, "freed the lanes that waited for nothing");
            }
        }
        if prunes {
            let (tasks, events) = task::prune(&self.db, self.clock.now(), self.limits.keep_events).await?;
            if tasks > 0 || events > 0 {
                tracing::debug!(tasks, events, "deleted ended jobs and old events");
            }
            let most = i64::try_from(self.limits.keep_ended).unwrap_or(i64::MAX);
            for (plugin, tasks) in task::trim(&self.db, most).await? {
                tracing::warn!(%plugin, tasks, "the plugin has more dead letters than are kept; the oldest were deleted");
            }
        }
        Ok(())
    }
}

/// An attempt that runs.
struct RunningAttempt {
    claim: Claim,
    queue: Queue,
    /// Whether its end can make another task ready.
    has_lane: bool,
    /// Whether its outcome is known and being stored. It then ends by itself, even if its lease was lost.
    is_ending: Arc<AtomicBool>,
    abort: AbortHandle,
}

/// The loop.
struct Engine {
    registry: Arc<Registry>,
    attempts: JoinSet<()>,
    running: HashMap<Id, RunningAttempt>,
    load: Load,
    turns: Turns,
    /// The queues that had a due task at the latest look, without those that have none any more.
    ready: Vec<Queue>,
    /// Whether the tasks of earlier processes of this node were given back.
    has_recovered: bool,
    /// Whether there may be tasks that belong to this process.
    has_claimed: bool,
    renewed_at: Instant,
}

impl Engine {
    fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            attempts: JoinSet::new(),
            running: HashMap::new(),
            load: Load::default(),
            turns: Turns::default(),
            ready: Vec::new(),
            has_recovered: false,
            has_claimed: false,
            renewed_at: Instant::now(),
        }
    }

    async fn run(mut self, stopping: &CancellationToken, grace: Duration) {
        let signals = self.registry.db.signals().clone();
        let mut outage = Outage::of("running tasks");
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (mut looks, ticked) = tokio::select! {
                () = stopping.cancelled() => break,
                () = signals.tasks_added() => (true, false),
                Some(ended) = self.attempts.join_next_with_id() => (self.forget(&ended), false),
                _ = ticks.tick() => (true, true),
            };
            while let Some(ended) = self.attempts.try_join_next_with_id() {
                looks |= self.forget(&ended);
            }
            match stopping.run_until_cancelled(self.step(looks, ticked)).await {
                None => break,
                Some(Ok(())) => outage.over(),
                Some(Err(error)) => {
                    outage.failed(&error);
                    // The next tick looks again.
                    let _ = stopping.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await;
                }
            }
        }
        self.stop(grace).await;
    }

    /// Forgets an attempt that ended. Returns whether another task may be ready because of that.
    fn forget(&mut self, ended: &Result<(Id, ()), JoinError>) -> bool {
        let (id, has_failed) = match ended {
            Ok((id, ())) => (*id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let Some(attempt) = self.running.remove(&id) else { return false };
        self.load.end(&attempt.queue);
        if has_failed {
            tracing::error!(queue = attempt.queue.whole, task = attempt.claim.seq, "an attempt of a task broke off");
        }
        attempt.has_lane
    }

    /// Keeps the leases, looks for due tasks if `looks`, and starts those that may run.
    async fn step(&mut self, looks: bool, ticked: bool) -> Result<()> {
        let mut looks = looks;
        if !self.has_recovered {
            let node = Some(&*self.registry.node);
            let recovered = task::recover(&self.registry.db, self.registry.clock.now(), node).await?;
            self.report(&recovered);
            self.has_recovered = true;
            looks = true;
        }
        if self.renewed_at.elapsed() >= RENEW_INTERVAL {
            looks |= self.renew().await?;
            self.renewed_at = Instant::now();
        } else if ticked && !self.running.is_empty() {
            self.drop_lost(&task::owned(&self.registry.db, &self.registry.run_id).await?);
        }
        if looks {
            self.look().await?;
        }
        self.start().await
    }

    /// Renews the leases, and gives back the tasks whose leases ended. Returns whether there were any.
    async fn renew(&self) -> Result<bool> {
        let Registry { db, clock, run_id, .. } = &*self.registry;
        let now = clock.now();
        let leased = task::renew(db, run_id, now.plus(LEASE)).await?;
        self.drop_lost(&leased);
        let running: HashSet<Claim> = self.running.values().map(|attempt| attempt.claim).collect();
        for claim in leased.into_iter().filter(|claim| !running.contains(claim)) {
            tracing::warn!(task = claim.seq, "a task does not run here although it was claimed here; it runs again");
            task::end_lease(db, claim, now).await?;
        }
        // After the own leases were renewed: an outage can be longer than a lease.
        let recovered = task::recover(db, now, None).await?;
        self.report(&recovered);
        Ok(recovered != Recovered::default())
    }

    fn report(&self, recovered: &Recovered) {
        let (tasks, dead) = (recovered.given_back, recovered.dead.len());
        if tasks > 0 || dead > 0 {
            tracing::info!(tasks, dead, "tasks were interrupted; they run again");
        }
        for plugin in &recovered.dead {
            self.registry.task_counts.count(plugin, AttemptOutcome::Dead);
        }
    }

    /// Drops the attempts of tasks that do not belong to this process any more: they were cancelled or deleted, or another
    /// process took them over.
    fn drop_lost(&self, owned: &[Claim]) {
        let owned: HashSet<Claim> = owned.iter().copied().collect();
        for attempt in self.running.values() {
            if !owned.contains(&attempt.claim) && !attempt.is_ending.load(Ordering::SeqCst) {
                tracing::debug!(
                    queue = attempt.queue.whole,
                    task = attempt.claim.seq,
                    "a task was taken away while it ran"
                );
                attempt.abort.abort();
            }
        }
    }

    /// Finds the queues that have a due task.
    async fn look(&mut self) -> Result<()> {
        let queues = task::ready_queues(&self.registry.db).await?;
        let now = self.registry.clock.now();
        let due = queues.into_iter().filter(|queue| queue.due_at <= now);
        self.ready = due.filter_map(|queue| Queue::read(queue.queue)).collect();
        self.turns.keep(&self.ready);
        Ok(())
    }

    /// Claims and starts tasks until nothing more may run, or the leases must be renewed.
    async fn start(&mut self) -> Result<()> {
        loop {
            // In a block, because the generation must not be kept while a statement runs.
            let planned: Vec<(Queue, usize)> = {
                let candidates = self.candidates();
                let planned = self.turns.plan(&candidates, &self.load, self.registry.limits.background_concurrency);
                let queue = |index: usize| candidates.get(index).map(|candidate| candidate.queue.clone());
                planned.into_iter().filter_map(|(index, count)| Some((queue(index)?, count))).collect()
            };
            if planned.is_empty() {
                return Ok(());
            }
            for (queue, count) in planned {
                // A slow database must not cost the leases of the tasks that run: the next step renews them and goes on.
                if self.renewed_at.elapsed() >= RENEW_INTERVAL {
                    return Ok(());
                }
                self.start_of(&queue, count).await?;
            }
        }
    }

    /// Claims and starts up to `count` tasks of a queue.
    async fn start_of(&mut self, queue: &Queue, count: usize) -> Result<()> {
        let Registry { db, clock, run_id, .. } = &*self.registry;
        let now = clock.now();
        self.has_claimed = true;
        let claimed = task::claim(db, &queue.whole, run_id, (now, now.plus(LEASE)), count).await?;
        if claimed.len() < count {
            self.ready.retain(|ready| ready != queue);
        }
        for task in claimed {
            let is_ending = Arc::new(AtomicBool::new(false));
            let (claim, has_lane) = (task.claim(), task.lane.is_some());
            let (registry, ending) = (Arc::clone(&self.registry), Arc::clone(&is_ending));
            let abort = self.attempts.spawn(async move { registry.attempt_task(&task, &ending).await });
            self.load.start(queue);
            let attempt = RunningAttempt { claim, queue: queue.clone(), has_lane, is_ending, abort: abort.clone() };
            self.running.insert(abort.id(), attempt);
        }
        Ok(())
    }

    /// Returns the queues whose plugins can run a task now.
    fn candidates(&self) -> Vec<Candidate> {
        if self.load.total() >= self.registry.limits.background_concurrency {
            return Vec::new();
        }
        let generation = self.registry.generation();
        let now = Instant::now();
        let candidate = |queue: &Queue| {
            let release = generation.plugins.live.get(&queue.plugin)?;
            if self.registry.holds.is_held(&queue.plugin, now) || release.breaker.refuses() {
                return None;
            }
            let canary = generation.plugins.canaries.get(&queue.plugin).map(|canary| &*canary.release);
            Some(Candidate { queue: queue.clone(), bounds: self.bounds(release, canary, queue)? })
        };
        self.ready.iter().filter_map(candidate).collect()
    }

    /// Returns the bounds of a queue; `None` if its tasks cannot run now, because the grant was revoked, or because only the
    /// canary declares the job. Any other task that the release does not declare needs no grant: it becomes a dead letter.
    fn bounds(&self, release: &Release, canary: Option<&Release>, queue: &Queue) -> Option<Bounds> {
        let limits = &self.registry.limits;
        let messages = &release.record.declaration.messages;
        let undeclared = Bounds { plugin: limits.background_per_plugin, jobs: usize::MAX, name: usize::MAX };
        if !queue.is_of_jobs() {
            let is_declared = messages.subscriptions.iter().any(|declared| declared.topic.as_str() == queue.name);
            return (!is_declared || release.has_grant(Events::NAME)).then_some(undeclared);
        }
        let declares =
            |of: &Release| of.record.declaration.messages.jobs.iter().any(|declared| declared.name == queue.name);
        let Some(declared) = messages.jobs.iter().find(|declared| declared.name == queue.name) else {
            return (!canary.is_some_and(declares)).then_some(undeclared);
        };
        if !release.has_grant(Jobs::NAME) {
            return None;
        }
        let quota = release.record.grants.jobs(limits).ok().flatten()?;
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Some(Bounds { jobs: number(quota.concurrency), name: number(declared.concurrency), ..undeclared })
    }

    /// Lets the attempts end that run, within a time, and gives back the tasks of the others.
    async fn stop(mut self, grace: Duration) {
        let ended = async { while self.attempts.join_next().await.is_some() {} };
        if timeout(grace, ended).await.is_err() {
            tracing::info!(tasks = self.attempts.len(), "the host stops; the tasks that still run start again later");
        }
        self.attempts.shutdown().await;
        if !self.has_claimed {
            return;
        }
        let Registry { db, clock, run_id, .. } = &*self.registry;
        let given_back = timeout(GIVE_BACK_TIMEOUT, task::give_back(db, run_id, clock.now())).await;
        if !matches!(given_back, Ok(Ok(_))) {
            tracing::warn!("the tasks that still ran could not be given back; they wait until their leases end");
        }
    }
}
