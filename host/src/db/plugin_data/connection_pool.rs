//! The connection pool of one plugin. Owns the number of connections, the queue for them, and the idle ones. Does not
//! know what a connection is: the holder of an empty lease opens one. A connection returns to the pool when its lease
//! is dropped, unless it is not clean or its work panicked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::DataError;
use super::statement_limits::StatementLimits;
use crate::permits::{Permit, Permits};

/// A connection that can be used again.
pub(super) trait Reusable: Send + 'static {
    /// Ends unfinished work. Returns false if that is not possible at once; the connection is closed then.
    fn reset(&mut self) -> bool;
}

#[derive(Debug)]
pub(super) struct ConnectionPool<C> {
    permits: Arc<Permits>,
    idle: Mutex<Vec<Idle<C>>>,
}

#[derive(Debug)]
struct Idle<C> {
    since: Instant,
    connection: Box<C>,
}

impl<C: Reusable> ConnectionPool<C> {
    pub(super) fn new(size: u32) -> Arc<Self> {
        Arc::new(Self { permits: Permits::new(count(size)), idle: Mutex::default() })
    }

    /// Returns the maximum number of connections.
    pub(super) fn size(&self) -> usize {
        self.permits.size()
    }

    /// Returns the number of leases.
    pub(super) fn leased(&self) -> usize {
        self.permits.out()
    }

    /// Changes the maximum number of connections. A lower number takes effect as leases end; surplus idle connections
    /// are closed when they have been idle long enough.
    pub(super) fn resize(&self, size: u32) {
        self.permits.resize(count(size));
    }

    /// Waits for a connection, at most as long as a statement may take. Callers are served in order. `busy` is the
    /// error after that time.
    pub(super) async fn lease(
        self: &Arc<Self>,
        limits: &StatementLimits,
        busy: DataError,
    ) -> Result<Lease<C>, DataError> {
        let permit = match self.permits.try_acquire() {
            Some(permit) => permit,
            None => match tokio::time::timeout(limits.time, self.permits.acquire()).await {
                Ok(permit) => permit.ok_or(DataError::Unavailable)?,
                Err(_elapsed) => return Err(busy),
            },
        };
        // The connection used last has warm caches; the others stay idle long enough to be closed.
        let idle = self.idle().pop();
        let (connection, idle_for) = match idle {
            Some(idle) => (Some(idle.connection), idle.since.elapsed()),
            None => (None, Duration::ZERO),
        };
        Ok(Lease { connection, idle_for, pool: Arc::clone(self), permit })
    }

    /// Takes out the connections that were idle for `age`. The caller drops them on a thread that may block.
    pub(super) fn stale(&self, age: Duration) -> Vec<Box<C>> {
        let mut idle = self.idle();
        let stale = idle.iter().take_while(|idle| idle.since.elapsed() >= age).count();
        idle.drain(..stale).map(|idle| idle.connection).collect()
    }

    /// Waits until all leases have ended, at most `patience`; then gives out no more leases and returns the idle
    /// connections.
    pub(super) async fn close(&self, patience: Duration) -> Vec<Box<C>> {
        // A connection that is still leased after that is closed when its lease ends.
        let _ = tokio::time::timeout(patience, self.permits.all_back()).await;
        self.permits.close();
        self.stale(Duration::ZERO)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle<C>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// The right to use one connection, and the connection once it is open.
#[derive(Debug)]
pub(super) struct Lease<C: Reusable> {
    pub(super) connection: Option<Box<C>>,
    /// The time for which the connection had been idle.
    pub(super) idle_for: Duration,
    pool: Arc<ConnectionPool<C>>,
    permit: Permit,
}

impl<C: Reusable> Drop for Lease<C> {
    fn drop(&mut self) {
        // Work that panicked may have left its settings in the connection.
        if let Some(mut connection) = self.connection.take()
            && !std::thread::panicking()
            && connection.reset()
            && !self.pool.permits.is_closed()
            && !self.permit.is_gone()
        {
            self.pool.idle().push(Idle { since: Instant::now(), connection });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clean;

    impl Reusable for Clean {
        fn reset(&mut self) -> bool {
            true
        }
    }

    fn limits() -> StatementLimits {
        StatementLimits { rows: 1, bytes: 1, time: Duration::from_millis(1), connections: 1, disk: 1 }
    }

    async fn lease(pool: &Arc<ConnectionPool<Clean>>) -> Option<Lease<Clean>> {
        pool.lease(&limits(), DataError::Conflict).await.ok().map(|mut lease| {
            lease.connection = Some(Box::new(Clean));
            lease
        })
    }

    #[tokio::test]
    async fn a_smaller_pool_closes_surplus_connections() {
        let pool = ConnectionPool::new(2);
        let (first, second) = (lease(&pool).await.unwrap(), lease(&pool).await.unwrap());
        assert!(lease(&pool).await.is_none());
        assert_eq!((pool.size(), pool.leased()), (2, 2));
        pool.resize(1);
        drop(first);
        drop(second);
        assert_eq!((pool.leased(), pool.close(Duration::from_secs(1)).await.len()), (0, 1));
        assert!(matches!(pool.lease(&limits(), DataError::Conflict).await, Err(DataError::Unavailable)));
    }
}
