//! A generation: the immutable table of everything that is served at one moment. Swapped as a whole, so that a request
//! sees either all of a deploy or nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::release::{Release, ReleaseRoute};
use crate::error::{Error, Result, code};
use crate::id::PluginName;
use crate::route::table::Conflict;
use crate::route::{RouteTable, Template};

/// What answers a request.
#[derive(Clone)]
pub enum Target {
    /// The host's own route of this index.
    Host(usize),
    /// A route of a release, by its index.
    Plugin(Arc<Release>, usize),
}

/// Everything that is served at one moment.
pub struct Generation {
    /// Counts up with every swap.
    pub number: u64,
    /// Live releases by plugin.
    pub releases: BTreeMap<PluginName, Arc<Release>>,
    /// Plugins that are known and not served.
    pub absent: BTreeMap<PluginName, Absent>,
    /// Finds the target of a request.
    pub table: RouteTable<Target>,
}

/// A plugin that is known and not served.
#[derive(Debug, Clone)]
pub struct Absent {
    /// Where it was.
    pub mount: Template,
    /// Why it is not served.
    pub reason: Absence,
}

/// What one plugin would serve.
pub(super) struct Served<'a> {
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
}

impl Generation {
    /// Whether these plugins can be served together, beside the host's routes.
    ///
    /// # Errors
    /// 409 `route_conflict`: a mount or a route is somebody else's already.
    pub(super) fn check(host_routes: &[(String, Template)], served: &[Served<'_>]) -> Result<()> {
        for (index, one) in served.iter().enumerate() {
            check_mount(one.mount, host_routes)?;
            let overlaps = |other: &&Served<'_>| one.mount.is_within(other.mount) || other.mount.is_within(one.mount);
            if let Some(other) = served.iter().take(index).find(overlaps) {
                return Err(conflict(format!(
                    "The mount {} of '{}' overlaps with {}, where the plugin '{}' is",
                    one.mount, one.plugin, other.mount, other.plugin
                )));
            }
        }
        let host = host_routes.iter().map(|(method, template)| (method.clone(), template.clone(), ()));
        let plugins = served
            .iter()
            .flat_map(|one| one.routes.iter().map(|route| (route.method.clone(), route.template.clone(), ())));
        RouteTable::build(host.chain(plugins)).map(drop).map_err(clash)
    }

    /// Builds the table of the host's routes and these releases, which [`Generation::check`] found to fit together.
    ///
    /// # Errors
    /// As there.
    pub(super) fn build(
        number: u64,
        host_routes: &[(String, Template)],
        releases: BTreeMap<PluginName, Arc<Release>>,
        absent: BTreeMap<PluginName, Absent>,
    ) -> Result<Self> {
        let host = host_routes
            .iter()
            .enumerate()
            .map(|(index, (method, template))| (method.clone(), template.clone(), Target::Host(index)));
        let plugins = releases.values().flat_map(|release| {
            release.routes.iter().enumerate().map(|(index, route)| {
                (route.method.clone(), route.template.clone(), Target::Plugin(Arc::clone(release), index))
            })
        });
        let table = RouteTable::build(host.chain(plugins)).map_err(clash)?;
        Ok(Self { number, releases, absent, table })
    }

    /// The plugin whose mount a path lies below, when it is known and not served.
    pub fn absence(&self, path: &str) -> Option<Absence> {
        self.absent
            .values()
            .find(|absent| {
                let mount = absent.mount.to_string();
                path.strip_prefix(mount.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .map(|absent| absent.reason)
    }
}

/// A mount is a fixed path that neither holds nor lies below a path of the host's.
fn check_mount(mount: &Template, host_routes: &[(String, Template)]) -> Result<()> {
    if !mount.is_literal() || mount.depth() == 0 {
        return Err(conflict(format!("The mount {mount} is not a fixed path below '/'")));
    }
    for (_, template) in host_routes {
        let root = template.root();
        if mount.is_within(&root) || root.is_within(mount) {
            return Err(conflict(format!("The mount {mount} overlaps with {root}, which is the host's")));
        }
    }
    Ok(())
}

fn clash(clash: Conflict) -> Error {
    conflict(format!("The route {} {} is already served", clash.method, clash.path))
}

fn conflict(reason: String) -> Error {
    Error::conflict(code::ROUTE_CONFLICT, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_keep_off_the_hosts_paths() {
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
