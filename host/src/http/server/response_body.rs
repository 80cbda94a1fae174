//! A response body that tracks how far the client has read it. It is handed to hyper in small pieces, each tracked
//! until it is written: hyper and h2 accept a piece long before it can be sent, and drop the body once they have the
//! last piece.

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

/// Size of a piece. hyper asks for the next piece as the client reads. The size of an HTTP/2 frame.
const PIECE_BYTES: usize = 16 * 1024;

/// A body that records when the client has read a piece of it.
pub(super) struct ResponseBody {
    body: Body,
    /// The part of the current frame that hyper does not have yet.
    rest: Bytes,
    ended: bool,
    pieces: Arc<Pieces>,
}

/// The pieces that the client has not read yet.
struct Pieces {
    unread: AtomicUsize,
    all_read: AtomicWaker,
    /// Whether this is an HTTP/2 stream. Such a body ends only after all pieces are written, because a stream can be
    /// reset only before it has sent its end.
    is_stream: bool,
    guard: ResponseGuard,
}

struct Piece {
    bytes: Bytes,
    pieces: Arc<Pieces>,
}

impl ResponseBody {
    /// Wraps the body of a response. Must be called in the task of the HTTP/2 stream, if there is one. `is_live` says that
    /// the body has times without anything to read.
    pub(super) fn new(body: Body, request: RequestGuard, is_live: bool) -> Self {
        let stream = http2_streams::current();
        let pieces = Pieces {
            unread: AtomicUsize::new(0),
            all_read: AtomicWaker::new(),
            is_stream: stream.is_some(),
            guard: request.into_response(stream, is_live),
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
        self.pieces.guard.piece_given();
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
        self.pieces.guard.piece_read(self.bytes.len());
        if self.pieces.unread.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.pieces.all_read.wake();
        }
    }
}
