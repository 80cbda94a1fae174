//! The activity of one connection, which tells a connection with a stalled client from one that is being served.
//!
//! hyper limits the time for headers only after it has recognized HTTP/1.1. This module covers the rest: a client that
//! never reveals its protocol, an idle HTTP/2 connection, and a client that does not read a response. Over HTTP/2, only
//! the stream of that response ends, because other streams of the connection may belong to other users behind a proxy.
//!
//! A live response, such as a stream of events, has times in which there is nothing to read. Only the times count in which
//! the client has not read something that was given to it, unless it reads nothing for longer than such a time lasts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::pace::Pace;

/// Interval of the deadline check while requests are handled. Nothing is due then, because handlers have their own
/// deadlines.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A live response has something to read at least this often.
const LIVE_INTERVAL: Duration = Duration::from_secs(60);

/// The state of one connection. Times are milliseconds since it was opened.
pub(super) struct Activity {
    opened: Instant,
    /// The time of the last activity.
    last: AtomicU64,
    handling: AtomicUsize,
    /// The number of requests so far.
    begun: AtomicU64,
    /// The progress of each response that the client has not read completely.
    responses: Mutex<HashMap<u64, Progress>>,
    next: AtomicU64,
}

struct Progress {
    pace: Pace,
    /// Resets the stream of the response. `None` over HTTP/1.1, where the connection carries nothing else.
    stream: Option<CancellationToken>,
    /// The number of pieces of a live response that the client has not read; `None` for another response.
    live_unread: Option<usize>,
}

impl Progress {
    /// Returns the time by which the client must have read more.
    fn due(&self, stalled: u64) -> u64 {
        match self.live_unread {
            // Over HTTP/2, a client can keep anything from being given to it.
            Some(0) => self.pace.last_moved().saturating_add(millis(LIVE_INTERVAL)).saturating_add(stalled),
            _ => self.pace.due(stalled),
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
            handling: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            responses: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }
}

impl Activity {
    /// Records that a request is being handled until the guard is dropped.
    pub(super) fn begin_request(activity: &Arc<Self>) -> RequestGuard {
        activity.touch();
        activity.handling.fetch_add(1, Ordering::Relaxed);
        activity.begun.fetch_add(1, Ordering::Relaxed);
        RequestGuard(Arc::clone(activity))
    }

    /// Returns the number of requests so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Returns whether no request is being handled and no response is being sent.
    pub(super) fn is_idle(&self) -> bool {
        self.handling.load(Ordering::Relaxed) == 0 && self.responses().is_empty()
    }

    /// Returns when the connection must be dropped, or one of its streams reset, unless there is activity: `idle` after
    /// the last request, or `stalled` after the client last read a piece of a response or fell behind the minimum rate.
    /// Other requests on the connection do not extend the deadline of a response.
    pub(super) fn deadline(&self, idle: Duration, stalled: Duration) -> Instant {
        let at = |millis: u64| self.opened + Duration::from_millis(millis);
        let responses = self.responses();
        let unread = responses.values().map(|response| response.due(millis(stalled))).min().map(at);
        let is_live = responses.values().any(|response| response.live_unread.is_some());
        drop(responses);
        let busy = is_live || self.handling.load(Ordering::Relaxed) > 0;
        let again = if busy { Instant::now() + RECHECK_INTERVAL } else { at(self.last.load(Ordering::Relaxed)) + idle };
        match unread {
            Some(unread) if busy => unread.min(again),
            Some(unread) => unread,
            None => again,
        }
    }

    /// Resets the streams whose responses are overdue, and returns their number. Their memory is released when the
    /// connection is polled again.
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
        if ended > 0 {
            // The connection is idle from now on. If it ended at once, the client would not hear of the reset.
            self.touch();
        }
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

/// Marks a request as being handled until it is dropped.
pub(super) struct RequestGuard(Arc<Activity>);

impl RequestGuard {
    /// Ends the handling and starts tracking how the client reads the response. `stream` resets its HTTP/2 stream.
    pub(super) fn into_response(self, stream: Option<CancellationToken>, is_live: bool) -> ResponseGuard {
        let activity = Arc::clone(&self.0);
        let number = activity.next.fetch_add(1, Ordering::Relaxed);
        let now = activity.touch();
        let live_unread = is_live.then_some(0);
        activity.responses().insert(number, Progress { pace: Pace::begin(now), stream, live_unread });
        ResponseGuard { activity, number, is_live }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// Tracks a response until the client has read it.
pub(super) struct ResponseGuard {
    activity: Arc<Activity>,
    number: u64,
    is_live: bool,
}

impl ResponseGuard {
    /// Records that a piece was given to the client. For a live response, a new time begins in which it must read.
    pub(super) fn piece_given(&self) {
        if !self.is_live {
            return;
        }
        let now = self.activity.now();
        if let Some(response) = self.activity.responses().get_mut(&self.number)
            && let Some(unread) = &mut response.live_unread
        {
            if *unread == 0 {
                response.pace = Pace::begin(now);
            }
            *unread = unread.saturating_add(1);
        }
    }

    /// Records that the client read a piece of the given number of bytes.
    pub(super) fn piece_read(&self, bytes: usize) {
        let now = self.activity.touch();
        if let Some(response) = self.activity.responses().get_mut(&self.number) {
            response.pace.moved(now, bytes);
            if let Some(unread) = &mut response.live_unread {
                *unread = unread.saturating_sub(1);
            }
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
    fn a_stalled_stream_is_reset_alone() {
        let activity = Arc::new(Activity::default());
        let [one, other] = [(); 2].map(|()| CancellationToken::new());
        let _one = Activity::begin_request(&activity).into_response(Some(one.clone()), false);
        let reading = Activity::begin_request(&activity).into_response(Some(other.clone()), false);
        let _alone = Activity::begin_request(&activity).into_response(None, false);
        // Moves this response a minute into the future.
        activity.responses().get_mut(&reading.number).unwrap().pace = Pace::begin(60_000);
        assert_eq!(activity.end_stalled(Duration::ZERO), 1);
        assert!(one.is_cancelled() && !other.is_cancelled());
        assert_eq!(activity.responses().len(), 2);
    }

    #[test]
    fn a_live_response_is_stalled_only_while_something_is_unread() {
        let activity = Arc::new(Activity::default());
        let stream = CancellationToken::new();
        let live = Activity::begin_request(&activity).into_response(Some(stream.clone()), true);
        let is_due = || activity.deadline(Duration::ZERO, Duration::ZERO) <= Instant::now();
        assert!(!is_due() && activity.end_stalled(Duration::ZERO) == 0, "nothing was given yet");
        live.piece_given();
        live.piece_given();
        live.piece_read(5);
        assert!(is_due());
        live.piece_read(5);
        assert!(!is_due() && activity.end_stalled(Duration::ZERO) == 0, "all was read");
        live.piece_given();
        assert!(is_due() && activity.end_stalled(Duration::ZERO) == 1 && stream.is_cancelled());
    }
}
