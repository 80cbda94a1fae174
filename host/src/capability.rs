//! Capabilities: the packages that a plugin may import. Each is one WIT package, one file here and one line in
//! `capabilities!`. (`web` has no package: it is a permission without functions.)
//!
//! A capability has these steps. State belongs to exactly one of them:
//! - `open`, once at boot: finds the services that it uses;
//! - `link`, once per linker: defines its functions for releases that were granted it;
//! - `admit`, once per release: checks the grant's parameters and finds the plugin's own resources;
//! - `serve`, whenever a release becomes live: applies its quotas to the state that all releases of the plugin share;
//! - `enter`, once per call: creates the state that the call's functions use;
//! - `close` and `reopen`, when an operator revokes or restores a grant: closes or opens the plugin's own resources to
//!   others than this host, such as the login of its database role.
//!
//! A function asks for the state of its capability each time. The answer is an error after the grant was revoked
//! (`revocation`), also for a call that was in flight.
//!
//! Data passes from boot to release to call and never back. A capability returns typed WIT errors to the guest. Only an
//! exceeded limit of the call, a forbidden action or a defect of the host is a trap. A capability whose service fails
//! records that in [`Dependencies`], so that the plugin is not blamed. Only this module and `plugin` name wasmtime.

pub mod auth;
pub mod budget;
pub mod cache;
pub mod call_context;
pub mod config;
pub mod cpu_scheduler;
pub mod declared_messages;
pub mod dependency;
pub mod email;
pub mod events;
pub mod grant;
pub mod guest;
mod hand_over;
pub mod http;
pub mod jobs;
pub mod log;
mod message_check;
#[cfg(test)]
mod message_fixture;
mod message_rate;
pub mod parameter;
pub mod revocation;
pub mod sql;
pub mod usage;
pub mod users;
mod waiting_work;
pub mod wasi;
mod wasi_context;
pub mod web;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use wasmtime::component::Linker;

use crate::clock::{Clock, Random};
use crate::config::Config;
use crate::db::Db;
use crate::error::Result;
use crate::id::PluginName;

pub use call_context::{CallContext, RunningTask};
pub use cpu_scheduler::{CpuScheduler, CpuSlot, PluginCpuQueue};
pub use declared_messages::DeclaredMessages;
pub use dependency::Dependencies;
pub use grant::{Grants, InvalidGrant};
pub use guest::Guest;
use parameter::{NoParameters, Parameter, ParameterValues, Parameters};
use revocation::LoadedReleases;
pub use revocation::{Revocations, Revoked};
pub use usage::{Dependency, Usage};

pub use crate::config::Limit;

/// One WIT package that the host implements for plugins.
pub trait Capability: Sized + Send + Sync + 'static {
    /// The name that operators grant, and the package's name in `wharf:NAME`.
    const NAME: &'static str;
    /// The rights of a plugin that has it, for an operator who decides about a grant. Continues "the plugin …".
    const MEANING: &'static str;
    /// The interfaces that it offers, with their version: `wharf:sql/database@0.1.0`. A capability without interfaces
    /// is a permission: a component cannot ask for it by an import, so only a grant gives it.
    const INTERFACES: &'static [&'static str];
    /// Parameters of a grant. Those that a grant leaves out have the value of the host's setting.
    type Grant: Parameters;
    /// The state of one release.
    type Release: Send + Sync + 'static;
    /// The state of one call.
    type Call: Send + 'static;

    /// Returns what a grant with these parameters permits, if that is so much that the operator is told each time.
    /// Continues "the plugin …".
    fn breadth(_: &ParameterValues) -> Option<&'static str> {
        None
    }

    /// Opens the capability, once at boot.
    ///
    /// # Errors
    /// A service that it needs is not available.
    fn open(boot: &Boot) -> impl Future<Output = Result<Self>> + Send;

    /// Defines the functions, once per linker.
    ///
    /// # Errors
    /// Two definitions of one name, which is a defect of the host.
    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()>;

    /// Admits a release, once.
    ///
    /// # Errors
    /// The grant's parameters are not valid, or the plugin's resources are not available.
    fn admit(
        &self,
        candidate: &Candidate<'_>,
        grant: Self::Grant,
    ) -> impl Future<Output = Result<Self::Release>> + Send;

    /// Applies the quotas of a release that becomes live to the state that all releases of its plugin share (a cache, a
    /// rate).
    fn serve(_: &Self::Release) {}

    /// Resets the shared state to the host's settings: a release becomes live that was not granted this capability.
    fn reset_shared(&self, _: &PluginName) {}

    /// Returns the most bytes that the guest may pass in one call into the capability.
    fn max_input_bytes(_: &Self::Release) -> usize {
        0
    }

    /// Returns the current usage of the resource that a parameter limits; `None` if it is not counted.
    fn in_use(_: &Self::Release, _parameter: &str) -> Option<u64> {
        None
    }

    /// Creates the state of one call.
    fn enter(release: &Self::Release, context: &Arc<CallContext>) -> Self::Call;

    /// Closes the plugin's resources, because its grant was revoked. Has no further effect when it is repeated.
    ///
    /// # Errors
    /// A service is not available.
    fn close(&self, _: &PluginName) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// Opens the plugin's resources again, before a release that was granted the capability needs them. Has no effect
    /// if they are open.
    ///
    /// # Errors
    /// A service is not available.
    fn reopen(&self, _: &PluginName) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// The services that capabilities are opened with.
