//! The CPU scheduler for guests. A time slice is one tick of the epoch (`guest::TICK`, 2 ms). A guest that ran for more
//! than one tick waits for a CPU slot before each further time slice. With two or more worker threads, there are fewer
//! slots than threads, so short calls and the host's own work find a free thread. One plugin asks for at most as many
//! slots at once as there are, so a plugin with few calls waits no longer than one with many.
//!
//! A call of a request takes a turn among those of its plugin before its first run, in which a short call ends. The worker
//! threads serve whatever is ready in the order in which it became ready. So if the calls of a thousand clients were all
//! ready at once, a client of another plugin would wait for all of them. Instead they wait for the few turns of their
//! plugin. A turn orders calls and limits nothing: a call that cannot wait for one runs without it.
//!
//! A guest holds its slot only while it runs. When its call waits, for a host function or for other guests, the slot is
//! released, and so is the turn. A guest that a tick interrupts keeps its turn until it has run for one tick.
//!
//! Only the CPU time that the thread got counts: neither waiting nor the load of other processes does. A run that took
//! hardly any time counts with that time, because asking the system for the CPU time costs more than the difference.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::{as_nanos, monotonic_nanos, thread_nanos};

/// A run that took less time than this counts as if the thread had had the CPU all the time.
const SHORT_RUN: Duration = Duration::from_micros(100);

/// The turns of a plugin, for each worker thread. A thread that ends a call finds the next one ready.
const TURNS_PER_THREAD: usize = 2;

/// One of as many calls as this pauses behind everything else that is ready, and keeps its turn meanwhile. A call that
/// takes less than a tick and does not wait runs within one poll, so turns would never run out otherwise. They run out when
/// more calls are ready than this for each turn: 64 with two worker threads. Fewer hardly delay anything.
const CALLS_PER_PAUSE: u64 = 16;

/// No call pauses if so many took longer than this to arrive: they are no crowd.
const CROWD_TIME: Duration = Duration::from_millis(20);

/// The CPU slots of all guests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CpuScheduler {
    free: Arc<Semaphore>,
    size: usize,
    /// The number of turns of each plugin.
    turns: usize,
}

impl CpuScheduler {
    /// Creates slots for three quarters of the worker threads, at least one.
    pub fn new(worker_threads: usize) -> Self {
        let size = (worker_threads * 3 / 4).max(1);
        Self { free: Arc::new(Semaphore::new(size)), size, turns: worker_threads * TURNS_PER_THREAD }
    }

    /// Returns the queue of one more plugin.
    pub fn plugin_queue(&self) -> PluginCpuQueue {
        PluginCpuQueue {
            scheduler: self.clone(),
            own: Arc::new(Semaphore::new(self.size)),
            turns: Arc::new(Turns {
                free: Arc::new(Semaphore::new(self.turns)),
                taken: AtomicU64::new(0),
                latest: AtomicU64::new(0),
            }),
        }
    }
}

/// The queue in which all calls of one plugin wait for CPU slots, and for their turn. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PluginCpuQueue {
    scheduler: CpuScheduler,
    own: Arc<Semaphore>,
    turns: Arc<Turns>,
}

#[derive(Debug)]
struct Turns {
    free: Arc<Semaphore>,
    /// How many calls took a free turn.
    taken: AtomicU64,
    /// When the latest call that might have paused took its turn, as `monotonic_nanos`.
    latest: AtomicU64,
}

impl Turns {
    /// Counts a call that took a free turn. Returns whether it pauses.
    fn pauses(&self) -> bool {
        if self.taken.fetch_add(1, Ordering::Relaxed) % CALLS_PER_PAUSE != CALLS_PER_PAUSE - 1 {
            return false;
        }
        let now = monotonic_nanos();
        now.saturating_sub(self.latest.swap(now, Ordering::Relaxed)) < as_nanos(CROWD_TIME)
    }
}

impl PluginCpuQueue {
    /// Returns the slot of one call, which the call does not hold yet.
    pub fn slot(&self) -> CpuSlot {
        CpuSlot { queue: self.clone(), run: Arc::default() }
    }
}

/// The CPU time of one call, and its turn or its CPU slot while the call holds one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CpuSlot {
    queue: PluginCpuQueue,
    run: Arc<Run>,
}

/// Times are in nanoseconds.
#[derive(Debug, Default)]
struct Run {
    held: Mutex<Option<Held>>,
    /// The CPU time of the thread when this run began.
    began: AtomicU64,
    /// The CPU time of the call's earlier runs.
    before: AtomicU64,
    keeps_turn: AtomicBool,
}

