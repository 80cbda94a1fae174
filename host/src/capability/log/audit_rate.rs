//! The rate limiter of one plugin's audit entries. A plugin may write one second's worth of entries at once. Further
//! entries wait until the rate allows them. Owns the time at which each entry may be written; never drops an entry.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The average size of an entry in bytes. A longer entry counts as several.
const MEAN_ENTRY: usize = 1024;

/// The burst: how far a plugin may be ahead of its rate.
const BURST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct AuditRateLimiter {
    entries_per_second: AtomicU32,
    /// The time at which all entries so far are within the rate.
    next: Mutex<Option<Instant>>,
}

/// A reservation for a later time. Dropping it before that time returns it: otherwise clients that disconnect while
/// they wait, in any number, would delay every other entry of the plugin for hours.
#[derive(Debug)]
pub(super) struct Delay<'a> {
    limiter: &'a AuditRateLimiter,
    until: Instant,
    /// The time that the entry takes at the rate.
    cost: Duration,
    is_over: bool,
}

impl Delay<'_> {
    pub(super) async fn wait(mut self) {
        tokio::time::sleep_until(self.until).await;
        self.is_over = true;
    }
}

impl Drop for Delay<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut next = self.limiter.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = next.and_then(|next| next.checked_sub(self.cost));
        }
    }
}

impl AuditRateLimiter {
    pub(super) fn new(entries_per_second: u32) -> Self {
        Self { entries_per_second: entries_per_second.into(), next: Mutex::default() }
    }

    pub(super) fn set_rate(&self, entries_per_second: u32) {
        self.entries_per_second.store(entries_per_second, Ordering::Relaxed);
    }

    /// Reserves an entry of the given number of bytes. Returns `None` if the entry may be written now.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Delay<'_>> {
        self.reserve_at(Instant::now(), bytes)
    }

    fn reserve_at(&self, now: Instant, bytes: usize) -> Option<Delay<'_>> {
        let entries = u32::try_from(bytes.div_ceil(MEAN_ENTRY)).unwrap_or(u32::MAX).max(1);
        let cost = (BURST / self.entries_per_second.load(Ordering::Relaxed).max(1)).saturating_mul(entries);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let written = next.map_or(now, |next| next.max(now)) + cost;
        *next = Some(written);
        let until = written.checked_sub(BURST.max(cost)).filter(|until| *until > now)?;
        Some(Delay { limiter: self, until, cost, is_over: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_of_entries_is_written_at_once_and_the_rest_at_the_rate() {
        let limiter = AuditRateLimiter::new(4);
        let now = Instant::now();
        let wait = |at: Instant, bytes| {
            let Some(mut delay) = limiter.reserve_at(at, bytes) else { return Duration::ZERO };
            delay.is_over = true;
            delay.until - now
        };
        for _ in 0..4 {
            assert_eq!(wait(now, 10), Duration::ZERO);
        }
        assert_eq!([wait(now, 10), wait(now, 10)], [250, 500].map(Duration::from_millis));
        assert_eq!(wait(now, 2_000), Duration::from_secs(1), "it counts as two entries");
        let later = now + Duration::from_secs(60);
        assert_eq!(wait(later, 100_000), Duration::ZERO, "a single entry does not wait");
        limiter.set_rate(1_000);
        assert!(wait(later, 10) > Duration::from_secs(80), "the entry after a long one waits for it");
    }

    #[test]
    fn an_entry_whose_client_disconnects_delays_no_other() {
        let limiter = AuditRateLimiter::new(4);
        let now = Instant::now();
        for _ in 0..4 {
            assert!(limiter.reserve_at(now, 10).is_none());
        }
        let waiting = limiter.reserve_at(now, 10).unwrap();
        for _ in 0..1_000 {
            assert_eq!(limiter.reserve_at(now, 10).unwrap().until - waiting.until, Duration::from_millis(250));
        }
    }
}
