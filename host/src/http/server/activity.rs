//! What one connection is doing, so that one whose peer does nothing can be told from one that is being served.
//!
//! hyper bounds the headers of HTTP/1.1 only, and only once it knows that it is HTTP/1.1. This covers the rest: a peer
//! that never says which protocol it speaks, an idle HTTP/2 connection, a peer that does not read an answer. Over HTTP/2
//! such an answer ends alone: others of the connection may be for somebody else, who reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// While requests are handled, nothing is due: handlers have deadlines of their own. This is when to look again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes a second that a peer reads of an answer at least, once it has had its time to begin. Who takes a little now and
/// then keeps as much memory as who takes nothing.
const MIN_BYTES_PER_SECOND: u64 = 16 * 1024;

/// The state of one connection. Moments are milliseconds since it was opened.
pub(super) struct Activity {
    opened: Instant,
    /// The last sign of life.
    last: AtomicU64,
    handling: AtomicUsize,
    /// How far each answer is read that is not read to its end.
    responses: Mutex<HashMap<u64, Progress>>,
    next: AtomicU64,
}

struct Progress {
    began: u64,
    /// When the peer last took a piece.
    last_read: u64,
    bytes: u64,
    /// Ends its stream; none in HTTP/1.1, where it is all that the connection does.
    stream: Option<CancellationToken>,
}

impl Progress {
    /// When the peer must have gone on reading.
    fn due(&self, stalled: u64) -> u64 {
        let paced = self.bytes.saturating_mul(1000) / MIN_BYTES_PER_SECOND;
        self.last_read.min(self.began.saturating_add(paced)).saturating_add(stalled)
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
            handling: AtomicUsize::new(0),
            responses: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }
}

impl Activity {
    /// A request has come and is being handled until the guard is dropped.
    pub(super) fn begin_request(activity: &Arc<Self>) -> RequestGuard {
        activity.touch();
        activity.handling.fetch_add(1, Ordering::Relaxed);
        RequestGuard(Arc::clone(activity))
    }

    /// When the connection is to be dropped, or a stream of it ended, unless something happens: `idle` after the last
    /// request, `stalled` after the peer last took a piece of any answer, or should have by the pace, whatever else it
    /// asks for meanwhile.
    pub(super) fn deadline(&self, idle: Duration, stalled: Duration) -> Instant {
        let at = |millis: u64| self.opened + Duration::from_millis(millis);
        let unread = self.responses().values().map(|response| response.due(millis(stalled))).min().map(at);
        let busy = self.handling.load(Ordering::Relaxed) > 0;
        let again = if busy { Instant::now() + RECHECK_INTERVAL } else { at(self.last.load(Ordering::Relaxed)) + idle };
        match unread {
            Some(unread) if busy => unread.min(again),
            Some(unread) => unread,
            None => again,
        }
    }

    /// Ends the streams whose answers are overdue, and says how many. What they held is free as soon as the connection
    /// goes on.
    pub(super) fn end_stalled(&self, stalled: Duration) -> u64 {
        let now = self.now();
        let mut ended = 0;
        self.responses().retain(|_, response| match &response.stream {
            Some(stream) if response.due(millis(stalled)) <= now => {
                stream.cancel();
                ended += 1;
                false
            }
            _ => true,
        });
        ended
    }

    fn now(&self) -> u64 {
        millis(self.opened.elapsed())
    }

    fn touch(&self) -> u64 {
        let now = self.now();
        self.last.store(now, Ordering::Relaxed);
        now
    }

    fn responses(&self) -> MutexGuard<'_, HashMap<u64, Progress>> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A request is being handled.
pub(super) struct RequestGuard(Arc<Activity>);

impl RequestGuard {
    /// The request is handled; what remains is that the peer reads the answer, on a stream of its own if there is one.
    pub(super) fn into_response(self, stream: Option<CancellationToken>) -> ResponseGuard {
        let activity = Arc::clone(&self.0);
        let number = activity.next.fetch_add(1, Ordering::Relaxed);
        let now = activity.touch();
        activity.responses().insert(number, Progress { began: now, last_read: now, bytes: 0, stream });
        ResponseGuard { activity, number }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// An answer is being read by the peer.
pub(super) struct ResponseGuard {
    activity: Arc<Activity>,
    number: u64,
}

impl ResponseGuard {
    /// The peer took so many bytes.
    pub(super) fn bytes_read(&self, bytes: usize) {
        let now = self.activity.touch();
        if let Some(response) = self.activity.responses().get_mut(&self.number) {
            response.last_read = now;
            response.bytes = response.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }
}

impl Drop for ResponseGuard {
    fn drop(&mut self) {
        self.activity.responses().remove(&self.number);
        self.activity.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_little_now_and_then_is_late_too() {
        const STALLED: u64 = 30_000;
        let due = |last_read: u64, bytes: u64| Progress { began: 5_000, last_read, bytes, stream: None }.due(STALLED);
        assert_eq!(due(5_000, 0), 35_000, "nothing yet");
        assert_eq!(due(30_000, MIN_BYTES_PER_SECOND / 2), 35_500, "a little, just now");
        assert_eq!(
            due(30_000, 1_000 * MIN_BYTES_PER_SECOND),
            60_000,
            "who was fast rests no longer than who never began"
        );
    }

    #[test]
    fn a_stream_that_stalls_ends_alone() {
        let activity = Arc::new(Activity::default());
        let [one, other] = [(); 2].map(|()| CancellationToken::new());
        let _one = Activity::begin_request(&activity).into_response(Some(one.clone()));
        let reading = Activity::begin_request(&activity).into_response(Some(other.clone()));
        let _alone = Activity::begin_request(&activity).into_response(None);
        // As if it had a minute more.
        activity.responses().get_mut(&reading.number).unwrap().began = 60_000;
        activity.responses().get_mut(&reading.number).unwrap().last_read = 60_000;
        assert_eq!(activity.end_stalled(Duration::ZERO), 1);
        assert!(one.is_cancelled() && !other.is_cancelled());
        assert_eq!(activity.responses().len(), 2);
    }
}
