//! The number of waiting jobs of each plugin, so that a plugin that enqueues more than it works off does not fill the host's
//! database. Owns the counts, which span the releases of a plugin.
//!
//! The database counts them from time to time and in the background, so no call waits for that. In between, each job that
//! is added counts, and those that start do not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::db::Db;
use crate::db::task::status as table;
use crate::id::PluginName;

/// The time between two counts in the database.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
/// The same while the plugin has as many jobs as it may.
const FULL_INTERVAL: Duration = Duration::from_secs(1);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct WaitingJobs {
    db: Db,
    clock: Clock,
    plugins: Arc<Mutex<HashMap<PluginName, Count>>>,
}

/// The jobs of one plugin.
#[derive(Debug, Default)]
struct Count {
    jobs: u64,
    /// The monotonic time of the latest count in the database.
    counted: Option<Duration>,
    /// While the database counts: the jobs that were added since it began.
    added_meanwhile: Option<u64>,
}

impl WaitingJobs {
    pub(super) fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock, plugins: Arc::default() }
    }

    /// Counts a job that is added. Returns whether it may be: the plugin has fewer than `most`.
    pub(super) fn add(&self, plugin: &PluginName, most: u64) -> bool {
        let now = self.clock.monotonic();
        let mut plugins = self.lock();
        let count = plugins.entry(plugin.clone()).or_default();
        let interval = if count.jobs >= most { FULL_INTERVAL } else { COUNT_INTERVAL };
        let is_old = count.counted.is_none_or(|at| now.saturating_sub(at) >= interval);
        if is_old && count.added_meanwhile.is_none() {
            count.added_meanwhile = Some(0);
            self.count_again(plugin.clone(), most);
        }
        let is_admitted = count.jobs < most;
        if is_admitted {
            count.jobs += 1;
            count.added_meanwhile = count.added_meanwhile.map(|added| added + 1);
        }
        is_admitted
    }

    /// Lets the database count, in the background.
    fn count_again(&self, plugin: PluginName, most: u64) {
        let waiting = self.clone();
        tokio::spawn(async move {
            let found = table::count_waiting(&waiting.db, &plugin, most).await;
            let now = waiting.clock.monotonic();
            let mut plugins = waiting.lock();
            let count = plugins.entry(plugin).or_default();
            count.counted = Some(now);
            let added = count.added_meanwhile.take().unwrap_or_default();
            match found {
                // The database may have counted them too, until it counts again.
                Ok(jobs) => count.jobs = jobs.saturating_add(added),
                Err(error) => tracing::debug!(error = error.report(), "the waiting jobs of a plugin cannot be counted"),
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PluginName, Count>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
