//! The registry: every plugin of this host, and the services that the operations on plugins share.
//!
//! The operations are in modules above this one: `startup`, `preparation`, `deploy`, `operations`, `rollback`,
//! `canary_rollout`, `supervisor` (changes), `history` and `limit_usage` (reads), and `relay`, `tasks` and `schedules`, which
//! work in the background. They extend [`Registry`]; this module knows none of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::sync::mpsc;

use super::breaker::TrippedRelease;
use super::bulkhead::{WaitingCall, busy};
use super::call_in_progress::CallInProgress;
use super::call_stats::CallOutcome;
use super::canary::Assignment;
use super::compile::Compiler;
use super::deploy_job::AtStage;
use super::deploy_turn::DeployTurns;
use super::engine::PluginEngine;
use super::generation::Generation;
use super::live_set::LiveSet;
use super::outbox_turns::OutboxTurns;
use super::pause::PauseSwitches;
use super::probation::Probations;
use super::release::{Prepared, Release};
use super::response::PluginResponse;
use super::sandbox::Request;
use super::schedules::synced::SyncedSchedules;
use super::tasks::counts::TaskCounts;
use super::tasks::holds::Holds;
use crate::auth::Caller;
use crate::cache::Caches;
use crate::capability::log::PluginLogs;
use crate::capability::{Dependency, Limit};
use crate::clock::{Clock, Random};
use crate::config;
use crate::db::Db;
use crate::db::audit::{self, Outcome};
use crate::db::plugin_data::PluginData;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::initiator::Initiator;
use crate::message::host_event::Cause;

/// Every plugin of this host.
pub struct Registry {
    pub(super) live: LiveSet,
    pub(super) engine: PluginEngine,
    pub(super) compiler: Compiler,
    pub(super) limits: config::Plugins,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) db: Db,
    pub(super) data: Arc<PluginData>,
    pub(super) caches: Caches,
    pub(super) logs: PluginLogs,
    /// The name of this node, which stays the same across restarts.
    pub(super) node: Arc<str>,
    /// Called when a stage of a deploy begins; only tests set it.
    pub(super) at_stage: Option<AtStage>,
    /// Deploys since the start: succeeded, failed.
    pub(super) deploys: [AtomicU64; 2],
    pub(super) turns: DeployTurns,
    pub(super) outbox_turns: OutboxTurns,
    pub(super) pauses: PauseSwitches,
    pub(super) probations: Probations,
    /// Tells the supervisor that the breaker of a release opened.
    pub(super) tripped: mpsc::UnboundedSender<TrippedRelease>,
    /// The receiver of `tripped`, until the supervisor takes it.
    pub(super) trips: Mutex<Option<mpsc::UnboundedReceiver<TrippedRelease>>>,
    /// The name of this process as the owner of tasks: `NODE/RUN`.
    pub(super) run_id: Arc<str>,
    pub(super) task_counts: TaskCounts,
    pub(super) holds: Holds,
    pub(super) synced_schedules: SyncedSchedules,
    /// The present minute of the clock, as the supervisor saw it last; 0 before that.
    pub(super) minute: AtomicU64,
}

impl Registry {
    /// Returns the current generation.
    pub fn generation(&self) -> Arc<Generation> {
        self.live.generation()
    }

    /// Returns the parts that a call of a release needs, if it is prepared. The release counts as used now.
    pub fn use_prepared(&self, release: &Release) -> Option<Arc<Prepared>> {
        let prepared = release.prepared()?;
        release.use_in(self.minute.load(Ordering::Relaxed));
        Some(prepared)
    }

    /// Calls a release in a fresh instance, if its breaker permits, and counts the outcome. `parts` are those of the
    /// release. `trial` is the call's part in the trial of a canary. `ready` runs after the call has its slot, just before
    /// the guest runs, and may refuse the call.
    ///
    /// # Errors
    /// 503 `plugin_quarantined`, or see [`Sandbox::call`](super::sandbox::Sandbox::call).
    pub async fn call(
        &self,
        release: &Release,
        parts: &Prepared,
        request: Request<'_>,
        caller: Option<Arc<Caller>>,
        trial: Option<Assignment>,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<PluginResponse> {
        let record = &release.record;
        let refused = |error: &Error| release.stats.count(CallOutcome::of_error(error));
        let admission = release.breaker.admit().inspect_err(refused)?;
        let in_progress = CallInProgress::begin(release, usize::try_from(request.route).unwrap_or(usize::MAX), trial);
        let ready = || {
            ready()?;
            in_progress.start();
            Ok(())
        };
        let called = self.live.sandbox().call(release, parts, request, caller, &in_progress.dependencies, ready).await;
        let (response, took) = match called {
            Ok(ended) => ended,
            Err(error) => {
                in_progress.refuse(&error);
                return Err(error);
            }
        };
        if let Some(dependency) = in_progress.dependencies.first_failure().map(Dependency::as_str) {
            tracing::debug!(plugin = %record.plugin, release = record.number, dependency, "a service of the host failed");
        }
        let outcome = in_progress.end(took, &response);
        // A call that the host ended, or that one of its services failed, says nothing about the release: the admission
        // is dropped.
        if outcome.is_evidence() && admission.done(outcome.is_fault()) {
            tracing::warn!(plugin = %record.plugin, release = record.number, "quarantined: too many calls failed");
            // While the host stops, the supervisor may already be gone.
            let (plugin, number, at) = (record.plugin.clone(), record.number, self.clock.now());
            let _ = self.tripped.send(TrippedRelease { plugin, number, at });
        }
        response
    }

    /// Counts a request of the given size that waits for the response to another request against the memory of waiting
    /// calls, until the result is dropped.
    ///
    /// # Errors
    /// 503 `plugin_busy`: the plugin's waiting calls take too much memory.
    pub fn admit_waiting<'a>(&'a self, release: &'a Release, bytes: usize) -> Result<WaitingCall<'a>> {
        let waiting = release.bulkhead.admit_waiting(self.live.sandbox().call_slots(), bytes);
        waiting.ok_or_else(|| {
            release.stats.count(CallOutcome::Busy);
            release.usage.hit(Limit::Concurrency);
            busy()
        })
    }

    /// Puts a release on probation, with the release to roll back to.
    pub(super) fn start_probation(&self, plugin: &PluginName, release: i64, previous: Option<i64>) {
        self.probations.start(plugin, release, previous, self.clock.now().plus(self.limits.probation));
    }

    /// Returns the cause of a change that `by` makes now.
    pub(super) fn cause<'a>(&self, by: &'a Initiator) -> Cause<'a> {
        Cause { at: self.clock.now(), request_id: by.request() }
    }

    /// Writes an audit entry. A failure to write it is logged and does not undo the operation.
    pub(super) async fn audit(
        &self,
        action: &str,
        plugin: Option<PluginName>,
        by: &Initiator,
        outcome: Outcome,
        detail: Value,
    ) {
        let object = plugin.as_ref().map_or("", PluginName::as_str);
        let entry = audit::Entry::of(by, self.clock.now(), action, object);
        let entry = audit::Entry { plugin: plugin.clone(), outcome, ..entry }.with_detail(detail);
        if let Err(error) = audit::insert(&self.db, &entry).await {
            tracing::error!(action, error = error.report(), "an audit entry was not written");
        }
    }
}
