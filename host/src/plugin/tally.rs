//! What a release did: calls, faults and how long they took, counted without a lock. Owns the counts and their summary;
//! never decides anything by them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a power of two. Four keep a bucket within 19 % of the time it stands for.
const PER_OCTAVE: u32 = 4;
/// Microseconds below this power of two have a bucket each; the last bucket holds everything beyond two minutes.
const OCTAVES: u32 = 27;
const BUCKETS: usize = ((OCTAVES + 1) * PER_OCTAVE) as usize;

/// Counts of one release, from the moment it was loaded.
#[derive(Debug)]
pub struct Tally {
    faults: AtomicU64,
    latency: Box<[AtomicU64; BUCKETS]>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { faults: AtomicU64::new(0), latency: Box::new(std::array::from_fn(|_| AtomicU64::new(0))) }
    }
}

impl Tally {
    /// Counts a call. A fault is the plugin's: a trap, a limit, no answer in time, or an answer of 500 and above.
    pub fn record(&self, took: Duration, fault: bool) {
        if let Some(bucket) = self.latency.get(bucket(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        if fault {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        Counts {
            faults: self.faults.load(Ordering::Relaxed),
            latency: Box::new(std::array::from_fn(|index| {
                self.latency.get(index).map_or(0, |bucket| bucket.load(Ordering::Relaxed))
            })),
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
            tally.record(Duration::from_micros(micros), false);
            let found = tally.counts().quantile(0.5).unwrap().as_micros();
            assert!(found >= u128::from(micros) && found <= u128::from(micros + micros / 4 + 1), "{micros}: {found}");
        }
    }

    #[test]
    fn counts_are_those_since_then() {
        let tally = Tally::default();
        tally.record(Duration::from_micros(10), true);
        let before = tally.counts();
        for micros in [100, 100, 100, 5_000] {
            tally.record(Duration::from_micros(micros), micros > 1_000);
        }
        let since = tally.counts().since(&before);
        assert_eq!((since.calls(), since.faults), (4, 1));
        assert!(since.quantile(0.5).unwrap() < Duration::from_micros(130));
        assert!(since.quantile(0.99).unwrap() >= Duration::from_millis(5));
        assert_eq!(Counts::default().quantile(0.5), None);
        tally.record(Duration::MAX, false);
    }
}
