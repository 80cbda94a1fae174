//! Connections of one release that are open and idle, by server. Belongs to a release because what may be connected to
//! does: another grant never inherits a connection. Closes what was idle too long by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::origin::Server;

/// Idle connections of one release.
const MAX_IDLE: usize = 32;
/// How long one may be idle; shorter than servers usually wait.
const IDLE: Duration = Duration::from_secs(20);
/// How old one may get: after that a name is looked up again.
const AGE: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Default)]
pub(super) struct Pool {
    shelves: Mutex<Shelves>,
}

#[derive(Debug, Default)]
struct Shelves {
    /// Oldest first.
    idle: HashMap<Server, Vec<Idle>>,
    count: usize,
    swept: bool,
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
    /// One that seems to be open; the server may have closed it meanwhile.
    pub(super) fn take(&self, server: &Server) -> Option<Connection> {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = shelves.idle.get_mut(server)?;
        let before = shelf.len();
        let mut found = None;
        while let Some(idle) = shelf.pop() {
            if idle.is_good() {
                found = Some(idle.connection);
                break;
            }
        }
        let gone = before.saturating_sub(shelf.len());
        if shelf.is_empty() {
            shelves.idle.remove(server);
        }
        shelves.count = shelves.count.saturating_sub(gone);
        found
    }

    /// Keeps one whose answer was read to its end.
    pub(super) fn keep(self: &Arc<Self>, server: &Server, connection: Connection) {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        if shelves.count >= MAX_IDLE || !connection.is_open() || connection.begun.elapsed() >= AGE {
            return;
        }
        shelves.idle.entry(server.clone()).or_default().push(Idle { since: Instant::now(), connection });
        shelves.count += 1;
        if !std::mem::replace(&mut shelves.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Runs while there is anything idle.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut shelves = pool.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        for shelf in shelves.idle.values_mut() {
            shelf.retain(Idle::is_good);
        }
        shelves.idle.retain(|_, shelf| !shelf.is_empty());
        shelves.count = shelves.idle.values().map(Vec::len).sum();
        if shelves.count == 0 {
            shelves.swept = false;
            return;
        }
    }
}
