//! The pace of one plugin's audit entries: as many at once as it may write in a second, and then one after the other. Owns
//! whose turn it is when; never loses one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What an entry may take on average; a longer one counts for more.
const MEAN_ENTRY: usize = 1024;

/// How far ahead of its pace a plugin may be.
const AHEAD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pace {
    rate: AtomicU32,
    /// When all entries so far would be written, at the pace.
    next: Mutex<Option<Instant>>,
}

/// A turn that comes later.
#[derive(Debug)]
pub(super) struct Wait(Instant);

impl Wait {
    pub(super) async fn over(self) {
        tokio::time::sleep_until(self.0).await;
    }
}

impl Pace {
    /// So many entries a second.
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: rate.into(), next: Mutex::default() }
    }

    pub(super) fn set_rate(&self, rate: u32) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// The next turn, for an entry of so many bytes; none where it is now. Who leaves before his turn has had it, so that
    /// calls which end while they wait write no more than others.
    pub(super) fn turn(&self, bytes: usize) -> Option<Wait> {
        self.turn_at(Instant::now(), bytes)
    }

    fn turn_at(&self, now: Instant, bytes: usize) -> Option<Wait> {
        let entries = u32::try_from(bytes.div_ceil(MEAN_ENTRY)).unwrap_or(u32::MAX).max(1);
        let time = (AHEAD / self.rate.load(Ordering::Relaxed).max(1)).saturating_mul(entries);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let written = next.map_or(now, |next| next.max(now)) + time;
        *next = Some(written);
        let turn = written.checked_sub(AHEAD.max(time)).filter(|turn| *turn > now);
        turn.map(Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_entries_comes_at_once_and_the_rest_at_the_pace() {
        let pace = Pace::new(4);
        let now = Instant::now();
        let wait = |at: Instant, bytes| pace.turn_at(at, bytes).map_or(Duration::ZERO, |wait| wait.0 - now);
        for _ in 0..4 {
            assert_eq!(wait(now, 10), Duration::ZERO);
        }
        assert_eq!([wait(now, 10), wait(now, 10)], [250, 500].map(Duration::from_millis));
        assert_eq!(wait(now, 2_000), Duration::from_secs(1), "it counts for two");
        let later = now + Duration::from_secs(60);
        assert_eq!(wait(later, 100_000), Duration::ZERO, "one alone need not wait");
        pace.set_rate(1_000);
        assert!(wait(later, 10) > Duration::from_secs(80), "the long one is paid for");
    }
}
