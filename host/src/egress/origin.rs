//! Where a request goes, and where it may: URLs read once and strictly into a [`Target`], and the allow-list's [`Origin`]s
//! that a target is held against. Every spelling of a host becomes one form here, so that what is compared, resolved,
//! connected to and sent as `host` is the same thing. Knows nothing of addresses' meaning, and resolves nothing.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::Url;

use super::address;

/// The longest URL.
pub const MAX_URL: usize = 8 * 1024;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// In the clear.
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

/// A name to look up, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// In lower case, in Punycode, without a dot at its end.
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

/// A server: what connections are kept by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// How.
    pub scheme: Scheme,
    /// Who.
    pub host: Host,
    /// Where.
    pub port: u16,
}

impl Server {
    /// What goes into `host`.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

/// What a URL asks for.
#[derive(Debug, Clone)]
pub struct Target {
    /// Of whom.
    pub server: Server,
    url: Url,
}

impl Target {
    /// Reads a URL of a plugin's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        checked(text)?;
        Self::of(Url::parse(text).map_err(|error| format!("the URL cannot be read: {error}"))?)
    }

    /// Reads where a server sends on to, which may be relative.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn join(&self, location: &str) -> Result<Self, String> {
        checked(location)?;
        Self::of(self.url.join(location).map_err(|error| format!("the URL cannot be read: {error}"))?)
    }

    fn of(mut url: Url) -> Result<Self, String> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("the URL is neither http nor https".to_owned()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL holds a user name or password; use a header".to_owned());
        }
        let host = read_host(&url)?;
        url.set_fragment(None);
        let port = url.port().unwrap_or(scheme.port());
        Ok(Self { server: Server { scheme, host, port }, url })
    }

    /// What stands in the request's first line.
    pub fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }

    /// The whole, without a fragment.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}

/// The parser drops line breaks and turns backslashes round. Nobody means either, and other parsers do otherwise.
fn checked(text: &str) -> Result<(), String> {
    if text.len() > MAX_URL {
        return Err(format!("the URL is longer than {MAX_URL} bytes"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("the URL holds a control character, a space or a backslash; percent-encode it".to_owned());
    }
    Ok(())
}

fn read_host(url: &Url) -> Result<Host, String> {
    match url.host() {
        Some(url::Host::Domain(name)) if name.ends_with('.') => {
            Err("the host ends in a dot; write it without".to_owned())
        }
        // However it was spelled: in an allow-list a star is another thing than a name.
        Some(url::Host::Domain(name)) if name.contains('*') => Err("the host holds a *".to_owned()),
        Some(url::Host::Domain("")) => Err("the URL names no host".to_owned()),
        Some(url::Host::Domain(name)) => Ok(Host::Name(name.to_owned())),
        Some(url::Host::Ipv4(address)) => Ok(Host::Address(address.into())),
        Some(url::Host::Ipv6(address)) => Ok(Host::Address(address::canonical(address.into()))),
        None => Err("the URL names no host".to_owned()),
    }
}

/// One line of an allow-list: `https://api.example.com`, `http://127.0.0.1:8080`, `https://*.example.com`, which is every
/// name below example.com and not example.com itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    host: Host,
    /// The host stands for the names below it.
    below: bool,
    scheme: Scheme,
    port: u16,
}

impl Origin {
    /// Whether it allows to speak to a server.
    pub fn allows(&self, server: &Server) -> bool {
        if self.scheme != server.scheme || self.port != server.port {
            return false;
        }
        match (&self.host, &server.host) {
            (Host::Name(suffix), Host::Name(name)) if self.below => name
                .strip_suffix(suffix.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|it| !it.is_empty()),
            (allowed, host) => !self.below && allowed == host,
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        checked(text).map_err(|_| "is not an origin".to_owned())?;
        let (scheme, rest) = text.split_once("://").ok_or("has no scheme; write https://HOST or http://HOST")?;
        let (below, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.contains('*') {
            return Err("has a * elsewhere than in front of a name".to_owned());
        }
        let target =
            Target::read(&format!("{scheme}://{rest}")).map_err(|reason| format!("does not work: {reason}"))?;
        if target.path_and_query() != "/" || rest.contains(['?', '#']) {
            return Err("has a path or query; an origin is scheme, host and port".to_owned());
        }
        let Server { scheme, host, port } = target.server;
        match &host {
            Host::Address(_) if below => return Err("has a * in front of an address".to_owned()),
            Host::Name(name) if below && !name.contains('.') => {
                return Err("allows a whole top-level domain; name at least two parts".to_owned());
            }
            Host::Address(_) | Host::Name(_) => {}
        }
        if port == 0 {
            return Err("has the port 0".to_owned());
        }
        Ok(Self { host, below, scheme, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wildcard = if self.below { "*." } else { "" };
        write!(f, "{}://{wildcard}{}", self.scheme, self.host)?;
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
    fn a_wildcard_is_every_name_below_and_nothing_else() {
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
    fn origins_have_one_form_and_what_is_none_is_told() {
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
            "https://*",
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
    fn what_parsers_disagree_about_is_refused() {
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
    fn a_redirect_is_read_like_any_url() {
        let target = Target::read("https://a.example/b/c?d").unwrap();
        let join = |location: &str| target.join(location).map(|target| target.url().to_owned());
        assert_eq!(join("../e#f").unwrap(), "https://a.example/e");
        assert_eq!(join("//b.example").unwrap(), "https://b.example/");
        assert!(join("\\\\b.example").is_err());
        assert!(join("file:///etc/passwd").is_err());
        assert!(join("https://u:p@b.example").is_err());
    }
}
