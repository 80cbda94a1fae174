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
    permits: Arc<Semaphore>,
    room: Mutex<Room<C>>,
}

#[derive(Debug)]
struct Room<C> {
    size: u32,
    /// Leases that take their slot along when they end, because there are fewer slots now.
    surplus: u32,
    idle: Vec<Idle<C>>,
}

#[derive(Debug)]
struct Idle<C> {
    since: Instant,
    connection: Box<C>,
}

impl<C: Reuse> Slots<C> {
    pub(super) fn new(size: u32) -> Arc<Self> {
        let room = Mutex::new(Room { size, surplus: 0, idle: Vec::new() });
        Arc::new(Self { permits: Arc::new(Semaphore::new(permits(size))), room })
    }

    /// How many there are.
    pub(super) fn size(&self) -> u32 {
        self.room().size
    }

    /// How many are leased.
    pub(super) fn leased(&self) -> usize {
        let room = self.room();
        permits(room.size.saturating_add(room.surplus)).saturating_sub(self.permits.available_permits())
    }

    /// Gives out so many from now on. Fewer takes effect as leases end; the idle connections beyond them grow old.
    pub(super) fn resize(&self, size: u32) {
        if self.permits.is_closed() {
            return;
        }
        let mut room = self.room();
        let before = std::mem::replace(&mut room.size, size);
        let (more, fewer) = (size.saturating_sub(before), before.saturating_sub(size));
        let kept = room.surplus.min(more);
        room.surplus -= kept;
        self.permits.add_permits(permits(more - kept));
        let gone = self.permits.forget_permits(permits(fewer));
        room.surplus += fewer.saturating_sub(u32::try_from(gone).unwrap_or(fewer));
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
        let idle = self.room().idle.pop();
        let (connection, idle_for) = match idle {
            Some(idle) => (Some(idle.connection), idle.since.elapsed()),
            None => (None, Duration::ZERO),
        };
        Ok(Lease { connection, idle_for, slots: Arc::clone(self), permit: Some(permit) })
    }

    /// Takes out the connections that nobody used for `age`; the caller drops them where that may block.
    pub(super) fn stale(&self, age: Duration) -> Vec<Box<C>> {
        let idle = &mut self.room().idle;
        let stale = idle.iter().take_while(|idle| idle.since.elapsed() >= age).count();
        idle.drain(..stale).map(|idle| idle.connection).collect()
    }

    /// Gives out no more slots and waits until all are back, at most `patience`.
    pub(super) async fn close(&self, patience: Duration) -> Vec<Box<C>> {
        let all = self.permits.acquire_many(self.size());
        drop(tokio::time::timeout(patience, all).await);
        self.permits.close();
        self.stale(Duration::ZERO)
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Room<C>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn permits(count: u32) -> usize {
    usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS)
}

/// A slot, with a connection once there is one.
#[derive(Debug)]
pub(super) struct Lease<C: Reuse> {
    pub(super) connection: Option<Box<C>>,
    /// How long the connection had been idle.
    pub(super) idle_for: Duration,
    slots: Arc<Slots<C>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<C: Reuse> Drop for Lease<C> {
    fn drop(&mut self) {
        let connection = self.connection.take().and_then(|mut connection| connection.reset().then_some(connection));
        let mut room = self.slots.room();
        if let Some(surplus) = room.surplus.checked_sub(1) {
            room.surplus = surplus;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        } else if let Some(connection) = connection
            && !self.slots.permits.is_closed()
        {
            room.idle.push(Idle { since: Instant::now(), connection });
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
        Limits { rows: 1, bytes: 1, time: Duration::from_millis(1), connections: 1 }
    }

    async fn lease(slots: &Arc<Slots<Clean>>) -> Option<Lease<Clean>> {
        slots.lease(&limits(), DataError::Conflict).await.ok().map(|mut lease| {
            lease.connection = Some(Box::new(Clean));
            lease
        })
    }

    #[tokio::test]
    async fn more_slots_are_there_at_once_and_fewer_as_leases_end() {
        let slots = Slots::new(1);
        let first = lease(&slots).await.unwrap();
        assert!(lease(&slots).await.is_none());
        slots.resize(3);
        let (second, third) = (lease(&slots).await.unwrap(), lease(&slots).await.unwrap());
        assert!(lease(&slots).await.is_none());

        slots.resize(1);
        drop(first);
        assert!(lease(&slots).await.is_none(), "two are out still");
        slots.resize(2);
        slots.resize(1);
        drop(second);
        assert!(lease(&slots).await.is_none(), "one is out, and there is one");
        drop(third);
        let one = lease(&slots).await.unwrap();
        assert!(lease(&slots).await.is_none());
        drop(one);

        slots.resize(0);
        assert!(lease(&slots).await.is_none());
        slots.resize(2);
        assert!(lease(&slots).await.is_some());
        assert_eq!(slots.close(Duration::from_secs(1)).await.len(), 1);
    }
}
