//! The live set: the current generation, the lock that orders its changes, and the parts that every change moves along
//! (call slots, capabilities, drains).
//!
//! A reader takes the current [`Generation`] without a lock. A request keeps the release that it calls as long as it
//! needs, but not the generation: that would keep the replaced releases of all plugins. A writer holds the change lock,
//! builds the next generation and swaps it in, which costs the same for any number of plugins. Calls in flight on a
//! replaced release finish on it. The live set knows neither the database nor the reason for a change.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::MutexGuard;

use super::bulkhead::Bulkhead;
use super::drain::{Drain, Drains};
use super::generation::{Absence, Absent, Generation, HostPaths, MountedRoutes, Plugins};
use super::release::Release;
use super::sandbox::Sandbox;
use crate::capability::Capabilities;
use crate::config;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::route::Template;

/// See the module.
pub(super) struct LiveSet {
    generation: ArcSwap<Generation>,
    changing: tokio::sync::Mutex<()>,
    /// Held during a swap, which is short and waits for nothing.
    swapping: Mutex<()>,
    sandbox: Sandbox,
    capabilities: Capabilities,
    limits: config::Plugins,
    host_paths: HostPaths,
    bulkheads: Mutex<HashMap<PluginName, Arc<Bulkhead>>>,
    drains: Drains,
}

impl LiveSet {
    /// Creates a live set without plugins.
    pub(super) fn new(
        sandbox: Sandbox,
        capabilities: Capabilities,
        limits: config::Plugins,
        host_routes: &[(String, Template)],
    ) -> Self {
        Self {
            generation: ArcSwap::from_pointee(Generation::default()),
            changing: tokio::sync::Mutex::default(),
            swapping: Mutex::default(),
            sandbox,
            capabilities,
            limits,
            host_paths: HostPaths::of(host_routes),
            bulkheads: Mutex::default(),
            drains: Drains::default(),
        }
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

    /// Checks that a plugin can be served next to the host's routes and to all other loaded plugins. Clashes among others
    /// do not matter.
    ///
    /// # Errors
    /// See [`Plugins::check`].
    pub(super) fn check_routes(&self, candidate: MountedRoutes<'_>) -> Result<()> {
        self.generation().plugins.check(&self.host_paths, &candidate)
    }

    /// Serves the plugins that were served before the start. A plugin whose mount belongs to the host or to a plugin
    /// before it in the list is not served; the reasons are returned.
    pub(super) fn restore(
        &self,
        releases: Vec<(Arc<Release>, bool)>,
        absent: Vec<(PluginName, Absent)>,
    ) -> Vec<(PluginName, Error)> {
        let mut clashes = Vec::new();
        let mut plugins = Plugins::default();
        for (release, paused) in releases {
            let before = plugins.clone();
            let (plugin, mount) = (release.record.plugin.clone(), release.record.mount.clone());
            if let Err(error) = plugins.check(&self.host_paths, &MountedRoutes::of(&release)) {
                plugins.absent.insert(plugin.clone(), Absent { mount, reason: Absence::Conflict });
                clashes.push((plugin, error));
            } else {
                let state = if paused { &mut plugins.paused } else { &mut plugins.live };
                state.insert(plugin, release);
            }
            plugins.index(&before);
        }
        // One swap for all, because each one has a cost of its own.
        self.swap(|served| {
            for (plugin, state) in plugins.live.iter() {
                served.live.insert(plugin.clone(), Arc::clone(state));
            }
            for (plugin, state) in plugins.paused.iter() {
                served.paused.insert(plugin.clone(), Arc::clone(state));
            }
            for (plugin, state) in plugins.absent.iter() {
                served.absent.insert(plugin.clone(), state.clone());
            }
            for (plugin, state) in absent {
                served.absent.insert(plugin, state);
            }
        });
        clashes
    }

    /// Makes a release the current one of its plugin: live, or paused. A canary ends.
    pub(super) fn serve(&self, release: Arc<Release>, paused: bool) {
        let plugin = release.record.plugin.clone();
        self.swap(|plugins| {
            plugins.forget(&plugin);
            let state = if paused { &mut plugins.paused } else { &mut plugins.live };
            state.insert(plugin, release);
        });
    }

    /// Builds the next generation and swaps it in. Calls in flight on releases that it does not contain are drained.
    pub(super) fn swap(&self, change: impl FnOnce(&mut Plugins)) {
        let _swapping = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.generation();
        let mut plugins = current.plugins.clone();
        change(&mut plugins);
        let changed = plugins.index(&current.plugins);
        let next = Arc::new(Generation { number: current.number + 1, plugins });
        for plugin in &changed {
            let Some(release) = next.plugins.live.get(plugin) else { continue };
            if !current.plugins.live.get(plugin).is_some_and(|served| Arc::ptr_eq(served, release)) {
                self.apply_quotas(release);
                release.pause.resume();
                release.bulkhead.resize(release.limits.concurrency, release.limits.queue_time);
            }
        }
        self.reserve_call_slots(&current.plugins, &next.plugins, &changed);
        self.generation.store(Arc::clone(&next));
        for plugin in &changed {
            for release in current.plugins.releases_of(plugin) {
                if !next.plugins.releases_of(plugin).any(|kept| Arc::ptr_eq(kept, release)) {
                    self.drains.begin(release, self.limits.drain_time);
                }
            }
        }
    }

    /// Applies the quotas of a release that was prepared while it was served already.
    pub(super) fn prepared(&self, release: &Arc<Release>) {
        let _swapping = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation();
        if generation.plugins.live.get(&release.record.plugin).is_some_and(|live| Arc::ptr_eq(live, release)) {
            self.apply_quotas(release);
        }
    }

    /// Applies the quotas of a live release to the state that all releases of its plugin share. One that is not prepared
    /// has not reached that state yet.
    fn apply_quotas(&self, release: &Release) {
        if let Some(prepared) = release.prepared() {
            self.capabilities.serve(&release.record.plugin, &prepared.admitted);
        }
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

    /// Ends the calls of a plugin that is not served any more, and waits until none runs.
    pub(super) async fn end_calls(&self, plugin: &PluginName) {
        self.drains.end_calls(plugin).await;
    }

    /// Returns the number of replaced releases that are still in use.
    pub(super) fn draining(&self) -> usize {
        self.drains.running()
    }

    /// Returns the releases that were replaced lately while they had calls, and that are not loaded again.
    pub(super) fn drains(&self) -> Vec<Drain> {
        let generation = self.generation();
        let loaded = |drain: &Drain| {
            let mut releases = generation.plugins.releases_of(&drain.plugin);
            releases.any(|release| release.record.number == drain.release)
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
    fn reserve_call_slots(&self, before: &Plugins, next: &Plugins, changed: &BTreeSet<PluginName>) {
        let slots = self.sandbox.call_slots();
        let most = slots.size() / 2;
        if before.live.len() > most && next.live.len() > most {
            // With more live plugins than slots to reserve, none is reserved, before and after.
            return;
        }
        let live = next.live.values().map(|release| (&*release.bulkhead, true));
        let gone = changed.iter().filter(|plugin| !next.live.contains_key(plugin));
        let gone = gone.filter_map(|plugin| before.live.get(plugin)).map(|release| (&*release.bulkhead, false));
        slots.reserve(live.chain(gone));
    }
}
