//! The open, idle connections of one release, by server. One pool per release, because each release has its own grant:
//! another grant never inherits a connection. Closes connections that were idle too long by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::origin::Server;

/// The maximum number of idle connections of one release.
const MAX_IDLE: usize = 32;
/// The longest idle time; shorter than servers usually wait.
const IDLE: Duration = Duration::from_secs(20);
/// The maximum age: after it, the name is looked up again.
const AGE: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Default)]
pub(super) struct Pool {
    connections: Mutex<IdleConnections>,
}

#[derive(Debug, Default)]
struct IdleConnections {
    /// Oldest first.
    by_server: HashMap<Server, Vec<Idle>>,
    count: usize,
    sweeper_runs: bool,
}

#[derive(Debug)]
struct Idle {
    since: Instant,
    connection: Connection,
}

impl Idle {
    fn is_good(&self) -> bool {
        self.since.elapsed() < IDLE && self.connection.begun.elapsed() < AGE && self.connection.is_open()
    }
}

impl Pool {
    /// Takes out a connection that seems open; the server may have closed it meanwhile.
    pub(super) fn take(&self, server: &Server) -> Option<Connection> {
        let mut idle = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = idle.by_server.get_mut(server)?;
        let before = of_server.len();
        let mut found = None;
        while let Some(newest) = of_server.pop() {
            if newest.is_good() {
                found = Some(newest.connection);
                break;
            }
        }
        let gone = before.saturating_sub(of_server.len());
        if of_server.is_empty() {
            idle.by_server.remove(server);
        }
        idle.count = idle.count.saturating_sub(gone);
        found
    }

    /// Keeps a connection whose response was read to its end.
    pub(super) fn keep(self: &Arc<Self>, server: &Server, connection: Connection) {
        let mut idle = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.count >= MAX_IDLE || !connection.is_open() || connection.begun.elapsed() >= AGE {
            return;
        }
        idle.by_server.entry(server.clone()).or_default().push(Idle { since: Instant::now(), connection });
        idle.count += 1;
        if !std::mem::replace(&mut idle.sweeper_runs, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Closes connections that were idle too long; runs while there are idle connections.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for of_server in idle.by_server.values_mut() {
            of_server.retain(Idle::is_good);
        }
        idle.by_server.retain(|_, of_server| !of_server.is_empty());
        idle.count = idle.by_server.values().map(Vec::len).sum();
        if idle.count == 0 {
            idle.sweeper_runs = false;
            return;
        }
    }
}
