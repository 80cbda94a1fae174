//! Counts of connections and requests: how many are open, and how the others ended. Requests to host routes and to
//! plugin routes count alike. Knows no route and no caller.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;

/// Status classes as metrics name them. `cancelled` counts requests of clients that did not wait for the response.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "cancelled"];
const CANCELLED: usize = 5;

/// The counts.
#[derive(Debug, Default)]
pub struct Traffic {
    connections: AtomicU64,
    idle: AtomicU64,
    broken: AtomicU64,
    stalled: AtomicU64,
    in_flight: AtomicU64,
    ended: [AtomicU64; CLASSES.len()],
}

/// An open connection of a client.
pub(super) struct Connected<'a>(&'a Traffic);

/// An in-flight request. It counts as cancelled if it is dropped before `ended` is called.
pub(super) struct InFlight<'a> {
    traffic: &'a Traffic,
    class: usize,
}

impl Traffic {
    pub(super) fn connect(&self) -> Connected<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self)
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the connections that the host closed, by reason.
    pub fn dropped(&self) -> [(&'static str, u64); 2] {
        [("slow", self.idle.load(Ordering::Relaxed)), ("broken", self.broken.load(Ordering::Relaxed))]
    }

    /// Returns the HTTP/2 streams that the host reset because the client stopped reading the response.
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { traffic: self, class: CANCELLED }
    }

    /// Returns the number of requests without a response yet.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the requests that ended, by status class.
    pub fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CLASSES.into_iter().zip(&self.ended).map(|(class, count)| (class, count.load(Ordering::Relaxed)))
    }
}

impl Connected<'_> {
    /// Counts a connection whose client sends or reads nothing.
    pub(super) fn is_slow(&self) {
        self.0.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the given number of streams whose responses the client does not read.
    pub(super) fn are_stalled(&self, streams: u64) {
        self.0.stalled.fetch_add(streams, Ordering::Relaxed);
    }

    /// Counts a connection whose client did not send valid HTTP or disconnected during a request.
    pub(super) fn is_broken(&self) {
        self.0.broken.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InFlight<'_> {
    pub(super) fn ended(mut self, status: StatusCode) {
        self.class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.traffic.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = self.traffic.ended.get(self.class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_by_how_it_ended() {
        let traffic = Traffic::default();
        let (one, two, three) = (traffic.begin(), traffic.begin(), traffic.begin());
        assert_eq!(traffic.in_flight(), 3);
        one.ended(StatusCode::OK);
        two.ended(StatusCode::BAD_GATEWAY);
        drop(three);
        assert_eq!(traffic.in_flight(), 0);
        let counted: Vec<_> = traffic.ended().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("2xx", 1), ("5xx", 1), ("cancelled", 1)]);
    }
}