#[derive(Clone)]
pub struct Boot {
    /// The settings.
    pub config: Arc<Config>,
    /// The clock.
    pub clock: Clock,
    /// The source of randomness.
    pub random: Random,
    /// The host's database.
    pub db: Db,
    /// The plugins' databases.
    pub data: Arc<crate::db::plugin_data::PluginData>,
    /// The plugins' caches, which hold cached responses too.
    pub cache: crate::cache::Caches,
    /// The client for other servers.
    pub egress: crate::egress::Egress,
    /// The plugins' logs, which receive their standard output too.
    pub logs: log::PluginLogs,
    /// The name of this node, which survives a restart.
    pub node: Arc<str>,
}

/// The description of a capability for plugins and operators.
#[derive(Debug)]
pub struct Offer {
    /// The name that operators grant.
    pub name: &'static str,
    /// The rights of a plugin that has it. Continues "the plugin …".
    pub meaning: &'static str,
    /// The interfaces that plugins import.
    pub interfaces: &'static [&'static str],
    /// The parameters of a grant.
    pub parameters: &'static [Parameter],
    /// See [`Capability::breadth`].
    pub breadth: fn(&ParameterValues) -> Option<&'static str>,
}

impl Offer {
    /// Returns the capability of this name if it is one that no component imports.
    pub fn permission(name: &str) -> Option<&'static Self> {
        Capabilities::OFFERED.iter().find(|offer| offer.name == name && offer.interfaces.is_empty())
    }
}

/// A release that is about to be admitted.
pub struct Candidate<'a> {
    /// The plugin.
    pub plugin: &'a PluginName,
    /// The release's number within the plugin.
    pub release: i64,
    /// The operator's settings for the plugin, validated against the plugin's schema.
    pub settings: &'a Value,
    /// The permissions that it declares, without the plugin's name.
    pub permissions: Vec<String>,
    /// Its declared events and jobs.
    pub messages: &'a DeclaredMessages,
}

