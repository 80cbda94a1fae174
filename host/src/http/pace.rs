//! The pace at which a client must send a body or read a response. Owns the rule only: a client may stall for a while,
//! and must keep a minimum rate after that. The whole time is not limited, because it depends on the size of the body
//! and on the client's network.

/// The minimum rate after an initial pause. A client that moves a little now and then occupies as much memory as one that
/// moves nothing.
pub(crate) const MIN_BYTES_PER_SECOND: u64 = 16 * 1024;

/// The progress of one body. Times are milliseconds since any fixed moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    began: u64,
    last_moved: u64,
    bytes: u64,
}

impl Pace {
    /// Begins at the given time.
    pub(super) fn begin(now: u64) -> Self {
        Self { began: now, last_moved: now, bytes: 0 }
    }

    /// Records that the given number of bytes moved.
    pub(super) fn moved(&mut self, now: u64, bytes: usize) {
        self.last_moved = now;
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Returns when bytes last moved, or when it began.
    pub(super) fn last_moved(&self) -> u64 {
        self.last_moved
    }

    /// Returns the time by which more must have moved: `stalled` after the last bytes, or after the time in which the
    /// bytes so far would have moved at the minimum rate.
    pub(super) fn due(&self, stalled: u64) -> u64 {
        let paced = self.bytes.saturating_mul(1000) / MIN_BYTES_PER_SECOND;
        self.last_moved.min(self.began.saturating_add(paced)).saturating_add(stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_too_slow_is_overdue_and_a_long_body_is_not() {
        const STALLED: u64 = 30_000;
        let due = |last_moved: u64, bytes: u64| Pace { began: 5_000, last_moved, bytes }.due(STALLED);
        assert_eq!(due(5_000, 0), 35_000, "nothing yet");
        assert_eq!(due(30_000, MIN_BYTES_PER_SECOND / 2), 35_500, "a little has just moved");
        assert_eq!(
            due(30_000, 1_000 * MIN_BYTES_PER_SECOND),
            60_000,
            "a fast client may pause no longer than one that never began"
        );
        let hour = 3_600_000;
        assert_eq!(due(hour, 300_000 * hour / 1000), hour + STALLED, "300 kB/s for an hour");
    }
}
