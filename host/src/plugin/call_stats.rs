//! Call statistics of a release: calls by outcome and latencies for metrics, and by route for the judge of canaries,
//! counted without a lock. Owns the counts and their summaries; makes no decisions.

mod histogram;
mod outcome;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::histogram::AtomicHistogram;
pub use self::histogram::Histogram;
pub use self::outcome::CallOutcome;
use crate::clock::as_nanos;

/// The counts of one release since it was loaded.
#[derive(Debug, Default)]
pub struct CallStats {
    outcomes: [AtomicU64; CallOutcome::ALL.len()],
    latency: AtomicHistogram,
    latency_micros: AtomicU64,
    /// By index of the route; empty until its first call.
    routes: Box<[OnceLock<Box<RouteStats>>]>,
    instantiations: AtomicU64,
    instantiation_nanos: AtomicU64,
    cpu_nanos: AtomicU64,
}

/// The calls of one route that say something about the release.
#[derive(Debug, Default)]
struct RouteStats {
    faults: AtomicU64,
    completed: AtomicHistogram,
    cut_off: AtomicHistogram,
}

/// A call that ran, or was cut off while it ran.
#[derive(Debug, Clone, Copy)]
pub struct EndedCall {
    /// The index of its route.
    pub route: usize,
    /// How long it took, without the wait for its turn and a call slot.
    pub took: Duration,
    /// Its outcome.
    pub outcome: CallOutcome,
    /// Whether it says something about the release.
    pub is_evidence: bool,
}

impl EndedCall {
    /// Returns whether the caller left before the call ended. It would have taken at least as long as it lasted.
    pub fn was_cut_off(&self) -> bool {
        self.outcome == CallOutcome::Cancelled
    }
}

impl CallStats {
    /// Creates the counts of a release with the given number of routes.
    pub fn new(routes: usize) -> Self {
        Self { routes: (0..routes).map(|_| OnceLock::new()).collect(), ..Self::default() }
    }

    /// Counts a call that ran.
    pub fn record(&self, call: &EndedCall) {
        self.count(call.outcome);
        self.latency.add(call.took);
        self.latency_micros.fetch_add(u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let Some(route) = self.routes.get(call.route).filter(|_| call.is_evidence) else { return };
        let route = route.get_or_init(Box::default);
        if call.outcome.is_fault() {
            route.faults.fetch_add(1, Ordering::Relaxed);
        }
        if call.was_cut_off() { &route.cut_off } else { &route.completed }.add(call.took);
    }

    /// Counts a call that did not run.
    pub fn count(&self, outcome: CallOutcome) {
        if let Some(count) = self.outcomes.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an instance and the time that its creation took.
    pub fn instantiated(&self, took: Duration) {
        self.instantiations.fetch_add(1, Ordering::Relaxed);
        self.instantiation_nanos.fetch_add(as_nanos(took), Ordering::Relaxed);
    }

    /// Adds CPU time of a call.
    pub fn computed(&self, took: Duration) {
        self.cpu_nanos.fetch_add(as_nanos(took), Ordering::Relaxed);
    }

    /// Returns the number of calls by outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (CallOutcome, u64)> + '_ {
        CallOutcome::ALL
            .into_iter()
            .zip(&self.outcomes)
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    /// Returns the number of all calls.
    pub fn total(&self) -> u64 {
        self.outcomes.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Returns the number of created instances and the time that their creation took.
    pub fn instantiations(&self) -> (u64, Duration) {
        let nanos = self.instantiation_nanos.load(Ordering::Relaxed);
        (self.instantiations.load(Ordering::Relaxed), Duration::from_nanos(nanos))
    }

    /// Returns the durations of all calls that ran, including those that were cut off.
    pub fn latency(&self) -> Histogram {
        self.latency.read()
    }

    /// Returns the total duration of all calls, including waits in host calls.
    pub fn latency_sum(&self) -> Duration {
        Duration::from_micros(self.latency_micros.load(Ordering::Relaxed))
    }

    /// Returns the total CPU time of all calls.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_nanos.load(Ordering::Relaxed))
    }

    /// Returns the present counts of the calls that say something about the release.
    pub fn counts(&self) -> Counts {
        let outcome = |outcome| self.outcomes().find(|(found, _)| *found == outcome).map_or(0, |(_, count)| count);
        let route = |stats: &RouteStats| RouteCounts {
            faults: stats.faults.load(Ordering::Relaxed),
            completed: stats.completed.read(),
            cut_off: stats.cut_off.read(),
        };
        Counts {
            dependency: outcome(CallOutcome::Dependency),
            routes: self.routes.iter().map(|stats| stats.get().map(|stats| route(stats))).collect(),
        }
    }
}

/// The counts of one route at a moment.
#[derive(Debug, Clone, Default)]
pub struct RouteCounts {
    /// Calls that failed by the plugin's fault.
    pub faults: u64,
    /// The durations of the calls that ended.
    pub completed: Histogram,
    /// How long the calls lasted whose callers left before they ended.
    pub cut_off: Histogram,
}

impl RouteCounts {
    /// Returns the number of calls.
    pub fn calls(&self) -> u64 {
        self.completed.calls() + self.cut_off.calls()
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            faults: self.faults.saturating_sub(earlier.faults),
            completed: self.completed.since(&earlier.completed),
            cut_off: self.cut_off.since(&earlier.cut_off),
        }
    }
}

/// The counts of a release at a moment.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Calls that failed because a service of the host failed. They are in no other count.
    pub dependency: u64,
    /// By index of the route.
    routes: Vec<Option<RouteCounts>>,
}

