//! Turns of guests that compute for long. A guest that ran for more than a tick waits for a turn before each further tick,
//! and there are fewer turns than threads: whoever answers soon, and the host's own work, find a thread that is free.
//!
//! A guest holds its turn only while it runs. Whenever its call waits, for the host or for others, the turn is gone.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns of all guests together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// As many as leave a quarter of the threads free, and one at least.
    pub fn of(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new((threads * 3 / 4).max(1))))
    }

    /// The turn of one call, which it does not have yet.
    pub fn turn(&self) -> Turn {
        Turn { all: self.clone(), held: Arc::default() }
    }
}

/// The turn of one call.
#[derive(Debug, Clone)]
pub struct Turn {
    all: Turns,
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Turn {
    /// Waits for it, in the order of asking, after everybody else who is ready had the thread.
    pub async fn take(self) {
        self.end();
        // The poll that ends with this has no turn, see `end`; the one in which the guest goes on has.
        tokio::task::yield_now().await;
        let permit = Arc::clone(&self.all.0).acquire_owned().await.ok();
        *self.held() = permit;
    }

    /// Gives it up, if it is held.
    pub fn end(&self) {
        drop(self.held().take());
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_are_fewer_turns_than_threads_and_one_at_least() {
        for (threads, turns) in [(1, 1), (2, 1), (4, 3), (8, 6)] {
            assert_eq!(Turns::of(threads).0.available_permits(), turns);
        }
    }

    #[tokio::test]
    async fn a_turn_is_taken_anew_and_given_up_with_its_call() {
        let turns = Turns::of(1);
        let (first, second) = (turns.turn(), turns.turn());
        first.clone().take().await;
        first.clone().take().await;
        let mut waits = tokio::spawn(second.take());
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        first.end();
        (&mut waits).await.unwrap();
        assert_eq!(turns.0.available_permits(), 1, "the second has gone too");
    }
}
