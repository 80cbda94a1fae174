//! Histograms of the durations of calls, in buckets that grow by a quarter of a power of two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per power of two. Four keep each bucket within 19 % of the time that it stands for.
const PER_OCTAVE: u32 = 4;
/// The powers of two of microseconds that have buckets; the last bucket holds all times above two minutes.
const OCTAVES: u32 = 27;
const BUCKETS: usize = ((OCTAVES + 1) * PER_OCTAVE) as usize;

/// A histogram that is counted without a lock.
#[derive(Debug)]
pub(super) struct AtomicHistogram(Box<[AtomicU64; BUCKETS]>);

impl Default for AtomicHistogram {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| AtomicU64::new(0))))
    }
}

impl AtomicHistogram {
    pub(super) fn add(&self, took: Duration) {
        if let Some(bucket) = self.0.get(bucket(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> Histogram {
        let count = |index: usize| self.0.get(index).map_or(0, |bucket| bucket.load(Ordering::Relaxed));
        Histogram(Box::new(std::array::from_fn(count)))
    }
}

/// The number of calls in each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram(Box<[u64; BUCKETS]>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Histogram {
    /// Returns the number of calls.
    pub fn calls(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the calls since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = |index: usize| {
            let count = |histogram: &Self| histogram.0.get(index).copied().unwrap_or_default();
            count(self).saturating_sub(count(earlier))
        };
        Self(Box::new(std::array::from_fn(counts)))
    }

    /// Adds the calls of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0.iter()) {
            *count += more;
        }
    }

    /// Adds the calls of another histogram; those that took less than `floor` count as if they had taken that long.
    pub(in crate::plugin) fn merge_at_least(&mut self, other: &Self, floor: Duration) {
        let lowest = bucket(floor);
        for (index, more) in other.0.iter().enumerate() {
            if let Some(count) = self.0.get_mut(index.max(lowest)) {
                *count += more;
            }
        }
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
        for (index, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(upper_bound(index));
            }
        }
        None
    }

    /// Returns the calls by duration: for each power of two of microseconds, shortest first, the number of calls that
    /// took up to this time and longer than the one before it.
    pub fn by_octave(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let octaves = self.0.chunks(PER_OCTAVE as usize).zip(1..);
        octaves.map(|(buckets, octave): (_, u32)| (Duration::from_micros(1 << octave), buckets.iter().sum()))
    }

    /// Returns the upper bound and the number of calls of each bucket, fastest first.
    pub(in crate::plugin) fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.0.iter().enumerate().map(|(index, calls)| (upper_bound(index), *calls))
    }

    /// Returns the pairs of bucket counts of two histograms, fastest first.
    pub(in crate::plugin) fn zip<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.0.iter().copied().zip(other.0.iter().copied())
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

    fn of(micros: &[u64]) -> Histogram {
        let histogram = AtomicHistogram::default();
        micros.iter().for_each(|micros| histogram.add(Duration::from_micros(*micros)));
        histogram.read()
    }

    #[test]
    fn a_quantile_is_at_most_a_quarter_above_the_true_time() {
        for micros in [1_u64, 2, 3, 5, 7, 10, 100, 999, 12_345, 1_000_000, 60_000_000] {
            let found = of(&[micros]).quantile(0.5).unwrap().as_micros();
            assert!(found >= u128::from(micros) && found <= u128::from(micros + micros / 4 + 1), "{micros}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn calls_since_an_earlier_moment_leave_out_the_calls_before_it() {
        let since = of(&[10, 100, 100, 100, 5_000]).since(&of(&[10]));
        assert_eq!(since.calls(), 4);
        assert!(since.quantile(0.5).unwrap() < Duration::from_micros(130));
        assert!(since.quantile(0.99).unwrap() >= Duration::from_millis(5));
        let all = of(&[10, 100, 100, 100, 5_000, u64::MAX]);
        let octaves: Vec<_> = all.by_octave().filter(|(_, calls)| *calls > 0).collect();
        let upper = [16_u64, 128, 8_192, 1 << 28].map(Duration::from_micros);
        assert_eq!(octaves, [(upper[0], 1), (upper[1], 3), (upper[2], 1), (upper[3], 1)]);
    }

    #[test]
    fn a_floor_moves_only_shorter_calls() {
        let mut merged = of(&[10]);
        merged.merge_at_least(&of(&[20, 5_000]), Duration::from_micros(100));
        assert_eq!(merged, of(&[10, 100, 5_000]));
    }
}