impl Counts {
    /// Returns the counts of a route; `None` if it was not called.
    pub fn route(&self, index: usize) -> Option<&RouteCounts> {
        self.routes.get(index)?.as_ref()
    }

    /// Returns the number of calls.
    pub fn calls(&self) -> u64 {
        self.each().map(RouteCounts::calls).sum()
    }

    /// Returns the number of calls that failed by the plugin's fault.
    pub fn faults(&self) -> u64 {
        self.each().map(|route| route.faults).sum()
    }

    /// Returns the number of calls whose callers left before they ended.
    pub fn cut_off(&self) -> u64 {
        self.each().map(|route| route.cut_off.calls()).sum()
    }

    /// Returns the durations of all calls. Those that were cut off count as if they had ended then.
    pub fn latency(&self) -> Histogram {
        let mut all = Histogram::default();
        for route in self.each() {
            all.merge(&route.completed);
            all.merge(&route.cut_off);
        }
        all
    }

    /// Returns the counts since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let routes = self.routes.iter().enumerate().map(|(index, now)| match (now, earlier.route(index)) {
            (Some(now), Some(earlier)) => Some(now.since(earlier)),
            (now, _) => now.clone(),
        });
        Self { dependency: self.dependency.saturating_sub(earlier.dependency), routes: routes.collect() }
    }

    fn each(&self) -> impl Iterator<Item = &RouteCounts> {
        self.routes.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(route: usize, micros: u64, outcome: CallOutcome) -> EndedCall {
        EndedCall { route, took: Duration::from_micros(micros), outcome, is_evidence: true }
    }

    #[test]
    fn counts_since_an_earlier_moment_leave_out_the_calls_before_it() {
        let stats = CallStats::new(2);
        stats.record(&call(0, 10, CallOutcome::Trap));
        let before = stats.counts();
        stats.record(&call(0, 100, CallOutcome::Success));
        stats.record(&call(1, 5_000, CallOutcome::ServerError));
        stats.record(&call(1, 9_000_000, CallOutcome::Cancelled));
        let since = stats.counts().since(&before);
        assert_eq!((since.calls(), since.faults(), since.cut_off()), (3, 1, 1));
        assert!(since.latency().quantile(1.0).unwrap() >= Duration::from_secs(9), "it lasted at least that long");
        assert_eq!(since.route(0).map(RouteCounts::calls), Some(1));
    }

    #[test]
    fn calls_that_say_nothing_about_the_release_are_only_in_the_metrics() {
        let stats = CallStats::new(1);
        stats.record(&EndedCall { is_evidence: false, ..call(0, 10, CallOutcome::Dependency) });
        stats.count(CallOutcome::Busy);
        stats.count(CallOutcome::ClientError);
        let counts = stats.counts();
        assert_eq!((counts.calls(), counts.faults(), counts.dependency), (0, 0, 1));
        assert_eq!((stats.total(), stats.latency().calls()), (3, 1));
    }
}
