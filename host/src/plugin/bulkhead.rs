//! The bulkhead: how many calls may run at once, of each plugin and of all plugins together. Owns the call slots and
//! their queues, first come, first served; does not know the content of a call.
//!
//! Up to half of the call slots are reserved, split evenly among the live plugins, and never more for a plugin than its
//! `concurrency`; the others are shared. So a plugin always finds its reserved slots, however many calls the other
//! plugins have. If there are more live plugins than slots to reserve, none is reserved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::capability::PluginCpuQueue;
use crate::error::{Error, Kind, Result, code};
use crate::permits::{Permit, Permits};

/// Slots with a short bounded queue.
#[derive(Debug)]
struct Queue {
    slots: Arc<Permits>,
    waiting: AtomicUsize,
    /// How long a call may wait, in nanoseconds.
    nanos: AtomicU64,
}

/// The call slots of one plugin.
#[derive(Debug)]
pub struct Bulkhead {
    queue: Queue,
    /// Slots of all plugins that only this plugin may use.
    reserved: Arc<Permits>,
    cpu_queue: PluginCpuQueue,
    unread: Arc<AtomicUsize>,
}

/// The call slots of all plugins together.
#[derive(Debug)]
pub struct CallSlots {
    size: usize,
    /// The slots that are reserved for no plugin.
    shared: Queue,
}

/// A call's slot among those of its plugin, and among those of all plugins. Dropping it frees both.
pub(super) struct CallSlot {
    _of_plugin: Permit,
    _of_all: Permit,
}

/// No call slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// Among those of the plugin.
    OfPlugin,
    /// Among those of all plugins.
    OfAll,
}

impl From<NoSlot> for Error {
    fn from(_: NoSlot) -> Self {
        busy()
    }
}

impl Queue {
    fn new(slots: usize, time: Duration) -> Self {
        Self { slots: Permits::new(slots), waiting: AtomicUsize::new(0), nanos: nanos(time).into() }
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// Waits for a slot. The queue is as long as the number of slots.
    async fn enter(&self) -> Option<Permit> {
        if let Some(slot) = self.slots.try_acquire() {
            return Some(slot);
        }
        let _position = QueuePosition::take(&self.waiting, self.slots.size())?;
        tokio::time::timeout(self.time(), self.slots.acquire()).await.ok().flatten()
    }
}

impl Bulkhead {
    /// Creates a bulkhead for at most `calls` at once; as many again may wait, each for at most `queue_time`.
    pub(super) fn new(calls: usize, queue_time: Duration, cpu_queue: PluginCpuQueue) -> Self {
        Self { queue: Queue::new(calls, queue_time), reserved: Permits::new(0), cpu_queue, unread: Arc::default() }
    }

    /// Changes the number of slots. A lower number takes effect as calls end.
    pub(super) fn resize(&self, calls: usize, queue_time: Duration) {
        self.queue.nanos.store(nanos(queue_time), Ordering::Relaxed);
        self.queue.slots.resize(calls);
    }

    /// Returns the number of running calls.
    pub fn running(&self) -> usize {
        self.queue.slots.out()
    }

    /// Returns the number of waiting calls.
    pub fn waiting(&self) -> usize {
        self.queue.waiting.load(Ordering::Relaxed)
    }

    /// Returns the number of calls that may run at once.
    pub fn size(&self) -> usize {
        self.queue.slots.size()
    }

    /// Returns the counter for bytes of the plugin's responses that clients have not read yet. The sender counts them.
    pub fn unread(&self) -> &Arc<AtomicUsize> {
        &self.unread
    }

    /// Returns the queue in which the plugin's calls wait for CPU slots.
    pub(super) fn cpu_queue(&self) -> &PluginCpuQueue {
        &self.cpu_queue
    }

    /// Waits for a slot for one call, among those of the plugin and among those of all plugins.
    ///
    /// # Errors
    /// The queue is full, or the call waited for the queue time.
    pub(super) async fn enter(&self, all: &CallSlots) -> Result<CallSlot, NoSlot> {
        let of_plugin = self.queue.enter().await.ok_or(NoSlot::OfPlugin)?;
        if let Some(of_all) = self.reserved.try_acquire() {
            return Ok(CallSlot { _of_plugin: of_plugin, _of_all: of_all });
        }
        // A call for which the shared queue is full can still get a reserved slot.
        let of_all = async {
            tokio::select! {
                biased;
                Some(reserved) = self.reserved.acquire() => Some(reserved),
                Some(shared) = all.shared.enter() => Some(shared),
                else => None,
            }
        };
        let of_all = tokio::time::timeout(self.queue.time(), of_all).await.ok().flatten();
        Ok(CallSlot { _of_plugin: of_plugin, _of_all: of_all.ok_or(NoSlot::OfAll)? })
    }
}

impl CallSlots {
    /// Creates the given number of slots, none of them reserved.
    pub(super) fn new(size: usize, queue_time: Duration) -> Self {
        Self { size, shared: Queue::new(size, queue_time) }
    }

