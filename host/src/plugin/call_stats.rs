//! Call statistics of a release: calls by outcome, faults and latencies, counted without a lock. Owns the counts and
//! their summaries; makes no decisions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::response::PluginResponse;
use crate::error::{Code, Error, Kind, Result, code};

/// Buckets per power of two. Four keep each bucket within 19 % of the time that it stands for.
const PER_OCTAVE: u32 = 4;
/// The powers of two of microseconds that have buckets; the last bucket holds all times above two minutes.
const OCTAVES: u32 = 27;
const BUCKETS: usize = ((OCTAVES + 1) * PER_OCTAVE) as usize;

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// A response below 400.
    Success,
    /// A cached response; no guest ran.
    Cached,
    /// A response of 400 to 499.
    ClientError,
    /// A response of 500 or above from the plugin.
    ServerError,
    /// A trap.
    Trap,
    /// A limit was hit.
    Limit,
    /// An invalid response.
    InvalidResponse,
    /// Failed, or refused before the guest ran, because a service of the host failed. Nobody is blamed.
    Dependency,
    /// Cancelled at the end of the drain time of its release.
    Replaced,
    /// The client disconnected.
    Cancelled,
    /// Refused: no call slot was free.
    Busy,
    /// Refused: the release is quarantined.
    Quarantined,
    /// Ended or refused, because an operator paused the plugin or revoked a grant.
    Stopped,
}

impl CallOutcome {
    /// All outcomes.
    pub const ALL: [Self; 13] = [
        Self::Success,
        Self::Cached,
        Self::ClientError,
        Self::ServerError,
        Self::Trap,
        Self::Limit,
        Self::InvalidResponse,
        Self::Dependency,
        Self::Replaced,
        Self::Cancelled,
        Self::Busy,
        Self::Quarantined,
        Self::Stopped,
    ];

    /// Returns the name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Cached => "kept",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Trap => "trap",
            Self::Limit => "limit",
            Self::InvalidResponse => "invalid_response",
            Self::Dependency => "dependency",
            Self::Replaced => "replaced",
            Self::Cancelled => "cancelled",
            Self::Busy => "busy",
            Self::Quarantined => "quarantined",
            Self::Stopped => "stopped",
        }
    }

    /// Returns the outcome of a call that ran.
    pub fn of(response: &Result<PluginResponse>) -> Self {
        match response {
            Ok(PluginResponse::Response { status, .. } | PluginResponse::Problem { status, .. }) => match status {
                ..400 => Self::Success,
                400..500 => Self::ClientError,
                _ => Self::ServerError,
            },
            Err(error) => Self::of_error(error),
        }
    }

    /// Returns the outcome of a call without a response.
    pub fn of_error(error: &Error) -> Self {
        const KNOWN: [(Code, CallOutcome); 8] = [
            (code::PLUGIN_BUSY, CallOutcome::Busy),
            (code::OVERLOADED, CallOutcome::Busy),
            (code::PLUGIN_QUARANTINED, CallOutcome::Quarantined),
            (code::PLUGIN_REPLACED, CallOutcome::Replaced),
            (code::PLUGIN_PAUSED, CallOutcome::Stopped),
            (code::PLUGIN_REVOKED, CallOutcome::Stopped),
            (code::PLUGIN_INVALID_RESPONSE, CallOutcome::InvalidResponse),
            (code::PLUGIN_TRAP, CallOutcome::Trap),
        ];
        if let Some((_, outcome)) = KNOWN.iter().find(|(known, _)| known == error.code()) {
            return *outcome;
        }
        match error.kind() {
            Kind::Plugin | Kind::Timeout => Self::Limit,
            Kind::Unavailable(_) | Kind::Internal => Self::Dependency,
            _ => Self::ClientError,
        }
    }

    /// Returns the outcome of a call in which a service of the host failed, or did not. A plugin that coped with the
    /// failure keeps its outcome.
    #[must_use]
    pub fn with_failed_dependency(self, failed: bool) -> Self {
        if failed && self.is_fault() { Self::Dependency } else { self }
    }

    /// Returns whether the call shows how well the release works. Calls that the host or the client ended, and calls
    /// that never ran, do not.
    pub fn is_evidence(self) -> bool {
        matches!(self, Self::Success | Self::ClientError) || self.is_fault()
    }

    /// Returns whether it is the plugin's fault.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::ServerError | Self::Trap | Self::Limit | Self::InvalidResponse)
    }
}

