//! Capabilities: what a plugin may import. Each is one WIT package, one file here and one line in [`capabilities!`].
//!
//! A capability has five moments, and state that belongs to exactly one of them:
//! - `open`, once at boot: the services it is made of;
//! - `link`, once per linker: its functions, for releases that were granted it;
//! - `admit`, once per release: the grant's parameters checked, the plugin's own resources found;
//! - `serve`, whenever a release becomes the live one: its quotas take effect on what all releases of a plugin share;
//! - `enter`, once per call: what the call's functions work with.
//!
//! Data passes from boot to release to call and never back. A capability answers the guest in typed WIT errors; only a
//! broken limit or a defect of the host is a trap. Only this module and `plugin` name wasmtime.

pub mod auth;
pub mod budget;
pub mod cache;
pub mod grant;
pub mod guest;
pub mod http;
pub mod log;
pub mod parameter;
pub mod settings;
pub mod sql;
pub mod turn;
pub mod usage;
pub mod wasi;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use wasmtime::component::Linker;

use crate::clock::{Clock, Random};
use crate::config;
use crate::db::Db;
use crate::error::Result;
use crate::id::PluginName;

pub use grant::{Grants, InvalidGrant};
pub use guest::{CallContext, Guest};
use parameter::{NoParameters, Parameter, Parameters};
pub use turn::{Share, Turn, Turns};
pub use usage::{Limit, Usage};

/// One WIT package that the host implements for plugins.
pub trait Capability: Sized + Send + Sync + 'static {
    /// What operators grant, and the package's name in `wharf:NAME`.
    const NAME: &'static str;
    /// The interfaces it offers, with their version: `wharf:sql/database@0.1.0`.
    const INTERFACES: &'static [&'static str];
    /// Parameters of a grant; the default is what a grant without parameters means.
    type Grant: Parameters;
    /// State of one release.
    type Release: Send + Sync + 'static;
    /// State of one call.
    type Call: Send + 'static;

    /// Once at boot.
    ///
    /// # Errors
    /// A service it needs cannot be had.
    fn open(boot: &Boot) -> impl Future<Output = Result<Self>> + Send;

    /// Once per linker: defines the functions.
    ///
    /// # Errors
    /// Two definitions of one name, which is a defect of the host.
    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()>;

    /// Once per release.
    ///
    /// # Errors
    /// The grant's parameters do not make sense, or the plugin's resources cannot be had.
    fn admit(
        &self,
        candidate: &Candidate<'_>,
        grant: Self::Grant,
    ) -> impl Future<Output = Result<Self::Release>> + Send;

    /// Whenever a release becomes the one that is served: what all releases of its plugin share (a cache, a rate) is
    /// set to what this one was granted.
    fn serve(_: &Self::Release) {}

    /// The same when a release becomes it that was not granted this: what is shared is as the host is configured.
    fn withdraw(&self, _: &PluginName) {}

    /// The most bytes that the guest may hand over in one call into it.
    fn brings(_: &Self::Release) -> usize {
        0
    }

    /// How much is in use now of what one of the grant's parameters bounds; none where that is not counted.
    fn in_use(_: &Self::Release, _parameter: &str) -> Option<u64> {
        None
    }

    /// Once per call.
    fn enter(release: &Self::Release, context: &Arc<CallContext>) -> Self::Call;
}

/// What capabilities are opened with.
#[derive(Clone)]
pub struct Boot {
    /// All settings.
    pub config: Arc<config::Config>,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// The host's tables.
    pub db: Db,
    /// The plugins' databases.
    pub data: Arc<crate::db::plugin_data::PluginData>,
    /// The plugins' caches, shared with the response cache.
    pub cache: crate::cache::Caches,
    /// The way to other servers.
    pub egress: crate::egress::Egress,
    /// The plugins' logs, shared with what they write to their standard output.
    pub logs: log::PluginLogs,
    /// This node, by a name that outlives its process.
    pub node: Arc<str>,
}

/// A capability as it is offered to plugins and operators.
#[derive(Debug)]
pub struct Offer {
    /// What operators grant.
    pub name: &'static str,
    /// What plugins import.
    pub interfaces: &'static [&'static str],
    /// What a grant may bound.
    pub parameters: &'static [Parameter],
}

/// A release that asks to be admitted.
pub struct Candidate<'a> {
    /// Its plugin.
    pub plugin: &'a PluginName,
    /// Its number within the plugin.
    pub release: i64,
    /// The operator's settings for it, validated against its schema.
    pub settings: &'a Value,
}

