//! Parameters: named values that replace a limit of the host for one plugin, or that allow it more. A grant gives the
//! parameters of a capability; `--limit` gives the parameters of a plugin's calls.
//!
//! Values are stored as texts in their canonical form, so that two values that mean the same are equal. They are parsed
//! into a type of their own where they are used. Ranges and defaults come from the settings (`config::plugins`). Never
//! knows the effect of a parameter.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use crate::config;
use crate::config::kind::Kind;

/// The value that returns a parameter to the setting of the host.
const DEFAULT: &str = "default";

/// A parameter that may be given.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// The name in a grant, without the capability's name.
    pub name: &'static str,
    /// The setting in `[plugins]` whose range it has and whose value it replaces; `None` for a set.
    pub setting: Option<&'static str>,
    /// Returns the canonical form of a value, or the reason why it is wrong with the accepted values.
    pub check: fn(&str) -> Result<String, String>,
    /// Whether it is a set. A set that is given again gets more members.
    pub is_set: bool,
}

/// Parameters as a type with one member each.
pub trait Parameters: Send + Sized {
    /// Every parameter.
    const OFFERED: &'static [Parameter];

    /// Reads the given values. A parameter without a value has the value of the host's setting.
    ///
    /// # Errors
    /// The first value that is wrong.
    fn read(given: &ParameterValues, host: &config::Plugins) -> Result<Self, InvalidParameter>;

    /// Returns every member as [`read`](Parameters::read) takes it. An empty set is an empty text.
    fn to_texts(&self) -> Vec<(&'static str, String)>;
}

/// Why a parameter is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' {reason}")]
pub struct InvalidParameter {
    name: String,
    reason: String,
}

impl InvalidParameter {
    /// Creates an error. `reason` continues the sentence after the parameter's name.
    pub fn new(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }
}

/// Values by the names of their parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParameterValues(BTreeMap<String, String>);

impl ParameterValues {
    /// Adds a value, which may be `default`. `name` is the parameter's name in error texts. A set may be given several
    /// times.
    ///
    /// # Errors
    /// There is no value, the parameter does not accept it, or the parameter has another value already.
    pub fn add(&mut self, parameter: &Parameter, name: &str, value: Option<&str>) -> Result<(), InvalidParameter> {
        let refuse = |reason: String| InvalidParameter::new(name, reason);
        let value = value.ok_or_else(|| refuse(format!("has no value; write {name}=VALUE")))?;
        let check = |value: &str| match value {
            DEFAULT => Ok(DEFAULT.to_owned()),
            value => (parameter.check)(value).map_err(refuse),
        };
        // The value alone is checked first, so that an error is about the value that was given.
        let value = check(value)?;
        match self.0.entry(parameter.name.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
            Entry::Occupied(entry) if *entry.get() == value => {}
            Entry::Occupied(mut entry) if parameter.is_set && value != DEFAULT && entry.get() != DEFAULT => {
                let both = check(&format!("{} {value}", entry.get()))?;
                entry.insert(both);
            }
            Entry::Occupied(_) => return Err(refuse("has two values".to_owned())),
        }
        Ok(())
    }

    /// Returns the value that was given for a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns names and values in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Merges two sets of values. A value of `other` wins and replaces a whole set; a value `default` removes the
    /// parameter.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self.0.retain(|_, value| value != DEFAULT);
        self
    }
}

/// Returns user input for an error text: short, on one line, without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the canonical form of a value.
pub(crate) fn canonical<T: 'static>(kind: &Kind<T>, text: &str) -> Result<String, String> {
    kind.read(text).map(|value| kind.show(&value).unwrap_or_default())
}

/// No parameters at all.
#[derive(Debug, Default)]
pub struct NoParameters;

impl Parameters for NoParameters {
    const OFFERED: &'static [Parameter] = &[];

    fn read(_: &ParameterValues, _: &config::Plugins) -> Result<Self, InvalidParameter> {
        Ok(Self)
    }

    fn to_texts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Declares the parameters of a grant, or of a plugin's calls, as a type. A parameter is `NAME: TYPE = SETTING`: its
/// range is that of the setting in `[plugins]`, and so is its value where none is given. Sets have no setting:
/// `NAME: ITEM = KIND`, empty where none is given.
macro_rules! parameters {
    ($(#[$about:meta])* $name:ident { $($member:ident: $type:ty = $setting:ident,)* }) => {
        $crate::capability::parameter::parameters! {
            $(#[$about])* $name { $($member: $type = $setting,)* } sets {}
        }
    };
    (
        $(#[$about:meta])*
        $name:ident { $($member:ident: $type:ty = $setting:ident,)* }
        sets { $($(#[$set_meaning:meta])* $set:ident: $item:ty = $set_kind:expr,)* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $(#[doc = concat!("In place of `plugins.", stringify!($setting), "`.")] pub $member: $type,)*
            $($(#[$set_meaning])* pub $set: Vec<$item>,)*
        }

        impl $crate::capability::parameter::Parameters for $name {
            const OFFERED: &'static [$crate::capability::parameter::Parameter] = &[
                $($crate::capability::parameter::Parameter {
                    name: stringify!($set),
                    setting: None,
                    check: |text| $crate::capability::parameter::canonical::<Vec<$item>>(&$set_kind, text),
                    is_set: true,
                },)*
                $($crate::capability::parameter::Parameter {
                    name: stringify!($member),
                    setting: Some(stringify!($setting)),
                    check: |text| {
                        $crate::capability::parameter::canonical(&$crate::config::Plugins::$setting(), text)
                    },
                    is_set: false,
                },)*
            ];

            fn read(
                given: &$crate::capability::parameter::ParameterValues,
                host: &$crate::config::Plugins,
            ) -> Result<Self, $crate::capability::parameter::InvalidParameter> {
                let mut read = Self { $($member: host.$setting,)* $($set: Vec::new(),)* };
                for (name, text) in given.iter() {
                    match name {
                        $(stringify!($member) => {
                            read.$member = $crate::config::Plugins::$setting().read(text).map_err(|reason| {
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

            fn to_texts(&self) -> Vec<(&'static str, String)> {
                vec![
                    $((stringify!($set), $set_kind.show(&self.$set).unwrap_or_default()),)*
                    $((
                        stringify!($member),
                        $crate::config::Plugins::$setting().show(&self.$member).unwrap_or_default(),
                    ),)*
                ]
            }
        }
    };
}
pub(crate) use parameters;
