//! The bulkhead: how many calls may run at once, of each plugin and of all plugins together. Owns the call slots and
//! their queues, first come, first served; does not know the content of a call.
//!
//! Up to half of the call slots are reserved, split evenly among the live plugins, and never more for a plugin than its
//! `concurrency`; the others are shared. So a plugin always finds its reserved slots, however many calls the other
//! plugins have. If there are more live plugins than slots to reserve, none is reserved.
//!
//! Waiting is bounded by time and memory and not by a number of calls, so a burst of small calls waits instead of being
//! refused. The waiting calls of one plugin may take as much of the memory as they leave free: one plugin takes at most
//! half, and further ones share the rest. So a burst to one plugin leaves room for the waiting calls of others.
//!
//! Before a call takes a slot, it waits for its turn (`capability::cpu_scheduler`), within the same time and memory. A turn
//! orders the calls that compute. It is no reason to refuse one: without time or memory left, the call goes on without it.
//!
//! A call is refused for its time only after it has waited for it, and never because of an estimate: see decision 0006.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::capability::{CpuSlot, PluginCpuQueue};
use crate::clock::as_nanos;
use crate::error::{Error, Kind, Result, code};
use crate::permits::{Permit, Permits};

/// The memory of a call that waits for a call slot, in addition to its request: its task, and the buffers of its connection.
const WAITING_CALL_BYTES: usize = 16 * 1024;

/// The same while it waits for its turn. Its connection has the buffers whether it waits or not, and there are as many as
/// `server.connections`: with the default limits, the calls of all connections can wait for their turn.
const WAITING_TURN_BYTES: usize = 2 * 1024;

/// Slots with a queue.
#[derive(Debug)]
struct Queue {
    slots: Arc<Permits>,
    waiting: AtomicUsize,
}

/// The call slots of one plugin.
#[derive(Debug)]
pub struct Bulkhead {
    queue: Queue,
    /// How long a call may wait, in nanoseconds.
    queue_nanos: AtomicU64,
    /// Memory of the plugin's waiting calls.
    waiting_bytes: AtomicUsize,
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
    /// The limit of `waiting_bytes`.
    queue_bytes: usize,
    /// Memory of the waiting calls of all plugins.
    waiting_bytes: AtomicUsize,
}

/// A call's slot among those of its plugin, and among those of all plugins. Dropping it frees both.
pub(super) struct CallSlot {
    _of_plugin: Permit,
    _of_all: Permit,
    /// It may have the turn for the first run.
    pub(super) cpu: CpuSlot,
}

