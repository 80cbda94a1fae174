//! What an operator permits one plugin: capabilities, each with the parameters that bound it.
//!
//! One notation everywhere (command line, API, answers, history): `sql` is a capability, `sql.rows=500` is that capability
//! with a parameter. Parameters are texts as in the configuration file, kept in their canonical form, so that two grants
//! are equal when they mean the same. Knows which parameters there are through [`Capabilities::OFFERED`]; never what they
//! do.

use std::collections::BTreeMap;

use super::{Capabilities, Capability};
use crate::config;
use crate::config::kind::Kind;
use crate::error::{Error, Result};

/// Gives a parameter back to what the host is configured to.
const DEFAULT: &str = "default";

/// Parameters by name.
type Given = BTreeMap<String, String>;

/// Capability names with their parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Grants(BTreeMap<String, Given>);

/// A parameter that grants of a capability may have.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// After the capability and a dot.
    pub name: &'static str,
    /// The canonical form of a value, or what is accepted in its place.
    pub check: fn(&str) -> Result<String, String>,
    /// Whether it is a set of things: given again, it has more of them.
    pub is_set: bool,
}

/// The parameters of a capability's grants, as a type: each a member that is none where the grant says nothing.
pub trait Parameters: Default + Send {
    /// All of them.
    const OFFERED: &'static [Parameter];

    /// Reads what a grant gives.
    ///
    /// # Errors
    /// Its first parameter that makes no sense.
    fn read(given: &BTreeMap<String, String>) -> Result<Self, InvalidGrant>;

    /// What is missing is as the host is configured.
    #[must_use]
    fn filled(self, host: &config::Plugins) -> Self;

    /// Every member that is there and no set, as [`read`](Parameters::read) takes it.
    fn texts(&self) -> Vec<(&'static str, String)>;
}

/// Why a grant makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// No capability has the name.
    #[error("there is no capability '{0}'; there are: {names}", names = offered_names())]
    Capability(String),
    /// The capability has no such parameter.
    #[error("'{capability}' has no parameter '{parameter}'; it has {}", parameter_names(.capability))]
    Parameter {
        /// The capability.
        capability: String,
        /// What it does not have.
        parameter: String,
    },
    /// A parameter without a value.
    #[error("'{0}' has no value; write {0}=VALUE")]
    NoValue(String),
    /// Two values for one thing.
    #[error("'{0}' has two values")]
    Repeated(String),
    /// A value that the parameter does not take.
    #[error("'{parameter}' {reason}")]
    Value {
        /// With its capability.
        parameter: String,
        /// What is wrong and what is accepted.
        reason: String,
    },
}

/// Names of capabilities.
fn offered_names() -> String {
    let names: Vec<&str> = Capabilities::OFFERED.iter().map(|offer| offer.name).collect();
    names.join(", ")
}

fn parameters_of(capability: &str) -> Option<&'static [Parameter]> {
    Capabilities::OFFERED.iter().find(|offer| offer.name == capability).map(|offer| offer.parameters)
}

fn parameter_names(capability: &str) -> String {
    let names: Vec<&str> =
        parameters_of(capability).unwrap_or_default().iter().map(|parameter| parameter.name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Grants {
    /// Reads grants such as `sql` and `sql.rows=500`; a parameter grants its capability too. `sql.rows=default` takes a
    /// parameter back when it is [merged](Self::merged). A parameter that is a set may be given often: it is all of them.
    ///
    /// # Errors
    /// The first one that makes no sense; the text says what would.
    pub fn read<'a>(grants: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidGrant> {
        let mut read = Self::default();
        for grant in grants {
            let (name, value) = match grant.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (grant.trim(), None),
            };
            let (capability, parameter) = match name.split_once('.') {
                Some((capability, parameter)) => (capability, Some(parameter)),
                None => (name, None),
            };
            let offered = parameters_of(capability).ok_or_else(|| InvalidGrant::Capability(printable(capability)))?;
            let given = read.0.entry(capability.to_owned()).or_default();
            let Some(parameter) = parameter else {
                match value {
                    None => continue,
                    Some(_) => {
                        let (capability, parameter) = (capability.to_owned(), String::new());
                        return Err(InvalidGrant::Parameter { capability, parameter });
                    }
                }
            };
            let found = offered.iter().find(|offered| offered.name == parameter);
            let found = found.ok_or_else(|| InvalidGrant::Parameter {
                capability: capability.to_owned(),
                parameter: printable(parameter),
            })?;
            let value = value.ok_or_else(|| InvalidGrant::NoValue(name.to_owned()))?;
            let check = |value: &str| {
                (found.check)(value).map_err(|reason| InvalidGrant::Value { parameter: name.to_owned(), reason })
            };
            let value = match (value, given.get(parameter).map(String::as_str)) {
                (DEFAULT, None | Some(DEFAULT)) => DEFAULT.to_owned(),
                (value, None) => check(value)?,
                (DEFAULT, Some(_)) | (_, Some(DEFAULT)) => return Err(InvalidGrant::Repeated(name.to_owned())),
                // By itself first, so that an error is about what was given.
                (value, Some(before)) if found.is_set => check(&format!("{before} {}", check(value)?))?,
                (value, Some(before)) if check(value)? == before => continue,
                (_, Some(_)) => return Err(InvalidGrant::Repeated(name.to_owned())),
            };
            given.insert(parameter.to_owned(), value);
        }
        Ok(read)
    }

    /// Every capability there is, without parameters.
    pub fn all() -> Self {
        Self(Capabilities::OFFERED.iter().map(|offer| (offer.name.to_owned(), Given::new())).collect())
    }

    /// Whether a capability is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The value that was given for `sql.rows`, say.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (capability, parameter) = name.split_once('.')?;
        self.0.get(capability)?.get(parameter).map(String::as_str)
    }

    /// Names of the capabilities in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Each as [`Grants::read`] takes it: every capability, followed by its parameters.
    pub fn to_texts(&self) -> Vec<String> {
        let texts = |(name, given): (&String, &Given)| {
            let parameters = given.iter().map(|(parameter, value)| format!("{name}.{parameter}={value}"));
            std::iter::once(name.clone()).chain(parameters).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(texts).collect()
    }

    /// These and those of `other`. Where both give a parameter, `other` wins, with all of a set; one that it gives as
    /// `default` is gone.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        for (name, given) in other.0 {
            let merged = self.0.entry(name).or_default();
            merged.extend(given);
            merged.retain(|_, value| value != DEFAULT);
        }
        self
    }

    /// Only what `keep` says.
    #[must_use]
    pub fn retaining(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|name, _| keep(name));
        self
    }

    pub(super) fn parameters<C: Capability>(&self) -> Result<Option<C::Grant>> {
        let given = self.0.get(C::NAME).map(C::Grant::read).transpose();
        // They were checked when they were read; what was stored may be of another version of Wharf.
        given.map_err(|error| Error::internal(format!("the grant of '{}' makes no sense: {error}", C::NAME)))
    }
}

fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The canonical form of a value of some kind.
pub(crate) fn canonical<T: 'static>(kind: &Kind<T>, text: &str) -> Result<String, String> {
    kind.read(text).map(|value| (kind.show)(&value))
}

/// Parameters of a grant that has none.
#[derive(Debug, Default)]
pub struct NoParameters;

impl Parameters for NoParameters {
    const OFFERED: &'static [Parameter] = &[];

    fn read(_: &BTreeMap<String, String>) -> Result<Self, InvalidGrant> {
        Ok(Self)
    }

    fn filled(self, _: &config::Plugins) -> Self {
        Self
    }

    fn texts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Declares a capability's parameters: members of a type, each with the kind of its values and the setting of the host that
/// holds where a grant says nothing; those that are sets apart.
macro_rules! parameters {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $member:ident: $type:ty = $kind:expr, else $setting:ident;)* }) => {
        $crate::capability::grant::parameters! {
            $(#[$about])* $name { $($(#[$meaning])* $member: $type = $kind, else $setting;)* } sets {}
        }
    };
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$meaning:meta])* $member:ident: $type:ty = $kind:expr, else $setting:ident;)* }
        sets { $($(#[$set_meaning:meta])* $set:ident: $item:ty = $set_kind:expr,)* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$meaning])* pub $member: Option<$type>,)*
            $($(#[$set_meaning])* pub $set: Vec<$item>,)*
        }

        impl $crate::capability::grant::Parameters for $name {
            const OFFERED: &'static [$crate::capability::grant::Parameter] = &[
                $($crate::capability::grant::Parameter {
                    name: stringify!($set),
                    check: |text| $crate::capability::grant::canonical::<Vec<$item>>(&$set_kind, text),
                    is_set: true,
                },)*
                $($crate::capability::grant::Parameter {
                    name: stringify!($member),
                    check: |text| $crate::capability::grant::canonical::<$type>(&$kind, text),
                    is_set: false,
                },)*
            ];

            fn read(
                given: &std::collections::BTreeMap<String, String>,
            ) -> Result<Self, $crate::capability::grant::InvalidGrant> {
                let mut read = Self::default();
                for (name, text) in given {
                    let parameter = || name.clone();
                    match name.as_str() {
                        $(stringify!($member) => {
                            let value = $kind.read(text).map_err(|reason| {
                                $crate::capability::grant::InvalidGrant::Value { parameter: parameter(), reason }
                            })?;
                            read.$member = Some(value);
                        })*
                        $(stringify!($set) => {
                            read.$set = $set_kind.read(text).map_err(|reason| {
                                $crate::capability::grant::InvalidGrant::Value { parameter: parameter(), reason }
                            })?;
                        })*
                        _ => {
                            return Err($crate::capability::grant::InvalidGrant::Value {
                                parameter: parameter(),
                                reason: "is no parameter of this version".to_owned(),
                            });
                        }
                    }
                }
                Ok(read)
            }

            fn filled(self, host: &$crate::config::Plugins) -> Self {
                Self { $($member: Some(self.$member.unwrap_or(host.$setting)),)* $($set: self.$set,)* }
            }

            fn texts(&self) -> Vec<(&'static str, String)> {
                let mut texts = Vec::new();
                $(if let Some(value) = &self.$member {
                    texts.push((stringify!($member), ($kind.show)(value)));
                })*
                texts
            }
        }
    };
}
pub(crate) use parameters;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(grants: &[&str]) -> Result<Vec<String>, String> {
        Grants::read(grants.iter().copied()).map(|grants| grants.to_texts()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_parameter_grants_its_capability_and_is_kept_in_its_canonical_form() {
        let texts = read(&["cache.bytes=1024KiB", "sql", " sql.time = 1500ms", "sql.rows=0500"]).unwrap();
        assert_eq!(texts, ["cache", "cache.bytes=1MiB", "sql", "sql.rows=500", "sql.time=1s500ms"]);
        assert_eq!(read(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), texts);
    }

    #[test]
    fn what_makes_no_sense_is_told_with_what_would() {
        let told = |grant| read(&[grant]).unwrap_err();
        assert_eq!(told("sq"), "there is no capability 'sq'; there are: auth, cache, config, http, log, sql");
        assert_eq!(told("sql.row=5"), "'sql' has no parameter 'row'; it has rows, bytes, time, connections");
        assert_eq!(told("auth.rows=5"), "'auth' has no parameter 'rows'; it has none");
        assert_eq!(told("sql=5"), "'sql' has no parameter ''; it has rows, bytes, time, connections");
        assert_eq!(told("sql.rows"), "'sql.rows' has no value; write sql.rows=VALUE");
        assert_eq!(told("sql.rows=many"), "'sql.rows' is not a number; accepted: a number from 1 to 10000000");
        assert!(
            told("sql.time=5").starts_with("'sql.time' has no unit; accepted: a duration from "),
            "{}",
            told("sql.time=5")
        );
        assert!(told("s\nl").contains("'s l'"));
    }

    #[test]
    fn a_set_is_all_that_is_given_and_anything_else_is_given_once() {
        let texts = read(&[
            "http.hosts=https://b.example",
            "http.hosts=HTTPS://A.example/",
            "http.hosts=https://b.example:443",
        ]);
        assert_eq!(texts.unwrap(), ["http", "http.hosts=https://a.example https://b.example"]);
        let texts = read(&["http.networks=10.1.2.3/8 127.0.0.1", "http.time=1s"]).unwrap();
        assert_eq!(texts, ["http", "http.networks=10.0.0.0/8 127.0.0.1/32", "http.time=1s"]);
        assert_eq!(read(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), texts);
        assert_eq!(read(&["sql.rows=5", "sql.rows=05"]).unwrap(), ["sql", "sql.rows=5"]);
        assert_eq!(read(&["sql.rows=5", "sql.rows=6"]).unwrap_err(), "'sql.rows' has two values");
        assert_eq!(read(&["sql.rows=5", "sql.rows=default"]).unwrap_err(), "'sql.rows' has two values");
        assert_eq!(read(&["http.hosts=default", "http.hosts=https://a.b"]).unwrap_err(), "'http.hosts' has two values");
        let told = read(&["http.hosts=https://a.example", "http.hosts=a.example"]).unwrap_err();
        assert!(told.starts_with("'http.hosts' holds 'a.example', which has no scheme; "), "{told}");
        let many: Vec<String> = (0..101).map(|i| format!("http.hosts=https://a{i}.example")).collect();
        let told = read(&many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
        assert!(told.starts_with("'http.hosts' holds 101 of them; accepted: "), "{told}");
    }

    #[test]
    fn a_later_grant_changes_what_it_names_and_nothing_else() {
        let grants = |texts: &[&str]| Grants::read(texts.iter().copied()).unwrap();
        let merged = |before: &[&str], after: &[&str]| grants(before).merged(grants(after)).to_texts();
        let before = ["sql.rows=5", "sql.time=1s"];
        assert_eq!(merged(&before, &["sql"]), ["sql", "sql.rows=5", "sql.time=1s"]);
        assert_eq!(merged(&before, &["sql.rows=6"]), ["sql", "sql.rows=6", "sql.time=1s"]);
        assert_eq!(merged(&before, &["sql.rows=default", "auth"]), ["auth", "sql", "sql.time=1s"]);
        assert_eq!(merged(&[], &["sql.rows=default"]), ["sql"]);
        let hosts = ["http.hosts=https://a.b", "http.hosts=https://c.d"];
        assert_eq!(merged(&hosts, &["http.hosts=https://e.f"]), ["http", "http.hosts=https://e.f"]);
        assert_eq!(merged(&hosts, &["http.hosts=default"]), ["http"]);
    }

    #[test]
    fn every_parameter_reads_what_it_shows() {
        for offer in Capabilities::OFFERED {
            for parameter in offer.parameters {
                let refusal = (parameter.check)("nonsense").unwrap_err();
                assert!(refusal.contains("accepted: "), "{}.{}: {refusal}", offer.name, parameter.name);
            }
        }
    }
}
