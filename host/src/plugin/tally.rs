//! What a release did: calls, faults and how long they took, counted without a lock. Owns the counts and their summary;
//! never decides anything by them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::answer::Answer;
use crate::error::{Code, Error, Result, code};

/// Buckets of a power of two. Four keep a bucket within 19 % of the time it stands for.
const PER_OCTAVE: u32 = 4;
/// Microseconds below this power of two have a bucket each; the last bucket holds everything beyond two minutes.
const OCTAVES: u32 = 27;
const BUCKETS: usize = ((OCTAVES + 1) * PER_OCTAVE) as usize;

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// An answer below 400.
    Success,
    /// An answer that was kept from an earlier call; nothing ran.
    Kept,
    /// An answer of 400 to 499.
    ClientError,
    /// An answer of 500 and above that the plugin gave.
    ServerError,
    /// A trap.
    Trap,
    /// Beyond a limit.
    Limit,
    /// An answer that is none.
    InvalidResponse,
    /// Ended with its release.
    Replaced,
    /// Its client went away.
    Cancelled,
    /// Never begun: no place was free.
    Busy,
    /// Never begun: the release is quarantined.
    Quarantined,
}

impl CallOutcome {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::Kept,
        Self::ClientError,
        Self::ServerError,
        Self::Trap,
        Self::Limit,
        Self::InvalidResponse,
        Self::Replaced,
        Self::Cancelled,
        Self::Busy,
        Self::Quarantined,
    ];

    /// In metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Kept => "kept",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Trap => "trap",
            Self::Limit => "limit",
            Self::InvalidResponse => "invalid_response",
            Self::Replaced => "replaced",
            Self::Cancelled => "cancelled",
            Self::Busy => "busy",
            Self::Quarantined => "quarantined",
        }
    }

    /// What an answer was.
    pub fn of(answer: &Result<Answer>) -> Self {
        match answer {
            Ok(Answer::Response { status, .. } | Answer::Problem { status, .. }) => match status {
                ..400 => Self::Success,
                400..500 => Self::ClientError,
                _ => Self::ServerError,
            },
            Err(error) => Self::of_error(error),
        }
    }

    /// What a call without an answer was.
    pub fn of_error(error: &Error) -> Self {
        const KNOWN: [(Code, CallOutcome); 6] = [
            (code::PLUGIN_BUSY, CallOutcome::Busy),
            (code::OVERLOADED, CallOutcome::Busy),
            (code::PLUGIN_QUARANTINED, CallOutcome::Quarantined),
            (code::PLUGIN_REPLACED, CallOutcome::Replaced),
            (code::PLUGIN_INVALID_RESPONSE, CallOutcome::InvalidResponse),
            (code::PLUGIN_TRAP, CallOutcome::Trap),
        ];
        let known = KNOWN.iter().find(|(known, _)| known == error.code());
        known.map_or(Self::Limit, |(_, outcome)| *outcome)
    }

    /// Whether it is the plugin's.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::ServerError | Self::Trap | Self::Limit | Self::InvalidResponse)
    }
}

/// Counts of one release, from the moment it was loaded.
#[derive(Debug)]
pub struct Tally {
    outcomes: [AtomicU64; CallOutcome::ALL.len()],
    latency: Box<[AtomicU64; BUCKETS]>,
    latency_micros: AtomicU64,
    instantiations: AtomicU64,
    instantiation_nanos: AtomicU64,
    cpu_nanos: AtomicU64,
}

impl Default for Tally {
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

impl Tally {
    /// Counts a call as cancelled, unless it is said before this is dropped that it came to an end.
    pub(super) fn begin(&self) -> Begun<'_> {
        Begun(Some(self))
    }

