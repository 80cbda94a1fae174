//! The relying party of passkeys: the name that browsers bind a passkey to, and the origins that may use it. Owns how both
//! follow from the URLs of the frontends: the host of the first URL is the name, and the origins are those URLs whose host
//! is this name or below it. A pattern gives no origin, because any site below a domain could use it.

use url::{Host, Url};
use webauthn_rp::request::{AsciiDomain, RpId};

use crate::config::{FrontendOrigin, FrontendUrls};
use crate::error::{Error, Result, code};

/// See the module.
#[derive(Debug, Clone)]
pub struct RelyingParty {
    pub(super) id: RpId,
    pub(super) origins: Vec<String>,
}

impl RelyingParty {
    /// Returns the relying party of these frontends.
    ///
    /// # Errors
    /// A conflict `passkeys_unavailable`: browsers offer no passkeys there, because the first URL has an IP address or is
    /// neither https nor localhost.
    pub fn of(frontends: &FrontendUrls) -> Result<Self> {
        let unavailable = || {
            let text = "Passkeys need a frontend (server.frontend_url) with a domain and https, or on localhost";
            Error::conflict(code::PASSKEYS_UNAVAILABLE, text)
        };
        let first = Url::parse(frontends.links()).map_err(|_| unavailable())?;
        let Some(Host::Domain(domain)) = first.host() else { return Err(unavailable()) };
        if first.scheme() != "https" && domain != "localhost" {
            return Err(unavailable());
        }
        let id = AsciiDomain::try_from(domain.to_owned()).map(RpId::Domain).map_err(|_| unavailable())?;
        let below = format!(".{domain}");
        let belongs = |origin: &str| {
            let url = Url::parse(origin).ok();
            let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
            host == domain || host.ends_with(&below)
        };
        let origins = frontends.origins().iter().filter_map(|origin| match origin {
            FrontendOrigin::One(origin) if belongs(origin) => Some(origin.clone()),
            FrontendOrigin::One(_) | FrontendOrigin::Subdomains { .. } => None,
        });
        Ok(Self { id, origins: origins.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passkeys_belong_to_the_host_of_the_first_frontend() {
        let urls = "https://shop.example:8443/app, https://admin.shop.example, https://other.example, \
                    https://shop.example.evil.example, https://evilshop.example, https://*.shop.example";
        let party = RelyingParty::of(&urls.parse().unwrap()).unwrap();
        assert_eq!(party.id.as_ref(), "shop.example");
        assert_eq!(party.origins, ["https://shop.example:8443", "https://admin.shop.example"]);
        let local = RelyingParty::of(&FrontendUrls::default()).unwrap();
        assert_eq!(
            (local.id.as_ref(), local.origins.as_slice()),
            ("localhost", ["http://localhost:5173".to_owned()].as_slice())
        );
    }

    #[test]
    fn no_passkeys_where_browsers_offer_none() {
        for url in ["http://shop.example", "https://127.0.0.1", "http://[::1]:8000"] {
            let refused = RelyingParty::of(&url.parse().unwrap()).unwrap_err();
            assert_eq!(*refused.code(), code::PASSKEYS_UNAVAILABLE, "{url}");
        }
    }
}
