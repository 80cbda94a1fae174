//! How many calls may run at once, with a short bounded queue. Owns the places and who waits for one, in the order of
//! asking; knows nothing of what a call is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result, code};

/// Places for calls.
#[derive(Debug)]
pub struct Bulkhead {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    size: Mutex<Size>,
}

#[derive(Debug, Clone, Copy)]
struct Size {
    calls: usize,
    /// Places that go when their calls end, because there are fewer now.
    surplus: usize,
    queue_time: Duration,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    bulkhead: Arc<Bulkhead>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Bulkhead {
    /// At most `calls` at once; as many again may wait, for `queue_time` at the most.
    pub(super) fn new(calls: usize, queue_time: Duration) -> Arc<Self> {
        let size = Mutex::new(Size { calls, surplus: 0, queue_time });
        Arc::new(Self { places: Arc::new(Semaphore::new(calls)), waiting: AtomicUsize::new(0), size })
    }

    /// Has so many places from now on. Fewer takes effect as calls end.
    pub(super) fn resize(&self, calls: usize, queue_time: Duration) {
        let mut size = self.size();
        let (more, fewer) = (calls.saturating_sub(size.calls), size.calls.saturating_sub(calls));
        size.calls = calls;
        size.queue_time = queue_time;
        let kept = size.surplus.min(more);
        size.surplus -= kept;
        self.places.add_permits(more - kept);
        size.surplus += fewer - self.places.forget_permits(fewer);
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        let size = *self.size();
        (size.calls + size.surplus).saturating_sub(self.places.available_permits())
    }

    /// Calls that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A place for one call.
    ///
    /// # Errors
    /// 503: as many as may are waiting already, or it waited as long as it may.
    pub(super) async fn enter(self: &Arc<Self>) -> Result<Place> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(self.place(permit));
        }
        let Size { calls, queue_time, .. } = *self.size();
        let _waiting = Waiting::begin(&self.waiting, calls).ok_or_else(busy)?;
        match tokio::time::timeout(queue_time, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(self.place(permit)),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        Place { bulkhead: Arc::clone(self), permit: Some(permit) }
    }

    fn size(&self) -> std::sync::MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut size = self.bulkhead.size();
        if let Some(surplus) = size.surplus.checked_sub(1)
            && let Some(permit) = self.permit.take()
        {
            size.surplus = surplus;
            permit.forget();
        }
    }
}

/// A place in the queue, given back when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::SeqCst) < most).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// 503: no place.
pub(super) fn busy() -> Error {
    Error::new(Kind::Unavailable(Duration::from_secs(1)), code::PLUGIN_BUSY, "The plugin is busy, try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn enter(bulkhead: &Arc<Bulkhead>) -> Option<Place> {
        bulkhead.enter().await.ok()
    }

    #[tokio::test]
    async fn more_places_are_there_at_once_and_fewer_as_calls_end() {
        let bulkhead = Bulkhead::new(1, Duration::from_millis(1));
        let first = enter(&bulkhead).await.unwrap();
        assert!(enter(&bulkhead).await.is_none());
        bulkhead.resize(2, Duration::from_millis(1));
        let second = enter(&bulkhead).await.unwrap();
        assert_eq!(bulkhead.running(), 2);
        bulkhead.resize(1, Duration::from_millis(1));
        assert_eq!(bulkhead.running(), 2);
        drop(first);
        assert_eq!(bulkhead.running(), 1);
        assert!(enter(&bulkhead).await.is_none());
        drop(second);
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
        assert!(enter(&bulkhead).await.is_some());
    }

    #[tokio::test]
    async fn as_many_may_wait_as_may_run() {
        let bulkhead = Bulkhead::new(1, Duration::from_secs(600));
        let running = enter(&bulkhead).await.unwrap();
        let waiting = tokio::spawn({
            let bulkhead = Arc::clone(&bulkhead);
            async move { bulkhead.enter().await.is_ok() }
        });
        while bulkhead.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(enter(&bulkhead).await.is_none(), "one waits already");
        drop(running);
        assert!(waiting.await.unwrap());
    }
}