/// The counts of one release since it was loaded.
#[derive(Debug)]
pub struct CallStats {
    outcomes: [AtomicU64; CallOutcome::ALL.len()],
    latency: Box<[AtomicU64; BUCKETS]>,
    latency_micros: AtomicU64,
    instantiations: AtomicU64,
    instantiation_nanos: AtomicU64,
    cpu_nanos: AtomicU64,
}

impl Default for CallStats {
    fn default() -> Self {
        Self {
            outcomes: Default::default(),
            latency: Box::new(std::array::from_fn(|_| AtomicU64::new(0))),
            latency_micros: AtomicU64::new(0),
            instantiations: AtomicU64::new(0),
            instantiation_nanos: AtomicU64::new(0),
            cpu_nanos: AtomicU64::new(0),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl CallStats {
    /// Begins a call, which counts as cancelled unless [`CallInProgress::ended`] is called.
    pub(super) fn begin(&self) -> CallInProgress<'_> {
        CallInProgress(Some(self))
    }

    /// Counts a call that ran. A call that says nothing about the release has no latency: it would be that of a service
    /// of the host.
    pub fn record(&self, took: Duration, outcome: CallOutcome) {
        if !outcome.is_evidence() {
            return self.count(outcome);
        }
        if let Some(bucket) = self.latency.get(bucket(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.latency_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count(outcome);
    }

    /// Counts a call, including one that was refused or cancelled.
    pub fn count(&self, outcome: CallOutcome) {
        if let Some(count) = self.outcomes.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an instance and the time that its creation took.
    pub fn instantiated(&self, took: Duration) {
        self.instantiations.fetch_add(1, Ordering::Relaxed);
        self.instantiation_nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// Adds CPU time of a call.
    pub fn computed(&self, took: Duration) {
        self.cpu_nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// Returns the number of calls by outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (CallOutcome, u64)> + '_ {
        CallOutcome::ALL
            .into_iter()
            .zip(&self.outcomes)
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    fn outcome(&self, outcome: CallOutcome) -> u64 {
        self.outcomes.get(outcome as usize).map_or(0, |count| count.load(Ordering::Relaxed))
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

    /// Returns the total duration of all calls, including waits in host calls.
    pub fn latency_sum(&self) -> Duration {
        Duration::from_micros(self.latency_micros.load(Ordering::Relaxed))
    }

    /// Returns the total CPU time of all calls.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_nanos.load(Ordering::Relaxed))
    }

    /// Returns the present counts.
    pub fn counts(&self) -> Counts {
        Counts {
            dependency: self.outcome(CallOutcome::Dependency),
            faults: self.outcomes().filter(|(outcome, _)| outcome.is_fault()).map(|(_, count)| count).sum(),
            latency: Box::new(std::array::from_fn(|index| {
                self.latency.get(index).map_or(0, |bucket| bucket.load(Ordering::Relaxed))
            })),
        }
    }
}

/// A call in progress.
pub(super) struct CallInProgress<'a>(Option<&'a CallStats>);

impl CallInProgress<'_> {
    /// Ends the call; the caller counts its outcome.
    pub(super) fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for CallInProgress<'_> {
    fn drop(&mut self) {
        if let Some(stats) = self.0 {
            stats.count(CallOutcome::Cancelled);
        }
    }
}

/// The counts at a moment.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Calls that failed by the plugin's fault.
    pub faults: u64,
    /// Calls that failed because a service of the host failed.
    pub dependency: u64,
    latency: Box<[u64; BUCKETS]>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { faults: 0, dependency: 0, latency: Box::new([0; BUCKETS]) }
    }
}

impl Counts {
    /// Returns the number of calls that ran.
    pub fn calls(&self) -> u64 {
        self.latency.iter().sum()
    }

    /// Returns the counts since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut latency = self.latency.clone();
        for (count, before) in latency.iter_mut().zip(earlier.latency.iter()) {
            *count = count.saturating_sub(*before);
        }
        let [faults, dependency] = [(self.faults, earlier.faults), (self.dependency, earlier.dependency)]
            .map(|(now, then)| now.saturating_sub(then));
        Self { faults, dependency, latency }
    }

    /// Returns the time within which `share` of the calls ended; `None` without a call.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let calls = self.calls();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among calls, which is never negative and needs no exactness beyond 2^52"
        )]
        let rank = ((calls as f64 * share).ceil() as u64).clamp(1, calls.max(1));
        let mut seen = 0;
        for (index, count) in self.latency.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(upper_bound(index));
            }
        }
        None
    }

    /// Returns a histogram of the durations: for each power of two of microseconds, shortest first, the number of calls
    /// that took up to this time and longer than the one before it.
    pub fn by_octave(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let octaves = self.latency.chunks(PER_OCTAVE as usize).zip(1..);
        octaves.map(|(buckets, octave): (_, u32)| (Duration::from_micros(1 << octave), buckets.iter().sum()))
    }

    /// Returns the pairs of bucket counts of two releases, fastest first.
    pub(super) fn zip<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.latency.iter().copied().zip(other.latency.iter().copied())
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = micros.ilog2();
    // The two bits after the leading one.
    let part = if octave >= 2 { (micros >> (octave - 2)) & 3 } else { (micros << (2 - octave)) & 3 };
    let index = u64::from(octave * PER_OCTAVE) + part;
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

