//! The origin of a request: the address of its client, and the scheme and the host that the client used. The log, the
//! trials of canaries and the plugins all use this one answer.
//!
//! Without a proxy, the connection tells all of it. Behind a proxy it does not, so the proxy writes it into headers. A
//! client can write the same headers, so they count only in requests from `server.trusted_proxies`. They are read from
//! the right: the last entry is by the proxy next to the host, and each trusted proxy vouches for the entry before its
//! own. The first address that is not of a trusted proxy is the client's, whatever stands to the left of it.
//!
//! The crates for this (`trusted-proxies` 0.3, `rfc7239` 0.1) read no IPv6 address without brackets, or mix both kinds
//! of headers, so that a client can choose its address where a proxy writes only one kind.

use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use axum::http::HeaderMap;
use axum::http::header::{FORWARDED, HOST, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::uri::Authority;

use crate::config::{ProxyHeaders, Server};
use crate::network::Network;

/// The most proxies in a row. Further entries are not read, because a client can send thousands.
const MAX_PROXIES: usize = 16;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The origin of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientOrigin {
    /// The address of the client. An IPv4 address is never written as an IPv6 one.
    pub(super) address: IpAddr,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// The host that the client used, with the port if it has one; `None` if the request names none.
    pub(super) host: Option<String>,
}

/// The proxies whose headers count.
#[derive(Debug)]
pub(super) struct TrustedProxies {
    networks: Vec<Network>,
    headers: ProxyHeaders,
    warned: Once,
}

/// The headers of a proxy: the entry that the last trusted proxy wrote, as far as it is valid.
#[derive(Debug, Default)]
struct Entry<'a> {
    address: Option<IpAddr>,
    scheme: Option<&'static str>,
    host: Option<&'a str>,
}

impl TrustedProxies {
    /// Reads the settings.
    pub(super) fn new(config: &Server) -> Self {
        Self { networks: config.trusted_proxies.clone(), headers: config.proxy_headers, warned: Once::new() }
    }

    /// Returns the origin of a request that came over a connection from `peer`.
    pub(super) fn origin(&self, parts: &Parts, peer: SocketAddr) -> ClientOrigin {
        let peer = peer.ip().to_canonical();
        let entry = if self.contains(peer) {
            match self.headers {
                ProxyHeaders::XForwarded => self.read_x_forwarded(&parts.headers),
                ProxyHeaders::Forwarded => self.read_forwarded(&parts.headers),
            }
        } else {
            self.warn_about_untrusted(&parts.headers, peer);
            Entry::default()
        };
        let named = || parts.uri.authority().map(Authority::as_str).or_else(|| text(&parts.headers, &HOST));
        ClientOrigin {
            address: entry.address.unwrap_or(peer),
            scheme: entry.scheme.unwrap_or("http"),
            host: entry.host.or_else(named).map(str::to_owned),
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Reads `X-Forwarded-For`. The proxy next to the host decides about scheme and host, because the number of entries
    /// of the other two headers need not be that of the addresses.
    fn read_x_forwarded<'a>(&self, headers: &'a HeaderMap) -> Entry<'a> {
        let mut entry = Entry {
            scheme: entries(headers, &X_FORWARDED_PROTO).next().and_then(scheme),
            host: entries(headers, &X_FORWARDED_HOST).next().and_then(host),
            ..Entry::default()
        };
        for text in entries(headers, &X_FORWARDED_FOR).take(MAX_PROXIES) {
            // An address that is missing or hidden ends the walk: the proxy that wrote so is the last known one.
            let Some(address) = address(text) else { break };
            entry.address = Some(address);
            if !self.contains(address) {
                break;
            }
        }
        entry
    }

