//! The URLs of the frontends: the origins that browsers may call the API from, and the base of links in mails. Owns
//! which texts are such URLs. `http::cors` compares the origins with those of requests.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// The separator of the URLs.
const SEPARATOR: char = ',';

/// The most URLs. Each request with an `Origin` header is compared with all of them.
const MAX_URLS: usize = 100;

/// The beginning of a host that stands for all names below a domain.
const ANY_SUBDOMAIN: &str = "*.";

/// The checked URLs; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendUrls {
    links: String,
    origins: Vec<FrontendOrigin>,
    /// All URLs, as they are shown.
    text: String,
}

/// An origin that may call the API, or all origins below a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontendOrigin {
    /// One origin, as browsers write it.
    One(String),
    /// All subdomains of a domain, at any depth, without the domain itself.
    Subdomains {
        /// `https://`
        scheme: String,
        /// `.example.com`, with a port that is not the default one.
        domain: String,
    },
}

impl FrontendUrls {
    /// Returns the first URL, without a trailing slash: the base of links in mails.
    pub fn links(&self) -> &str {
        &self.links
    }

    /// Returns the allowed origins.
    pub fn origins(&self) -> &[FrontendOrigin] {
        &self.origins
    }
}

impl fmt::Display for FrontendUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Default for FrontendUrls {
    /// The address of a frontend's development server.
    fn default() -> Self {
        let url = "http://localhost:5173".to_owned();
        Self { links: url.clone(), origins: vec![FrontendOrigin::One(url.clone())], text: url }
    }
}

/// Everything that is wrong with any URL is reported at once.
impl FromStr for FrontendUrls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let texts: Vec<&str> = text.split(SEPARATOR).map(str::trim).collect();
        if texts.len() > MAX_URLS {
            return Err(format!("has {} URLs", texts.len()));
        }
        let (mut urls, mut origins, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for (text, number) in texts.iter().zip(1..) {
            let read = parse(text).and_then(|(url, origin)| match origin {
                origin if origins.contains(&origin) => Err("has the origin of another URL".to_owned()),
                FrontendOrigin::Subdomains { .. } if number == 1 => {
                    Err("has an asterisk, and the first URL is the base of links".to_owned())
                }
                origin => Ok((url, origin)),
            });
            match read {
                Ok((url, origin)) => {
                    urls.push(url);
                    origins.push(origin);
                }
                Err(reason) if texts.len() == 1 => wrong.push(reason),
                Err(reason) => wrong.push(format!("URL {number} {reason}")),
            }
        }
        match urls.first() {
            Some(links) if wrong.is_empty() => {
                Ok(Self { links: links.clone(), text: urls.join(&format!("{SEPARATOR} ")), origins })
            }
            _ => Err(wrong.join("; ")),
        }
    }
}

/// Parses one URL: no query, no fragment, no user. Returns it without a trailing slash, and its origin.
fn parse(text: &str) -> Result<(String, FrontendOrigin), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("has the scheme {:?}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user name or password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("contains a query or fragment".to_owned());
    }
    let written = url.as_str().trim_end_matches('/').to_owned();
    let origin = match url.host() {
        Some(Host::Domain(host)) if host.contains('*') => subdomains(&url, host)?,
        // A path only matters for links. Browsers send scheme, host and port.
        _ => FrontendOrigin::One(url.origin().ascii_serialization()),
    };
    Ok((written, origin))
}

fn subdomains(url: &Url, host: &str) -> Result<FrontendOrigin, String> {
    let domain = host.strip_prefix(ANY_SUBDOMAIN).filter(|domain| !domain.contains('*'));
    let domain = domain.ok_or("has an asterisk that is not the whole first label of the host")?;
    // Everybody can own a name below a top-level domain.
    if !domain.contains('.') && domain != "localhost" {
        return Err(format!("allows every host below .{domain}"));
    }
    if url.path() != "/" {
        return Err("has an asterisk and a path, but it is no base of links".to_owned());
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(FrontendOrigin::Subdomains { scheme: format!("{}://", url.scheme()), domain: format!(".{domain}{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FrontendUrls, String> {
        text.parse()
    }

    #[test]
    fn a_base_url_loses_only_its_trailing_slash() {
        for (text, links) in [
            ("https://App.example.com/", "https://app.example.com"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("https://example.com/app/", "https://example.com/app"),
        ] {
            assert_eq!(read(text).unwrap().links(), links);
        }
        for bad in
            ["", "example.com", "ftp://example.com", "https://u:p@example.com", "https://example.com/?a", "http://"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_url_is_the_base_of_links_and_all_are_origins() {
        let text =
            "https://app.example.com/shop/ ,http://localhost:5173, https://*.Example.com:8443/, https://bücher.de";
        let urls = read(text).unwrap();
        assert_eq!(urls.links(), "https://app.example.com/shop");
        let one = |text: &str| FrontendOrigin::One(text.to_owned());
        let below = FrontendOrigin::Subdomains { scheme: "https://".into(), domain: ".example.com:8443".into() };
        let origins =
            [one("https://app.example.com"), one("http://localhost:5173"), below, one("https://xn--bcher-kva.de")];
        assert_eq!(urls.origins(), origins);
        assert_eq!(read(&urls.to_string()).unwrap(), urls, "the shown form is accepted again");
        assert_eq!(read("http://localhost:5173").unwrap(), FrontendUrls::default());
    }

    #[test]
    fn each_wrong_url_of_a_list_is_named() {
        let wrong = read("https://ok.example.com, ftp://a.example.com, https://*.com, nonsense,").unwrap_err();
        for part in
            ["URL 2 has the scheme \"ftp\"", "URL 3 allows every host below .com", "URL 4 is not", "URL 5 is em"]
        {
            assert!(wrong.contains(part), "{part} is not in {wrong}");
        }
        for (text, reason) in [
            ("https://*.example.com", "has an asterisk, and the first URL is the base of links"),
            ("https://a.example.com, https://A.example.com/b", "URL 2 has the origin of another URL"),
            ("https://a.example.com, https://a*.example.com", "URL 2 has an asterisk that is not the whole first"),
            ("https://a.example.com, https://*.*.example.com", "URL 2 has an asterisk that is not the whole first"),
            ("https://a.example.com, https://*.b.example.com/c", "URL 2 has an asterisk and a path"),
        ] {
            let wrong = read(text).unwrap_err();
            assert!(wrong.contains(reason), "{text}: {wrong}");
        }
        assert!(read(&"https://a.example.com,".repeat(101)).unwrap_err().starts_with("has 102 URLs"));
    }
}
