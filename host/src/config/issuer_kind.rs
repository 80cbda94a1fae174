//! The kinds of values that the settings of issuers have. [`kind`](super::kind) has those of all other settings.

use super::checked_text::{filled, parse_url, uncontrolled};
use super::kind::{Kind, MAX_SET, SEPARATOR, ValueType};
use super::secret::Secret;

/// The URL of an OpenID Connect issuer. It stays as it is written, because issuers are compared letter by letter.
pub(super) fn url() -> Kind<String> {
    let accepted = "an https:// URL without a query; http:// only for this machine";
    Kind::new(accepted, String::clone, |text| {
        let text = uncontrolled(filled(text)?)?;
        let url = parse_url(text, &["http", "https"])?;
        let is_local = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("contains a user name or password".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("contains a query or fragment".to_owned());
        }
        if url.scheme() == "http" && !is_local {
            return Err("is not encrypted".to_owned());
        }
        Ok(text.to_owned())
    })
}

/// The secret of an OAuth 2.0 client.
pub(super) fn client_secret() -> Kind<Secret> {
    Kind::new("a secret of 1 to 1024 characters", Secret::to_string, |text| {
        match uncontrolled(filled(text)?)?.chars().count() {
            count @ 1025.. => Err(format!("has {count} characters")),
            _ => Ok(Secret::new(text.trim())),
        }
    })
    .secret()
}

/// Scopes of OAuth 2.0, with spaces or commas between them (RFC 6749, section 3.3).
pub(super) fn scopes() -> Kind<Vec<String>> {
    let accepted = "scopes with spaces or commas between them, such as email profile";
    Kind::new(
        accepted,
        |scopes: &Vec<String>| scopes.join(" "),
        |text| {
            let scopes: Vec<&str> = text.split([SEPARATOR, ' ']).filter(|scope| !scope.is_empty()).collect();
            let is_scope = |scope: &str| scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
            match scopes.iter().find(|scope| !is_scope(scope)) {
                _ if scopes.len() > MAX_SET || text.len() > 1000 => Err("is too long".to_owned()),
                Some(scope) => Err(format!("holds {scope:?}, which is no scope")),
                None => Ok(scopes.into_iter().map(str::to_owned).collect()),
            }
        },
    )
    .or_bare(ValueType::List)
}
