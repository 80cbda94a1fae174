//! How many calls may run at once: of each plugin, and of all together. Owns the places and who waits for one, in the order
//! of asking; knows nothing of what a call is.
//!
//! Half of the places of all are kept for the plugins that are served, as many for each; the rest is for whoever asks
//! first. So no number of others can take the last place that a plugin would find.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::capability::Share;
use crate::error::{Error, Kind, Result, code};
use crate::permits::{Permit, Permits};

/// Places with a short bounded queue.
#[derive(Debug)]
struct Queue {
    places: Arc<Permits>,
    waiting: AtomicUsize,
    /// How long a call may wait, in nanoseconds.
    nanos: AtomicU64,
}

/// Places for the calls of one plugin.
#[derive(Debug)]
pub struct Bulkhead {
    queue: Queue,
    /// Of those of all plugins: nobody else's.
    kept: Arc<Permits>,
    share: Share,
    unread: Arc<AtomicUsize>,
}

/// Places for the calls of all plugins together.
#[derive(Debug)]
pub struct Places {
    size: usize,
    /// Those that are kept for nobody.
    rest: Queue,
}

/// A call's place among those of its plugin, and among those of all. Given back when it is dropped.
pub(super) struct Place {
    _own: Permit,
    _of_all: Permit,
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Among those of the plugin.
    Own,
    /// Among those of all plugins.
    All,
}

impl From<Full> for Error {
    fn from(_: Full) -> Self {
        busy()
    }
}

impl Queue {
    fn new(places: usize, time: Duration) -> Self {
        Self { places: Permits::new(places), waiting: AtomicUsize::new(0), nanos: nanos(time).into() }
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// As many as there are places may wait.
    async fn enter(&self) -> Option<Permit> {
        if let Some(place) = self.places.try_acquire() {
            return Some(place);
        }
        let _waiting = Waiting::begin(&self.waiting, self.places.size())?;
        tokio::time::timeout(self.time(), self.places.acquire()).await.ok().flatten()
    }
}

impl Bulkhead {
    /// At most `calls` at once; as many again may wait, for `queue_time` at the most.
    pub(super) fn new(calls: usize, queue_time: Duration, share: Share) -> Self {
        Self { queue: Queue::new(calls, queue_time), kept: Permits::new(0), share, unread: Arc::default() }
    }

    /// Has so many places from now on. Fewer takes effect as calls end.
    pub(super) fn resize(&self, calls: usize, queue_time: Duration) {
        self.queue.nanos.store(nanos(queue_time), Ordering::Relaxed);
        self.queue.places.resize(calls);
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.queue.places.out()
    }

    /// Calls that wait now.
    pub fn waiting(&self) -> usize {
        self.queue.waiting.load(Ordering::Relaxed)
    }

    /// Calls that may run at once.
    pub fn size(&self) -> usize {
        self.queue.places.size()
    }

    /// Bytes of its answers that clients have not read yet; whoever sends them counts.
    pub fn unread(&self) -> &Arc<AtomicUsize> {
        &self.unread
    }

    /// Its share in the turns of those that compute for long.
    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// A place for one call, among its own and among those of all.
    ///
    /// # Errors
    /// As many as may are waiting already, or it waited as long as it may.
    pub(super) async fn enter(&self, all: &Places) -> Result<Place, Full> {
        let own = self.queue.enter().await.ok_or(Full::Own)?;
        if let Some(of_all) = self.kept.try_acquire() {
            return Ok(Place { _own: own, _of_all: of_all });
        }
        // Who finds no room to wait for the rest may still get one of his own.
        let of_all = async {
            tokio::select! {
                biased;
                Some(kept) = self.kept.acquire() => Some(kept),
                Some(rest) = all.rest.enter() => Some(rest),
                else => None,
            }
        };
        let of_all = tokio::time::timeout(self.queue.time(), of_all).await.ok().flatten();
        Ok(Place { _own: own, _of_all: of_all.ok_or(Full::All)? })
    }
}

impl Places {
    /// So many, of which none is kept for anybody yet.
    pub(super) fn new(size: usize, queue_time: Duration) -> Self {
        Self { size, rest: Queue::new(size, queue_time) }
    }

    /// All of them.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Calls that wait for one of the rest.
    pub fn waiting(&self) -> usize {
        self.rest.waiting.load(Ordering::Relaxed)
    }

