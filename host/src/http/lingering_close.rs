//! Lingering close: a request body is still read after its request was refused. If a connection is closed while the
//! client is sending, TCP resets it and the client loses the response with the reason. So the rest of the body is read
//! and discarded, up to a limit of bytes and time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

/// The maximum number of discarded bytes. A client that sends more had the response in time to stop.
pub(super) const MAX_DISCARDED_BYTES: usize = 8 * 1024 * 1024;
/// The maximum time for discarding. A client that sends more slowly had the response in time to stop.
pub(super) const MAX_DISCARD_TIME: Duration = Duration::from_secs(2);

/// A request body that is discarded rather than closed when it is dropped before its end.
pub(super) struct LingeringBody<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    /// `None` after the end of the body.
    body: Option<B>,
    lingers: bool,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> LingeringBody<B> {
    /// Wraps a body. `lingers` is false for a client that waits before it sends (`Expect: 100-continue`), because no
    /// bytes of its body are in flight.
    pub(super) fn new(body: B, lingers: bool) -> Self {
        Self { body: Some(body), lingers }
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for LingeringBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for LingeringBody<B> {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| self.lingers && !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(MAX_DISCARD_TIME, discard(body)));
        }
    }
}

async fn discard(mut body: impl Body<Data = Bytes> + Unpin) {
    let mut seen = 0_usize;
    while let Some(Ok(frame)) = body.frame().await {
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if seen > MAX_DISCARDED_BYTES {
            return;
        }
    }
}
