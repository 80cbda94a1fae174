//! The SSRF filter: decides which servers and addresses a plugin's request may connect to. A server must be in the
//! grant's allowlist of origins. Each address that its name resolves to must be public or in a granted network
//! (`address` classifies them), and must not be this host's own listener.
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
    /// Checks that the grant names the server.
    pub(super) fn check_server(&self, server: &Server) -> Result<(), Failure> {
        if self.hosts.iter().any(|origin| origin.allows(server)) {
            return Ok(());
        }
        Err(Failure::Denied(format!(
            "{server} is not among the http.hosts of this plugin's grant; `http.hosts={server}` would allow it"
        )))
    }

    /// Checks an address of the server. `own` is the address of this host's listener.
    pub(super) fn check_address(
        &self,
        host: &Host,
        address: SocketAddr,
        own: Option<SocketAddr>,
    ) -> Result<(), Failure> {
        self.check_class(host, address.ip())?;
        check_own_listener(own, address)
    }

    fn check_class(&self, host: &Host, address: IpAddr) -> Result<(), Failure> {
        let reason = match address::classify(address) {
            AddressClass::Public => return Ok(()),
            AddressClass::Internal(_) if self.networks.iter().any(|network| network.contains(address)) => return Ok(()),
            AddressClass::Internal(reason) => {
                format!("{reason} and not among the http.networks of this plugin's grant")
            }
            AddressClass::NeverAllowed(reason) => format!("{reason}, which no grant can allow"),
        };
        // The plugin does not learn which internal address a name resolves to.
        Err(Failure::Denied(match host {
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
