//! A semaphore whose size may change while permits are in use: an operator may change the number of connections, calls
//! and requests at any time. Owns the number of permits and the order of waiting; knows nothing about their use.
//!
//! The permits that exist, in use or free, are always `size` plus `surplus`: a smaller size takes effect as permits are
//! returned.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The semaphore.
#[derive(Debug)]
pub(crate) struct Permits {
    semaphore: Arc<Semaphore>,
    size: AtomicUsize,
    /// Permits that are discarded when they are returned, because the size was lowered.
    surplus: AtomicUsize,
    resizing: Mutex<()>,
}

/// One permit, returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Arc<Permits>,
    held: Option<OwnedSemaphorePermit>,
}

impl Permits {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let size = size.min(Semaphore::MAX_PERMITS);
        let semaphore = Arc::new(Semaphore::new(size));
        Arc::new(Self { semaphore, size: size.into(), surplus: 0.into(), resizing: Mutex::default() })
    }

    /// Returns the number of permits, without the surplus.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::SeqCst)
    }

    /// Returns the number of permits that are in use.
    pub(crate) fn out(&self) -> usize {
        let all = self.size().saturating_add(self.surplus.load(Ordering::SeqCst));
        all.saturating_sub(self.semaphore.available_permits())
    }

    /// Changes the number of permits, unless the semaphore is closed.
    pub(crate) fn resize(&self, size: usize) {
        let size = size.min(Semaphore::MAX_PERMITS);
        let _guard = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return;
        }
        let before = self.size.swap(size, Ordering::SeqCst);
        for _ in before..size {
            if !self.take_surplus() {
                self.semaphore.add_permits(1);
            }
        }
        // Free permits are discarded first, and only the rest becomes surplus. In the other order, a permit that is
        // returned in between would be discarded in addition to one that is discarded here.
        let fewer = before.saturating_sub(size);
        let gone = self.semaphore.forget_permits(fewer);
        self.surplus.fetch_add(fewer.saturating_sub(gone), Ordering::SeqCst);
    }

    /// Takes a permit without waiting. Returns `None` if all are in use, or if the semaphore is closed.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        Arc::clone(&self.semaphore).try_acquire_owned().ok().map(|held| self.permit(held))
    }

    /// Waits for a permit, first come, first served. Returns `None` once the semaphore is closed.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Option<Permit> {
        Arc::clone(&self.semaphore).acquire_owned().await.ok().map(|held| self.permit(held))
    }

    /// Waits until no permit is in use.
    pub(crate) async fn all_back(&self) {
        let all = u32::try_from(self.size()).unwrap_or(u32::MAX);
        drop(self.semaphore.acquire_many(all).await);
    }

    /// Closes the semaphore: it gives out no more permits.
    pub(crate) fn close(&self) {
        self.semaphore.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.semaphore.is_closed()
    }

    fn permit(self: &Arc<Self>, held: OwnedSemaphorePermit) -> Permit {
        Permit { permits: Arc::clone(self), held: Some(held) }
    }

    fn take_surplus(&self) -> bool {
        let one_less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }
}

impl Permit {
    /// Discards this permit if there is a surplus. Returns whether it is discarded.
    pub(crate) fn is_gone(&mut self) -> bool {
        if self.held.is_some() && self.permits.take_surplus() {
            self.held.take().into_iter().for_each(OwnedSemaphorePermit::forget);
        }
        self.held.is_none()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.is_gone();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn more_permits_exist_at_once_and_fewer_as_they_are_returned() {
        let permits = Permits::new(2);
        let take = || permits.try_acquire();
        let (first, second) = (take().unwrap(), take().unwrap());
        assert!(take().is_none());
        permits.resize(3);
        let third = take().unwrap();
        permits.resize(1);
        assert_eq!((permits.size(), permits.out()), (1, 3));
        drop(first);
        assert!(take().is_none(), "two are still in use");
        permits.resize(2);
        permits.resize(1);
        drop(second);
        assert!(take().is_none(), "the only one is in use");
        drop(third);
        assert_eq!(permits.out(), 0);
        let one = take().unwrap();
        assert!(take().is_none());
        drop(one);
        permits.resize(0);
        assert!(take().is_none());
        permits.resize(2);
        assert!(take().is_some_and(|mut one| !one.is_gone()));
    }

    #[test]
    fn a_surplus_permit_is_discarded_once() {
        let permits = Permits::new(1);
        let mut permit = permits.try_acquire().unwrap();
        assert!(!permit.is_gone());
        permits.resize(0);
        assert!(permit.is_gone() && permit.is_gone());
        drop(permit);
        assert_eq!((permits.size(), permits.out()), (0, 0));
    }

    #[test]
    fn no_permit_is_lost_when_resizing_races_with_returns() {
        let permits = Permits::new(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..20_000).for_each(|_| drop(permits.try_acquire())));
            }
            for size in (0..20_000).map(|round| round % 5) {
                permits.resize(size);
            }
        });
        permits.resize(4);
        // A surplus was discarded when it was returned, or is discarded now.
        while permits.out() > 0 || permits.surplus.load(Ordering::SeqCst) > 0 {
            drop(permits.try_acquire().unwrap());
        }
        let all: Vec<Permit> = std::iter::from_fn(|| permits.try_acquire()).collect();
        assert_eq!((all.len(), permits.size()), (4, 4));
    }

    #[tokio::test]
    async fn waiting_tasks_get_returned_permits_in_order() {
        let permits = Permits::new(1);
        let permit = permits.acquire().await.unwrap();
        let mut first = Box::pin(permits.acquire());
        let mut second = Box::pin(permits.acquire());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(permit);
        assert!((&mut second).now_or_never().is_none());
        drop(first.await);
        assert!(second.await.is_some());
        permits.all_back().await;
        permits.close();
        permits.resize(5);
        assert!(permits.acquire().await.is_none() && permits.try_acquire().is_none());
    }
}