    /// Counts a call that ran.
    pub fn record(&self, took: Duration, outcome: CallOutcome) {
        if let Some(bucket) = self.latency.get(bucket(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.latency_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count(outcome);
    }

    /// Counts a call, also one that never began or never ended.
    pub fn count(&self, outcome: CallOutcome) {
        if let Some(count) = self.outcomes.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An instance was made, in such a time.
    pub fn instantiated(&self, took: Duration) {
        self.instantiations.fetch_add(1, Ordering::Relaxed);
        self.instantiation_nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// A call kept a thread for such a time.
    pub fn computed(&self, took: Duration) {
        self.cpu_nanos.fetch_add(nanos(took), Ordering::Relaxed);
    }

    /// How many calls came to each outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (CallOutcome, u64)> + '_ {
        CallOutcome::ALL
            .into_iter()
            .zip(&self.outcomes)
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    /// Calls, whatever they came to.
    pub fn total(&self) -> u64 {
        self.outcomes.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Instances made, and the time that took.
    pub fn instantiations(&self) -> (u64, Duration) {
        let nanos = self.instantiation_nanos.load(Ordering::Relaxed);
        (self.instantiations.load(Ordering::Relaxed), Duration::from_nanos(nanos))
    }

    /// The time of all calls together, waiting included.
    pub fn latency_sum(&self) -> Duration {
        Duration::from_micros(self.latency_micros.load(Ordering::Relaxed))
    }

    /// The time that all calls together kept a thread.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_nanos.load(Ordering::Relaxed))
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        Counts {
            faults: self.outcomes().filter(|(outcome, _)| outcome.is_fault()).map(|(_, count)| count).sum(),
            latency: Box::new(std::array::from_fn(|index| {
                self.latency.get(index).map_or(0, |bucket| bucket.load(Ordering::Relaxed))
            })),
        }
    }
}

/// A call that has begun.
pub(super) struct Begun<'a>(Option<&'a Tally>);

impl Begun<'_> {
    /// It came to an end, which is counted as what it was.
    pub(super) fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(tally) = self.0 {
            tally.count(CallOutcome::Cancelled);
        }
    }
}

/// Counts at one moment.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Calls that were the plugin's fault.
    pub faults: u64,
    latency: Box<[u64; BUCKETS]>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { faults: 0, latency: Box::new([0; BUCKETS]) }
    }
}

impl Counts {
    /// Calls.
    pub fn calls(&self) -> u64 {
        self.latency.iter().sum()
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut latency = self.latency.clone();
        for (count, before) in latency.iter_mut().zip(earlier.latency.iter()) {
            *count = count.saturating_sub(*before);
        }
        Self { faults: self.faults.saturating_sub(earlier.faults), latency }
    }

    /// The time that `share` of the calls stayed within; none without a call.
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

    /// Calls by how long they took: times, longest last, each with the calls that took longer than the time before it.
    /// One for each power of two microseconds.
    pub fn by_octave(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let octaves = self.latency.chunks(PER_OCTAVE as usize).zip(1..);
        octaves.map(|(buckets, octave): (_, u32)| (Duration::from_micros(1 << octave), buckets.iter().sum()))
    }

    /// Pairs of bucket counts of two releases, fastest first.
    pub(super) fn beside<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, u64)> + 'a {
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
    fn a_quantile_is_within_a_quarter_of_the_truth() {
        for micros in [1_u64, 2, 3, 5, 7, 10, 100, 999, 12_345, 1_000_000, 60_000_000] {
            let tally = Tally::default();
            tally.record(Duration::from_micros(micros), CallOutcome::Success);
            let found = tally.counts().quantile(0.5).unwrap().as_micros();
            assert!(found >= u128::from(micros) && found <= u128::from(micros + micros / 4 + 1), "{micros}: {found}");
        }
    }

    #[test]
    fn counts_are_those_since_then() {
        let tally = Tally::default();
        tally.record(Duration::from_micros(10), CallOutcome::Trap);
        let before = tally.counts();
        for micros in [100, 100, 100, 5_000] {
            let outcome = if micros > 1_000 { CallOutcome::ServerError } else { CallOutcome::ClientError };
            tally.record(Duration::from_micros(micros), outcome);
        }
        let since = tally.counts().since(&before);
        assert_eq!((since.calls(), since.faults), (4, 1));
        assert!(since.quantile(0.5).unwrap() < Duration::from_micros(130));
        assert!(since.quantile(0.99).unwrap() >= Duration::from_millis(5));
        assert_eq!(Counts::default().quantile(0.5), None);
        tally.record(Duration::MAX, CallOutcome::Success);
        let octaves: Vec<_> = tally.counts().by_octave().filter(|(_, calls)| *calls > 0).collect();
        let upper = [16_u64, 128, 8_192, 1 << 28].map(Duration::from_micros);
        assert_eq!(octaves, [(upper[0], 1), (upper[1], 3), (upper[2], 1), (upper[3], 1)]);
    }
}