/// Registers every capability, in the order operators see them.
macro_rules! capabilities {
    ($($field:ident: $capability:ty,)*) => {
        /// Every capability, opened.
        pub struct Capabilities {
            $($field: $capability,)*
            configured: Arc<config::Config>,
        }

        /// What a release was admitted to.
        #[derive(Default)]
        pub struct Admitted {
            $($field: Option<<$capability as Capability>::Release>,)*
        }

        /// What a call entered.
        #[derive(Default)]
        pub struct Entered {
            $($field: Option<<$capability as Capability>::Call>,)*
        }

        /// How often each capability was called.
        #[derive(Debug, Default)]
        pub struct HostCalls {
            $($field: AtomicU64,)*
        }

        impl HostCalls {
            $(
                /// Of this capability.
                pub fn $field(&self) -> &AtomicU64 {
                    &self.$field
                }
            )*

            /// The count of each capability.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((<$capability as Capability>::NAME, self.$field.load(Ordering::Relaxed))),*].into_iter()
            }
        }

        impl Capabilities {
            /// Opens every capability.
            ///
            /// # Errors
            /// A service that one of them needs cannot be had.
            pub async fn open(boot: &Boot) -> Result<Self> {
                let configured = Arc::clone(&boot.config);
                Ok(Self { $($field: <$capability as Capability>::open(boot).await?,)* configured })
            }

            /// What there is to grant.
            pub const OFFERED: &'static [Offer] = &[$(Offer {
                name: <$capability as Capability>::NAME,
                interfaces: <$capability as Capability>::INTERFACES,
                parameters: <<$capability as Capability>::Grant as Parameters>::OFFERED,
            }),*];

            /// Defines the functions of the granted capabilities.
            ///
            /// # Errors
            /// A defect of the host.
            pub fn link(linker: &mut Linker<Guest>, granted: &Grants) -> wasmtime::Result<()> {
                $(if granted.contains(<$capability as Capability>::NAME) {
                    <$capability as Capability>::link(linker)?;
                })*
                Ok(())
            }

            /// What bounds each granted capability: `sql.rows` with its value, as granted or as the host is configured.
            ///
            /// # Errors
            /// A grant's parameters do not make sense.
            pub fn bounds(&self, grants: &Grants) -> Result<Vec<(String, String)>> {
                let host = &self.configured.plugins;
                let mut bounds = Vec::new();
                $(if let Some(grant) = grants.parameters::<$capability>(host)? {
                    let named = |(name, value)| (format!("{}.{name}", <$capability as Capability>::NAME), value);
                    bounds.extend(grant.texts().into_iter().map(named));
                })*
                Ok(bounds)
            }

            /// Admits a release to what it was granted.
            ///
            /// # Errors
            /// A grant's parameters do not make sense, or a resource cannot be had.
            pub async fn admit(&self, candidate: &Candidate<'_>, grants: &Grants) -> Result<Admitted> {
                let host = &self.configured.plugins;
                let mut admitted = Admitted::default();
                $(if let Some(grant) = grants.parameters::<$capability>(host)? {
                    admitted.$field = Some(self.$field.admit(candidate, grant).await?);
                })*
                Ok(admitted)
            }

            /// A release of the plugin is the one that is served from now on.
            pub fn serve(&self, plugin: &PluginName, admitted: &Admitted) {
                $(match &admitted.$field {
                    Some(release) => <$capability>::serve(release),
                    None => self.$field.withdraw(plugin),
                })*
            }
        }

        impl Admitted {
            /// The most bytes that the guest may hand over in one call into any of them.
            pub fn brings(&self) -> usize {
                let each = [$(self.$field.as_ref().map_or(0, <$capability>::brings)),*];
                each.into_iter().max().unwrap_or_default()
            }

            /// How much is in use now of what `sql.connections` or the like bounds; none where that is not counted.
            pub fn in_use(&self, name: &str) -> Option<u64> {
                let (capability, parameter) = name.split_once('.')?;
                let mut in_use = None;
                $(if capability == <$capability as Capability>::NAME {
                    in_use = self.$field.as_ref().and_then(|release| <$capability>::in_use(release, parameter));
                })*
                in_use
            }

            /// What one call works with.
            pub fn enter(&self, context: &Arc<CallContext>) -> Entered {
                Entered { $($field: self.$field.as_ref().map(|release| <$capability>::enter(release, context)),)* }
            }
        }

        impl Entered {
            $(
                /// The call's state of this capability.
                ///
                /// # Errors
                /// The release was not granted it; its functions are not linked then, so this is a defect of the host.
                pub fn $field(&mut self) -> wasmtime::Result<&mut <$capability as Capability>::Call> {
                    self.$field.as_mut().ok_or_else(|| wasmtime::Error::msg(concat!(stringify!($field), " was not entered")))
                }
            )*
        }
    };
}

capabilities! {
    auth: auth::Auth,
    cache: cache::Cache,
    config: settings::Settings,
    http: http::Http,
    log: log::Log,
    sql: sql::Sql,
}
