//! Events on their way to clients: the hub that reads new ones for all streams of this process, and the places that bound
//! the number of streams. `http::resource::event_stream` has the route, the access and the stream itself.

pub(super) mod hub;
pub(super) mod places;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::hub::Hub;
use self::places::Places;
use crate::config;
use crate::db::Db;

/// The parts that all streams of events share.
pub struct LiveEvents {
    pub(super) hub: Hub,
    pub(super) places: Places,
    pub(super) intervals: Intervals,
}

/// The times of a stream of events.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// A stream sends something at least this often, so that no proxy takes it for dead.
    pub heartbeat: Duration,
    /// How often the access of the caller is checked again. Events about the caller make it come sooner.
    pub check: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(15), check: Duration::from_secs(30) }
    }
}

impl LiveEvents {
    /// Creates the hub and the places. Streams take at most half of the connections.
    pub fn new(db: Db, server: &config::Server, intervals: Intervals) -> Self {
        let all = server.event_streams.min(server.connections / 2).max(1);
        Self { hub: Hub::new(db), places: Places::new(all, server.event_streams_per_caller), intervals }
    }

    /// Passes new events on to the streams until `stopping`.
    pub async fn run(&self, stopping: &CancellationToken) {
        let _ = stopping.run_until_cancelled(self.hub.pass_on()).await;
    }
}
