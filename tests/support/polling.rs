//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// The timeout of a condition. It is far longer than any needs, so that no test fails on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(20);

/// Polls until there is a value.
pub(crate) async fn until<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(begun.elapsed() < TIMEOUT, "waited {TIMEOUT:?} for {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
