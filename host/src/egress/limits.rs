//! The limits of one exchange: time for each phase, bytes, redirects, requests at once.

use std::time::Duration;

/// The maximum number of redirects that are followed.
pub const MAX_REDIRECTS: u32 = 5;

/// The limits of one exchange. The limit on the whole exchange also ends each phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressLimits {
    /// Concurrent requests of one plugin.
    pub requests: usize,
    /// The time a request waits for one of them to end.
    pub queue: Duration,
    /// The time to look up a name.
    pub resolve: Duration,
    /// The time to connect, TLS included.
    pub connect: Duration,
    /// The time from sending the request to the response's head.
    pub first_byte: Duration,
    /// The time of the whole exchange, redirects included.
    pub time: Duration,
    /// Bytes of the response's body, and of the request's.
    pub bytes: usize,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self {
            requests: 16,
            queue: Duration::from_secs(1),
            resolve: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(20),
            time: Duration::from_secs(30),
            bytes: 8 * 1024 * 1024,
        }
    }
}
