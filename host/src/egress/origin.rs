//! URLs and origins. Parses a URL once, strictly, into a [`Target`], and an entry of the allowlist into an [`Origin`].
//! Normalizes every spelling of a host to one form, so that the host that is compared, resolved, connected to and sent
//! in the `host` header is always the same. Does not classify addresses and resolves nothing.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::Url;

/// The longest URL, in bytes.
pub const MAX_URL: usize = 8 * 1024;

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Not encrypted.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// The host of a URL: a name to look up, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// In lower case, in Punycode, without a dot at the end.
    Name(String),
    /// In its canonical form.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A server; the pool keeps connections by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// The scheme.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl Server {
    /// Returns the value of the `host` header.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

/// A parsed URL.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub server: Server,
    url: Url,
}

impl Target {
    /// Parses a plugin's URL.
    ///
    /// # Errors
    /// The reason why the URL is refused.
    pub fn read(text: &str) -> Result<Self, String> {
        checked(text)?;
        Self::of(Url::parse(text).map_err(|error| format!("the URL cannot be parsed: {error}"))?)
    }

    /// Parses the location of a redirect, which may be relative.
    ///
    /// # Errors
    /// The reason why the location is refused.
    pub fn join(&self, location: &str) -> Result<Self, String> {
        checked(location)?;
        Self::of(self.url.join(location).map_err(|error| format!("the URL cannot be parsed: {error}"))?)
    }

    fn of(mut url: Url) -> Result<Self, String> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("the URL is neither http nor https".to_owned()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL contains a user name or password; use a header".to_owned());
        }
        let host = read_host(&url)?;
        url.set_fragment(None);
        let port = url.port().unwrap_or(scheme.port());
        Ok(Self { server: Server { scheme, host, port }, url })
    }

    /// Returns the request target for the request line.
    pub fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }

    /// Returns the whole URL, without its fragment.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}

/// Refuses characters that URL parsers treat differently: this one drops line breaks and turns backslashes into
/// slashes.
fn checked(text: &str) -> Result<(), String> {
    if text.len() > MAX_URL {
        return Err(format!("the URL is longer than {MAX_URL} bytes"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("the URL contains a control character, a space or a backslash; percent-encode it".to_owned());
    }
    Ok(())
}

fn read_host(url: &Url) -> Result<Host, String> {
    match url.host() {
        Some(url::Host::Domain(name)) if name.ends_with('.') => Err("the host ends with a dot; remove it".to_owned()),
        // In the allowlist a star is a wildcard, so no spelling of it is allowed in a name.
        Some(url::Host::Domain(name)) if name.contains('*') => Err("the host contains a *".to_owned()),
        Some(url::Host::Domain("")) => Err("the URL has no host".to_owned()),
        Some(url::Host::Domain(name)) => Ok(Host::Name(name.to_owned())),
        Some(url::Host::Ipv4(address)) => Ok(Host::Address(address.into())),
        Some(url::Host::Ipv6(address)) => Ok(Host::Address(IpAddr::from(address).to_canonical())),
        None => Err("the URL has no host".to_owned()),
    }
}

/// One entry of the allowlist: `https://api.example.com`, `http://127.0.0.1:8080`, `https://*.example.com`, which matches
/// every name below example.com but not example.com itself, or [`https://*`](Self::EVERY_PUBLIC_SERVER).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    hosts: Hosts,
    scheme: Scheme,
    port: u16,
}

/// The hosts of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Hosts {
    /// All of them. The SSRF filter checks that the address is public.
    Every,
    /// One, or the names below it.
    Named {
        host: Host,
        /// The entry matches the names below the host.
        is_wildcard: bool,
    },
}

impl Origin {
    /// The entry that allows every public server, by https on port 443.
    pub const EVERY_PUBLIC_SERVER: &'static str = "https://*";

    /// Returns the origin that allows this server only.
    pub(super) fn of(server: Server) -> Self {
        let Server { scheme, host, port } = server;
        Self { hosts: Hosts::Named { host, is_wildcard: false }, scheme, port }
    }

