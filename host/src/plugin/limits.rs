//! What bounds the calls of a plugin: what the host is configured to, unless the operator said otherwise for this one.
//! Belongs to a release, as its grants do; what bounds a capability is part of its grant instead.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capability::parameter::{Given, Parameters as _, parameters, printable};
use crate::config::{self, kind};
use crate::error::{Error, Result};

parameters! {
    /// What a call is held to.
    CallLimits {
        /// All memories and tables of one call, and what the host holds for it, together.
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
        /// Bytes of a request's body.
        request_bytes: usize = kind::bytes(1 << 10..=1 << 30), else request_bytes;
        /// Bytes of the headers that a request brings, credentials aside, and of those of an answer.
        header_bytes: usize = kind::bytes(1 << 10..=64 << 10), else header_bytes;
        /// Bytes of an answer's body.
        response_bytes: usize = kind::bytes(64 << 10..=1 << 30), else response_bytes;
    }
}

/// What any plugin may be given. A memory of 32 bits ends here, and each slot of the pool has the addresses for it.
pub(super) const MAX_MEMORY: usize = 4 << 30;

/// The limits that an operator set for a plugin, as texts such as `memory=128MiB`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Limits(Given);

impl Limits {
    /// Reads texts such as `memory=128MiB`; `memory=default` takes one back when it is [merged](Self::merged).
    ///
    /// # Errors
    /// The first one that makes no sense; the text says what would.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut given = Given::default();
        for text in texts {
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.trim())));
            let name = name.trim();
            let offered = CallLimits::OFFERED.iter().find(|offered| offered.name == name).ok_or_else(|| {
                let names: Vec<&str> = CallLimits::OFFERED.iter().map(|offered| offered.name).collect();
                format!("there is no limit '{}'; there are: {}", printable(name), names.join(", "))
            })?;
            given.add(offered, name, value).map_err(|error| error.to_string())?;
        }
        Ok(Self(given))
    }

    /// The value that was set for one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// Each as [`Limits::read`] takes it.
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// These and those of `other`, which wins; one that it gives as `default` is gone.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self(self.0.merged(other.0))
    }

    /// What a call is held to.
    ///
    /// # Errors
    /// What was stored makes no sense to this version.
    pub(super) fn resolve(&self, host: &config::Plugins) -> Result<CallLimits> {
        let resolved = CallLimits::read(&self.0, host);
        resolved.map_err(|error| Error::internal(format!("its limits make no sense: {error}")))
    }
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
        assert!(read(&["memory"]).unwrap_err().starts_with("'memory' has no value; write memory=VALUE"));
        assert!(read(&["memory=5GiB"]).unwrap_err().starts_with("'memory' is too large"));
    }
}
