//! Capabilities: what a plugin may import. Each is one WIT package, one file here and one line in [`capabilities!`].
//!
//! A capability has four moments, and state that belongs to exactly one of them:
//! - `open`, once at boot: the services it is made of;
//! - `link`, once per linker: its functions, for releases that were granted it;
//! - `admit`, once per release: the grant's parameters checked, the plugin's own resources found;
//! - `enter`, once per call: what the call's functions work with.
//!
//! Data passes from boot to release to call and never back. A capability answers the guest in typed WIT errors; only a
//! broken limit or a defect of the host is a trap. Only this module and `plugin` name wasmtime.

pub mod auth;
pub mod cache;
pub mod guest;
pub mod log;
pub mod settings;
pub mod sql;
pub mod wasi;

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wasmtime::component::Linker;

use crate::clock::{Clock, Random};
use crate::config;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::id::PluginName;

pub use guest::{CallContext, Guest};

/// One WIT package that the host implements for plugins.
pub trait Capability: Sized + Send + Sync + 'static {
    /// What operators grant, and the package's name in `wharf:NAME`.
    const NAME: &'static str;
    /// The interfaces it offers, with their version: `wharf:sql/database@0.1.0`.
    const INTERFACES: &'static [&'static str];
    /// Parameters of a grant; the default is what a grant without parameters means.
    type Grant: Serialize + DeserializeOwned + Default + Send;
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
    /// This node, by a name that outlives its process.
    pub node: Arc<str>,
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

        impl Capabilities {
            /// Opens every capability.
            ///
            /// # Errors
            /// A service that one of them needs cannot be had.
            pub async fn open(boot: &Boot) -> Result<Self> {
                Ok(Self { $($field: <$capability as Capability>::open(boot).await?,)* })
            }

            /// Names, with the interfaces that each offers.
            pub const OFFERED: &'static [(&'static str, &'static [&'static str])] =
                &[$((<$capability as Capability>::NAME, <$capability as Capability>::INTERFACES)),*];

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

            /// Admits a release to what it was granted.
            ///
            /// # Errors
            /// A grant's parameters do not make sense, or a resource cannot be had.
            pub async fn admit(&self, candidate: &Candidate<'_>, grants: &Grants) -> Result<Admitted> {
                let mut admitted = Admitted::default();
                $(if let Some(grant) = grants.parameters::<$capability>()? {
                    admitted.$field = Some(self.$field.admit(candidate, grant).await?);
                })*
                Ok(admitted)
            }
        }

        impl Admitted {
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
    log: log::Log,
    sql: sql::Sql,
}

/// What an operator permits one plugin: capability names with parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Grants(std::collections::BTreeMap<String, Value>);

impl Grants {
    /// Grants of these capabilities with their default parameters.
    ///
    /// # Errors
    /// A name that no capability has; the text lists those there are.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownCapability> {
        let mut grants = Self::default();
        for name in names {
            if !Capabilities::OFFERED.iter().any(|(offered, _)| *offered == name) {
                return Err(UnknownCapability(name.to_owned()));
            }
            grants.0.insert(name.to_owned(), Value::Object(serde_json::Map::new()));
        }
        Ok(grants)
    }

    /// Every capability there is, with its default parameters.
    pub fn all() -> Self {
        let none = || Value::Object(serde_json::Map::new());
        Self(Capabilities::OFFERED.iter().map(|(name, _)| ((*name).to_owned(), none())).collect())
    }

    /// Whether a capability is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// These and those of `other`; where both have one, `other` wins.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Only what `keep` says.
    #[must_use]
    pub fn retaining(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|name, _| keep(name));
        self
    }

    fn parameters<C: Capability>(&self) -> Result<Option<C::Grant>> {
        let Some(parameters) = self.0.get(C::NAME) else { return Ok(None) };
        if parameters.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(Some(C::Grant::default()));
        }
        serde_json::from_value(parameters.clone()).map(Some).map_err(|error| {
            Error::bad_request(
                crate::error::code::VALIDATION_ERROR,
                format!("the grant of '{}' has parameters that make no sense: {error}", C::NAME),
            )
        })
    }
}

/// A capability that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no capability '{name}'; there are: {offered}", name = .0, offered = offered_names())]
pub struct UnknownCapability(pub String);

fn offered_names() -> String {
    let names: Vec<&str> = Capabilities::OFFERED.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// Parameters of a grant that has none.
#[derive(Debug, Default, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}
