//! The turns of the writers of SQLite, which has one writer at a time. SQLite lets the others look again after a sleep, in no
//! order: with eight writers, most of their time was spent asleep. So writers wait here for each other, in the order of their
//! arrival. A writer that takes no turn is still safe, because SQLite decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The turn to write. The next writer gets it when it is dropped.
pub(super) type WriteTurn = OwnedSemaphorePermit;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct WriteTurns {
    turn: Arc<Semaphore>,
    /// How long a writer waits.
    patience: Duration,
}

impl WriteTurns {
    pub(super) fn new(patience: Duration) -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), patience }
    }

    /// Waits for the turn.
    pub(super) async fn take(&self) -> sqlx::Result<WriteTurn> {
        let taken = timeout(self.patience, Arc::clone(&self.turn).acquire_owned()).await;
        // The semaphore is never closed.
        taken.map_err(|_elapsed| sqlx::Error::PoolTimedOut)?.map_err(|_closed| sqlx::Error::PoolClosed)
    }
}

/// Returns whether a statement, or the transaction that it begins, writes.
pub(super) fn is_needed_for(sql: &str) -> bool {
    let verb = sql.split_ascii_whitespace().next().unwrap_or_default();
    ["INSERT", "UPDATE", "DELETE"].contains(&verb) || sql == "BEGIN IMMEDIATE"
}