    /// Reads `Forwarded` (RFC 7239). A comma within quotes also ends an entry. Only an extension could contain one, and
    /// a client that leaves a quote open cannot hide the entries that proxies write after it.
    fn read_forwarded<'a>(&self, headers: &'a HeaderMap) -> Entry<'a> {
        let mut entry = Entry::default();
        for text in entries(headers, &FORWARDED).take(MAX_PROXIES) {
            let mut next = Entry::default();
            for (name, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim() {
                    name if name.eq_ignore_ascii_case("for") => next.address = address(value),
                    name if name.eq_ignore_ascii_case("proto") => next.scheme = scheme(value),
                    name if name.eq_ignore_ascii_case("host") => next.host = host(value),
                    _ => {}
                }
            }
            entry.scheme = next.scheme.or(entry.scheme);
            entry.host = next.host.or(entry.host);
            let Some(address) = next.address else { break };
            entry.address = Some(address);
            if !self.contains(address) {
                break;
            }
        }
        entry
    }

    /// Tells the operator once that a proxy may be in front of the host.
    fn warn_about_untrusted(&self, headers: &HeaderMap, peer: IpAddr) {
        if headers.contains_key(&X_FORWARDED_FOR) || headers.contains_key(FORWARDED) {
            self.warned.call_once(|| {
                tracing::warn!(
                    %peer,
                    "a request names its client in X-Forwarded-For or Forwarded, which is not believed; if its sender \
                     is your proxy, add the address to server.trusted_proxies"
                );
            });
        }
    }
}

/// Returns the entries of a header that lists them, in all its lines, from the last to the first. An entry that is not
/// text is empty: a client may have written it, and the entries of proxies on the same line count all the same.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let entries = lines.into_iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    entries.map(|entry| std::str::from_utf8(entry).unwrap_or_default().trim())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Reads an address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

