//! The CPU scheduler for guests that compute for long. A time slice is one tick of the epoch (`guest::TICK`, 2 ms). A
//! guest that ran for more than one tick waits for a CPU slot before each further time slice. With two or more worker
//! threads, there are fewer slots than threads, so short calls and the host's own work find a free thread. One plugin
//! asks for at most as many slots at once as there are, so a plugin with few calls waits no longer than one with many.
//!
//! A guest holds its slot only while it runs. When its call waits, for a host function or for other guests, the slot is
//! released.
//!
//! Only the CPU time that the thread got counts: neither waiting nor the load of other processes does. A run that took
//! hardly any time counts with that time, because asking the system for the CPU time costs more than the difference.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::thread_nanos;

/// A run that took less time than this counts as if the thread had had the CPU all the time.
const SHORT_RUN: Duration = Duration::from_micros(100);

/// The CPU slots of all guests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CpuScheduler {
    free: Arc<Semaphore>,
    size: usize,
}

impl CpuScheduler {
    /// Creates slots for three quarters of the worker threads, at least one.
    pub fn new(worker_threads: usize) -> Self {
        let size = (worker_threads * 3 / 4).max(1);
        Self { free: Arc::new(Semaphore::new(size)), size }
    }

    /// Returns the queue of one more plugin.
    pub fn plugin_queue(&self) -> PluginCpuQueue {
        PluginCpuQueue { scheduler: self.clone(), own: Arc::new(Semaphore::new(self.size)) }
    }
}

/// The queue in which all calls of one plugin wait for CPU slots. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PluginCpuQueue {
    scheduler: CpuScheduler,
    own: Arc<Semaphore>,
}

impl PluginCpuQueue {
    /// Returns the slot of one call, which the call does not hold yet.
    pub fn slot(&self) -> CpuSlot {
        CpuSlot { queue: self.clone(), run: Arc::default() }
    }
}

/// The CPU time of one call, and its CPU slot while the call holds one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CpuSlot {
    queue: PluginCpuQueue,
    run: Arc<Run>,
}

/// Times are in nanoseconds.
#[derive(Debug, Default)]
struct Run {
    permits: Mutex<Option<Permits>>,
    /// The CPU time of the thread when this run began.
    began: AtomicU64,
    /// The CPU time of the call's earlier runs.
    before: AtomicU64,
}

/// The plugin's permit to wait for a slot, and the slot itself.
#[derive(Debug)]
struct Permits {
    _own: OwnedSemaphorePermit,
    _slot: OwnedSemaphorePermit,
}

impl CpuSlot {
    /// Lets every ready task run first. Then waits for a slot, first come, first served.
    pub async fn acquire(self) {
        self.release();
        // The poll that ends here holds no slot, see `run`. The poll in which the guest continues holds one.
        tokio::task::yield_now().await;
        // Neither semaphore is ever closed.
        let Ok(own) = Arc::clone(&self.queue.own).acquire_owned().await else { return };
        let Ok(slot) = Arc::clone(&self.queue.scheduler.free).acquire_owned().await else { return };
        *self.permits() = Some(Permits { _own: own, _slot: slot });
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
        self.run.before.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.release();
        (done, took)
    }

    /// Returns the CPU time of the call so far. The guest must be running on this thread.
    pub fn cpu_time(&self) -> Duration {
        let now = thread_nanos().saturating_sub(self.run.began.load(Ordering::Relaxed));
        Duration::from_nanos(self.run.before.load(Ordering::Relaxed).saturating_add(now))
    }

    fn release(&self) {
        drop(self.permits().take());
    }

    fn permits(&self) -> std::sync::MutexGuard<'_, Option<Permits>> {
        self.run.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}