    /// Calls that run, on what is kept for these plugins and on the rest.
    pub(super) fn running<'a>(&self, plugins: impl Iterator<Item = &'a Bulkhead>) -> usize {
        plugins.map(|plugin| plugin.kept.out()).sum::<usize>().saturating_add(self.rest.places.out())
    }

    /// Keeps places for the plugins that are served, and none for the others. Where there are fewer places than that, all
    /// are for whoever asks first.
    pub(super) fn divide<'a>(&self, plugins: impl Iterator<Item = (&'a Bulkhead, bool)>) {
        let plugins: Vec<(&Bulkhead, bool)> = plugins.collect();
        let served = plugins.iter().filter(|(_, served)| *served).count();
        let each = (self.size / 2).checked_div(served).unwrap_or(0);
        let mut rest = self.size;
        for (plugin, served) in plugins {
            // Nobody keeps what he may not use.
            let kept = if served { each.min(plugin.size()) } else { 0 };
            plugin.kept.resize(kept);
            rest = rest.saturating_sub(kept);
        }
        self.rest.places.resize(rest);
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
    use crate::capability::Turns;

    fn bulkhead(calls: usize, queue_time: Duration) -> Arc<Bulkhead> {
        Arc::new(Bulkhead::new(calls, queue_time, Turns::of(1).share()))
    }

    #[tokio::test]
    async fn as_many_may_wait_as_may_run() {
        let (bulkhead, all) = (bulkhead(1, Duration::from_secs(600)), Arc::new(Places::new(9, Duration::ZERO)));
        let running = bulkhead.enter(&all).await.unwrap();
        let waiting = tokio::spawn({
            let (bulkhead, all) = (Arc::clone(&bulkhead), Arc::clone(&all));
            async move { bulkhead.enter(&all).await.is_ok() }
        });
        while bulkhead.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(bulkhead.enter(&all).await.is_err(), "one waits already");
        drop(running);
        assert!(waiting.await.unwrap());
        bulkhead.resize(1, Duration::ZERO);
        let running = bulkhead.enter(&all).await.unwrap();
        assert!(bulkhead.enter(&all).await.is_err(), "it may not wait any more");
        drop(running);
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn who_cannot_wait_for_the_rest_waits_for_his_own() {
        let all = Arc::new(Places::new(2, Duration::from_secs(600)));
        let (greedy, modest) = (bulkhead(9, Duration::from_secs(600)), bulkhead(9, Duration::from_secs(600)));
        all.divide([(&*greedy, false), (&*modest, true)].into_iter());
        let own = modest.enter(&all).await.unwrap();
        let _rest = greedy.enter(&all).await.unwrap();
        let wait = |plugin: &Arc<Bulkhead>| {
            let (plugin, all) = (Arc::clone(plugin), Arc::clone(&all));
            tokio::spawn(async move { plugin.enter(&all).await.is_ok() })
        };
        let _waits = wait(&greedy);
        while all.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let waits = wait(&modest);
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished());
        drop(own);
        assert!(waits.await.unwrap());
    }

    #[tokio::test]
    async fn each_plugin_finds_its_part_of_half_the_places_whatever_others_do() {
        let all = Places::new(12, Duration::ZERO);
        let plugins = [(); 3].map(|()| bulkhead(100, Duration::ZERO));
        let [greedy, other, small] = &plugins;
        small.resize(1, Duration::ZERO);
        let divide = |served: [bool; 3]| all.divide(plugins.iter().map(|plugin| &**plugin).zip(served));
        let enter = async |plugin: &Bulkhead| {
            let mut places = Vec::new();
            while let Ok(place) = plugin.enter(&all).await {
                places.push(place);
            }
            places
        };
        divide([true; 3]);
        let taken = enter(greedy).await;
        assert_eq!(taken.len(), 2 + 7, "its own two, and the rest");
        assert_eq!(enter(other).await.len(), 2);
        assert_eq!(enter(small).await.len(), 1);
        assert_eq!(all.running(plugins.iter().map(|plugin| &**plugin)), 9);
        drop(taken);
        divide([true, false, false]);
        assert_eq!(enter(greedy).await.len(), 12);
        divide([false; 3]);
        assert_eq!(enter(greedy).await.len(), 12);
    }
}
