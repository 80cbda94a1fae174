//! Turns of guests that compute for long. A guest that ran for more than a tick waits for a turn before each further tick,
//! and there are fewer turns than threads: whoever answers soon, and the host's own work, find a thread that is free.
//! No plugin asks for more turns at once than there are, so that one with many calls waits no less than one with few.
//!
//! A guest holds its turn only while it runs. Whenever its call waits, for the host or for others, the turn is gone. What
//! counts is the time that the processor gave it: neither waiting does, nor what others do on a busy machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns of all guests together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns {
    left: Arc<Semaphore>,
    size: usize,
}

impl Turns {
    /// As many as leave a quarter of the threads free, and one at least.
    pub fn of(threads: usize) -> Self {
        let size = (threads * 3 / 4).max(1);
        Self { left: Arc::new(Semaphore::new(size)), size }
    }

    /// The share of one more plugin.
    pub fn share(&self) -> Share {
        Share { all: self.clone(), own: Arc::new(Semaphore::new(self.size)) }
    }
}

/// What all calls of one plugin ask for turns with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Share {
    all: Turns,
    own: Arc<Semaphore>,
}

impl Share {
    /// The turn of one call, which it does not have yet.
    pub fn turn(&self) -> Turn {
        Turn { share: self.clone(), run: Arc::default() }
    }
}

/// The turn of one call, and for how long it ran. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turn {
    share: Share,
    run: Arc<Run>,
}

/// Times are in nanoseconds.
#[derive(Debug, Default)]
struct Run {
    held: Mutex<Option<Held>>,
    /// What its thread had run for when it began.
    began: AtomicU64,
    /// For how long it ran before that.
    before: AtomicU64,
}

/// The plugin's permit to ask, and the turn itself.
#[derive(Debug)]
struct Held {
    _own: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Turn {
    /// Waits for it, in the order of asking, after everybody else who is ready had the thread.
    pub async fn take(self) {
        self.end();
        // The poll that ends with this has no turn, see `end`; the one in which the guest goes on has.
        tokio::task::yield_now().await;
        // Neither is ever closed.
        let Ok(own) = Arc::clone(&self.share.own).acquire_owned().await else { return };
        let Ok(turn) = Arc::clone(&self.share.all.left).acquire_owned().await else { return };
        *self.held() = Some(Held { _own: own, _turn: turn });
    }

    /// Runs a guest until it waits; for how long it ran. The turn ends with it.
    pub fn run<T>(&self, guest: impl FnOnce() -> T) -> (T, Duration) {
        let began = thread_time();
        self.run.began.store(began, Ordering::Relaxed);
        let done = guest();
        let took = thread_time().saturating_sub(began);
        self.run.before.fetch_add(took, Ordering::Relaxed);
        self.end();
        (done, Duration::from_nanos(took))
    }

    /// For how long the guest that runs now, on this thread, ran so far.
    pub fn ran(&self) -> Duration {
        let now = thread_time().saturating_sub(self.run.began.load(Ordering::Relaxed));
        Duration::from_nanos(self.run.before.load(Ordering::Relaxed).saturating_add(now))
    }

    fn end(&self) {
        drop(self.held().take());
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.run.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long this thread ran. A system call, some tenths of a microsecond.
fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_are_fewer_turns_than_threads_and_one_at_least() {
        for (threads, turns) in [(1, 1), (2, 1), (4, 3), (8, 6)] {
            assert_eq!(Turns::of(threads).size, turns);
        }
    }

    #[tokio::test]
    async fn a_turn_is_taken_anew_and_given_up_with_its_call() {
        let turns = Turns::of(1);
        let (first, second) = (turns.share().turn(), turns.share().turn());
        first.clone().take().await;
        first.clone().take().await;
        let mut waits = tokio::spawn(second.take());
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        first.end();
        (&mut waits).await.unwrap();
        assert_eq!(turns.left.available_permits(), 1, "the second has gone too");
    }

    #[tokio::test]
    async fn who_waits_has_no_turn_and_does_not_run() {
        let turns = Turns::of(1);
        let (one, other) = (turns.share().turn(), turns.share().turn());
        let mut work = std::pin::pin!(async {
            one.clone().take().await;
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
        other.take().await;
        let while_it_ran = one.run(|| one.ran()).0;
        one.run(|| std::thread::sleep(Duration::from_millis(100)));
        assert!(one.run(|| one.ran()).0 < while_it_ran + Duration::from_millis(100), "it slept");
        let enough = one.run(|| one.ran()).0 + Duration::from_millis(20);
        let (_, took) = one.run(|| while one.ran() < enough {});
        assert!(took > Duration::from_millis(15) && one.run(|| one.ran()).0 >= enough);
    }

    #[tokio::test]
    async fn a_plugin_with_many_calls_waits_no_less_than_one_with_few() {
        let turns = Turns::of(1);
        let (greedy, modest) = (turns.share(), turns.share());
        let running = greedy.turn();
        running.clone().take().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |name: &'static str, turn: Turn| {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                turn.clone().take().await;
                order.lock().unwrap().push(name);
            })
        };
        let mut calls: Vec<_> = (0..10).map(|_| ask("greedy", greedy.turn())).collect();
        tokio::task::yield_now().await;
        calls.push(ask("modest", modest.turn()));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        running.end();
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(order.lock().unwrap()[..2], ["modest", "greedy"]);
    }
}
