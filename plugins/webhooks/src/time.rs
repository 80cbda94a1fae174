//! Arithmetic of times.

use wharf_sdk::prelude::*;

/// Returns the time that is so many seconds after another.
pub(crate) fn seconds_after(time: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(time.unix_micros().saturating_add(seconds.saturating_mul(1_000_000)))
}
