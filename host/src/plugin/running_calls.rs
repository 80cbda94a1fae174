//! The calls of a release that run: requests, deliveries and jobs. Owns their end before they return: when the drain time of
//! the release is over, or when the data of its plugin are deleted. A call that begins afterwards ends at once.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The calls of one release. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct RunningCalls {
    ended: CancellationToken,
    running: TaskTracker,
}

impl RunningCalls {
    /// Runs a call. Returns `None` if it is ended before it returns.
    pub(super) async fn run<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        // Before the look at `ended`, so that `wait` overlooks no call.
        let _running = self.running.token();
        self.ended.run_until_cancelled(call).await
    }

    /// Ends the calls.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Returns whether the calls were ended.
    pub(super) fn are_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until no call runs, after [`end`](Self::end). Afterwards, none does anything any more.
    pub(super) async fn wait(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_wait_is_over_when_the_last_call_has_ended() {
        let calls = RunningCalls::default();
        assert_eq!(calls.run(async { 1 }).await, Some(1));
        let mut running = Box::pin(calls.run(pending::<()>()));
        assert_eq!(running.as_mut().now_or_never(), None);
        calls.end();
        assert!(calls.are_ended());
        assert_eq!(calls.wait().now_or_never(), None, "a call still runs");
        assert_eq!(running.await, None);
        calls.wait().await;
        assert_eq!(calls.run(async { 1 }).await, None, "it begins after the end");
    }
}
