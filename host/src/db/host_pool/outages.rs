//! The outages of the database. Owns the time of the latest one: connections from before it are not used again.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The time of the latest outage: a connection broke or did not respond.
#[derive(Default)]
pub(super) struct Outages(Mutex<Option<Instant>>);

impl Outages {
    pub(super) fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns whether the latest outage was before this time.
    pub(super) fn ended_before(&self, time: Instant) -> bool {
        let latest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.is_none_or(|latest| latest <= time)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_compared_with_the_latest_outage() {
        let second = Duration::from_secs(1);
        let (before, after) = (Instant::now().checked_sub(second).unwrap(), Instant::now() + second);
        let outages = Outages::default();
        assert!(outages.ended_before(before));
        outages.record();
        assert!(!outages.ended_before(before) && outages.ended_before(after));
    }
}