fn scheme(text: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// Reads a host with or without a port.
fn host(text: &str) -> Option<&str> {
    let authority: Authority = text.parse().ok()?;
    (text.len() <= 261 && !text.contains('@') && !authority.host().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.1:4444";

    fn proxies(networks: &[&str], headers: ProxyHeaders) -> TrustedProxies {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        TrustedProxies::new(&Server { trusted_proxies: networks, proxy_headers: headers, ..Server::default() })
    }

    fn origin_of(proxies: &TrustedProxies, peer: &str, headers: &[(&str, &str)]) -> ClientOrigin {
        let request = Request::get("/").header("host", "wharf.internal");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        proxies.origin(&request.body(()).unwrap().into_parts().0, peer.parse().unwrap())
    }

    fn client(headers: &[(&str, &str)]) -> String {
        let proxies = proxies(&["10.0.0.0/8", "2001:db8:1::/48"], ProxyHeaders::XForwarded);
        origin_of(&proxies, PEER, headers).address.to_string()
    }

    #[test]
    fn headers_of_a_client_that_is_no_proxy_do_not_count() {
        let headers = [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=192.0.2.7;proto=https;host=evil.example"),
        ];
        for (networks, peer) in [(&[][..], PEER), (&["10.0.0.2"][..], PEER), (&["10.0.0.0/8"][..], "[2001:db8::9]:1")] {
            for kind in [ProxyHeaders::XForwarded, ProxyHeaders::Forwarded] {
                let origin = origin_of(&proxies(networks, kind), peer, &headers);
                assert_eq!(origin.address, peer.parse::<SocketAddr>().unwrap().ip());
                assert_eq!((origin.scheme, origin.host.as_deref()), ("http", Some("wharf.internal")));
            }
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_of_a_proxy() {
        for (header, address) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7:5000", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:5000", "2001:db8::7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("203.0.113.9, 192.0.2.7", "192.0.2.7"),
            ("203.0.113.9, 192.0.2.7, 10.9.9.9,2001:db8:1::2", "192.0.2.7"),
            // All are proxies: the first of them is the client.
            ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
            // The proxy does not tell.
            ("", "10.0.0.1"),
            ("192.0.2.7, unknown", "10.0.0.1"),
            ("192.0.2.7, _hidden, 10.2.2.2", "10.2.2.2"),
        ] {
            assert_eq!(client(&[("x-forwarded-for", header)]), address, "{header}");
        }
        assert_eq!(client(&[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "192.0.2.7")]), "192.0.2.7");
        let many = format!("192.0.2.7{}", ", 10.1.1.1".repeat(10_000));
        assert_eq!(client(&[("x-forwarded-for", &many)]), "10.1.1.1");
    }

    #[test]
    fn scheme_and_host_come_from_the_proxy_next_to_the_host() {
        let proxies = proxies(&["10.0.0.1"], ProxyHeaders::XForwarded);
        let read = |proto, host| {
            let origin = origin_of(&proxies, PEER, &[("x-forwarded-proto", proto), ("x-forwarded-host", host)]);
            (origin.scheme, origin.host.unwrap())
        };
        assert_eq!(read("https", "api.example.com"), ("https", "api.example.com".to_owned()));
        assert_eq!(read("http, HTTPS", "a.example, b.example:8443"), ("https", "b.example:8443".to_owned()));
        for (proto, host) in [("ftp", "a b"), ("", ""), ("https://", "user@b.example"), ("x", "b.example/path")] {
            assert_eq!(read(proto, host), ("http", "wharf.internal".to_owned()), "{proto} {host}");
        }
    }

    #[test]
    fn the_header_forwarded_is_read() {
        let proxies = proxies(&["10.0.0.0/8"], ProxyHeaders::Forwarded);
        for (header, address, scheme, host) in [
            ("for=192.0.2.7", "192.0.2.7", "http", "wharf.internal"),
            (r#"For="[2001:db8::7]:4711""#, "2001:db8::7", "http", "wharf.internal"),
            ("for=192.0.2.7;proto=https;host=a.example", "192.0.2.7", "https", "a.example"),
            (r#"for=203.0.113.9, for=192.0.2.7 ; Proto="https", for=10.2.2.2;proto=http"#, "192.0.2.7", "https", ""),
            ("for=192.0.2.7, for=unknown", "10.0.0.1", "http", "wharf.internal"),
            (r#"for="203.0.113.9, for=192.0.2.7"#, "192.0.2.7", "http", "wharf.internal"),
            ("nonsense", "10.0.0.1", "http", "wharf.internal"),
        ] {
            let origin = origin_of(&proxies, PEER, &[("forwarded", header), ("x-forwarded-for", "203.0.113.9")]);
            assert_eq!((origin.address.to_string().as_str(), origin.scheme), (address, scheme), "{header}");
            assert!(host.is_empty() || origin.host.as_deref() == Some(host), "{header}: {origin:?}");
        }
    }

    #[test]
    fn a_proxy_is_recognized_by_either_form_of_its_address() {
        let proxies = proxies(&["10.0.0.1"], ProxyHeaders::XForwarded);
        let origin = origin_of(&proxies, "[::ffff:10.0.0.1]:1", &[("x-forwarded-for", "192.0.2.7")]);
        assert_eq!(origin.address.to_string(), "192.0.2.7");
    }

    proptest! {
        /// The entry of the proxy decides, whatever a client writes before it.
        #[test]
        fn a_client_cannot_choose_its_address(written in prop::collection::vec(any::<u8>(), 0..80)) {
            let proxies = |kind| proxies(&["10.0.0.0/8"], kind);
            let written: Vec<u8> = written.into_iter().map(|byte| if byte < b' ' || byte == 127 { b' ' } else { byte }).collect();
            let header = |appended: &str| HeaderValue::from_bytes(&[&written, appended.as_bytes()].concat()).unwrap();
            let read = |kind, name, appended| {
                let request = Request::get("/").header(name, header(appended)).body(()).unwrap();
                proxies(kind).origin(&request.into_parts().0, PEER.parse().unwrap())
            };
            let origin = read(ProxyHeaders::XForwarded, "x-forwarded-for", ", 192.0.2.7");
            prop_assert_eq!(origin.address.to_string(), "192.0.2.7");
            let appended = ", for=192.0.2.7;proto=https;host=a.example";
            let origin = read(ProxyHeaders::Forwarded, "forwarded", appended);
            prop_assert_eq!(origin.address.to_string(), "192.0.2.7");
            prop_assert_eq!((origin.scheme, origin.host.as_deref()), ("https", Some("a.example")));
        }
    }
}
