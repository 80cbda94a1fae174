//! A generation: the immutable table of everything that is served at one moment. It is swapped as a whole, so that a
//! request sees either all of a deploy or nothing of it. Owns the route tables and the rules for mounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::canary::Canary;
use super::release::{Release, ReleaseRoute};
use crate::error::{Error, Result, code};
use crate::id::PluginName;
use crate::route::table::Conflict;
use crate::route::{RouteTable, Template};

/// The target of a request.
#[derive(Clone)]
pub enum Target {
    /// A route of the host, by its index.
    Host(usize),
    /// A route of a release, by its index.
    Plugin(Arc<Release>, usize),
}

/// Everything that is served at one moment.
pub struct Generation {
    /// Increases with every swap.
    pub number: u64,
    /// The plugins by state.
    pub plugins: Plugins,
    /// Finds the target of a request.
    table: RouteTable<Target>,
    /// For each canary, the same table with the canary in place of the live release.
    canary_tables: Vec<CanaryTable>,
}

/// The plugins of a generation by state.
#[derive(Clone, Default)]
pub struct Plugins {
    /// Live releases.
    pub live: BTreeMap<PluginName, Arc<Release>>,
    /// Canaries next to a live release.
    pub canaries: BTreeMap<PluginName, Arc<Canary>>,
    /// Releases that are loaded and respond 503 until they are resumed.
    pub paused: BTreeMap<PluginName, Arc<Release>>,
    /// Plugins that are known but not loaded.
    pub absent: BTreeMap<PluginName, Absent>,
}

/// A plugin that is known but not loaded.
#[derive(Debug, Clone)]
pub struct Absent {
    /// Its last mount.
    pub mount: Template,
    /// Why it is not served.
    pub reason: Absence,
}

struct CanaryTable {
    mount: String,
    canary: Arc<Canary>,
    table: RouteTable<Target>,
}

/// The mount and the routes of one plugin.
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
    /// Its release could not be loaded at start.
    Broken,
    /// An operator paused it.
    Paused,
    /// An operator revoked a grant that its release needs.
    Revoked,
}

impl<'a> MountedRoutes<'a> {
    /// Returns the mount and the routes of a release.
    pub(super) fn of(release: &'a Release) -> Self {
        Self { plugin: &release.record.plugin, mount: &release.record.mount, routes: &release.routes }
    }
}

impl Plugins {
    /// Returns the release of a plugin that is live or paused.
    pub fn current(&self, plugin: &PluginName) -> Option<&Arc<Release>> {
        self.live.get(plugin).or_else(|| self.paused.get(plugin))
    }

    /// Returns the names of all plugins, in order.
    pub fn names(&self) -> std::collections::BTreeSet<&PluginName> {
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

    /// Returns the current release of every loaded plugin, with whether it is paused.
    pub fn loaded(&self) -> impl Iterator<Item = (&Arc<Release>, bool)> {
        let live = self.live.values().map(|release| (release, false));
        live.chain(self.paused.values().map(|release| (release, true)))
    }
}

impl Generation {
    /// Checks that these plugins can be served together and next to the host's routes.
    ///
    /// # Errors
    /// 409 `route_conflict`: a mount or a route is already taken.
    pub(super) fn check(host_routes: &[(String, Template)], served: &[MountedRoutes<'_>]) -> Result<()> {
        for (index, one) in served.iter().enumerate() {
            check_mount(one.mount, host_routes)?;
            let overlaps =
                |other: &&MountedRoutes<'_>| one.mount.is_within(other.mount) || other.mount.is_within(one.mount);
            if let Some(other) = served.iter().take(index).find(overlaps) {
                return Err(conflict(format!(
                    "The mount {} of '{}' overlaps with {}, the mount of the plugin '{}'",
                    one.mount, one.plugin, other.mount, other.plugin
                )));
            }
        }
        let host = host_routes.iter().map(|(method, template)| (method.clone(), template.clone(), ()));
        let plugins = served
            .iter()
            .flat_map(|one| one.routes.iter().map(|route| (route.method.clone(), route.template.clone(), ())));
        RouteTable::build(host.chain(plugins)).map(drop).map_err(route_taken)
    }

    /// Builds the route tables of the host's routes and these plugins, which passed [`Generation::check`].
    ///
    /// # Errors
    /// As [`Generation::check`].
    pub(super) fn build(number: u64, host_routes: &[(String, Template)], plugins: Plugins) -> Result<Self> {
        let table = build_table(host_routes, plugins.live.values())?;
        let canary_tables = plugins
            .canaries
            .iter()
            .map(|(plugin, canary)| {
                let others = plugins.live.iter().filter(|(name, _)| *name != plugin).map(|(_, release)| release);
                let table = build_table(host_routes, others.chain([&canary.release]))?;
                Ok(CanaryTable { mount: canary.release.record.mount.to_string(), canary: Arc::clone(canary), table })
            })
            .collect::<Result<_>>()?;
        Ok(Self { number, plugins, table, canary_tables })
    }

    /// Returns the routes for callers that no canary serves.
    pub fn table(&self) -> &RouteTable<Target> {
        &self.table
    }

    /// Returns the canary below whose mount a path lies, with the routes for its chosen callers.
    pub fn canary(&self, path: &str) -> Option<(&Canary, &RouteTable<Target>)> {
        let found = self.canary_tables.iter().find(|table| is_below(path, &table.mount))?;
        Some((&found.canary, &found.table))
    }

    /// Returns why the plugin is not served below whose mount a path lies.
    pub fn absence(&self, path: &str) -> Option<Absence> {
        let plugins = &self.plugins;
        if plugins.paused.values().any(|release| is_below(path, &release.record.mount.to_string())) {
            return Some(Absence::Paused);
        }
        plugins.absent.values().find(|absent| is_below(path, &absent.mount.to_string())).map(|absent| absent.reason)
    }
}

fn is_below(path: &str, mount: &str) -> bool {
    path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn build_table<'a>(
    host_routes: &[(String, Template)],
    releases: impl Iterator<Item = &'a Arc<Release>>,
) -> Result<RouteTable<Target>> {
    let host = host_routes
        .iter()
        .enumerate()
        .map(|(index, (method, template))| (method.clone(), template.clone(), Target::Host(index)));
    let plugins = releases.flat_map(|release| {
        release.routes.iter().enumerate().map(|(index, route)| {
            (route.method.clone(), route.template.clone(), Target::Plugin(Arc::clone(release), index))
        })
    });
    RouteTable::build(host.chain(plugins)).map_err(route_taken)
}

/// Checks that a mount is a fixed path that neither contains nor lies below a path of the host.
fn check_mount(mount: &Template, host_routes: &[(String, Template)]) -> Result<()> {
    if !mount.is_literal() || mount.depth() == 0 {
        return Err(conflict(format!("The mount {mount} is not a fixed path below '/'")));
    }
    for (_, template) in host_routes {
        let root = template.root();
        if mount.is_within(&root) || root.is_within(mount) {
            return Err(conflict(format!("The mount {mount} overlaps with {root}, which belongs to the host")));
        }
    }
    Ok(())
}

fn route_taken(taken: Conflict) -> Error {
    conflict(format!("The route {} {} is already served", taken.method, taken.path))
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
        for free in ["/api/v1/items", "/shop", "/api/v2", "/api/v1/users2"] {
            assert!(check_mount(&parse(free), &host).is_ok(), "{free}");
        }
        for taken in ["/", "/api", "/api/v1", "/api/v1/users", "/api/v1/users/me", "/healthz/x", "/x/{id}"] {
            assert!(check_mount(&parse(taken), &host).is_err(), "{taken}");
        }
    }
}
