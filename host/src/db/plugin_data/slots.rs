//! A bounded set of connections of one plugin. Owns how many there are, who waits for one, and the idle ones; knows
//! nothing of what a connection is. Connections are made by whoever leases an empty slot and come back when the lease
//! is dropped, unless they are not clean.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::DataError;
use super::value::Limits;

/// A connection that can be used again.
pub(super) trait Reuse: Send + 'static {
    /// Ends whatever was going on; `false` when that is not possible at once, and the connection must go.
    fn reset(&mut self) -> bool;
}

#[derive(Debug)]
pub(super) struct Slots<C> {
    size: u32,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle<C>>>,
}

#[derive(Debug)]
struct Idle<C> {
    since: Instant,
    connection: Box<C>,
}

impl<C: Reuse> Slots<C> {
    pub(super) fn new(size: u32) -> Arc<Self> {
        let permits = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Self { size, permits: Arc::new(Semaphore::new(permits)), idle: Mutex::default() })
    }

    /// Waits for a slot, at most as long as a statement may take, in the order of asking. `busy` is the error when that
    /// was not enough.
    pub(super) async fn lease(self: &Arc<Self>, limits: &Limits, busy: DataError) -> Result<Lease<C>, DataError> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(tokio::sync::TryAcquireError::Closed) => return Err(DataError::Unavailable),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                match tokio::time::timeout(limits.time, Arc::clone(&self.permits).acquire_owned()).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_closed)) => return Err(DataError::Unavailable),
                    Err(_elapsed) => return Err(busy),
                }
            }
        };
        // The one used last: its caches are warm, and those beneath grow old enough to be closed.
        let idle = self.idle().pop();
        let (connection, idle_for) = match idle {
            Some(idle) => (Some(idle.connection), idle.since.elapsed()),
            None => (None, Duration::ZERO),
        };
        Ok(Lease { connection, idle_for, slots: Arc::clone(self), _permit: permit })
    }

    /// Takes out the connections that nobody used for `age`; the caller drops them where that may block.
    pub(super) fn stale(&self, age: Duration) -> Vec<Box<C>> {
        let mut idle = self.idle();
        let stale = idle.iter().take_while(|idle| idle.since.elapsed() >= age).count();
        idle.drain(..stale).map(|idle| idle.connection).collect()
    }

    /// Gives out no more slots and waits until all are back, at most `patience`.
    pub(super) async fn close(&self, patience: Duration) -> Vec<Box<C>> {
        let all = self.permits.acquire_many(self.size);
        drop(tokio::time::timeout(patience, all).await);
        self.permits.close();
        self.stale(Duration::ZERO)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle<C>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot, with a connection once there is one.
#[derive(Debug)]
pub(super) struct Lease<C: Reuse> {
    pub(super) connection: Option<Box<C>>,
    /// How long the connection had been idle.
    pub(super) idle_for: Duration,
    slots: Arc<Slots<C>>,
    _permit: OwnedSemaphorePermit,
}

impl<C: Reuse> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && connection.reset()
            && !self.slots.permits.is_closed()
        {
            self.slots.idle().push(Idle { since: Instant::now(), connection });
        }
    }
}
