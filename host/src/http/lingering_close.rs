//! A body that goes on being read after its request was refused. A connection that is closed while the client still sends
//! is reset, and the client loses the answer that said why; so what it has under way is read and thrown away, for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

/// What is thrown away at the most …
const MAX_DISCARDED_BYTES: usize = 8 * 1024 * 1024;
/// … and for how long. A client that sends more, or slower, was told to stop by then.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct LingeringBody<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    /// None: it came to its end.
    body: Option<B>,
    lingers: bool,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> LingeringBody<B> {
    /// A client that waits to be asked for its body (`Expect: 100-continue`) has none under way: it does not linger.
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
