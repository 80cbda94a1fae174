//! The uses of API keys: which of them are recorded in the database, so that a busy key costs one write in a minute.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::KeyId;

/// How often the last use of a key is recorded.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// The maximum number of keys whose last record is remembered. Others are recorded more often.
const REMEMBERED_USES: u64 = 10_000;

/// The times at which uses of keys were last recorded.
pub(super) struct KeyUses(moka::sync::Cache<KeyId, Timestamp>);

impl Default for KeyUses {
    fn default() -> Self {
        Self(moka::sync::Cache::new(REMEMBERED_USES))
    }
}

impl KeyUses {
    /// Returns whether a use at `now` is to be recorded, and remembers it.
    pub(super) fn is_due(&self, id: KeyId, now: Timestamp) -> bool {
        let is_recent = |at: Timestamp| at <= now && now < at.plus(RECORD_INTERVAL);
        if self.0.get(&id).is_some_and(is_recent) {
            return false;
        }
        self.0.insert(id, now);
        true
    }
}
