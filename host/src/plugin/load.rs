//! What plugins take now and took until now, beside what they may take: for operators and metrics. Reads what calls
//! count; changes nothing.

use std::sync::atomic::Ordering;

use super::drain::Drain;
use super::engine::Pool;
use super::registry::Registry;
use super::release::Release;
use crate::capability::Limit;
use crate::capability::parameter::Parameters as _;
use crate::error::Result;
use crate::id::PluginName;

/// A limit with how near its plugin is to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounded {
    /// `memory`, `sql.rows`.
    pub name: String,
    /// As it is written: `64MiB`.
    pub value: String,
    /// Set for this plugin rather than for all.
    pub own: bool,
    /// What is in use now; none where nothing is between calls.
    pub current: Option<u64>,
    /// The most that was in use since the release was loaded, where that is counted.
    pub peak: Option<u64>,
    /// How often it was met since then; none where that is not counted.
    pub met: Option<u64>,
}

impl Registry {
    /// Every limit of a release.
    ///
    /// # Errors
    /// What was stored makes no sense to this version.
    pub fn bounds(&self, release: &Release) -> Result<Vec<Bounded>> {
        let record = &release.record;
        let calls = release.limits.texts().into_iter().map(|(name, value)| {
            let own = record.limits.get(name).is_some();
            (name.to_owned(), value, own)
        });
        let grants = self.capabilities.bounds(&record.grants)?.into_iter().map(|(name, value)| {
            let own = record.grants.parameter(&name).is_some();
            (name, value, own)
        });
        let as_number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(calls
            .chain(grants)
            .map(|(name, value, own)| {
                let current = match name.as_str() {
                    "concurrency" => Some(as_number(release.bulkhead.running())),
                    "cache.bytes" => Some(release.cache.held().1),
                    "sql.disk" => self.data.disk(&record.plugin),
                    "sql.connections" => Some(as_number(self.data.in_use(&record.plugin))),
                    _ => release.admitted.in_use(&name),
                };
                let peak = (name == Limit::Memory.as_str()).then(|| release.usage.memory_peak());
                let met = release.usage.hits().find(|(limit, _)| limit.as_str() == name).map(|(_, count)| count);
                Bounded { name, value, own, current, peak, met }
            })
            .collect())
    }

    /// Deploys since the start that succeeded, and that failed.
    pub fn deploys(&self) -> [u64; 2] {
        self.deploys.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Database connections of a plugin that are in use.
    pub fn connections(&self, plugin: &PluginName) -> usize {
        self.data.in_use(plugin)
    }

    /// Bytes of disk that a plugin's database takes, as far as that is known.
    pub fn disk(&self, plugin: &PluginName) -> Option<u64> {
        self.data.disk(plugin)
    }

    /// Releases that were replaced lately while they had calls, and are not served again.
    pub fn drained(&self) -> Vec<Drain> {
        let generation = self.generation();
        let served = |drain: &Drain| {
            let mut releases = generation.plugins.releases().map(|release| &release.record);
            releases.any(|record| record.plugin == drain.plugin && record.number == drain.release)
        };
        let mut drains = self.drains.with_calls();
        drains.retain(|drain| !served(drain));
        // One that was replaced twice counted anew the second time.
        drains.reverse();
        drains.sort_by_key(|drain| (drain.plugin.clone(), drain.release));
        drains.dedup_by_key(|drain| (drain.plugin.clone(), drain.release));
        drains
    }

    /// What the pool of instances holds.
    pub fn pool(&self) -> Pool {
        self.sandbox.pool()
    }

    /// Places for calls of all plugins.
    pub fn places(&self) -> usize {
        self.sandbox.all().size()
    }
}
