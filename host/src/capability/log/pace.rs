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

/// A turn that comes later. Who leaves before it gives it back: else clients who ask and go away, in any number, would
/// put off everybody's turn for hours.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    pace: &'a Pace,
    turn: Instant,
    time: Duration,
    had: bool,
}

impl Wait<'_> {
    pub(super) async fn over(mut self) {
        tokio::time::sleep_until(self.turn).await;
        self.had = true;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.had {
            let mut next = self.pace.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = next.and_then(|next| next.checked_sub(self.time));
        }
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

    /// The next turn, for an entry of so many bytes; none where it is now.
    pub(super) fn turn(&self, bytes: usize) -> Option<Wait<'_>> {
        self.turn_at(Instant::now(), bytes)
    }

    fn turn_at(&self, now: Instant, bytes: usize) -> Option<Wait<'_>> {
        let entries = u32::try_from(bytes.div_ceil(MEAN_ENTRY)).unwrap_or(u32::MAX).max(1);
        let time = (AHEAD / self.rate.load(Ordering::Relaxed).max(1)).saturating_mul(entries);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let written = next.map_or(now, |next| next.max(now)) + time;
        *next = Some(written);
        let turn = written.checked_sub(AHEAD.max(time)).filter(|turn| *turn > now)?;
        Some(Wait { pace: self, turn, time, had: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_entries_comes_at_once_and_the_rest_at_the_pace() {
        let pace = Pace::new(4);
        let now = Instant::now();
        let wait = |at: Instant, bytes| {
            let Some(mut wait) = pace.turn_at(at, bytes) else { return Duration::ZERO };
            wait.had = true;
            wait.turn - now
        };
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
    #[test]
    fn who_leaves_puts_off_nobody() {
        let pace = Pace::new(4);
        let now = Instant::now();
        for _ in 0..4 {
            assert!(pace.turn_at(now, 10).is_none());
        }
        let waiting = pace.turn_at(now, 10).unwrap();
        for _ in 0..1_000 {
            assert_eq!(pace.turn_at(now, 10).unwrap().turn - waiting.turn, Duration::from_millis(250));
        }
    }
}
