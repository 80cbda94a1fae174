//! A generation: the immutable table of everything that is served at one moment. It is swapped as a whole, so that a
//! request sees either all of a deploy or nothing of it. Owns the plugins by state, the index of their mounts, and the
//! rules for mounts. Each release has the table of its own routes.
//!
//! Successive generations share what did not change. So a change and a look-up cost the same for ten plugins as for ten
//! thousand, up to a logarithm.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::artifact::Digest;
use super::canary::Canary;
use super::mounts::Mounts;
use super::release::{Release, ReleaseRoute, route_table};
use super::state_map::{SharedMap, StateMap};
use crate::error::{Error, Result, code};
use crate::id::PluginName;
use crate::route::Template;

/// Everything that is served at one moment.
#[derive(Default)]
pub struct Generation {
    /// Increases with every swap.
    pub number: u64,
    /// The plugins by state.
    pub plugins: Plugins,
}

/// The plugins of a generation by state.
#[derive(Clone, Default)]
pub struct Plugins {
    /// Live releases.
    pub live: StateMap<Arc<Release>>,
    /// Canaries next to a live release.
    pub canaries: StateMap<Arc<Canary>>,
    /// Releases that respond 503 until they are resumed.
    pub paused: StateMap<Arc<Release>>,
    /// Plugins that are known and have no release that could be served.
    pub absent: StateMap<Absent>,
    mounts: Mounts,
    /// The number of live and paused releases of each file.
    files: SharedMap<Digest, usize>,
}

/// The plugin below whose mount a path lies.
pub enum Found {
    /// It is served.
    Served {
        /// The live release.
        live: Arc<Release>,
        /// The canary next to it.
        canary: Option<Arc<Canary>>,
    },
    /// It is not served.
    Absent(Absence),
}

/// A plugin that is known but not loaded.
#[derive(Debug, Clone)]
pub struct Absent {
    /// Its last mount.
    pub mount: Template,
    /// Why it is not served.
    pub reason: Absence,
}

/// The mount of one plugin, and its routes if they are not checked yet.
pub(super) struct MountedRoutes<'a> {
    pub(super) plugin: &'a PluginName,
    pub(super) mount: &'a Template,
    pub(super) routes: &'a [ReleaseRoute],
}

/// Why a plugin is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// An operator removed it.
    Removed,
    /// Its release could not be loaded.
    Broken,
    /// At the start, its mount belonged to the host or to another plugin.
    Conflict,
    /// An operator paused it.
    Paused,
    /// An operator revoked a grant that its release needs.
    Revoked,
}

impl<'a> MountedRoutes<'a> {
    /// Returns the mount of a release, without its routes: they are checked whenever it is prepared.
    pub(super) fn of(release: &'a Release) -> Self {
        Self { plugin: &release.record.plugin, mount: &release.record.mount, routes: &[] }
    }
}

impl Plugins {
    /// Returns the release of a plugin that is live or paused.
    pub fn current(&self, plugin: &PluginName) -> Option<&Arc<Release>> {
        self.live.get(plugin).or_else(|| self.paused.get(plugin))
    }

    /// Returns the names of all plugins, in order.
    pub fn names(&self) -> BTreeSet<&PluginName> {
        self.live.keys().chain(self.paused.keys()).chain(self.absent.keys()).collect()
    }

    /// Returns every loaded release.
    pub fn releases(&self) -> impl Iterator<Item = &Arc<Release>> {
        let canaries = self.canaries.values().map(|canary| &canary.release);
        self.live.values().chain(self.paused.values()).chain(canaries)
    }

    /// Removes a plugin from every state.
    pub(super) fn forget(&mut self, plugin: &PluginName) {
        self.live.remove(plugin);
        self.canaries.remove(plugin);
        self.paused.remove(plugin);
        self.absent.remove(plugin);
    }

    /// Returns the current release of every plugin that has one, with whether it is paused.
    pub fn loaded(&self) -> impl Iterator<Item = (&Arc<Release>, bool)> {
        let live = self.live.values().map(|release| (release, false));
        live.chain(self.paused.values().map(|release| (release, true)))
    }

    /// Returns whether a live or paused release is of this file.
    pub fn has_file(&self, digest: &Digest) -> bool {
        self.files.get(digest).is_some()
    }

    /// Returns the releases of one plugin.
    pub(super) fn releases_of<'a>(&'a self, plugin: &'a PluginName) -> impl Iterator<Item = &'a Arc<Release>> {
        let canary = self.canaries.get(plugin).map(|canary| &canary.release);
        [self.live.get(plugin), self.paused.get(plugin), canary].into_iter().flatten()
    }

