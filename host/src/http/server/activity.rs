//! What one connection is doing, so that one whose peer does nothing can be told from one that is being served.
//!
//! hyper bounds the headers of HTTP/1.1 only, and only once it knows that it is HTTP/1.1. This covers the rest: a peer
//! that never says which protocol it speaks, an idle HTTP/2 connection, a peer that does not read its answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

/// While requests are handled, nothing is due: handlers have deadlines of their own. This is when to look again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What hyper is given of an answer at once, so that it comes back for more as the peer reads.
const PIECE: usize = 64 * 1024;

/// The state of one connection. Moments are milliseconds since it was opened.
pub(super) struct Activity {
    opened: Instant,
    /// The last sign of life.
    last: AtomicU64,
    handling: AtomicUsize,
    /// When each answer that is being read was last taken a piece of.
    answers: Mutex<HashMap<u64, u64>>,
    next: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
            handling: AtomicUsize::new(0),
            answers: Mutex::default(),
            next: AtomicU64::new(0),
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
    /// peer last took a piece of any answer, whatever else it asks for meanwhile.
    pub(super) fn deadline(&self, idle: Duration, stalled: Duration) -> Instant {
        let at = |millis: u64| self.opened + Duration::from_millis(millis);
        let unread = self.answers().values().min().map(|taken| at(*taken) + stalled);
        let busy = self.handling.load(Ordering::Relaxed) > 0;
        let again = if busy { Instant::now() + LOOK_AGAIN } else { at(self.last.load(Ordering::Relaxed)) + idle };
        match unread {
            Some(unread) if busy => unread.min(again),
            Some(unread) => unread,
            None => again,
        }
    }

    fn alive(&self) -> u64 {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
        millis
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
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
struct Answering {
    activity: Arc<Activity>,
    number: u64,
}

impl Answering {
    fn taken(&self) {
        let now = self.activity.alive();
        self.activity.answers().insert(self.number, now);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.activity.answers().remove(&self.number);
        self.activity.alive();
    }
}

/// A body that notes when the peer takes a piece of it.
pub(super) struct Answer {
    body: Body,
    /// Of what the body gave already.
    rest: Bytes,
    answering: Answering,
}

impl Answer {
    /// The request is handled; what remains is that the peer reads `body`.
    pub(super) fn new(body: Body, handling: Handling) -> Self {
        let activity = Arc::clone(&handling.0);
        let number = activity.next.fetch_add(1, Ordering::Relaxed);
        let answering = Answering { activity, number };
        answering.taken();
        drop(handling);
        Self { body, rest: Bytes::new(), answering }
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
        self.answering.taken();
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (u64::try_from(self.rest.len()).unwrap_or(u64::MAX), self.body.size_hint());
        match hint.exact() {
            Some(exact) => SizeHint::with_exact(exact.saturating_add(rest)),
            None => hint,
        }
    }
}
