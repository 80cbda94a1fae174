//! The live set: the current generation, the lock that orders its changes, and the parts that every change moves along
//! (call slots, capabilities, drains).
//!
//! A reader takes the current [`Generation`] without a lock and keeps it as long as it needs. A writer holds the change
//! lock, builds the next generation and swaps it in. Calls in flight on a replaced release finish on it. The live set
//! knows neither the database nor the reason for a change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::MutexGuard;

use super::bulkhead::Bulkhead;
use super::drain::{Drain, Drains};
use super::generation::{Generation, MountedRoutes, Plugins};
use super::release::Release;
use super::sandbox::Sandbox;
use crate::capability::Capabilities;
use crate::config;
use crate::error::Result;
use crate::id::PluginName;
use crate::route::Template;

/// See the module.
pub(super) struct LiveSet {
    generation: ArcSwap<Generation>,
    changing: tokio::sync::Mutex<()>,
    sandbox: Sandbox,
    capabilities: Capabilities,
    limits: config::Plugins,
    host_routes: Vec<(String, Template)>,
    bulkheads: Mutex<HashMap<PluginName, Arc<Bulkhead>>>,
    drains: Drains,
}

impl LiveSet {
    /// Creates a live set without plugins.
    ///
    /// # Errors
    /// The host's own routes conflict with each other.
    pub(super) fn new(
        sandbox: Sandbox,
        capabilities: Capabilities,
        limits: config::Plugins,
        host_routes: Vec<(String, Template)>,
    ) -> Result<Self> {
        let empty = Generation::build(0, &host_routes, Plugins::default())?;
        Ok(Self {
            generation: ArcSwap::from_pointee(empty),
            changing: tokio::sync::Mutex::default(),
            sandbox,
            capabilities,
            limits,
            host_routes,
            bulkheads: Mutex::default(),
            drains: Drains::default(),
        })
    }

    /// Returns the current generation.
    pub(super) fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Waits for the change lock. Every operation that calls [`swap`](Self::swap) after the start holds it.
    pub(super) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Returns the sandbox that runs the guests.
    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Returns the capabilities that releases are admitted to.
    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Checks that these routes can be served next to the host's and those of all other loaded plugins.
    ///
    /// # Errors
    /// See [`Generation::check`].
    pub(super) fn check_routes(&self, candidate: MountedRoutes<'_>) -> Result<()> {
        let generation = self.generation();
        let releases = generation.plugins.loaded().map(|(release, _)| release);
        let neighbours = releases.filter(|release| release.record.plugin != *candidate.plugin);
        let all: Vec<_> = neighbours.map(|release| MountedRoutes::of(release)).chain([candidate]).collect();
        Generation::check(&self.host_routes, &all)
    }

    /// Makes a release the current one of its plugin: live, or paused if the plugin is paused. A canary ends.
    pub(super) fn serve(&self, release: Arc<Release>) -> Result<()> {
        let plugin = release.record.plugin.clone();
        self.swap(|plugins| {
            let paused = plugins.paused.contains_key(&plugin);
            plugins.forget(&plugin);
            let state = if paused { &mut plugins.paused } else { &mut plugins.live };
            state.insert(plugin, release);
        })
    }

    /// Builds the next generation and swaps it in. Calls in flight on releases that it does not contain are drained.
    pub(super) fn swap(&self, change: impl FnOnce(&mut Plugins)) -> Result<()> {
        let current = self.generation();
        let mut plugins = current.plugins.clone();
        change(&mut plugins);
        let next = Arc::new(Generation::build(current.number + 1, &self.host_routes, plugins)?);
        for release in next.plugins.live.values() {
            let plugin = &release.record.plugin;
            if !current.plugins.live.get(plugin).is_some_and(|served| Arc::ptr_eq(served, release)) {
                self.capabilities.serve(plugin, &release.admitted);
                release.bulkhead.resize(release.limits.concurrency, release.limits.queue_time);
            }
        }
        self.reserve_call_slots(&next.plugins);
        self.generation.store(Arc::clone(&next));
        for release in current.plugins.releases() {
            if !next.plugins.releases().any(|kept| Arc::ptr_eq(kept, release)) {
                self.drains.begin(release, self.limits.drain_time);
            }
        }
        Ok(())
    }

    /// Returns the bulkhead of a plugin, which all its releases share.
    pub(super) fn bulkhead(&self, plugin: &PluginName) -> Arc<Bulkhead> {
        let mut bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        let bulkhead = bulkheads.entry(plugin.clone()).or_insert_with(|| {
            Arc::new(Bulkhead::new(self.limits.concurrency, self.limits.queue_time, self.sandbox.cpu_queue()))
        });
        Arc::clone(bulkhead)
    }

    /// Returns the numbers of running calls and of calls that wait for an unreserved call slot.
    pub(super) fn calls(&self) -> (usize, usize) {
        let bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.sandbox.call_slots();
        (slots.running(bulkheads.values().map(|bulkhead| &**bulkhead)), slots.waiting())
    }

    /// Returns the releases that were replaced lately while they had calls, and that are not loaded again.
    pub(super) fn drains(&self) -> Vec<Drain> {
        let generation = self.generation();
        let loaded = |drain: &Drain| {
            let mut releases = generation.plugins.releases().map(|release| &release.record);
            releases.any(|record| record.plugin == drain.plugin && record.number == drain.release)
        };
        let mut drains = self.drains.with_calls();
        drains.retain(|drain| !loaded(drain));
        // A release that was replaced twice has two drains; the later one has the counts since it was loaded again.
        drains.reverse();
        drains.sort_by_key(|drain| (drain.plugin.clone(), drain.release));
        drains.dedup_by_key(|drain| (drain.plugin.clone(), drain.release));
        drains
    }

    /// Reserves call slots for the live plugins.
    fn reserve_call_slots(&self, plugins: &Plugins) {
        let bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        let all = bulkheads.iter().map(|(plugin, bulkhead)| (&**bulkhead, plugins.live.contains_key(plugin)));
        self.sandbox.call_slots().reserve(all);
    }
}