    /// Brings the indexes up to date after a change, and returns the plugins that were changed. `before` is the state from
    /// which the change was made.
    pub(super) fn index(&mut self, before: &Self) -> BTreeSet<PluginName> {
        let mut changed: BTreeSet<PluginName> = self.live.take_changed().into_iter().collect();
        changed.extend(self.canaries.take_changed());
        changed.extend(self.paused.take_changed());
        changed.extend(self.absent.take_changed());
        for plugin in &changed {
            if let Some(release) = before.current(plugin) {
                self.mounts.remove_loaded(&release.record.mount.to_string(), plugin);
                self.count_file(&release.record.digest, |count| count.saturating_sub(1));
            }
            if let Some(absent) = before.absent.get(plugin) {
                self.mounts.remove_absent(&absent.mount.to_string(), plugin);
            }
        }
        for plugin in &changed {
            if let Some(release) = self.current(plugin).cloned() {
                self.mounts.insert_loaded(release.record.mount.to_string(), plugin.clone());
                self.count_file(&release.record.digest, |count| count.saturating_add(1));
            }
            if let Some(absent) = self.absent.get(plugin) {
                self.mounts.insert_absent(absent.mount.to_string(), plugin.clone());
            }
        }
        changed
    }

    fn count_file(&mut self, digest: &Digest, change: impl FnOnce(usize) -> usize) {
        match change(self.files.get(digest).copied().unwrap_or_default()) {
            0 => self.files.remove(digest),
            count => self.files.insert(digest.clone(), count),
        }
    }

    /// Checks that a plugin can be served next to the host's routes and to all other loaded plugins.
    ///
    /// # Errors
    /// 409 `route_conflict`: its mount is already taken, or two of its routes match the same requests.
    pub(super) fn check(&self, host: &HostPaths, candidate: &MountedRoutes<'_>) -> Result<()> {
        let MountedRoutes { plugin, mount, routes } = candidate;
        host.check(mount)?;
        if let Some((taken, other)) = self.mounts.overlapping(&mount.to_string(), plugin) {
            let text =
                format!("The mount {mount} of '{plugin}' overlaps with {taken}, the mount of the plugin '{other}'");
            return Err(conflict(text));
        }
        route_table(routes).map(drop)
    }
}

impl Generation {
    /// Returns the plugin below whose mount a path lies.
    pub fn find(&self, path: &str) -> Option<Found> {
        let plugins = &self.plugins;
        if let Some(plugin) = plugins.mounts.loaded(path) {
            let Some(live) = plugins.live.get(plugin).cloned() else { return Some(Found::Absent(Absence::Paused)) };
            return Some(Found::Served { live, canary: plugins.canaries.get(plugin).cloned() });
        }
        let absent = plugins.absent.get(plugins.mounts.absent(path)?)?;
        Some(Found::Absent(absent.reason))
    }
}

/// The paths that belong to the host.
pub(super) struct HostPaths(Vec<Template>);

impl HostPaths {
    /// Returns the paths that these routes claim.
    pub(super) fn of(routes: &[(String, Template)]) -> Self {
        let mut roots: Vec<Template> = Vec::new();
        for (_, template) in routes {
            let root = template.root();
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        Self(roots)
    }

    /// Checks that a mount is a fixed path that neither contains nor lies below a path of the host.
    fn check(&self, mount: &Template) -> Result<()> {
        if !mount.is_literal() || mount.depth() == 0 {
            return Err(conflict(format!("The mount {mount} is not a fixed path below '/'")));
        }
        match self.0.iter().find(|root| mount.is_within(root) || root.is_within(mount)) {
            Some(root) => Err(conflict(format!("The mount {mount} overlaps with {root}, which belongs to the host"))),
            None => Ok(()),
        }
    }
}

fn conflict(reason: String) -> Error {
    Error::conflict(code::ROUTE_CONFLICT, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_overlaps_a_path_of_the_host_is_refused() {
        let parse = |text: &str| text.parse::<Template>().unwrap();
        let host: Vec<(String, Template)> = ["/healthz", "/api/v1/users/{user_id}", "/api/v1/openapi.json"]
            .map(|path| ("GET".into(), parse(path)))
            .into();
        let host = HostPaths::of(&host);
        for free in ["/api/v1/items", "/shop", "/api/v2", "/api/v1/users2"] {
            assert!(host.check(&parse(free)).is_ok(), "{free}");
        }
        for taken in ["/", "/api", "/api/v1", "/api/v1/users", "/api/v1/users/me", "/healthz/x", "/x/{id}"] {
            assert!(host.check(&parse(taken)).is_err(), "{taken}");
        }
    }
}