/// Registers every capability, in the order in which operators see them.
macro_rules! capabilities {
    ($($field:ident: $capability:ty,)*) => {
        /// Every capability, open.
        pub struct Capabilities {
            $($field: $capability,)*
            configured: Arc<Config>,
            loaded: LoadedReleases,
        }

        /// The state of one release in each capability that it was granted.
        #[derive(Default)]
        pub struct Admitted {
            $($field: Option<<$capability as Capability>::Release>,)*
            revocations: Arc<Revocations>,
        }

        /// The state of one call in each capability that its release was granted.
        #[derive(Default)]
        pub struct Entered {
            $($field: Option<<$capability as Capability>::Call>,)*
            revocations: Arc<Revocations>,
        }

        /// The number of calls into each capability.
        #[derive(Debug, Default)]
        pub struct HostCalls {
            $($field: AtomicU64,)*
        }

        impl HostCalls {
            $(
                /// The count of this capability.
                pub fn $field(&self) -> &AtomicU64 {
                    &self.$field
                }
            )*

            /// Returns the name and the count of each capability.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((<$capability as Capability>::NAME, self.$field.load(Ordering::Relaxed))),*].into_iter()
            }
        }

        impl Capabilities {
            /// Opens every capability.
            ///
            /// # Errors
            /// A service that one of them needs is not available.
            pub async fn open(boot: &Boot) -> Result<Self> {
                let configured = Arc::clone(&boot.config);
                let loaded = LoadedReleases::default();
                Ok(Self { $($field: <$capability as Capability>::open(boot).await?,)* configured, loaded })
            }

            /// The capabilities that an operator may grant.
            pub const OFFERED: &'static [Offer] = &[$(Offer {
                name: <$capability as Capability>::NAME,
                meaning: <$capability as Capability>::MEANING,
                interfaces: <$capability as Capability>::INTERFACES,
                parameters: <<$capability as Capability>::Grant as Parameters>::OFFERED,
                breadth: <$capability as Capability>::breadth,
            }),*];

            /// Defines the functions of the granted capabilities.
            ///
            /// # Errors
            /// Two definitions of one name, which is a defect of the host.
            pub fn link(linker: &mut Linker<Guest>, granted: &Grants) -> wasmtime::Result<()> {
                $(if granted.contains(<$capability as Capability>::NAME) {
                    <$capability as Capability>::link(linker)?;
                })*
                Ok(())
            }

            /// Returns the parameters of each granted capability, such as `sql.rows`, with their effective values.
            ///
            /// # Errors
            /// A grant's parameters are not valid.
            pub fn bounds(&self, grants: &Grants) -> Result<Vec<(String, String)>> {
                let host = &self.configured.plugins;
                let mut bounds = Vec::new();
                $(if let Some(grant) = grants.parameters::<$capability>(host)? {
                    let named = |(name, value)| (format!("{}.{name}", <$capability as Capability>::NAME), value);
                    bounds.extend(grant.to_texts().into_iter().map(named));
                })*
                Ok(bounds)
            }

            /// Admits a release to the capabilities that it was granted.
            ///
            /// # Errors
            /// A grant's parameters are not valid, or a resource is not available.
            pub async fn admit(&self, candidate: &Candidate<'_>, grants: &Grants) -> Result<Admitted> {
                // Known from the beginning, so that a revocation meanwhile reaches it.
                self.admit_tracked(candidate, grants, self.track(candidate.plugin, grants)).await
            }

            /// Tracks the revocations of a release that is admitted later.
            pub fn track(&self, plugin: &PluginName, grants: &Grants) -> Arc<Revocations> {
                self.loaded.add(plugin, grants.names())
            }

            /// Admits a release whose revocations are tracked already.
            ///
            /// # Errors
            /// As [`Capabilities::admit`].
            pub async fn admit_tracked(
                &self,
                candidate: &Candidate<'_>,
                grants: &Grants,
                revocations: Arc<Revocations>,
            ) -> Result<Admitted> {
                let host = &self.configured.plugins;
                let mut admitted = Admitted { revocations, ..Admitted::default() };
                $(if let Some(grant) = grants.parameters::<$capability>(host)? {
                    admitted.$field = Some(self.$field.admit(candidate, grant).await?);
                })*
                Ok(admitted)
            }

            /// Revokes a grant from all loaded releases of a plugin, at once.
            pub fn forbid(&self, plugin: &PluginName, capability: &str) {
                self.loaded.revoke(plugin, capability);
            }

            /// Closes the plugin's resources of a revoked capability.
            ///
            /// # Errors
            /// A service is not available.
            pub async fn close(&self, plugin: &PluginName, capability: &str) -> Result<()> {
                $(if capability == <$capability as Capability>::NAME {
                    return self.$field.close(plugin).await;
                })*
                Ok(())
            }

            /// Opens the plugin's resources of a capability again.
            ///
            /// # Errors
            /// A service is not available.
            pub async fn reopen(&self, plugin: &PluginName, capability: &str) -> Result<()> {
                $(if capability == <$capability as Capability>::NAME {
                    return self.$field.reopen(plugin).await;
                })*
                Ok(())
            }

            /// Applies the quotas of the release that becomes live.
            pub fn serve(&self, plugin: &PluginName, admitted: &Admitted) {
                $(match &admitted.$field {
                    Some(release) => <$capability>::serve(release),
                    None => self.$field.reset_shared(plugin),
                })*
            }
        }

        impl Admitted {
            /// Returns the most bytes that the guest may pass in one call into any capability.
            pub fn max_input_bytes(&self) -> usize {
                let each = [$(self.$field.as_ref().map_or(0, <$capability>::max_input_bytes)),*];
                each.into_iter().max().unwrap_or_default()
            }

            /// Returns the current usage of a limit such as `sql.connections`; `None` if it is not counted.
            pub fn in_use(&self, name: &str) -> Option<u64> {
                let (capability, parameter) = name.split_once('.')?;
                let mut in_use = None;
                $(if capability == <$capability as Capability>::NAME {
                    in_use = self.$field.as_ref().and_then(|release| <$capability>::in_use(release, parameter));
                })*
                in_use
            }

            /// Creates the state of one call.
            pub fn enter(&self, context: &Arc<CallContext>) -> Entered {
                Entered {
                    $($field: self.$field.as_ref().map(|release| <$capability>::enter(release, context)),)*
                    revocations: Arc::clone(&self.revocations),
                }
            }

            /// Returns the revocations of the release.
            pub fn revocations(&self) -> &Arc<Revocations> {
                &self.revocations
            }
        }

        impl Entered {
            $(
                /// Returns the call's state in this capability, or an error if the grant was revoked.
                ///
                /// # Errors
                /// The release was not granted it. Its functions are not linked then, so this is a defect of the host.
                pub fn $field(&mut self) -> wasmtime::Result<Result<&mut <$capability as Capability>::Call, Revoked>> {
                    let call = self.$field.as_mut();
                    let call = call.ok_or_else(|| wasmtime::Error::msg(concat!(stringify!($field), " was not entered")))?;
                    Ok(self.revocations.check(<$capability as Capability>::NAME).map(|()| call))
                }
            )*
        }
    };
}

capabilities! {
    auth: auth::Auth,
    cache: cache::Cache,
    config: config::PluginSettings,
    email: email::Email,
    events: events::Events,
    http: http::Http,
    jobs: jobs::Jobs,
    log: log::Log,
    sql: sql::Sql,
    users: users::Users,
    web: web::Web,
}
