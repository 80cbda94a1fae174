//! An answer on the wire, in pieces that are known until the peer has them: hyper and h2 take a piece long before there is
//! room to send it, and with the last one they forget the body it came from.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::activity::{RequestGuard, ResponseGuard};
use super::http2_streams;

/// What hyper is given of an answer at once, so that it comes back for more as the peer reads. A frame of HTTP/2.
const PIECE_BYTES: usize = 16 * 1024;

/// A body that notes when the peer has read a piece of it.
pub(super) struct ResponseBody {
    body: Body,
    /// Of what the body gave already.
    rest: Bytes,
    ended: bool,
    pieces: Arc<Pieces>,
}

/// What the peer does not have yet.
struct Pieces {
    unread: AtomicUsize,
    all_read: AtomicWaker,
    /// A stream is one until it has sent its end, and only then can it be ended alone.
    is_stream: bool,
    guard: ResponseGuard,
}

struct Piece {
    bytes: Bytes,
    pieces: Arc<Pieces>,
}

impl ResponseBody {
    /// The request is handled; what remains is that the peer reads `body`. Called in the stream's task, if it has one.
    pub(super) fn new(body: Body, request: RequestGuard) -> Self {
        let stream = http2_streams::current();
        let pieces = Pieces {
            unread: AtomicUsize::new(0),
            all_read: AtomicWaker::new(),
            is_stream: stream.is_some(),
            guard: request.into_response(stream),
        };
        Self { body, rest: Bytes::new(), ended: false, pieces: Arc::new(pieces) }
    }
}

impl Pieces {
    fn are_read(&self) -> bool {
        self.unread.load(Ordering::Acquire) == 0
    }

    fn poll_read(&self, context: &Context<'_>) -> Poll<()> {
        self.all_read.register(context.waker());
        if self.are_read() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.rest.is_empty() && !self.ended {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.ended = true,
            }
        }
        if self.ended {
            if self.pieces.is_stream {
                ready!(self.pieces.poll_read(context));
            }
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let bytes = self.rest.split_to(length);
        if bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        self.pieces.unread.fetch_add(1, Ordering::Relaxed);
        let piece = Piece { bytes, pieces: Arc::clone(&self.pieces) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        let given = self.rest.is_empty() && (self.ended || self.body.is_end_stream());
        given && (!self.pieces.is_stream || self.pieces.are_read())
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (u64::try_from(self.rest.len()).unwrap_or(u64::MAX), self.body.size_hint());
        match hint.exact() {
            Some(exact) => SizeHint::with_exact(exact.saturating_add(rest)),
            None => hint,
        }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.pieces.guard.bytes_read(self.bytes.len());
        if self.pieces.unread.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.pieces.all_read.wake();
        }
    }
}
