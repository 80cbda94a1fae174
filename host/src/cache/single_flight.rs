//! Single flight: of the requests that miss the same response, one has it computed and the others wait for it. Owns the
//! running computations; knows nothing of their results, which go through the cache.
//!
//! A computation runs in a task of its own, so a request that leaves takes nothing from the others. When nobody waits
//! for it any more, it is cancelled. A request waits for one computation of a key only: after one that cached nothing,
//! all who waited go on at once, and not one after the other.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// The running computations of one cache, by key.
#[derive(Debug, Default)]
pub(super) struct Flights {
    running: Mutex<Running>,
    started: AtomicU64,
}

/// The number and the computation of each key.
type Running = HashMap<Box<str>, (u64, Weak<Flight>)>;

/// A running computation. Those who wait for it share it.
#[derive(Debug)]
struct Flight {
    landed: CancellationToken,
    task: OnceLock<AbortHandle>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// The part of a request in the computation of a response.
#[derive(Debug)]
pub enum Turn {
    /// It has the response computed.
    Lead(Lead),
    /// Another request has.
    Wait(Wait),
}

/// The request that has a response computed.
#[derive(Debug)]
pub struct Lead {
    flight: Arc<Flight>,
    landing: Landing,
}

/// A request that waits for a response.
#[derive(Debug)]
pub struct Wait(Arc<Flight>);

/// The end of a flight, in any way: wakes those who wait.
#[derive(Debug)]
struct Landing {
    flights: Arc<Flights>,
    key: Box<str>,
    number: u64,
    landed: CancellationToken,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut running = self.flights.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A cancelled flight may already have a successor.
        if running.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            running.remove(&self.key);
        }
        drop(running);
        self.landed.cancel();
    }
}

impl Flights {
    pub(super) fn join(self: &Arc<Self>, key: &str) -> Turn {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(key).and_then(|(_, flight)| flight.upgrade()) {
            return Turn::Wait(Wait(flight));
        }
        let (landed, number) = (CancellationToken::new(), self.started.fetch_add(1, Ordering::Relaxed));
        let flight = Arc::new(Flight { landed: landed.clone(), task: OnceLock::new() });
        running.insert(key.into(), (number, Arc::downgrade(&flight)));
        let landing = Landing { flights: Arc::clone(self), key: key.into(), number, landed };
        Turn::Lead(Lead { flight, landing })
    }
}

impl Lead {
    /// Runs the computation. Returns its result, or `None` if it panicked.
    pub async fn run<T: Send + 'static>(self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let Self { flight, landing } = self;
        let task = tokio::spawn(async move {
            let _landing = landing;
            work.await
        });
        let _ = flight.task.set(task.abort_handle());
        task.await.ok()
    }
}

impl Wait {
    /// Waits until the computation has ended, in any way.
    pub async fn landed(self) {
        self.0.landed.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn lead(flights: &Arc<Flights>) -> Lead {
        match flights.join("k") {
            Turn::Lead(lead) => lead,
            Turn::Wait(_) => panic!("somebody leads"),
        }
    }

    fn wait(flights: &Arc<Flights>) -> Wait {
        match flights.join("k") {
            Turn::Wait(wait) => wait,
            Turn::Lead(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn a_request_that_leaves_does_not_cancel_the_computation() {
        let flights = Arc::new(Flights::default());
        let (finish, finished) = oneshot::channel::<()>();
        let (report, ended) = oneshot::channel();
        let leading = tokio::spawn(lead(&flights).run(async move {
            let _ = report.send(finished.await);
        }));
        tokio::task::yield_now().await;
        let (leaver, stayer) = (wait(&flights), wait(&flights));
        drop(leaver);
        leading.abort();
        assert!(leading.await.unwrap_err().is_cancelled());
        finish.send(()).unwrap();
        stayer.landed().await;
        assert_eq!(ended.await.unwrap(), Ok(()));
        assert!(flights.running.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_computation_that_nobody_waits_for_is_cancelled() {
        let flights = Arc::new(Flights::default());
        let (report, ended) = oneshot::channel::<()>();
        let leading = tokio::spawn(lead(&flights).run(async move {
            std::future::pending::<()>().await;
            drop(report);
        }));
        tokio::task::yield_now().await;
        leading.abort();
        assert!(ended.await.is_err(), "the task ended and dropped its sender");
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn a_panic_and_a_leader_that_never_starts_wake_those_who_wait() {
        let flights = Arc::new(Flights::default());
        let leader = lead(&flights);
        let waiter = wait(&flights);
        drop(leader);
        waiter.landed().await;
        let leader = lead(&flights);
        let waiter = wait(&flights);
        assert_eq!(leader.run(async { panic!("a defect") }).await, None::<()>);
        waiter.landed().await;
        assert!(flights.running.lock().unwrap().is_empty());
    }
}
