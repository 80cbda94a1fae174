//! Permissions: those of the host and those that plugins define. Owns their names and the sets of them. Never knows which
//! caller has which permission: `auth` does.
//!
//! A permission is written `namespace:name`. The namespaces of [`HostPermission`]s are reserved: no plugin may have such
//! a name, so that no plugin can define a permission that means an operation of the host. The same holds for the sources
//! of the host's topics, so that no plugin can publish an event that looks like one of the host.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::id::{PermissionName, PluginName};
use crate::message::HostTopic;

/// Declares the permissions of the host: the only list of them.
macro_rules! host_permissions {
    ($($variant:ident = $text:literal, $meaning:literal;)*) => {
        /// A permission for operations of the host itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum HostPermission {
            $(#[doc = $meaning] $variant,)*
        }

        impl HostPermission {
            /// Every permission of the host.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the permission as text, such as `plugins:deploy`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Returns what it allows, as one sentence for people.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }
        }
    };
}

host_permissions! {
    PluginsRead = "plugins:read", "Read plugins, releases, histories, limits and deploys.";
    PluginsDeploy = "plugins:deploy", "Deploy plugins.";
    PluginsGrant = "plugins:grant", "Give capabilities to plugins and revoke them.";
    PluginsOperate = "plugins:operate", "Pause and resume plugins, decide canaries, and change limits.";
    PluginsRollBack = "plugins:rollback", "Serve an earlier release of a plugin.";
    PluginsRemove = "plugins:remove", "Remove plugins and keep their data.";
    PluginsDeleteData = "plugins:delete-data", "Delete the data of plugins.";
    UsersRead = "users:read", "Read all accounts.";
    UsersWrite = "users:write", "Create, change and delete accounts.";
    UsersInvite = "users:invite", "Invite people.";
    RolesRead = "roles:read", "Read roles and permissions.";
    RolesWrite = "roles:write", "Create, change, delete and assign roles.";
    KeysRead = "keys:read", "Read all API keys, without their secrets.";
    KeysWrite = "keys:write", "Create API keys that belong to nobody, and revoke any API key.";
    SessionsRead = "sessions:read", "Read the sessions of all accounts.";
    SessionsEnd = "sessions:end", "End the sessions of any account.";
    AuditRead = "audit:read", "Read the audit log.";
    AuditPrune = "audit:prune", "Delete audit entries that are older than the configured time, before the host does.";
    TasksRead = "tasks:read", "Read deliveries of events, jobs and schedules, with their payloads.";
    TasksOperate = "tasks:operate", "Retry, cancel and drop deliveries of events and jobs, and pause and run schedules.";
    SettingsRead = "settings:read", "Read the settings of the host, without secrets.";
    MetricsRead = "metrics:read", "Read the metrics.";
    MailTest = "mail:test", "Send test mails.";
    MailRead = "mail:read", "Read the queue of mails: recipients, subjects and failures, never a text or a link.";
    MailOperate = "mail:operate", "Retry and drop mails of the queue.";
    SigningKeysRotate = "signing-keys:rotate", "Rotate the keys that sign access tokens.";
    RoutesCall = "routes:call", "Lets an API key call the routes of plugins that any signed-in caller may call.";
}

/// By text, so that sets and lists are in the order that people expect.
impl Ord for HostPermission {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for HostPermission {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl HostPermission {
    /// Returns the part before the colon.
    pub fn namespace(self) -> &'static str {
        self.as_str().split_once(':').map_or("", |(namespace, _)| namespace)
    }
}

impl fmt::Display for HostPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns whether the host has permissions or topics in this namespace, so that no plugin may have this name.
pub fn is_reserved(namespace: &str) -> bool {
    HostPermission::ALL.iter().any(|permission| permission.namespace() == namespace) || HostTopic::is_source(namespace)
}

/// A permission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// A permission of the host.
    Host(HostPermission),
    /// A permission that a plugin defines.
    Plugin {
        /// The plugin.
        plugin: PluginName,
        /// The name without the plugin's.
        name: PermissionName,
    },
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(permission) => permission.fmt(f),
            Self::Plugin { plugin, name } => write!(f, "{plugin}:{name}"),
        }
    }
}

/// A text that is not a [`Permission`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPermission {
    /// It has another form.
    #[error("a permission is written plugin:name, such as items:read-all, or is one of the host's")]
    Form,
    /// The host has no such permission.
    #[error("the host has no permission of this name")]
    UnknownToHost,
}

impl FromStr for Permission {
    type Err = InvalidPermission;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once(':').ok_or(InvalidPermission::Form)?;
        if is_reserved(namespace) {
            let of_host = HostPermission::ALL.iter().find(|permission| permission.as_str() == text);
            return of_host.map(|permission| Self::Host(*permission)).ok_or(InvalidPermission::UnknownToHost);
        }
        let plugin = namespace.parse().map_err(|_| InvalidPermission::Form)?;
        Ok(Self::Plugin { plugin, name: name.parse().map_err(|_| InvalidPermission::Form)? })
    }
}

impl serde::Serialize for Permission {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Permission {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Permission {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Permission".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}:[a-z][a-z0-9-]{0,39}$" })
    }
}

/// A set of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermissionSet {
    /// Every permission, also of plugins that are deployed later.
    Everything,
    /// These.
    Only(BTreeSet<Permission>),
}

impl Default for PermissionSet {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self::Only(permissions.into_iter().collect())
    }
}

impl PermissionSet {
    /// Returns whether the set has a permission.
    pub fn contains(&self, permission: &Permission) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(some) => some.contains(permission),
        }
    }

    /// Returns whether the set has a permission of the host.
    pub fn has(&self, permission: HostPermission) -> bool {
        self.contains(&Permission::Host(permission))
    }

    /// Returns whether the set has every permission of another one.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everything, _) => true,
            (Self::Only(_), Self::Everything) => false,
            (Self::Only(some), Self::Only(others)) => others.is_subset(some),
        }
    }

    /// Returns the permissions that both sets have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Everything, set) | (set, Self::Everything) => set.clone(),
            (Self::Only(some), Self::Only(others)) => Self::Only(some.intersection(others).cloned().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_reads_as_it_is_written() {
        for text in ["plugins:deploy", "items:read-all", "signing-keys:rotate"] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
        for text in ["", "items", ":", "items:", ":read", "Items:read", "items:read:all", "items:*", "a b:c"] {
            assert_eq!(text.parse::<Permission>(), Err(InvalidPermission::Form), "{text}");
        }
    }

    #[test]
    fn the_namespaces_of_the_host_hold_only_its_own_permissions() {
        for permission in HostPermission::ALL {
            let text = format!("{}:made-up", permission.namespace());
            assert_eq!(text.parse::<Permission>(), Err(InvalidPermission::UnknownToHost), "{text}");
            assert_eq!(permission.as_str().parse(), Ok(Permission::Host(*permission)));
        }
        assert!(is_reserved("plugins") && !is_reserved("items") && !is_reserved(""));
        assert!(is_reserved("user") && is_reserved("session") && is_reserved("release"));
    }

    #[test]
    fn a_set_never_includes_more_than_it_has() {
        let set = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<PermissionSet>();
        let (some, more) = (set(&["users:read"]), set(&["users:read", "items:read-all"]));
        assert!(more.includes(&some) && !some.includes(&more));
        assert!(PermissionSet::Everything.includes(&more) && !more.includes(&PermissionSet::Everything));
        assert_eq!(PermissionSet::Everything.intersection(&some), some);
        assert_eq!(more.intersection(&some), some);
        assert!(some.includes(&PermissionSet::default()));
    }
}