/// No call slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// Among those of the plugin, or its waiting calls take too much memory.
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
    fn new(slots: usize) -> Self {
        Self { slots: Permits::new(slots), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a slot.
    async fn enter(&self) -> Option<Permit> {
        if let Some(slot) = self.slots.try_acquire() {
            return Some(slot);
        }
        let _position = Counted::add([(&self.waiting, 1)]);
        self.slots.acquire().await
    }
}

impl Bulkhead {
    /// Creates a bulkhead for at most `calls` at once. Others wait for at most `queue_time`.
    pub(super) fn new(calls: usize, queue_time: Duration, cpu_queue: PluginCpuQueue) -> Self {
        Self {
            queue: Queue::new(calls),
            queue_nanos: as_nanos(queue_time).into(),
            waiting_bytes: AtomicUsize::new(0),
            reserved: Permits::new(0),
            cpu_queue,
            unread: Arc::default(),
        }
    }

    /// Changes the number of slots. A lower number takes effect as calls end.
    pub(super) fn resize(&self, calls: usize, queue_time: Duration) {
        self.queue_nanos.store(as_nanos(queue_time), Ordering::Relaxed);
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

    /// Waits for the turn of one call, and then for a slot among those of the plugin and among those of all plugins.
    /// `bytes` is the size of its request.
    ///
    /// # Errors
    /// The waiting calls take too much memory, or the call waited for the queue time.
    pub(super) async fn enter(&self, all: &CallSlots, bytes: usize) -> Result<CallSlot, NoSlot> {
        let cpu = self.cpu_queue.slot();
        // A call that finds a turn and free slots needs no memory for waiting.
        let mut until = None;
        if !cpu.try_take_turn().await
            && let Some(_waiting) = self.count_waiting(all, bytes.saturating_add(WAITING_TURN_BYTES))
        {
            let _position = Counted::add([(&self.queue.waiting, 1)]);
            let deadline = *until.insert(self.deadline());
            let _ = tokio::time::timeout_at(deadline, cpu.take_turn()).await;
        }
        let of_plugin = self.queue.slots.try_acquire();
        let of_all = of_plugin.as_ref().and_then(|_| self.try_slot_of_all(all));
        let of_plugin = match (of_plugin, of_all) {
            (Some(of_plugin), Some(of_all)) => return Ok(CallSlot { _of_plugin: of_plugin, _of_all: of_all, cpu }),
            (of_plugin, _) => of_plugin,
        };
        let refused = if of_plugin.is_none() { NoSlot::OfPlugin } else { NoSlot::OfAll };
        let _waiting = self.count_waiting(all, bytes.saturating_add(WAITING_CALL_BYTES)).ok_or(refused)?;
        let until = until.unwrap_or_else(|| self.deadline());
        let of_plugin = match of_plugin {
            Some(of_plugin) => of_plugin,
            None => in_time(until, self.queue.enter()).await.ok_or(NoSlot::OfPlugin)?,
        };
        let of_all = in_time(until, self.slot_of_all(all)).await.ok_or(NoSlot::OfAll)?;
        Ok(CallSlot { _of_plugin: of_plugin, _of_all: of_all, cpu })
    }

    /// Returns the end of the queue time of a call that arrives now.
    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_nanos(self.queue_nanos.load(Ordering::Relaxed))
    }

    fn try_slot_of_all(&self, all: &CallSlots) -> Option<Permit> {
        self.reserved.try_acquire().or_else(|| all.shared.slots.try_acquire())
    }

    async fn slot_of_all(&self, all: &CallSlots) -> Option<Permit> {
        if let Some(free) = self.try_slot_of_all(all) {
            return Some(free);
        }
        tokio::select! {
            biased;
            Some(reserved) = self.reserved.acquire() => Some(reserved),
            Some(shared) = all.shared.enter() => Some(shared),
            else => None,
        }
    }

    /// Counts the memory of a request that waits for another call of the plugin.
    pub(super) fn admit_waiting<'a>(&'a self, all: &'a CallSlots, bytes: usize) -> Option<WaitingCall<'a>> {
        self.count_waiting(all, bytes.saturating_add(WAITING_CALL_BYTES)).map(WaitingCall)
    }

    /// Counts the memory of a waiting call, unless the plugin's waiting calls would take more than they leave free.
    fn count_waiting<'a>(&'a self, all: &'a CallSlots, bytes: usize) -> Option<Counted<'a, 2>> {
        let counted = Counted::add([(&self.waiting_bytes, bytes), (&all.waiting_bytes, bytes)]);
        let free = all.queue_bytes.checked_sub(all.waiting_bytes.load(Ordering::SeqCst))?;
        (self.waiting_bytes.load(Ordering::SeqCst) <= free).then_some(counted)
    }
}

async fn in_time<T>(deadline: Instant, slot: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout_at(deadline, slot).await.ok().flatten()
}

impl CallSlots {
    /// Creates the given number of slots, none of them reserved. The waiting calls of all plugins take at most
    /// `queue_bytes`.
    pub(super) fn new(size: usize, queue_bytes: usize) -> Self {
        Self { size, shared: Queue::new(size), queue_bytes, waiting_bytes: AtomicUsize::new(0) }
    }

    /// Returns the number of all slots.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of calls that wait for a shared slot.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Returns the memory of the waiting calls of all plugins.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
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

/// A request that waits for another call. It counts as memory of waiting calls until it is dropped.
pub struct WaitingCall<'a>(#[allow(dead_code, reason = "dropped")] Counted<'a, 2>);

/// Amounts added to counters, subtracted when dropped.
struct Counted<'a, const N: usize>([(&'a AtomicUsize, usize); N]);

