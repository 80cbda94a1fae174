//! The limits of a plugin's calls: the settings of the host, unless the operator set others for this plugin. They
//! belong to a release, as its grants do. The limits of a capability are part of its grant instead.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capability::parameter::{ParameterValues, Parameters as _, parameters, printable};
use crate::config;
use crate::error::{Error, Result};

parameters! {
    /// The limits of one call.
    CallLimits {
        memory: usize = memory_bytes,
        cpu_time: Duration = cpu_time,
        deadline: Duration = deadline,
        concurrency: usize = concurrency,
        queue_time: Duration = queue_time,
        host_calls: u64 = host_calls,
        request_bytes: usize = request_bytes,
        header_bytes: usize = header_bytes,
        response_bytes: usize = response_bytes,
    }
}

/// The limits that an operator set for one plugin, as texts such as `memory=128MiB`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LimitOverrides(ParameterValues);

impl LimitOverrides {
    /// Reads texts such as `memory=128MiB`. `memory=default` removes an override when it is [merged](Self::merged).
    ///
    /// # Errors
    /// The first text that is wrong; the error names the accepted values.
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut given = ParameterValues::default();
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

    /// Returns the value that was set for a limit.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// Returns every override as [`LimitOverrides::read`] takes it.
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Merges two sets of overrides. A value of `other` wins; a value `default` removes the override.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self(self.0.merged(other.0))
    }

    /// Returns the limits of a call: the overrides, and the settings of the host for the rest.
    ///
    /// # Errors
    /// A stored override is not valid in this version.
    pub(super) fn resolve(&self, host: &config::Plugins) -> Result<CallLimits> {
        let resolved = CallLimits::read(&self.0, host);
        resolved.map_err(|error| Error::internal(format!("its stored limits are not valid: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::parameter::Parameter;
    use crate::capability::{Capabilities, Limit};

    #[test]
    fn every_counted_setting_is_a_parameter_of_the_same_name() {
        let of_calls = CallLimits::OFFERED.iter().map(|parameter| (parameter.name.to_owned(), parameter.setting));
        let of_grants = Capabilities::OFFERED.iter().flat_map(|offer| {
            let named = |parameter: &Parameter| (format!("{}.{}", offer.name, parameter.name), parameter.setting);
            offer.parameters.iter().map(named).collect::<Vec<_>>()
        });
        let parameters: Vec<_> = of_calls.chain(of_grants).collect();
        for limit in Limit::ALL.iter().filter(|limit| limit.setting().is_some()) {
            assert!(parameters.contains(&(limit.as_str().to_owned(), limit.setting())), "{limit:?}");
        }
    }

    #[test]
    fn overrides_are_read_merged_and_resolved() {
        let read = |texts: &[&str]| LimitOverrides::read(texts.iter().copied());
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
