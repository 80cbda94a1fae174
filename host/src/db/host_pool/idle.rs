//! The connections that nobody uses at present, and the places of those in use. Owns the bound of the pool, and the decision
//! whether a connection is closed because of its age or because it was idle for long.
//!
//! sqlx opens the connections and counts them, but never gets one back: it would test each one, which is a round trip on
//! PostgreSQL, and a task and two switches of threads on SQLite. The connection that was used last is the first to be used
//! again, because the database has warm caches for it; the others are idle long enough to be closed. That is checked whenever
//! a connection comes back: a running host uses its database every second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::{Connection as _, Database};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a connection may take to become idle or to close in the background.
pub(super) const RETURN_TIMEOUT: Duration = Duration::from_secs(10);

/// The right to use a connection. There are as many places as the pool may have connections.
pub(super) type Place = OwnedSemaphorePermit;

/// See the module.
pub(super) struct IdleConnections<DB: Database> {
    places: Arc<Semaphore>,
    max_lifetime: Option<Duration>,
    idle_timeout: Option<Duration>,
    /// The one that was used last is at the end.
    idle: Mutex<Vec<Idle<DB>>>,
}

pub(super) struct Idle<DB: Database> {
    pub(super) since: Instant,
    pub(super) lease: Lease<DB>,
}

impl<DB: Database> IdleConnections<DB> {
    pub(super) fn new(options: &PoolOptions<DB>) -> Self {
        let places = usize::try_from(options.get_max_connections()).unwrap_or(usize::MAX);
        Self {
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            max_lifetime: options.get_max_lifetime(),
            idle_timeout: options.get_idle_timeout(),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Waits for a place, first come, first served.
    ///
    /// With a place and no idle connection, sqlx may open one: the others are in use, and each of these has a place.
    pub(super) async fn place(&self) -> sqlx::Result<Place> {
        Arc::clone(&self.places).acquire_owned().await.map_err(|_closed| sqlx::Error::PoolClosed)
    }

    /// Takes out the connection that was used last.
    pub(super) fn take(&self) -> Option<Idle<DB>> {
        self.idle().pop()
    }

    /// Adds a connection that has nothing to do. Its user gives its place up afterwards, so that the next one finds it.
    pub(super) fn keep(&self, mut lease: Lease<DB>) {
        // They stay as large as the largest component so far.
        lease.shrink_buffers();
        let now = Instant::now();
        let exceeds = |limit: Option<Duration>, since: Instant| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) > limit)
        };
        let mut surplus = Vec::new();
        let mut idle = self.idle();
        if self.places.is_closed() || exceeds(self.max_lifetime, lease.opened) {
            surplus.push(lease);
        } else {
            idle.push(Idle { since: now, lease });
        }
        let stale = idle.iter().take_while(|idle| exceeds(self.idle_timeout, idle.since)).count();
        surplus.extend(idle.drain(..stale).map(|idle| idle.lease));
        drop(idle);
        surplus.into_iter().for_each(Lease::close_in_background);
    }

    /// Returns the number of idle connections.
    pub(super) fn count(&self) -> usize {
        self.idle().len()
    }

    /// Gives out no more places, and returns the idle connections. A connection in use is closed when it comes back.
    pub(super) fn close(&self) -> Vec<Lease<DB>> {
        self.places.close();
        self.idle().drain(..).map(|idle| idle.lease).collect()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection. Dropping it closes it at once, and sqlx may then open another one.
pub(super) struct Lease<DB: Database> {
    /// `None` while it is closed.
    connection: Option<PoolConnection<DB>>,
    opened: Instant,
}

impl<DB: Database> Lease<DB> {
    /// Returns the lease of a connection that sqlx has just opened.
    pub(super) fn of(connection: PoolConnection<DB>) -> Self {
        Self { connection: Some(connection), opened: Instant::now() }
    }

    /// Returns the time when it was opened.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    pub(super) fn connection(&mut self) -> Option<&mut DB::Connection> {
        self.connection.as_deref_mut()
    }

    fn shrink_buffers(&mut self) {
        if let Some(connection) = self.connection() {
            connection.shrink_buffers();
        }
    }

    /// Closes the connection within a time limit. The database learns of it.
    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            drop(timeout(RETURN_TIMEOUT, connection.close()).await);
        }
    }

    fn close_in_background(self) {
        // Without a runtime the process is ending, and its files and sockets are closed with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.close());
        }
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Sqlite;
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;
    use crate::db::sqlite_memory;

    #[tokio::test]
    async fn connections_that_are_old_or_were_idle_for_long_are_closed() {
        sqlite_memory::install().unwrap();
        let pool = SqlitePoolOptions::new().connect("sqlite::memory:").await.unwrap();
        let lease = async || Lease::<Sqlite>::of(pool.acquire().await.unwrap());
        let (first, second, old) = (lease().await, lease().await, lease().await);
        let idle = IdleConnections::new(&SqlitePoolOptions::new().idle_timeout(Duration::ZERO));
        idle.keep(first);
        idle.keep(second);
        assert_eq!(idle.count(), 1);
        let young = IdleConnections::new(&SqlitePoolOptions::new().max_lifetime(Duration::ZERO));
        young.keep(old);
        assert_eq!(young.count(), 0);
        drop(idle);
        // Waits until they are closed.
        pool.close().await;
        assert_eq!(pool.size(), 0);
    }
}
