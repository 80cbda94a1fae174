//! Parameters: named values that bound or widen something for one plugin, in place of what the host is configured to. What
//! a grant gives and what bounds a plugin's calls are both made of them.
//!
//! Kept as texts in their canonical form, so that two that mean the same are equal; read into a type of their own where they
//! are used. Never knows what they do.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use crate::config;
use crate::config::kind::Kind;

/// Gives a parameter back to what the host is configured to.
const DEFAULT: &str = "default";

/// A parameter that may be given.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// As it is written.
    pub name: &'static str,
    /// The canonical form of a value, or what is accepted in its place.
    pub check: fn(&str) -> Result<String, String>,
    /// Whether it is a set of things: given again, it has more of them.
    pub is_set: bool,
}

/// Parameters as a type, each a member.
pub trait Parameters: Send + Sized {
    /// All of them.
    const OFFERED: &'static [Parameter];

    /// Reads what was given; what was not is as the host is configured.
    ///
    /// # Errors
    /// The first one that makes no sense.
    fn read(given: &Given, host: &config::Plugins) -> Result<Self, InvalidParameter>;

    /// Every member as [`read`](Parameters::read) takes it; a set without anything in it is empty.
    fn texts(&self) -> Vec<(&'static str, String)>;
}

/// Why a parameter makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' {reason}")]
pub struct InvalidParameter {
    name: String,
    reason: String,
}

impl InvalidParameter {
    /// `reason` goes on from the parameter's name.
    pub fn new(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }
}

/// Values by the names of their parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Given(BTreeMap<String, String>);

impl Given {
    /// Adds a value, `default` among them; `name` is the parameter's in what is told. More of a set may be given.
    ///
    /// # Errors
    /// There is no value, the parameter does not take it, or it has another one already.
    pub fn add(&mut self, parameter: &Parameter, name: &str, value: Option<&str>) -> Result<(), InvalidParameter> {
        let refuse = |reason: String| InvalidParameter::new(name, reason);
        let value = value.ok_or_else(|| refuse(format!("has no value; write {name}=VALUE")))?;
        let check = |value: &str| match value {
            DEFAULT => Ok(DEFAULT.to_owned()),
            value => (parameter.check)(value).map_err(refuse),
        };
        // By itself first, so that an error is about what was given.
        let value = check(value)?;
        match self.0.entry(parameter.name.to_owned()) {
            Entry::Vacant(place) => {
                place.insert(value);
            }
            Entry::Occupied(place) if *place.get() == value => {}
            Entry::Occupied(mut place) if parameter.is_set && value != DEFAULT && place.get() != DEFAULT => {
                let both = check(&format!("{} {value}", place.get()))?;
                place.insert(both);
            }
            Entry::Occupied(_) => return Err(refuse("has two values".to_owned())),
        }
        Ok(())
    }

    /// The value that was given for a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// These and those of `other`, which wins, with all of a set; one that it gives as `default` is gone.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self.0.retain(|_, value| value != DEFAULT);
        self
    }
}

/// What somebody wrote, short and on one line, fit to be told.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The canonical form of a value of some kind.
pub(crate) fn canonical<T: 'static>(kind: &Kind<T>, text: &str) -> Result<String, String> {
    kind.read(text).map(|value| (kind.show)(&value))
}

/// None at all.
#[derive(Debug, Default)]
pub struct NoParameters;

impl Parameters for NoParameters {
    const OFFERED: &'static [Parameter] = &[];

    fn read(_: &Given, _: &config::Plugins) -> Result<Self, InvalidParameter> {
        Ok(Self)
    }

    fn texts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Declares parameters: members of a type, each with the kind of its values and the setting of the host that
/// holds where nothing is given; those that are sets apart.
macro_rules! parameters {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $member:ident: $type:ty = $kind:expr, else $setting:ident;)* }) => {
        $crate::capability::parameter::parameters! {
            $(#[$about])* $name { $($(#[$meaning])* $member: $type = $kind, else $setting;)* } sets {}
        }
    };
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$meaning:meta])* $member:ident: $type:ty = $kind:expr, else $setting:ident;)* }
        sets { $($(#[$set_meaning:meta])* $set:ident: $item:ty = $set_kind:expr,)* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$meaning])* pub $member: $type,)*
            $($(#[$set_meaning])* pub $set: Vec<$item>,)*
        }

        impl $crate::capability::parameter::Parameters for $name {
            const OFFERED: &'static [$crate::capability::parameter::Parameter] = &[
                $($crate::capability::parameter::Parameter {
                    name: stringify!($set),
                    check: |text| $crate::capability::parameter::canonical::<Vec<$item>>(&$set_kind, text),
                    is_set: true,
                },)*
                $($crate::capability::parameter::Parameter {
                    name: stringify!($member),
                    check: |text| $crate::capability::parameter::canonical::<$type>(&$kind, text),
                    is_set: false,
                },)*
            ];

            fn read(
                given: &$crate::capability::parameter::Given,
                host: &$crate::config::Plugins,
            ) -> Result<Self, $crate::capability::parameter::InvalidParameter> {
                let mut read = Self { $($member: host.$setting,)* $($set: Vec::new(),)* };
                for (name, text) in given.iter() {
                    match name {
                        $(stringify!($member) => {
                            read.$member = $kind.read(text).map_err(|reason| {
                                $crate::capability::parameter::InvalidParameter::new(name, reason)
                            })?;
                        })*
                        $(stringify!($set) => {
                            read.$set = $set_kind.read(text).map_err(|reason| {
                                $crate::capability::parameter::InvalidParameter::new(name, reason)
                            })?;
                        })*
                        _ => {
                            let reason = "is no parameter of this version";
                            return Err($crate::capability::parameter::InvalidParameter::new(name, reason));
                        }
                    }
                }
                Ok(read)
            }

            fn texts(&self) -> Vec<(&'static str, String)> {
                vec![
                    $((stringify!($set), ($set_kind.show)(&self.$set)),)*
                    $((stringify!($member), ($kind.show)(&self.$member)),)*
                ]
            }
        }
    };
}
pub(crate) use parameters;