fn upper_bound(index: usize) -> Duration {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let (octave, part) = (index / PER_OCTAVE, index % PER_OCTAVE);
    let quarters = u64::from(PER_OCTAVE + part + 1);
    Duration::from_micros((quarters << octave) / u64::from(PER_OCTAVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_quarter_above_the_true_time() {
        for micros in [1_u64, 2, 3, 5, 7, 10, 100, 999, 12_345, 1_000_000, 60_000_000] {
            let stats = CallStats::default();
            stats.record(Duration::from_micros(micros), CallOutcome::Success);
            let found = stats.counts().quantile(0.5).unwrap().as_micros();
            assert!(found >= u128::from(micros) && found <= u128::from(micros + micros / 4 + 1), "{micros}: {found}");
        }
    }

    #[test]
    fn counts_since_an_earlier_moment_leave_out_the_calls_before_it() {
        let stats = CallStats::default();
        stats.record(Duration::from_micros(10), CallOutcome::Trap);
        let before = stats.counts();
        for micros in [100, 100, 100, 5_000] {
            let outcome = if micros > 1_000 { CallOutcome::ServerError } else { CallOutcome::ClientError };
            stats.record(Duration::from_micros(micros), outcome);
        }
        let since = stats.counts().since(&before);
        assert_eq!((since.calls(), since.faults), (4, 1));
        assert!(since.quantile(0.5).unwrap() < Duration::from_micros(130));
        assert!(since.quantile(0.99).unwrap() >= Duration::from_millis(5));
        assert_eq!(Counts::default().quantile(0.5), None);
        stats.record(Duration::MAX, CallOutcome::Success);
        let octaves: Vec<_> = stats.counts().by_octave().filter(|(_, calls)| *calls > 0).collect();
        let upper = [16_u64, 128, 8_192, 1 << 28].map(Duration::from_micros);
        assert_eq!(octaves, [(upper[0], 1), (upper[1], 3), (upper[2], 1), (upper[3], 1)]);
    }
}
