//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use super::patience::PATIENCE;

const INTERVAL: Duration = Duration::from_millis(20);

/// An event can need several steps, each with a patience of its own.
const LIMIT: Duration = PATIENCE.saturating_mul(2);

/// Polls until there is a value.
pub(crate) async fn until<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
