//! Turns of guests that compute for long. A guest that ran for more than a tick waits for a turn before each further tick,
//! and there are fewer turns than threads: whoever answers soon, and the host's own work, find a thread that is free.
//! No plugin asks for more turns at once than there are, so that one with many calls waits no less than one with few.
//!
//! A guest holds its turn only while it runs. Whenever its call waits, for the host or for others, the turn is gone.

use std::sync::{Arc, Mutex, PoisonError};

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
        Turn { share: self.clone(), held: Arc::default() }
    }
}

/// The turn of one call.
#[derive(Debug, Clone)]
pub struct Turn {
    share: Share,
    held: Arc<Mutex<Option<Held>>>,
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

    /// Gives it up, if it is held.
    pub fn end(&self) {
        drop(self.held().take());
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
