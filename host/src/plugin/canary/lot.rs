//! The lot that assigns callers to the two releases of a trial. Owns its secret, and the names of anonymous callers.
//!
//! The secret is drawn for each canary. Without it a client could compute which of its accounts or addresses are on one
//! side, and fail on that side only: that would end any trial.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::Random;
use crate::error::Result;
use crate::id::PluginName;

/// The bits of an IPv6 address that name a network.
const NETWORK_BITS: u32 = 64;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::plugin) struct Lot(String);

impl Lot {
    /// Draws a secret.
    ///
    /// # Errors
    /// See [`Random::bytes`].
    pub(in crate::plugin) fn draw(random: &Random) -> Result<Self> {
        Ok(Self(format!("{:032x}", u128::from_be_bytes(random.bytes()?))))
    }

    /// Returns the number that a caller draws for a release.
    pub(super) fn number(&self, plugin: &PluginName, release: i64, caller: &str) -> u64 {
        let hash = Sha256::digest(format!("{}{plugin}\n{release}\n{caller}", self.0));
        hash.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }
}

/// Returns the name of an anonymous caller. A client usually has a whole network of IPv6 addresses, so such a network is
/// one caller.
pub fn anonymous_caller(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> NETWORK_BITS << NETWORK_BITS;
            format!("{}/{NETWORK_BITS}", Ipv6Addr::from_bits(network))
        }
        address => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_draws_another_number_in_each_trial() {
        let plugin: PluginName = "items".parse().unwrap();
        let random = Random::default();
        let [one, two] = [Lot::draw(&random).unwrap(), Lot::draw(&random).unwrap()];
        assert_ne!(one.number(&plugin, 2, "192.0.2.1"), two.number(&plugin, 2, "192.0.2.1"));
        assert_eq!(one.number(&plugin, 2, "192.0.2.1"), one.clone().number(&plugin, 2, "192.0.2.1"));
        // The trial of an earlier version goes on with the same callers.
        let hash = Sha256::digest("items\n2\n192.0.2.1");
        let number = u64::from_be_bytes(hash[..8].try_into().unwrap());
        assert_eq!(Lot::default().number(&plugin, 2, "192.0.2.1"), number);
    }

    #[test]
    fn a_network_of_ipv6_addresses_is_one_caller() {
        let name = |text: &str| anonymous_caller(text.parse().unwrap());
        assert_eq!(name("2001:db8:1:2::1"), name("2001:db8:1:2:ffff::2"));
        assert_ne!(name("2001:db8:1:2::1"), name("2001:db8:1:3::1"));
        assert_eq!(name("::ffff:192.0.2.1"), name("192.0.2.1"));
        assert_ne!(name("192.0.2.1"), name("192.0.2.2"));
    }
}
