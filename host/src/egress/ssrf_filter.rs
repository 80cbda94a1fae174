//! The SSRF filter: decides which servers and addresses a plugin's request may connect to. A server must be in the
//! grant's allowlist of origins. Each address that its name resolves to must be public or in a granted network
//! (`address` classifies them), and must not be this host's own listener. A server that only the entry `https://*` allows is
//! one that the operator did not choose: its addresses must be public, also if a network is granted, and it must not be this
//! host under its public name.
//!
//! Connects to nothing and resolves nothing: the caller checks each server, redirects included, then every address of
//! the lookup, and connects to one of exactly these addresses. A second lookup cannot lead elsewhere (DNS rebinding).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::address::{self, AddressClass};
use super::failure::Failure;
use super::origin::{Host, Origin, Server};
use crate::network::Network;

/// The servers and addresses that a release may connect to.
#[derive(Debug, Clone, Default)]
pub struct Allowlist {
    /// The servers. An empty list allows none.
    pub hosts: Vec<Origin>,
    /// Addresses that are allowed although they are not public.
    pub networks: Vec<Network>,
}

impl Allowlist {
    /// Checks that the grant allows the server. `own` is this host under its public name.
    pub(super) fn check_server(&self, server: &Server, own: Option<&Server>) -> Result<(), Failure> {
        if self.names(server) {
            return Ok(());
        }
        if !self.hosts.iter().any(|origin| origin.allows(server)) {
            return Err(Failure::Denied(format!(
                "{server} is not among the http.hosts of this plugin's grant; `http.hosts={server}` would allow it"
            )));
        }
        if own == Some(server) {
            let reason = format!("{server} is this host itself, which {} does not allow", Origin::EVERY_PUBLIC_SERVER);
            return Err(Failure::Denied(reason));
        }
        Ok(())
    }

    /// Checks an address of the server. `own` is the address of this host's listener.
    pub(super) fn check_address(
        &self,
        server: &Server,
        address: SocketAddr,
        own: Option<SocketAddr>,
    ) -> Result<(), Failure> {
        self.check_class(server, address.ip())?;
        check_own_listener(own, address)
    }

    /// Returns whether the operator chose the server: an entry other than `https://*` allows it.
    fn names(&self, server: &Server) -> bool {
        self.hosts.iter().any(|origin| origin.names(server))
    }

    fn check_class(&self, server: &Server, address: IpAddr) -> Result<(), Failure> {
        let is_named = self.names(server);
        let is_granted = || is_named && self.networks.iter().any(|network| network.contains(address));
        let reason = match address::classify(address) {
            AddressClass::Public => return Ok(()),
            AddressClass::Internal(_) if is_granted() => return Ok(()),
            AddressClass::Internal(reason) if is_named => {
                format!("{reason} and not among the http.networks of this plugin's grant")
            }
            AddressClass::Internal(reason) => {
                format!("{reason}, and {} allows public addresses only", Origin::EVERY_PUBLIC_SERVER)
            }
            AddressClass::NeverAllowed(reason) => format!("{reason}, which no grant can allow"),
        };
        // The plugin does not learn which internal address a name resolves to.
        Err(Failure::Denied(match &server.host {
            Host::Address(address) => format!("{address} is {reason}"),
            Host::Name(name) => format!("{name} has an address that is {reason}"),
        }))
    }
}

/// Denies this host's own listener: its operator API is for people, and a plugin that calls its own routes would wait
/// for itself.
fn check_own_listener(own: Option<SocketAddr>, address: SocketAddr) -> Result<(), Failure> {
    let denied = || Err(Failure::Denied("no grant allows requests to this host itself".to_owned()));
    let Some(own) = own.filter(|own| own.port() == address.port()) else { return Ok(()) };
    let ip = own.ip().to_canonical();
    if ip == address.ip() || (ip.is_unspecified() && is_of_this_machine(address)) { denied() } else { Ok(()) }
}

/// Returns whether the address belongs to this machine. The kernel reaches an address of its own from that very
/// address; connecting a UDP socket sends nothing.
fn is_of_this_machine(address: SocketAddr) -> bool {
    let from = |address: SocketAddr| {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    // An error denies too: an address that the kernel cannot route to is unreachable anyway.
    address.ip().is_loopback() || from(address).map_or(true, |local| local.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::origin::Target;

    fn check(hosts: &[&str], networks: &[&str], url: &str, address: &str) -> Result<(), String> {
        let allowlist = Allowlist {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        };
        let server = Target::read(url).unwrap().server;
        let own = Target::read("https://wharf.example").unwrap().server;
        let address = SocketAddr::new(address.parse().unwrap(), server.port);
        let checked =
            allowlist.check_server(&server, Some(&own)).and_then(|()| allowlist.check_address(&server, address, None));
        checked.map_err(|failure| failure.to_string())
    }

    #[test]
    fn every_public_server_is_allowed_at_its_public_addresses_only() {
        let every = |url: &str, address: &str| check(&["https://*"], &["0.0.0.0/0", "::/0"], url, address);
        for (url, address) in [
            ("https://a.example/hook", "1.1.1.1"),
            ("https://a.example", "2606:4700::1111"),
            ("https://1.1.1.1/", "1.1.1.1"),
            ("https://[2606:4700::1111]/", "2606:4700::1111"),
        ] {
            assert_eq!(every(url, address), Ok(()), "{url} at {address}");
        }
        for address in [
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "168.63.129.16",
            "192.0.2.1",
            "::1",
            "fd00:ec2::254",
            "fe80::1",
            "64:ff9b::a9fe:a9fe",
            "2001:db8::1",
        ] {
            let bracketed = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            for url in ["https://a.example".to_owned(), format!("https://{bracketed}")] {
                let reason = every(&url, address).unwrap_err();
                assert!(reason.ends_with("and https://* allows public addresses only"), "{url} at {address}: {reason}");
            }
        }
        for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            let reason = every("https://a.example", address).unwrap_err();
            assert!(reason.ends_with("which no grant can allow"), "{address}: {reason}");
        }
        for url in ["http://a.example", "https://a.example:8443"] {
            assert!(every(url, "1.1.1.1").unwrap_err().contains("is not among the http.hosts"), "{url}");
        }
    }

    #[test]
    fn a_server_that_is_named_as_well_may_be_in_a_granted_network() {
        let hosts = ["https://*", "https://inside.example"];
        assert_eq!(check(&hosts, &["10.0.0.0/8"], "https://inside.example", "10.1.2.3"), Ok(()));
        assert!(check(&hosts, &["10.0.0.0/8"], "https://outside.example", "10.1.2.3").is_err());
        let reason = check(&hosts, &["10.0.0.0/8"], "https://inside.example", "192.168.0.1").unwrap_err();
        assert!(reason.ends_with("and not among the http.networks of this plugin's grant"), "{reason}");
    }

    #[test]
    fn this_host_under_its_public_name_is_allowed_only_by_name() {
        let reason = check(&["https://*"], &[], "https://WHARF.example/api/v1/users/", "1.1.1.1").unwrap_err();
        assert_eq!(reason, "denied: https://wharf.example is this host itself, which https://* does not allow");
        assert_eq!(check(&["https://*", "https://wharf.example"], &[], "https://wharf.example", "1.1.1.1"), Ok(()));
    }
}