#[derive(Debug)]
enum Held {
    Turn(#[allow(dead_code, reason = "dropped")] OwnedSemaphorePermit),
    /// The plugin's permit to wait for a slot, and the slot itself.
    Slot(#[allow(dead_code, reason = "dropped")] [OwnedSemaphorePermit; 2]),
}

impl CpuSlot {
    /// Takes a turn for the next run if one is free. Returns whether it did. In a crowd, some calls pause with it.
    pub async fn try_take_turn(&self) -> bool {
        // No semaphore is ever closed.
        let Ok(turn) = Arc::clone(&self.queue.turns.free).try_acquire_owned() else { return false };
        self.hold(Held::Turn(turn));
        if self.queue.turns.pauses() {
            pause().await;
        }
        true
    }

    /// Waits for a turn for the next run, first come, first served.
    pub async fn take_turn(&self) {
        if let Ok(turn) = Arc::clone(&self.queue.turns.free).acquire_owned().await {
            self.hold(Held::Turn(turn));
        }
    }

    /// Lets every ready task run first. Then waits for a slot, first come, first served.
    pub async fn acquire(self) {
        self.release();
        // The poll that ends here holds no slot, see `run`. The poll in which the guest continues holds one. The second pause
        // lets the thread look for input first, and would come before what is ready without the first one.
        pause().await;
        tokio::task::yield_now().await;
        let Ok(own) = Arc::clone(&self.queue.own).acquire_owned().await else { return };
        let Ok(slot) = Arc::clone(&self.queue.scheduler.free).acquire_owned().await else { return };
        self.hold(Held::Slot([own, slot]));
    }

    /// Runs a guest until it waits, then releases the slot. Returns the CPU time of the run too.
    pub fn run<T>(&self, guest: impl FnOnce() -> T) -> (T, Duration) {
        let began = thread_nanos();
        self.run.began.store(began, Ordering::Relaxed);
        let start = Instant::now();
        let done = guest();
        let time = start.elapsed();
        // CPU time is never longer than the time that passed.
        let took = if time < SHORT_RUN { time } else { Duration::from_nanos(thread_nanos().saturating_sub(began)) };
        self.run.before.fetch_add(as_nanos(took), Ordering::Relaxed);
        self.end_run();
        (done, took)
    }

    /// Returns the CPU time of the call so far. The guest must be running on this thread.
    pub fn cpu_time(&self) -> Duration {
        let now = thread_nanos().saturating_sub(self.run.began.load(Ordering::Relaxed));
        Duration::from_nanos(self.run.before.load(Ordering::Relaxed).saturating_add(now))
    }

    /// Lets the call keep its turn after the current run: a tick interrupts it, and it waits for nothing.
    pub fn keep_turn(&self) {
        self.run.keeps_turn.store(true, Ordering::Relaxed);
    }

    fn end_run(&self) {
        let keeps_turn = self.run.keeps_turn.swap(false, Ordering::Relaxed);
        let mut held = self.held();
        if !(keeps_turn && matches!(*held, Some(Held::Turn(_)))) {
            drop(held.take());
        }
    }

    fn release(&self) {
        drop(self.held().take());
    }

    fn hold(&self, held: Held) {
        *self.held() = Some(held);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.run.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes to the end of what is ready on this thread, or on all threads if there is too much. (`tokio::task::yield_now` waits until the thread has asked the system
/// for input, which depends on other settings.)
async fn pause() {
    let mut has_paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_or_more_threads_have_fewer_slots_and_one_thread_has_one() {
        for (threads, slots) in [(1, 1), (2, 1), (4, 3), (8, 6)] {
            assert_eq!(CpuScheduler::new(threads).size, slots);
        }
    }

    #[tokio::test]
    async fn a_slot_is_acquired_anew_and_released_with_its_call() {
        let scheduler = CpuScheduler::new(1);
        let (first, second) = (scheduler.plugin_queue().slot(), scheduler.plugin_queue().slot());
        first.clone().acquire().await;
        first.clone().acquire().await;
        let mut waits = tokio::spawn(second.acquire());
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        first.release();
        (&mut waits).await.unwrap();
        assert_eq!(scheduler.free.available_permits(), 1, "the second slot is released too");
    }

    #[tokio::test]
    async fn a_call_that_waits_holds_no_slot_and_uses_no_cpu_time() {
        let scheduler = CpuScheduler::new(1);
        let (one, other) = (scheduler.plugin_queue().slot(), scheduler.plugin_queue().slot());
        let mut work = std::pin::pin!(async {
            one.clone().acquire().await;
            std::future::pending::<()>().await
        });
        for _ in 0..4 {
            std::future::poll_fn(|context| {
                let (polled, _) = one.run(|| work.as_mut().poll(context));
                assert!(polled.is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        other.acquire().await;
        let while_it_ran = one.run(|| one.cpu_time()).0;
        one.run(|| std::thread::sleep(Duration::from_millis(100)));
        assert!(one.run(|| one.cpu_time()).0 < while_it_ran + Duration::from_millis(100), "it slept");
        let enough = one.run(|| one.cpu_time()).0 + Duration::from_millis(20);
        let (_, took) = one.run(|| while one.cpu_time() < enough {});
        assert!(took > Duration::from_millis(15) && one.run(|| one.cpu_time()).0 >= enough);
    }

    #[tokio::test]
    async fn many_short_runs_use_cpu_time_too() {
        let slot = CpuScheduler::new(1).plugin_queue().slot();
        let mut ran = Duration::ZERO;
        for _ in 0..1_000 {
            let (_, took) = slot.run(|| {
                let start = Instant::now();
                while start.elapsed() < SHORT_RUN / 5 {}
            });
            ran += took;
        }
        let used = slot.run(|| slot.cpu_time()).0;
        // A run that the system interrupts counts with less than the time that passed.
        assert!(used >= ran && ran >= SHORT_RUN * 100, "{used:?}, {ran:?}");
    }

    #[tokio::test]
    async fn a_plugin_with_few_calls_waits_no_longer_than_one_with_many() {
        let scheduler = CpuScheduler::new(1);
        let (greedy, modest) = (scheduler.plugin_queue(), scheduler.plugin_queue());
        let running = greedy.slot();
        running.clone().acquire().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |name: &'static str, slot: CpuSlot| {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                slot.clone().acquire().await;
                order.lock().unwrap().push(name);
            })
        };
        let mut calls: Vec<_> = (0..10).map(|_| ask("greedy", greedy.slot())).collect();
        tokio::task::yield_now().await;
        calls.push(ask("modest", modest.slot()));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        running.release();
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(order.lock().unwrap()[..2], ["modest", "greedy"]);
    }

    #[tokio::test]
    async fn a_crowd_waits_in_the_queue_of_its_plugin_and_its_neighbour_does_not_wait_for_it() {
        let scheduler = CpuScheduler::new(2);
        let (crowded, neighbour) = (scheduler.plugin_queue(), scheduler.plugin_queue());
        let order = Arc::new(Mutex::new(Vec::new()));
        let call = |name: &'static str, queue: &PluginCpuQueue| {
            let (slot, order) = (queue.slot(), Arc::clone(&order));
            tokio::spawn(async move {
                if !slot.try_take_turn().await {
                    slot.take_turn().await;
                }
                slot.run(|| order.lock().unwrap().push(name));
            })
        };
        let mut calls: Vec<_> = (0..1_000).map(|_| call("crowd", &crowded)).collect();
        calls.push(call("neighbour", &neighbour));
        for call in calls {
            call.await.unwrap();
        }
        let order = order.lock().unwrap();
        let before = order.iter().position(|name| *name == "neighbour").unwrap();
        assert!(before < 100 && order.len() == 1_001, "{before} calls of the crowd ran before");
        assert_eq!(crowded.turns.free.available_permits(), scheduler.turns, "each turn ended with its run");
    }

    #[tokio::test]
    async fn calls_that_come_one_after_the_other_do_not_pause() {
        let queue = CpuScheduler::new(1).plugin_queue();
        for _ in 0..3 {
            for _ in 1..CALLS_PER_PAUSE {
                assert!(!queue.turns.pauses());
            }
            std::thread::sleep(CROWD_TIME);
            assert!(!queue.turns.pauses());
        }
    }

    #[tokio::test]
    async fn a_guest_that_a_tick_interrupts_keeps_its_turn_and_one_that_waits_does_not() {
        let queue = CpuScheduler::new(1).plugin_queue();
        let slot = queue.slot();
        assert!(slot.try_take_turn().await);
        slot.run(|| slot.keep_turn());
        assert_eq!(queue.turns.free.available_permits(), TURNS_PER_THREAD - 1);
        slot.run(|| ());
        assert_eq!(queue.turns.free.available_permits(), TURNS_PER_THREAD);
    }

    #[tokio::test]
    async fn a_call_that_gives_up_leaves_its_turn() {
        let queue = CpuScheduler::new(1).plugin_queue();
        let holders: Vec<CpuSlot> = (0..TURNS_PER_THREAD).map(|_| queue.slot()).collect();
        for holder in &holders {
            assert!(holder.try_take_turn().await);
        }
        let (gives_up, next) = (queue.slot(), queue.slot());
        assert!(!gives_up.try_take_turn().await);
        let waiting = tokio::time::timeout(Duration::ZERO, gives_up.take_turn());
        assert!(waiting.await.is_err());
        drop(holders);
        assert_eq!(queue.turns.free.available_permits(), TURNS_PER_THREAD);
        assert!(next.try_take_turn().await);
    }
}
