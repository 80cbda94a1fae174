//! The permissions that exist: those of the host, those that plugins declare, and those that only a role still names.
//!
//! A permission of a plugin exists from the moment when a release that declares it is live. It stays in the roles that
//! name it when no release declares it any more; it has no effect then.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::pagination::Page;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::id::{PluginName, RoleName};
use crate::permission::{HostPermission, Permission};

/// Returns the route that lists permissions.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/permissions/", read_permissions)
            .permission(HostPermission::RolesRead)
            .named("roles", "read_permissions", "Read Permissions")
            .described(
                "Lists the permissions of the host and of plugins by name, with the roles that name them. A permission \
                 that no plugin declares any more is listed while a role names it.",
            )
            .query::<Page>()
            .replies::<PermissionsPublic>(),
    ]
}

/// A permission.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct PermissionPublic {
    /// The name, such as `plugins:deploy` or `items:read-all`.
    name: String,
    /// The plugin that defines it; `null` for a permission of the host.
    plugin: Option<PluginName>,
    /// Its meaning, as the host or the plugin words it. Empty if nobody declares it any more.
    meaning: String,
    /// Whether it has an effect: the host or a live, paused or canary release declares it.
    is_declared: bool,
    /// The roles that name it.
    roles: Vec<RoleName>,
}

#[derive(Serialize, JsonSchema)]
struct PermissionsPublic {
    data: Vec<PermissionPublic>,
    /// The number of permissions before pagination.
    count: usize,
}

/// The permissions that the host and the present releases declare, with their meanings.
pub(super) struct DeclaredPermissions(BTreeMap<String, (Option<PluginName>, String)>);

impl DeclaredPermissions {
    /// Reads those of the current generation.
    pub(super) fn of(host: &Host) -> Self {
        let of_host = HostPermission::ALL
            .iter()
            .map(|permission| (Permission::Host(*permission).to_string(), (None, permission.meaning().to_owned())));
        let mut declared: BTreeMap<_, _> = of_host.collect();
        let generation = host.plugins.generation();
        let canaries = generation.plugins.canaries.values().map(|canary| &canary.release);
        // The live release comes last, because its wording is the one that counts.
        for release in canaries.chain(generation.plugins.paused.values()).chain(generation.plugins.live.values()) {
            let plugin = &release.record.plugin;
            for permission in &release.record.declaration.permissions {
                let name = format!("{plugin}:{}", permission.name);
                // A plugin from before a version that claims its name cannot give the host's permissions another meaning.
                if name.parse::<Permission>().is_ok_and(|parsed| matches!(parsed, Permission::Plugin { .. })) {
                    declared.insert(name, (Some(plugin.clone()), permission.summary.clone()));
                }
            }
        }
        Self(declared)
    }

    /// Returns whether a permission is declared.
    pub(super) fn contains(&self, permission: &Permission) -> bool {
        self.0.contains_key(&permission.to_string())
    }

    /// Returns the names of all, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

async fn read_permissions(host: Arc<Host>, call: Call) -> Result<Reply> {
    let page: Page = call.query()?;
    let mut named = host.auth.permissions_in_roles().await?;
    let declared = DeclaredPermissions::of(&host).0.into_iter().map(|(name, (plugin, meaning))| {
        let roles = named.remove(&name).unwrap_or_default();
        (name.clone(), PermissionPublic { name, plugin, meaning, is_declared: true, roles })
    });
    let mut all: BTreeMap<String, PermissionPublic> = declared.collect();
    for (name, roles) in named {
        let plugin = name.split_once(':').and_then(|(plugin, _)| plugin.parse().ok());
        let kept = PermissionPublic { name: name.clone(), plugin, meaning: String::new(), is_declared: false, roles };
        all.insert(name, kept);
    }
    let count = all.len();
    let [skip, limit] = [page.skip, page.limit].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let data = all.into_values().skip(skip).take(limit).collect();
    Reply::json(&PermissionsPublic { data, count })
}
