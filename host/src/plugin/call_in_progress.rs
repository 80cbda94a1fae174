//! A call from its admission to its end. Owns the rule how a call is counted: every call is counted exactly once, in
//! any way that it ends. A call whose caller leaves lasted at least until then, so a release that hangs is visible even
//! if no caller waits for it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::call_stats::{CallOutcome, EndedCall};
use super::canary::Assignment;
use super::release::Release;
use super::response::PluginResponse;
use crate::capability::Dependencies;
use crate::error::{Error, Result};

/// See the module. If it is dropped, the caller left.
pub(super) struct CallInProgress<'a> {
    release: &'a Release,
    route: usize,
    /// The trial that the call takes part in.
    trial: Option<Assignment>,
    /// The services of the host that failed during the call.
    pub(super) dependencies: Dependencies,
    /// When the call got its slot.
    started: OnceLock<Instant>,
    is_counted: bool,
}

impl<'a> CallInProgress<'a> {
    pub(super) fn begin(release: &'a Release, route: usize, trial: Option<Assignment>) -> Self {
        let dependencies = Dependencies::new(Arc::clone(&release.usage));
        Self { release, route, trial, dependencies, started: OnceLock::new(), is_counted: false }
    }

    /// The call has its slot, and the guest runs now.
    pub(super) fn start(&self) {
        self.started.get_or_init(Instant::now);
    }

    /// The call was refused before the guest ran.
    pub(super) fn refuse(mut self, error: &Error) {
        self.is_counted = true;
        self.release.stats.count(CallOutcome::of_error(error));
    }

    /// The call ended. Returns its outcome.
    pub(super) fn end(mut self, took: Duration, response: &Result<PluginResponse>) -> CallOutcome {
        self.is_counted = true;
        let failed = self.dependencies.has_failed();
        let outcome = CallOutcome::of(response).with_failed_dependency(failed);
        self.record(took, outcome, outcome.is_evidence() && !failed);
        outcome
    }

    fn record(&self, took: Duration, outcome: CallOutcome, is_evidence: bool) {
        let call = EndedCall { route: self.route, took, outcome, is_evidence };
        self.release.stats.record(&call);
        if let Some(trial) = self.trial.as_ref().filter(|_| is_evidence) {
            trial.record(self.release, &call);
        }
    }
}

impl Drop for CallInProgress<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            return;
        }
        match self.started.get() {
            Some(started) => self.record(started.elapsed(), CallOutcome::Cancelled, !self.dependencies.has_failed()),
            None => self.release.stats.count(CallOutcome::Cancelled),
        }
    }
}
