//! The end of a release that is not served any more: its last calls finish on it, within a time, and its memory goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::release::Release;

/// Between two looks whether anybody still uses it.
const LOOK: Duration = Duration::from_millis(20);

/// Watches a replaced release until its last call has ended; after `limit` the calls that are left are cancelled.
pub(super) fn begin(release: &Arc<Release>, limit: Duration) {
    let weak = Arc::downgrade(release);
    let ended = release.ended.clone();
    let (plugin, number) = (release.record.plugin.clone(), release.record.number);
    tokio::spawn(async move {
        let started = Instant::now();
        while weak.strong_count() > 0 {
            if started.elapsed() > limit && !ended.is_cancelled() {
                tracing::warn!(%plugin, release = number, "cancelling the calls that did not end within the drain time");
                ended.cancel();
            }
            tokio::time::sleep(LOOK).await;
        }
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(%plugin, release = number, millis, "drained");
    });
}
