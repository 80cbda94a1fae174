//! The URL of an endpoint. This is help for the person who enters it: a typing error is refused at once. The host decides
//! whether a request may be sent, each time: the grant allows the servers, and its filter refuses internal addresses.

use serde::Deserialize;
use std::net::IpAddr;
use wharf_sdk::prelude::*;

/// The settings that the operator may give.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Configuration {
    /// Accepts `http://` for endpoints on this machine (`localhost`, `127.0.0.1`, `[::1]`). For development.
    allow_http: bool,
}

/// Checks a URL.
pub(crate) fn check(url: &str, settings: &Configuration) -> Result<()> {
    match fault(url, settings.allow_http) {
        Some(message) => Err(Problem::unprocessable([FieldError::body("url", message)])),
        None => Ok(()),
    }
}

fn fault(url: &str, allow_http: bool) -> Option<&'static str> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !br#"\"<>^`{|}"#.contains(&byte);
    if !url.bytes().all(is_plain) {
        return Some("Percent-encode the special characters, and write the domain in Punycode");
    }
    let Some((scheme, rest)) = url.split_once("://") else { return Some(NOT_HTTPS) };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host_of(authority);
    if host.is_empty() {
        return Some("The URL has no host");
    }
    if authority.contains('@') {
        return Some("The URL has a user name or a password. The signature proves the sender");
    }
    if url.contains('#') {
        return Some("The URL has a fragment, which would not be sent");
    }
    match scheme.to_ascii_lowercase().as_str() {
        "https" => None,
        "http" if allow_http && is_loopback(host) => None,
        "http" if allow_http => Some("Only a server on this machine can have http://"),
        _ => Some(NOT_HTTPS),
    }
}

const NOT_HTTPS: &str = "The URL does not begin with https://";

/// Returns the host of an authority, without its port.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(address) => address.split_once(']').map_or("", |(address, _)| address),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_is_needed_except_on_this_machine() {
        for url in ["https://a.example", "HTTPS://a.example:8443/hooks?token=1", "https://[2001:db8::1]/x"] {
            assert_eq!((fault(url, false), fault(url, true)), (None, None), "{url}");
        }
        for url in ["http://localhost:1/x", "http://127.0.0.1", "http://[::1]:8080/"] {
            assert_eq!((fault(url, false), fault(url, true)), (Some(NOT_HTTPS), None), "{url}");
        }
        for url in ["http://a.example", "http://127.0.0.1.a.example", "http://localhost.a.example", "http://10.0.0.1"] {
            assert!(fault(url, true).is_some(), "{url}");
        }
    }

    #[test]
    fn urls_that_could_mean_something_else_are_refused() {
        for url in [
            "",
            "a.example",
            "https://",
            "https:///x",
            "https://:443/x",
            "https://[::1/x",
            "ftp://a.example",
            "https://u:p@a.example",
            "https://a.example/#x",
            "https://a.example/ x",
            "https://a.example\\@b.example",
            "https://b\u{fc}cher.example",
            "https://a.example/\n",
        ] {
            assert!(fault(url, true).is_some(), "{url}");
        }
    }
}