    /// Returns whether the origin allows a server.
    pub fn allows(&self, server: &Server) -> bool {
        if self.scheme != server.scheme || self.port != server.port {
            return false;
        }
        match (&self.hosts, &server.host) {
            (Hosts::Every, _) => true,
            (Hosts::Named { host: Host::Name(suffix), is_wildcard: true }, Host::Name(name)) => name
                .strip_suffix(suffix.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|it| !it.is_empty()),
            (Hosts::Named { host, is_wildcard }, other) => !is_wildcard && host == other,
        }
    }

    /// Returns whether the origin allows a server because the operator named it, or a domain that it belongs to.
    pub(super) fn names(&self, server: &Server) -> bool {
        self.hosts != Hosts::Every && self.allows(server)
    }

    /// Reads an entry whose host is a star. `port` is empty or begins with a colon.
    fn of_every_server(scheme: &str, port: &str) -> Result<Self, String> {
        if !scheme.eq_ignore_ascii_case("https") || !["", ":443"].contains(&port) {
            return Err(format!("stands for all servers; only {} may, on port 443", Self::EVERY_PUBLIC_SERVER));
        }
        Ok(Self { hosts: Hosts::Every, scheme: Scheme::Https, port: Scheme::Https.port() })
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        checked(text).map_err(|_| "is not an origin".to_owned())?;
        let (scheme, rest) = text.split_once("://").ok_or("has no scheme; write https://HOST or http://HOST")?;
        if let Some(port) = rest.strip_suffix('/').unwrap_or(rest).strip_prefix('*')
            && (port.is_empty() || port.starts_with(':'))
        {
            return Self::of_every_server(scheme, port);
        }
        let (is_wildcard, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.contains('*') {
            return Err("has a * that is not in front of a name".to_owned());
        }
        let target =
            Target::read(&format!("{scheme}://{rest}")).map_err(|reason| format!("does not work: {reason}"))?;
        if target.path_and_query() != "/" || rest.contains(['?', '#']) {
            return Err("has a path or query; an origin is scheme, host and port".to_owned());
        }
        let Server { scheme, host, port } = target.server;
        match &host {
            Host::Address(_) if is_wildcard => return Err("has a * in front of an address".to_owned()),
            Host::Name(name) if is_wildcard && !name.contains('.') => {
                return Err("allows a whole top-level domain; name at least two parts".to_owned());
            }
            Host::Address(_) | Host::Name(_) => {}
        }
        if port == 0 {
            return Err("has the port 0".to_owned());
        }
        Ok(Self { hosts: Hosts::Named { host, is_wildcard }, scheme, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Every => return f.write_str(Self::EVERY_PUBLIC_SERVER),
            Hosts::Named { host, is_wildcard } => {
                write!(f, "{}://{}{host}", self.scheme, if *is_wildcard { "*." } else { "" })?;
            }
        }
        if self.port == self.scheme.port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origin: &str, url: &str) -> bool {
        origin.parse::<Origin>().unwrap().allows(&Target::read(url).unwrap().server)
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(allows("https://api.example.com", "https://API.example.com:443/path?query#fragment"));
        assert!(allows("http://api.example.com:8080", "http://api.example.com:8080"));
        assert!(allows("https://bücher.example", "https://xn--bcher-kva.example/"));
        assert!(allows("http://127.0.0.1", "http://[::ffff:127.0.0.1]/"));
        assert!(allows("http://[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080"));
        for other in [
            "http://api.example.com",
            "https://api.example.com:444",
            "https://example.com",
            "https://x.api.example.com",
            "https://api.example.com.evil.example",
            "https://api-example.com",
            "https://evil.example/?https://api.example.com",
        ] {
            assert!(!allows("https://api.example.com", other), "{other}");
        }
    }

    #[test]
    fn a_wildcard_matches_every_name_below_and_nothing_else() {
        assert!(allows("https://*.example.com", "https://a.example.com"));
        assert!(allows("https://*.example.com", "https://a.b.example.com"));
        for other in [
            "https://example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.example",
            "http://a.example.com",
        ] {
            assert!(!allows("https://*.example.com", other), "{other}");
        }
    }

    #[test]
    fn a_star_alone_allows_every_server_by_https_on_its_port() {
        let every = "https://*";
        for url in ["https://a.example", "https://a.b.example:443/c?d", "https://1.1.1.1", "https://[2606:4700::1]/"] {
            assert!(allows(every, url), "{url}");
            assert!(!every.parse::<Origin>().unwrap().names(&Target::read(url).unwrap().server), "{url}");
        }
        for other in ["http://a.example", "https://a.example:8443", "http://a.example:443", "https://a.example:80"] {
            assert!(!allows(every, other), "{other}");
        }
        for same in ["HTTPS://*", "https://*:443", "https://*/", "https://*:443/"] {
            assert_eq!(same.parse::<Origin>().unwrap().to_string(), every, "{same}");
        }
        for other in ["http://*", "https://*:8443", "http://*:443", "ftp://*", "https://*:443/x", "https://*:0443"] {
            let reason = other.parse::<Origin>().unwrap_err();
            assert_eq!(reason, "stands for all servers; only https://* may, on port 443", "{other}");
        }
    }

    #[test]
    fn origins_have_one_form_and_invalid_ones_are_refused() {
        let read = |text: &str| text.parse::<Origin>().map(|origin| origin.to_string());
        assert_eq!(read("HTTPS://*.Example.com:443/").unwrap(), "https://*.example.com");
        assert_eq!(read("http://0x7f.1:080").unwrap(), "http://127.0.0.1");
        for bad in [
            "",
            "example.com",
            "https://",
            "ftp://example.com",
            "https://a/b",
            "https://a?b",
            "https://a?",
            "https://a#b",
            "https://u:p@a",
            "https://u@a",
            "*",
            "https://*x",
            "https://*@a",
            "https://*?",
            "https://*#",
            "https://**",
            "https://*.*",
            "https://*.com",
            "https://*.1.2.3.4",
            "https://a.*.example.com",
            "https://**.example.com",
            "https://%2a.example.com",
            "https://\u{ff0a}.example.com",
            "https://*.a%2Ab.example.com",
            "https://a:0",
            "https://a:99999",
            "https://a.",
            "https://a b",
            "https://*.*.a.b",
        ] {
            assert!(read(bad).is_err(), "{bad}: {:?}", read(bad));
        }
    }

    #[test]
    fn urls_that_parsers_read_differently_are_refused() {
        for bad in [
            "http://a.example\r\nx: y",
            "http://a.exa\tmple",
            "http://a.example/ b",
            "http://a.example\\@b.example",
            "http:\\\\a.example",
            "http://u@a.example",
            "http://u:p@a.example",
            "http://:p@a.example",
            "http://a.example.",
            "http://",
            "file:///etc/passwd",
            "gopher://a.example",
            "//a.example",
            "/path",
            "http://a.example/\0",
            "http://a%00.example",
            "http://a%2eexample%2f@b.example",
            "http://[fe80::1%25lo]/",
            "http://256.256.256.256",
            "http://1.2.3.4.5",
            "http://*.example",
            "http://a%2a.example",
            "http://a.example:99999",
        ] {
            assert!(Target::read(bad).is_err(), "{bad:?}: {:?}", Target::read(bad));
        }
    }

    #[test]
    fn a_redirect_is_parsed_like_any_url() {
        let target = Target::read("https://a.example/b/c?d").unwrap();
        let join = |location: &str| target.join(location).map(|target| target.url().to_owned());
        assert_eq!(join("../e#f").unwrap(), "https://a.example/e");
        assert_eq!(join("//b.example").unwrap(), "https://b.example/");
        assert!(join("\\\\b.example").is_err());
        assert!(join("file:///etc/passwd").is_err());
        assert!(join("https://u:p@b.example").is_err());
    }
}
