//! Grants: the capabilities that an operator permits one plugin, each with the parameters that limit it.
//!
//! The notation is the same everywhere (command line, API, responses, history): `sql` is a capability, `sql.rows=500`
//! is that capability with a parameter. Parameters are texts as in the configuration file, stored in their canonical
//! form, so that two grants are equal when they mean the same. Knows the names of parameters through
//! [`Capabilities::OFFERED`]; never what they do.

use std::collections::BTreeMap;

use super::parameter::{InvalidParameter, Parameter, ParameterValues, Parameters as _, printable};
use super::{Capabilities, Capability};
use crate::config;
use crate::error::{Error, Result};

/// Capability names with their parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Grants(BTreeMap<String, ParameterValues>);

/// Why a grant is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// There is no capability of this name.
    #[error("there is no capability '{0}'; there are: {names}", names = offered_names())]
    Capability(String),
    /// The capability has no such parameter.
    #[error("'{capability}' has no parameter '{parameter}'; it has {}", parameter_names(.capability))]
    Parameter {
        /// The capability.
        capability: String,
        /// The name that is not one of its parameters.
        parameter: String,
    },
    /// The parameter does not accept the value.
    #[error(transparent)]
    Value(#[from] InvalidParameter),
}

/// Returns the names of all capabilities, for error texts.
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
    /// Reads grants such as `sql` and `sql.rows=500`. A parameter grants its capability too. `sql.rows=default` removes
    /// a parameter when it is [merged](Self::merged). A set may be given several times; its value is the union.
    ///
    /// # Errors
    /// The first grant that is wrong; the text names the accepted values.
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
            given.add(found, name, value)?;
        }
        Ok(read)
    }

    /// Returns a grant of every capability, without parameters.
    pub fn all() -> Self {
        Self(Capabilities::OFFERED.iter().map(|offer| (offer.name.to_owned(), ParameterValues::default())).collect())
    }

    /// Returns whether a capability is granted.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the value that was given for a parameter such as `sql.rows`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (capability, parameter) = name.split_once('.')?;
        self.0.get(capability)?.get(parameter)
    }

    /// Returns the names of the granted capabilities in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the grants as [`Grants::read`] takes them: every capability, followed by its parameters.
    pub fn to_texts(&self) -> Vec<String> {
        let texts = |(name, given): (&String, &ParameterValues)| {
            let parameters = given.iter().map(|(parameter, value)| format!("{name}.{parameter}={value}"));
            std::iter::once(name.clone()).chain(parameters).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(texts).collect()
    }

    /// Returns the names of very broad grants, with what each permits as a continuation of "the plugin …".
    pub fn broad(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.0.iter().filter_map(|(name, given)| {
            let offer = Capabilities::OFFERED.iter().find(|offer| offer.name == name)?;
            (offer.breadth)(given).map(|breadth| (name.as_str(), breadth))
        })
    }

    /// Merges two grants. A parameter of `other` wins and replaces a whole set; a value `default` removes the
    /// parameter.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        for (name, given) in other.0 {
            let merged = self.0.entry(name).or_default();
            *merged = std::mem::take(merged).merged(given);
        }
        self
    }

    /// Returns the grants of the capabilities for which `keep` is true.
    #[must_use]
    pub fn retaining(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|name, _| keep(name));
        self
    }

    pub(super) fn parameters<C: Capability>(&self, host: &config::Plugins) -> Result<Option<C::Grant>> {
        let given = self.0.get(C::NAME).map(|given| C::Grant::read(given, host)).transpose();
        // Grants are checked when they are read, but a stored grant may be of another version of Wharf.
        given.map_err(|error| Error::internal(format!("the stored grant of '{}' is not valid: {error}", C::NAME)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(grants: &[&str]) -> Result<Vec<String>, String> {
        Grants::read(grants.iter().copied()).map(|grants| grants.to_texts()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_parameter_grants_its_capability_and_is_stored_in_canonical_form() {
        let texts = read(&["cache.bytes=1024KiB", "sql", " sql.time = 1500ms", "sql.rows=0500"]).unwrap();
        assert_eq!(texts, ["cache", "cache.bytes=1MiB", "sql", "sql.rows=500", "sql.time=1s500ms"]);
        assert_eq!(read(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), texts);
    }

    #[test]
    fn an_error_says_what_is_accepted() {
        let error = |grant| read(&[grant]).unwrap_err();
        assert_eq!(
            error("sq"),
            "there is no capability 'sq'; there are: auth, cache, config, email, events, http, jobs, log, sql, users, web"
        );
        assert_eq!(error("sql.row=5"), "'sql' has no parameter 'row'; it has rows, bytes, time, connections, disk");
        assert_eq!(error("auth.rows=5"), "'auth' has no parameter 'rows'; it has none");
        assert_eq!(error("sql=5"), "'sql' has no parameter ''; it has rows, bytes, time, connections, disk");
        assert_eq!(error("sql.rows"), "'sql.rows' has no value; write sql.rows=VALUE");
        assert_eq!(error("sql.rows=many"), "'sql.rows' is not a number; accepted: a number from 1 to 10000000");
        assert!(
            error("sql.time=5").starts_with("'sql.time' has no unit; accepted: a duration from "),
            "{}",
            error("sql.time=5")
        );
        assert!(error("s\nl").contains("'s l'"));
    }

    #[test]
    fn a_grant_for_every_public_server_is_broad() {
        let broad = |grants: &[&str]| {
            let grants = Grants::read(grants.iter().copied()).unwrap();
            grants.broad().map(|(name, breadth)| format!("{name} {breadth}")).collect::<Vec<_>>()
        };
        let expected = "http may send requests to every public server, so it can send whatever it knows to anybody";
        assert_eq!(broad(&["sql", "http.hosts=https://a.example", "http.hosts=HTTPS://*:443"]), [expected]);
        assert_eq!(broad(&["sql", "http", "http.hosts=https://*.example.com"]), [""; 0]);
        for refused in ["http.hosts=*", "http.hosts=http://*", "http.hosts=https://*:8443"] {
            let error = read(&[refused]).unwrap_err();
            assert!(error.contains("or https://* for every public server"), "{error}");
        }
    }

    #[test]
    fn a_set_is_a_union_and_any_other_parameter_has_one_value() {
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
        let error = read(&["http.hosts=https://a.example", "http.hosts=a.example"]).unwrap_err();
        assert!(error.starts_with("'http.hosts' holds 'a.example', which has no scheme; "), "{error}");
        let many: Vec<String> = (0..101).map(|i| format!("http.hosts=https://a{i}.example")).collect();
        let error = read(&many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
        assert!(error.starts_with("'http.hosts' holds 101 of them; accepted: "), "{error}");
    }

    #[test]
    fn topics_are_a_set_of_names_and_of_plugins() {
        let texts = read(&["events.hear=orders.paid", "events.hear=items.* orders.paid", "events.rate=5"]).unwrap();
        assert_eq!(texts, ["events", "events.hear=items.* orders.paid", "events.rate=5"]);
        let error = read(&["events.hear=items"]).unwrap_err();
        assert!(
            error.starts_with("'events.hear' holds 'items', which is neither SOURCE.NAME nor SOURCE.*; "),
            "{error}"
        );
    }

    #[test]
    fn domains_of_mails_are_a_set_in_one_form() {
        let texts =
            read(&["email.domains=Example.com münchen.example", "email.domains=xn--mnchen-3ya.example"]).unwrap();
        assert_eq!(texts, ["email", "email.domains=example.com münchen.example"]);
        for wrong in ["jane@example.com", "localhost", "*.example.com", "example.com."] {
            let error = read(&[&format!("email.domains={wrong}")]).unwrap_err();
            assert!(error.contains(&format!("holds '{wrong}', which is not a domain of mail; ")), "{error}");
        }
    }

    #[test]
    fn a_later_grant_changes_only_the_parameters_that_it_names() {
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
    fn every_parameter_says_what_it_accepts() {
        for offer in Capabilities::OFFERED {
            for parameter in offer.parameters {
                let refusal = (parameter.check)("nonsense").unwrap_err();
                assert!(refusal.contains("accepted: "), "{}.{}: {refusal}", offer.name, parameter.name);
            }
        }
    }
}