impl<'a, const N: usize> Counted<'a, N> {
    fn add(amounts: [(&'a AtomicUsize, usize); N]) -> Self {
        for (counter, amount) in amounts {
            counter.fetch_add(amount, Ordering::SeqCst);
        }
        Self(amounts)
    }
}

impl<const N: usize> Drop for Counted<'_, N> {
    fn drop(&mut self) {
        for (counter, amount) in self.0 {
            counter.fetch_sub(amount, Ordering::SeqCst);
        }
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
    use crate::config;

    /// There is a turn for each call, because the calls of these tests do not run, and so keep their turns.
    fn bulkhead(calls: usize, queue_time: Duration) -> Arc<Bulkhead> {
        Arc::new(Bulkhead::new(calls, queue_time, CpuScheduler::new(1_000).plugin_queue()))
    }

    const NEVER: Duration = Duration::from_secs(600);

    type Entering = tokio::task::JoinHandle<Result<CallSlot, NoSlot>>;

    /// Enters in a task of its own, and waits until the call has a slot, waits for one, or is refused.
    async fn enter(plugin: &Arc<Bulkhead>, all: &Arc<CallSlots>, bytes: usize) -> Entering {
        let entering = tokio::spawn({
            let (plugin, all) = (Arc::clone(plugin), Arc::clone(all));
            async move { plugin.enter(&all, bytes).await }
        });
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        entering
    }

    #[tokio::test]
    async fn a_burst_waits_and_every_call_gets_a_slot() {
        let (bulkhead, all) = (bulkhead(2, NEVER), Arc::new(CallSlots::new(9, 1_000 * WAITING_CALL_BYTES * 2)));
        let mut calls = Vec::new();
        for _ in 0..1_000 {
            calls.push(enter(&bulkhead, &all, 0).await);
        }
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (2, 998));
        for call in calls {
            drop(call.await.unwrap().ok().unwrap());
        }
        assert_eq!((bulkhead.running(), bulkhead.waiting()), (0, 0));
        assert_eq!(all.waiting_bytes.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn by_default_a_thousand_calls_of_one_plugin_wait_and_its_neighbour_does_not() {
        let limits = config::Plugins::default();
        let all = Arc::new(CallSlots::new(limits.total_concurrency, limits.queue_bytes));
        let [crowded, neighbour] = [(); 2].map(|()| bulkhead(limits.concurrency, NEVER));
        all.reserve([(&*crowded, true), (&*neighbour, true)].into_iter());
        let mut calls = Vec::new();
        for _ in 0..1_000 {
            // The headers are as large as a plugin accepts them.
            calls.push(enter(&crowded, &all, limits.header_bytes).await);
        }
        assert_eq!((crowded.running(), crowded.waiting()), (limits.concurrency, 1_000 - limits.concurrency));
        assert!(enter(&neighbour, &all, limits.header_bytes).await.is_finished());
        for call in calls {
            drop(call.await.unwrap().ok().unwrap());
        }
        assert_eq!(all.waiting_bytes(), 0);
    }

    #[tokio::test]
    async fn waiting_is_bounded_by_memory_and_a_burst_leaves_room_for_others() {
        let all = Arc::new(CallSlots::new(9, 8 * WAITING_CALL_BYTES));
        let plugins = [(); 2].map(|()| bulkhead(1, NEVER));
        let [greedy, other] = &plugins;
        let running = enter(greedy, &all, 0).await.await.unwrap().ok().unwrap();
        let large = enter(greedy, &all, 4 * WAITING_CALL_BYTES).await;
        assert_eq!(large.await.unwrap().err(), Some(NoSlot::OfPlugin), "its request takes more than half");
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.push(enter(greedy, &all, 0).await);
        }
        let refused = enter(greedy, &all, 0).await;
        assert_eq!(refused.await.unwrap().err(), Some(NoSlot::OfPlugin), "half of the memory is taken");
        let _other = enter(other, &all, 0).await.await.unwrap().ok().unwrap();
        let others = [enter(other, &all, 0).await, enter(other, &all, 0).await];
        assert_eq!((other.waiting(), others.iter().any(Entering::is_finished)), (2, false));
        drop(running);
        for call in waiting {
            drop(call.await.unwrap().ok().unwrap());
        }
    }

    #[tokio::test]
    async fn the_queue_time_covers_both_queues() {
        let all = Arc::new(CallSlots::new(2, 99 * WAITING_CALL_BYTES));
        let plugins = [(); 4].map(|()| bulkhead(1, Duration::from_secs(1)));
        let [one, two, three, four] = &plugins;
        let mut running = Vec::new();
        for plugin in [one, two] {
            running.push(enter(plugin, &all, 0).await.await.unwrap().ok().unwrap());
        }
        let ended = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut calls = Vec::new();
        // The second call waits for a slot of its plugin until the first one gives up. It ends before the third call
        // only if that time counts.
        for (name, plugin, after) in [("first", three, 0), ("second", three, 500), ("third", four, 250)] {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let (plugin, all, ended) = (Arc::clone(plugin), Arc::clone(&all), Arc::clone(&ended));
            calls.push(tokio::spawn(async move {
                assert_eq!(plugin.enter(&all, 0).await.err(), Some(NoSlot::OfAll));
                ended.lock().unwrap().push(name);
            }));
        }
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(*ended.lock().unwrap(), ["first", "second", "third"]);
        three.resize(1, Duration::ZERO);
        assert_eq!(three.enter(&all, 0).await.err(), Some(NoSlot::OfAll), "the queue time is zero now");
    }

    #[tokio::test]
    async fn a_waiting_call_takes_a_reserved_slot_that_becomes_free() {
        let all = Arc::new(CallSlots::new(2, 99 * WAITING_CALL_BYTES));
        let (greedy, modest) = (bulkhead(9, NEVER), bulkhead(9, NEVER));
        all.reserve([(&*greedy, false), (&*modest, true)].into_iter());
        let reserved = enter(&modest, &all, 0).await.await.unwrap().ok().unwrap();
        let _shared = enter(&greedy, &all, 0).await.await.unwrap().ok().unwrap();
        let _waits = enter(&greedy, &all, 0).await;
        assert_eq!(all.waiting(), 1);
        let waits = enter(&modest, &all, 0).await;
        assert!(!waits.is_finished());
        drop(reserved);
        assert!(waits.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn half_of_the_slots_are_reserved_evenly_for_the_live_plugins() {
        let all = CallSlots::new(12, 99 * WAITING_CALL_BYTES);
        let plugins = [(); 3].map(|()| bulkhead(100, Duration::ZERO));
        let [greedy, other, small] = &plugins;
        small.resize(1, Duration::ZERO);
        let reserve = |live: [bool; 3]| all.reserve(plugins.iter().map(|plugin| &**plugin).zip(live));
        let enter = async |plugin: &Bulkhead| {
            let mut slots = Vec::new();
            while let Ok(slot) = plugin.enter(&all, 0).await {
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

    /// A crowd of `clients`, whose calls compute, and a call of a neighbour that comes last. Returns the order in which they
    /// ran, and the number of refused calls.
    async fn crowd(clients: usize) -> (Vec<Option<usize>>, usize) {
        let limits = config::Plugins::default();
        let all = Arc::new(CallSlots::new(limits.total_concurrency, limits.queue_bytes));
        let cpu = CpuScheduler::new(2);
        let [crowded, neighbour] =
            [(); 2].map(|()| Arc::new(Bulkhead::new(limits.concurrency, NEVER, cpu.plugin_queue())));
        all.reserve([(&*crowded, true), (&*neighbour, true)].into_iter());
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let call = |plugin: &Arc<Bulkhead>, index: Option<usize>| {
            let (plugin, all, order) = (Arc::clone(plugin), Arc::clone(&all), Arc::clone(&order));
            tokio::spawn(async move {
                let slot = plugin.enter(&all, 1024).await.ok()?;
                slot.cpu.run(|| order.lock().unwrap().push(index));
                Some(())
            })
        };
        let mut calls: Vec<_> = (0..clients).map(|index| call(&crowded, Some(index))).collect();
        calls.push(call(&neighbour, None));
        let mut refused = 0;
        for call in calls {
            refused += usize::from(call.await.unwrap().is_none());
        }
        assert_eq!((crowded.running(), crowded.waiting(), all.waiting_bytes()), (0, 0, 0));
        let order = order.lock().unwrap().clone();
        (order, refused)
    }

    #[tokio::test]
    async fn the_calls_of_all_connections_run_in_order_and_a_neighbour_does_not_wait_for_them() {
        let (order, refused) = crowd(config::Server::default().connections).await;
        assert_eq!(refused, 0);
        let neighbour = order.iter().position(Option::is_none).unwrap();
        assert!(neighbour < 200, "it ran after {neighbour} others");
        let crowd = order.into_iter().flatten().enumerate();
        let farthest = crowd.map(|(position, index)| position.abs_diff(index)).max().unwrap();
        assert!(farthest < 200, "a call ran {farthest} places away from the order of arrival");
    }

    #[tokio::test]
    async fn no_call_is_refused_for_its_turn() {
        let (order, refused) = crowd(50_000).await;
        assert_eq!((order.len(), refused), (50_001, 0));
    }

    #[tokio::test]
    async fn the_queue_time_covers_the_turn_too() {
        let all = Arc::new(CallSlots::new(1, 99 * WAITING_CALL_BYTES));
        let plugins =
            [(); 3].map(|()| Arc::new(Bulkhead::new(9, Duration::from_secs(1), CpuScheduler::new(1).plugin_queue())));
        let [running, one, other] = &plugins;
        let _running = running.enter(&all, 0).await.ok().unwrap();
        let turns = [(); 2].map(|()| one.cpu_queue.slot());
        for turn in &turns {
            assert!(turn.try_take_turn().await);
        }
        let ended = Arc::new(std::sync::Mutex::new(Vec::new()));
        let enter = |name: &'static str, plugin: &Arc<Bulkhead>| {
            let (plugin, all, ended) = (Arc::clone(plugin), Arc::clone(&all), Arc::clone(&ended));
            tokio::spawn(async move {
                assert_eq!(plugin.enter(&all, 0).await.err(), Some(NoSlot::OfAll));
                ended.lock().unwrap().push(name);
            })
        };
        // The first call waits for its turn and then for a slot. It ends before the second one only if both waits count.
        let first = enter("first", one);
        tokio::time::sleep(Duration::from_millis(250)).await;
        let second = enter("second", other);
        tokio::time::sleep(Duration::from_millis(250)).await;
        drop(turns);
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(*ended.lock().unwrap(), ["first", "second"]);
    }
}
