//! How many calls may run at once, with a short bounded queue. Owns the places and who waits for one, in the order of
//! asking; knows nothing of what a call is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, Kind, Result, code};
use crate::permits::{Permit, Permits};

/// Places for calls.
#[derive(Debug)]
pub struct Bulkhead {
    places: Arc<Permits>,
    waiting: AtomicUsize,
    /// How long a call may wait, in nanoseconds.
    queue_nanos: AtomicU64,
}

impl Bulkhead {
    /// At most `calls` at once; as many again may wait, for `queue_time` at the most.
    pub(super) fn new(calls: usize, queue_time: Duration) -> Self {
        let (places, waiting) = (Permits::new(calls), AtomicUsize::new(0));
        Self { places, waiting, queue_nanos: nanos(queue_time).into() }
    }

    /// Has so many places from now on. Fewer takes effect as calls end.
    pub(super) fn resize(&self, calls: usize, queue_time: Duration) {
        self.queue_nanos.store(nanos(queue_time), Ordering::Relaxed);
        self.places.resize(calls);
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.places.out()
    }

    /// Calls that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Calls that may run at once.
    pub fn size(&self) -> usize {
        self.places.size()
    }

    /// A place for one call, given back when it is dropped.
    ///
    /// # Errors
    /// 503: as many as may are waiting already, or it waited as long as it may.
    pub(super) async fn enter(&self) -> Result<Permit> {
        if let Some(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let _waiting = Waiting::begin(&self.waiting, self.places.size()).ok_or_else(busy)?;
        let queue_time = Duration::from_nanos(self.queue_nanos.load(Ordering::Relaxed));
        let place = tokio::time::timeout(queue_time, self.places.acquire()).await;
        place.ok().flatten().ok_or_else(busy)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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

    #[tokio::test]
    async fn as_many_may_wait_as_may_run() {
        let bulkhead = Arc::new(Bulkhead::new(1, Duration::from_secs(600)));
        let running = bulkhead.enter().await.unwrap();
        let waiting = tokio::spawn({
            let bulkhead = Arc::clone(&bulkhead);
            async move { bulkhead.enter().await.is_ok() }
        });
        while bulkhead.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(bulkhead.enter().await.is_err(), "one waits already");
        drop(running);
        assert!(waiting.await.unwrap());
        bulkhead.resize(1, Duration::ZERO);
        let running = bulkhead.enter().await.unwrap();
        assert!(bulkhead.enter().await.is_err(), "it may not wait any more");
        drop(running);
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    }
}
