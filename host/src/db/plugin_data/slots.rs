//! A bounded set of connections of one plugin. Owns how many there are, who waits for one, and the idle ones; knows
//! nothing of what a connection is. Connections are made by whoever leases an empty slot and come back when the lease
//! is dropped, unless they are not clean.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::DataError;
use super::value::Limits;
use crate::permits::{Permit, Permits};

/// A connection that can be used again.
pub(super) trait Reuse: Send + 'static {
    /// Ends whatever was going on; `false` when that is not possible at once, and the connection must go.
    fn reset(&mut self) -> bool;
}

#[derive(Debug)]
pub(super) struct Slots<C> {
    permits: Arc<Permits>,
    idle: Mutex<Vec<Idle<C>>>,
}

#[derive(Debug)]
struct Idle<C> {
    since: Instant,
    connection: Box<C>,
}

impl<C: Reuse> Slots<C> {
    pub(super) fn new(size: u32) -> Arc<Self> {
        Arc::new(Self { permits: Permits::new(count(size)), idle: Mutex::default() })
    }

    /// How many there are.
    pub(super) fn size(&self) -> usize {
        self.permits.size()
    }

    /// How many are leased.
    pub(super) fn leased(&self) -> usize {
        self.permits.out()
    }

    /// Gives out so many from now on. Fewer takes effect as leases end; the idle connections beyond them grow old.
    pub(super) fn resize(&self, size: u32) {
        self.permits.resize(count(size));
    }

    /// Waits for a slot, at most as long as a statement may take, in the order of asking. `busy` is the error when that
    /// was not enough.
    pub(super) async fn lease(self: &Arc<Self>, limits: &Limits, busy: DataError) -> Result<Lease<C>, DataError> {
        let permit = match self.permits.try_acquire() {
            Some(permit) => permit,
            None => match tokio::time::timeout(limits.time, self.permits.acquire()).await {
                Ok(permit) => permit.ok_or(DataError::Unavailable)?,
                Err(_elapsed) => return Err(busy),
            },
        };
        // The one used last: its caches are warm, and those beneath grow old enough to be closed.
        let idle = self.idle().pop();
        let (connection, idle_for) = match idle {
            Some(idle) => (Some(idle.connection), idle.since.elapsed()),
            None => (None, Duration::ZERO),
        };
        Ok(Lease { connection, idle_for, slots: Arc::clone(self), permit })
    }

    /// Takes out the connections that nobody used for `age`; the caller drops them where that may block.
    pub(super) fn stale(&self, age: Duration) -> Vec<Box<C>> {
        let mut idle = self.idle();
        let stale = idle.iter().take_while(|idle| idle.since.elapsed() >= age).count();
        idle.drain(..stale).map(|idle| idle.connection).collect()
    }

    /// Gives out no more slots and waits until all are back, at most `patience`.
    pub(super) async fn close(&self, patience: Duration) -> Vec<Box<C>> {
        // Whatever is out after that comes back to nobody.
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

/// A slot, with a connection once there is one.
#[derive(Debug)]
pub(super) struct Lease<C: Reuse> {
    pub(super) connection: Option<Box<C>>,
    /// How long the connection had been idle.
    pub(super) idle_for: Duration,
    slots: Arc<Slots<C>>,
    permit: Permit,
}

impl<C: Reuse> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && connection.reset()
            && !self.slots.permits.is_closed()
            && !self.permit.is_gone()
        {
            self.slots.idle().push(Idle { since: Instant::now(), connection });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clean;

    impl Reuse for Clean {
        fn reset(&mut self) -> bool {
            true
        }
    }

    fn limits() -> Limits {
        Limits { rows: 1, bytes: 1, time: Duration::from_millis(1), connections: 1, disk: 1 }
    }

    async fn lease(slots: &Arc<Slots<Clean>>) -> Option<Lease<Clean>> {
        slots.lease(&limits(), DataError::Conflict).await.ok().map(|mut lease| {
            lease.connection = Some(Box::new(Clean));
            lease
        })
    }

    #[tokio::test]
    async fn a_connection_goes_with_its_slot() {
        let slots = Slots::new(2);
        let (first, second) = (lease(&slots).await.unwrap(), lease(&slots).await.unwrap());
        assert!(lease(&slots).await.is_none());
        assert_eq!((slots.size(), slots.leased()), (2, 2));
        slots.resize(1);
        drop(first);
        drop(second);
        assert_eq!((slots.leased(), slots.close(Duration::from_secs(1)).await.len()), (0, 1));
        assert!(matches!(slots.lease(&limits(), DataError::Conflict).await, Err(DataError::Unavailable)));
    }
}
