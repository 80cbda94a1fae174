//! What one connection is doing, so that one whose peer does nothing can be told from one that is being served.
//!
//! hyper bounds the headers of HTTP/1.1 only, and only once it knows that it is HTTP/1.1. This covers the rest: a peer
//! that never says which protocol it speaks, an idle HTTP/2 connection, a peer that does not read its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

/// While requests are handled, nothing is due: handlers have deadlines of their own. This is when to look again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The state of one connection.
pub(super) struct Activity {
    opened: Instant,
    /// Milliseconds from `opened` to the last sign of life.
    last: AtomicU64,
    handling: AtomicUsize,
    answering: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
            handling: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    /// A request has come and is being handled until the guard is dropped.
    pub(super) fn handling(activity: &Arc<Self>) -> Handling {
        activity.alive();
        activity.handling.fetch_add(1, Ordering::Relaxed);
        Handling(Arc::clone(activity))
    }

    /// When the connection is to be dropped unless something happens: `idle` after the last request, `stalled` after the
    /// peer last took a piece of an answer.
    pub(super) fn deadline(&self, idle: Duration, stalled: Duration) -> Instant {
        if self.handling.load(Ordering::Relaxed) > 0 {
            return Instant::now() + LOOK_AGAIN;
        }
        let patience = if self.answering.load(Ordering::Relaxed) > 0 { stalled } else { idle };
        self.opened + Duration::from_millis(self.last.load(Ordering::Relaxed)) + patience
    }

    fn alive(&self) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }
}

/// A request is being handled.
pub(super) struct Handling(Arc<Activity>);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
        self.0.alive();
    }
}

/// An answer is being read by the peer.
struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
        self.0.alive();
    }
}

/// A body that notes when the peer takes a piece of it.
pub(super) struct Answer {
    body: Body,
    answering: Answering,
}

impl Answer {
    /// The request is handled; what remains is that the peer reads `body`.
    pub(super) fn new(body: Body, handling: Handling) -> Self {
        let activity = Arc::clone(&handling.0);
        activity.answering.fetch_add(1, Ordering::Relaxed);
        drop(handling);
        Self { body, answering: Answering(activity) }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // hyper asks only when it has room, which it has only when the peer reads.
        self.answering.0.alive();
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
