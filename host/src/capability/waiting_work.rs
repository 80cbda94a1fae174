//! The waiting work of each plugin, so that a plugin that adds more than is worked off does not fill the host's database:
//! the number of its jobs, or the bytes of its mails. Owns the counts, which span the releases of a plugin.
//!
//! The database counts from time to time and in the background, so no call waits for that. In between, each job or mail that
//! is added counts, and those that start or were sent do not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::db::Db;
use crate::db::email::plugin_mail;
use crate::db::task::status as tasks;
use crate::error::Result;
use crate::id::PluginName;

/// The time between two counts in the database.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
/// The same while the plugin has half of the work that it may have, or more.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct WaitingWork {
    db: Db,
    clock: Clock,
    kind: Kind,
    /// The database counts for one plugin after the other, so that requests find connections.
    turn: Arc<Semaphore>,
    plugins: Arc<Mutex<HashMap<PluginName, Count>>>,
}

/// The work that is counted.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Jobs, by their number.
    Jobs,
    /// Mails, by their bytes.
    Mails,
}

/// The work of one plugin.
#[derive(Debug, Default)]
struct Count {
    amount: u64,
    /// The monotonic time of the latest count in the database.
    counted: Option<Duration>,
    /// While the database counts: the work that was added since it began.
    added_meanwhile: Option<u64>,
}

impl WaitingWork {
    /// Creates the counts of jobs.
    pub(super) fn jobs(db: Db, clock: Clock) -> Self {
        Self::new(Kind::Jobs, db, clock)
    }

    /// Creates the counts of the bytes of mails.
    pub(super) fn mails(db: Db, clock: Clock) -> Self {
        Self::new(Kind::Mails, db, clock)
    }

    fn new(kind: Kind, db: Db, clock: Clock) -> Self {
        Self { db, clock, kind, turn: Arc::new(Semaphore::new(1)), plugins: Arc::default() }
    }

    /// Counts work that is added. Returns whether it may be: the plugin has less than `most`.
    pub(super) fn add(&self, plugin: &PluginName, amount: u64, most: u64) -> bool {
        let now = self.clock.monotonic();
        let mut plugins = self.lock();
        let count = plugins.entry(plugin.clone()).or_default();
        let interval = if count.amount >= most / 2 { CLOSE_INTERVAL } else { COUNT_INTERVAL };
        let is_old = count.counted.is_none_or(|at| now.saturating_sub(at) >= interval);
        if is_old && count.added_meanwhile.is_none() {
            count.added_meanwhile = Some(0);
            self.count_again(plugin.clone(), most);
        }
        let is_admitted = count.amount < most;
        if is_admitted {
            count.amount = count.amount.saturating_add(amount);
            count.added_meanwhile = count.added_meanwhile.map(|added| added.saturating_add(amount));
        }
        is_admitted
    }

    /// Lets the database count, in the background.
    fn count_again(&self, plugin: PluginName, most: u64) {
        let waiting = self.clone();
        tokio::spawn(async move {
            let found = waiting.count(&plugin, most).await;
            let now = waiting.clock.monotonic();
            let mut plugins = waiting.lock();
            let count = plugins.entry(plugin).or_default();
            count.counted = Some(now);
            let added = count.added_meanwhile.take().unwrap_or_default();
            match found {
                // The database may have counted it too, until it counts again.
                Ok(amount) => count.amount = amount.saturating_add(added),
                Err(error) => tracing::debug!(error = error.report(), "the waiting work of a plugin cannot be counted"),
            }
        });
    }

    /// Returns the waiting work in the database.
    async fn count(&self, plugin: &PluginName, most: u64) -> Result<u64> {
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await.ok();
        match self.kind {
            Kind::Jobs => tasks::count_waiting(&self.db, plugin, most).await,
            Kind::Mails => plugin_mail::waiting_bytes(&self.db, plugin).await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PluginName, Count>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
