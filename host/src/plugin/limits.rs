//! What bounds the calls of a plugin: what the host is configured to, unless the operator said otherwise for this one.
//! Belongs to a release, as its grants do; what bounds a capability is part of its grant instead.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capability::grant::{InvalidGrant, Parameter, Parameters, parameters};
use crate::config::{self, kind};
use crate::error::{Error, Result};

parameters! {
    /// Limits of one plugin; none: as the host is configured.
    Own {
        /// All memories and tables of one call together.
        memory: usize = kind::bytes(64 << 10..=MAX_MEMORY as u64), else memory_bytes;
        /// CPU time of one call.
        cpu_time: Duration = kind::duration(Duration::from_millis(10)..=Duration::from_secs(600)), else cpu_time;
        /// Wall time of one call.
        deadline: Duration = kind::duration(Duration::from_millis(10)..=Duration::from_secs(600)), else deadline;
        /// Calls at once.
        concurrency: usize = kind::count(1..=10_000), else concurrency;
        /// How long a call may wait for its turn.
        queue_time: Duration = kind::duration(Duration::ZERO..=Duration::from_secs(60)), else queue_time;
        /// Calls into the host from one call.
        host_calls: u64 = kind::count(1..=1_000_000_000), else host_calls;
        /// Bytes of an answer's body.
        response_bytes: usize = kind::bytes(64 << 10..=1 << 30), else response_bytes;
    }
}

/// What any plugin may be given. A memory of 32 bits ends here, and each slot of the pool has the addresses for it.
pub(super) const MAX_MEMORY: usize = 4 << 30;

/// The limits that an operator set for a plugin, as texts such as `memory=128MiB`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Limits(BTreeMap<String, String>);

/// Gives a limit back to what the host is configured to.
const DEFAULT: &str = "default";

impl Limits {
    /// Reads texts such as `memory=128MiB`; `memory=default` takes one back when it is [merged](Self::merged).
    ///
    /// # Errors
    /// The first one that makes no sense; the text says what would.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut limits = BTreeMap::new();
        for text in texts {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let (name, value) = (name.trim(), value.trim());
            let offered = Self::offered().iter().find(|offered| offered.name == name).ok_or_else(|| {
                let names: Vec<&str> = Self::offered().iter().map(|offered| offered.name).collect();
                let name: String = name.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect();
                format!("there is no limit '{name}'; there are: {}", names.join(", "))
            })?;
            let value = match value {
                DEFAULT => DEFAULT.to_owned(),
                value => (offered.check)(value).map_err(|reason| format!("'{name}' {reason}"))?,
            };
            limits.insert(name.to_owned(), value);
        }
        Ok(Self(limits))
    }

    /// The limits there are.
    pub fn offered() -> &'static [Parameter] {
        Own::OFFERED
    }

    /// The value that was set for one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Each as [`Limits::read`] takes it.
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// These and those of `other`, which wins; one that it gives as `default` is gone.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self.0.retain(|_, value| value != DEFAULT);
        self
    }

    /// Every limit there is with its value, set for the plugin or for all.
    ///
    /// # Errors
    /// What was stored makes no sense to this version.
    pub(super) fn effective(&self, host: &config::Plugins) -> Result<Vec<(&'static str, String)>> {
        Ok(self.own()?.filled(host).texts())
    }

    fn own(&self) -> Result<Own> {
        let unreadable = |error: InvalidGrant| Error::internal(format!("its limits make no sense: {error}"));
        Own::read(&self.0).map_err(unreadable)
    }

    /// What a call is held to.
    ///
    /// # Errors
    /// What was stored makes no sense to this version.
    pub(super) fn resolve(&self, host: &config::Plugins) -> Result<CallLimits> {
        let own = self.own()?;
        Ok(CallLimits {
            memory: own.memory.unwrap_or(host.memory_bytes),
            cpu_time: own.cpu_time.unwrap_or(host.cpu_time),
            deadline: own.deadline.unwrap_or(host.deadline),
            concurrency: own.concurrency.unwrap_or(host.concurrency),
            queue_time: own.queue_time.unwrap_or(host.queue_time),
            host_calls: own.host_calls.unwrap_or(host.host_calls),
            response_bytes: own.response_bytes.unwrap_or(host.response_bytes),
        })
    }
}

/// What a call is held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallLimits {
    /// All memories and tables together, in bytes.
    pub memory: usize,
    /// CPU time.
    pub cpu_time: Duration,
    /// Wall time.
    pub deadline: Duration,
    /// Calls of the plugin at once.
    pub concurrency: usize,
    /// How long a call may wait for its turn.
    pub queue_time: Duration,
    /// Calls into the host.
    pub host_calls: u64,
    /// Bytes of an answer's body.
    pub response_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_merged_and_resolved() {
        let read = |texts: &[&str]| Limits::read(texts.iter().copied());
        let limits = read(&["memory=131072KiB", "deadline=2s"]).unwrap();
        assert_eq!(limits.to_texts(), ["deadline=2s", "memory=128MiB"]);
        let merged = limits.merged(read(&["deadline=default", "host_calls=5"]).unwrap());
        assert_eq!(merged.to_texts(), ["host_calls=5", "memory=128MiB"]);
        let host = config::Plugins::default();
        let resolved = merged.resolve(&host).unwrap();
        assert_eq!((resolved.memory, resolved.host_calls, resolved.deadline), (128 << 20, 5, host.deadline));
        assert!(
            read(&["memry=5MiB"]).unwrap_err().starts_with("there is no limit 'memry'; there are: memory, cpu_time")
        );
        assert!(read(&["memory"]).unwrap_err().starts_with("'memory' is not a size; accepted: "));
        assert!(read(&["memory=5GiB"]).unwrap_err().starts_with("'memory' is too large"));
    }
}
