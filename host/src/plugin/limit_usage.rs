//! Limits with their usage, and the current load: for operators and metrics. Reads the counters of the calls; changes
//! nothing.

use std::sync::atomic::Ordering;

use super::drain::Drain;
use super::engine::InstancePool;
use super::registry::Registry;
use super::release::Release;
use crate::capability::Limit;
use crate::capability::parameter::Parameters as _;
use crate::error::Result;
use crate::id::PluginName;

/// A limit of a release with its current usage and hit count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitUsage {
    /// The name, such as `memory` or `sql.rows`.
    pub name: String,
    /// The value as an operator writes it, such as `64MiB`.
    pub value: String,
    /// Whether the value was set for this plugin rather than for all.
    pub overridden: bool,
    /// The current usage; `None` if nothing is in use between calls.
    pub current: Option<u64>,
    /// The highest usage since the release was loaded, where it is counted.
    pub peak: Option<u64>,
    /// How often the limit was hit since then, where it is counted.
    pub hits: Option<u64>,
}

impl Registry {
    /// Returns every limit of a release with its usage.
    ///
    /// # Errors
    /// The stored limits are not valid for this version.
    pub fn limit_usage(&self, release: &Release) -> Result<Vec<LimitUsage>> {
        let record = &release.record;
        let calls = release.limits.to_texts().into_iter().map(|(name, value)| {
            let overridden = record.limits.get(name).is_some();
            (name.to_owned(), value, overridden)
        });
        let grants = self.live.capabilities().bounds(&record.grants)?.into_iter().map(|(name, value)| {
            let overridden = record.grants.parameter(&name).is_some();
            (name, value, overridden)
        });
        let as_number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(calls
            .chain(grants)
            .map(|(name, value, overridden)| {
                let current = match name.as_str() {
                    "concurrency" => Some(as_number(release.bulkhead.running())),
                    "cache.bytes" => Some(release.cache.usage().1),
                    "sql.disk" => self.data.disk(&record.plugin),
                    "sql.connections" => Some(as_number(self.data.in_use(&record.plugin))),
                    _ => release.prepared().and_then(|parts| parts.admitted.in_use(&name)),
                };
                let peak = (name == Limit::Memory.as_str()).then(|| release.usage.memory_peak());
                let hits = release.usage.hits().find(|(limit, _)| limit.as_str() == name).map(|(_, count)| count);
                LimitUsage { name, value, overridden, current, peak, hits }
            })
            .collect())
    }

    /// Returns the numbers of deploys since the start: succeeded, failed.
    pub fn deploys(&self) -> [u64; 2] {
        self.deploys.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Returns the number of database connections of a plugin that are in use.
    pub fn connections(&self, plugin: &PluginName) -> usize {
        self.data.in_use(plugin)
    }

    /// Returns the bytes of disk that a plugin's database takes, where they are known.
    pub fn disk(&self, plugin: &PluginName) -> Option<u64> {
        self.data.disk(plugin)
    }

    /// Returns the releases that were replaced lately while they had calls, and that are not loaded again.
    pub fn drains(&self) -> Vec<Drain> {
        self.live.drains()
    }

    /// Returns the number of replaced releases that are still in use.
    pub fn draining(&self) -> usize {
        self.live.draining()
    }

    /// Returns the usage of the instance pool.
    pub fn instance_pool(&self) -> InstancePool {
        self.live.sandbox().instance_pool()
    }

    /// Returns the number of call slots of all plugins together.
    pub fn call_slots(&self) -> usize {
        self.live.sandbox().call_slots().size()
    }

    /// Returns the memory of the calls that wait for their turn or for a call slot.
    pub fn waiting_bytes(&self) -> usize {
        self.live.sandbox().call_slots().waiting_bytes()
    }

    /// Returns the numbers of running calls and of calls that wait for an unreserved call slot.
    pub fn calls(&self) -> (usize, usize) {
        self.live.calls()
    }
}
