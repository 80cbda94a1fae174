//! HTTP/2 streams, each in its own task that can be cancelled without the connection. hyper then resets the stream
//! (RST_STREAM), and h2 discards the data that it still had to send.

use std::future::Future;

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    static STREAM: CancellationToken;
}

/// The executor that hyper uses for the streams of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamExecutor;

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let end = CancellationToken::new();
        tokio::spawn(STREAM.scope(end.clone(), async move { end.run_until_cancelled(stream).await }));
    }
}

/// Returns the token that cancels the current stream. `None` over HTTP/1.1.
pub(super) fn current() -> Option<CancellationToken> {
    STREAM.try_with(Clone::clone).ok()
}
