//! Networks of IP addresses, as operators write them: those that a grant lets a plugin reach, and those of trusted
//! proxies. Owns their text form. Resolves no names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A network or a single address: `10.1.0.0/16`, `127.0.0.1`, `fd00:1::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network(IpNet);

impl Network {
    /// Returns the networks that contain every address.
    pub fn all() -> [Self; 2] {
        [Self(Ipv4Net::default().into()), Self(Ipv6Net::default().into())]
    }

    /// Returns whether the address, in its canonical form, belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Returns the network that counts as one client: a customer of a provider gets an IPv6 network of this size, and
    /// can choose among its addresses.
    pub fn of_client(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let whole = IpNet::from(IpAddr::V6(address));
                Self(Ipv6Net::new(address, 56).map_or(whole, |network| network.trunc().into()))
            }
            address @ IpAddr::V4(_) => Self(address.into()),
        }
    }

    /// Returns whether every address of its version belongs to it.
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| "is not a network".to_owned())?,
        };
        if let IpNet::V6(net) = net
            && net.addr().to_ipv4_mapped().is_some()
        {
            return Err("is an IPv4 network in the form of IPv6; write it as IPv4".to_owned());
        }
        Ok(Self(net.trunc()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_printed_in_their_shortest_form() {
        let read = |text: &str| text.parse::<Network>().map(|network| network.to_string());
        assert_eq!(read("10.1.2.3/16").unwrap(), "10.1.0.0/16");
        assert_eq!(read("127.0.0.1").unwrap(), "127.0.0.1/32");
        assert_eq!(read("FD00:0::1/32").unwrap(), "fd00::/32");
        for bad in ["", "10", "10.0.0.0/33", "localhost", "10.0.0.0/8/8", "::ffff:10.0.0.0/104", "fe80::1%lo"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let client = |text: &str| Network::of_client(text.parse().unwrap()).to_string();
        assert_eq!(client("192.0.2.7"), "192.0.2.7/32");
        assert_eq!(client("::ffff:192.0.2.7"), "192.0.2.7/32");
        assert_eq!(client("2001:db8:1:2ff:3::4"), "2001:db8:1:200::/56");
        let network: Network = "10.0.0.0/8".parse().unwrap();
        assert!(network.contains("::ffff:10.1.1.1".parse().unwrap()));
        assert!(!network.contains("64:ff9b::10.1.1.1".parse().unwrap()));
    }
}
