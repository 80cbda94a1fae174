//! Streams of HTTP/2 connections, each in a task of its own that can be ended without the connection: hyper tells the peer
//! so (RST_STREAM), and h2 gives up what it was to send.

use std::future::Future;

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    static STREAM: CancellationToken;
}

/// Runs what hyper asks for beside a connection: its streams.
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

/// What ends the stream that this runs for; none in HTTP/1.1.
pub(super) fn current() -> Option<CancellationToken> {
    STREAM.try_with(Clone::clone).ok()
}