    /// Returns the number of all slots.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of calls that wait for a shared slot.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Returns the number of running calls, on the reserved slots of these plugins and on the shared ones.
    pub(super) fn running<'a>(&self, plugins: impl Iterator<Item = &'a Bulkhead>) -> usize {
        plugins.map(|plugin| plugin.reserved.out()).sum::<usize>().saturating_add(self.shared.slots.out())
    }

    /// Reserves slots for the plugins that are live, and none for the others. If there are more live plugins than slots
    /// to reserve, all slots are shared.
    pub(super) fn reserve<'a>(&self, plugins: impl Iterator<Item = (&'a Bulkhead, bool)>) {
        let plugins: Vec<(&Bulkhead, bool)> = plugins.collect();
        let live = plugins.iter().filter(|(_, live)| *live).count();
        let each = (self.size / 2).checked_div(live).unwrap_or(0);
        let mut shared = self.size;
        for (plugin, live) in plugins {
            // No plugin gets more slots than its own limit lets it use.
            let reserved = if live { each.min(plugin.size()) } else { 0 };
            plugin.reserved.resize(reserved);
            shared = shared.saturating_sub(reserved);
        }
        self.shared.slots.resize(shared);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A position in the queue, given back when dropped.
struct QueuePosition<'a>(&'a AtomicUsize);

impl<'a> QueuePosition<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let position = Self(waiting);
        (waiting.fetch_add(1, Ordering::SeqCst) < max).then_some(position)
    }
}

impl Drop for QueuePosition<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns 503: no call slot is free.
pub(super) fn busy() -> Error {
    Error::new(Kind::Unavailable(Duration::from_secs(1)), code::PLUGIN_BUSY, "The plugin is busy, try again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::CpuScheduler;

    fn bulkhead(calls: usize, queue_time: Duration) -> Arc<Bulkhead> {
        Arc::new(Bulkhead::new(calls, queue_time, CpuScheduler::new(1).plugin_queue()))
    }

    #[tokio::test]
    async fn as_many_calls_may_wait_as_may_run() {
        let (bulkhead, all) = (bulkhead(1, Duration::from_secs(600)), Arc::new(CallSlots::new(9, Duration::ZERO)));
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
        assert!(bulkhead.enter(&all).await.is_err(), "the queue time is zero now");
        drop(running);
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_call_waits_for_a_reserved_slot_when_the_shared_queue_is_full() {
        let all = Arc::new(CallSlots::new(2, Duration::from_secs(600)));
        let (greedy, modest) = (bulkhead(9, Duration::from_secs(600)), bulkhead(9, Duration::from_secs(600)));
        all.reserve([(&*greedy, false), (&*modest, true)].into_iter());
        let reserved = modest.enter(&all).await.unwrap();
        let _shared = greedy.enter(&all).await.unwrap();
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
        drop(reserved);
        assert!(waits.await.unwrap());
    }

    #[tokio::test]
    async fn half_of_the_slots_are_reserved_evenly_for_the_live_plugins() {
        let all = CallSlots::new(12, Duration::ZERO);
        let plugins = [(); 3].map(|()| bulkhead(100, Duration::ZERO));
        let [greedy, other, small] = &plugins;
        small.resize(1, Duration::ZERO);
        let reserve = |live: [bool; 3]| all.reserve(plugins.iter().map(|plugin| &**plugin).zip(live));
        let enter = async |plugin: &Bulkhead| {
            let mut slots = Vec::new();
            while let Ok(slot) = plugin.enter(&all).await {
                slots.push(slot);
            }
            slots
        };
        reserve([true; 3]);
        let taken = enter(greedy).await;
        assert_eq!(taken.len(), 2 + 7, "two reserved ones, and the shared ones");
        assert_eq!(enter(other).await.len(), 2);
        assert_eq!(enter(small).await.len(), 1);
        assert_eq!(all.running(plugins.iter().map(|plugin| &**plugin)), 9);
        drop(taken);
        reserve([true, false, false]);
        assert_eq!(enter(greedy).await.len(), 12);
        reserve([false; 3]);
        assert_eq!(enter(greedy).await.len(), 12);
    }
}
