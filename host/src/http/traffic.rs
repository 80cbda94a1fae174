//! Counts the requests of this host, its own and the plugins' alike: how many are in flight, and how those ended that are
//! over. Knows no route and no caller.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;

/// Classes of statuses as metrics name them; the last is for clients that did not wait for their answer.
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

/// A connection of a client.
pub(super) struct Connected<'a>(&'a Traffic);

/// A request in flight. Dropped before its end, it was cancelled.
pub(super) struct InFlight<'a> {
    traffic: &'a Traffic,
    class: usize,
}

impl Traffic {
    pub(super) fn connect(&self) -> Connected<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self)
    }

    /// Connections of clients.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that the host ended, by the reason.
    pub fn dropped(&self) -> [(&'static str, u64); 2] {
        [("slow", self.idle.load(Ordering::Relaxed)), ("broken", self.broken.load(Ordering::Relaxed))]
    }

    /// Streams that the host ended because nobody read their answer.
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { traffic: self, class: CANCELLED }
    }

    /// Requests that have no answer yet.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that are over, by the class of their status.
    pub fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CLASSES.into_iter().zip(&self.ended).map(|(class, count)| (class, count.load(Ordering::Relaxed)))
    }
}

impl Connected<'_> {
    /// It sends or reads nothing.
    pub(super) fn is_slow(&self) {
        self.0.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// So many of its streams are not read.
    pub(super) fn are_stalled(&self, streams: u64) {
        self.0.stalled.fetch_add(streams, Ordering::Relaxed);
    }

    /// It sends what is no request, or went away in the middle of one.
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
