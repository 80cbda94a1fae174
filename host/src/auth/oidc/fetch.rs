//! The HTTP client of `openidconnect`: the host's own client of other servers. Owns which URLs of an issuer's documents
//! are trusted: encrypted ones, or those of this machine if the issuer itself is on it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use openidconnect::http::Response;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use url::{Host, Url};

use crate::egress::{Egress, Failure, Request};

/// Sends the requests of one sign-in to one issuer.
pub(super) struct Fetch {
    egress: Egress,
    /// Whether the issuer is on this machine and not encrypted.
    is_local: bool,
    request_id: Arc<str>,
}

/// The reason why there is no response. It contains no secret: neither a body nor a query.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The issuer names a URL that is not encrypted.
    #[error("the issuer names a URL that is not encrypted")]
    NotEncrypted,
    /// The exchange failed.
    #[error(transparent)]
    Exchange(#[from] Failure),
    /// The issuer has a failure of its own.
    #[error("the issuer responds with the status {0}")]
    ServerError(u16),
    /// The response cannot be passed on.
    #[error("the response has an invalid header")]
    InvalidResponse,
}

impl Fetch {
    pub(super) fn new(egress: Egress, issuer: &str, request_id: Arc<str>) -> Self {
        Self { egress, is_local: issuer.starts_with("http://"), request_id }
    }

    /// Returns whether a URL of the issuer's documents is trusted.
    pub(super) fn trusts(&self, url: &str) -> bool {
        let Ok(url) = Url::parse(url) else { return false };
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        url.scheme() == "https" || (url.scheme() == "http" && self.is_local && is_loopback)
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        if !self.trusts(&url) {
            return Err(FetchError::NotEncrypted);
        }
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        let request =
            Request { method: parts.method.to_string(), url, headers, body: body.into(), ..Request::default() };
        let response = self.egress.send_for_host(request, &self.request_id).await?;
        if response.status >= 500 {
            return Err(FetchError::ServerError(response.status));
        }
        let builder = Response::builder().status(response.status);
        let builder = response.headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value));
        builder.body(response.body.into()).map_err(|_| FetchError::InvalidResponse)
    }
}

impl<'c> AsyncHttpClient<'c> for Fetch {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Random;
    use crate::egress::EgressEnvironment;

    #[test]
    fn only_a_local_issuer_may_name_unencrypted_urls_and_only_local_ones() {
        let fetch = |issuer| Fetch::new(Egress::new(EgressEnvironment::default(), Random::System), issuer, "x".into());
        let (remote, local) = (fetch("https://id.example.com"), fetch("http://127.0.0.1:9000"));
        for url in ["https://keys.example.com/jwks", "https://10.0.0.1/token"] {
            assert!(remote.trusts(url) && local.trusts(url), "{url}");
        }
        for url in ["http://127.0.0.1:9000/token", "http://localhost/", "http://[::1]/"] {
            assert!(!remote.trusts(url) && local.trusts(url), "{url}");
        }
        for url in ["http://id.example.com/token", "http://169.254.169.254/", "file:///etc/passwd", "x", ""] {
            assert!(!remote.trusts(url) && !local.trusts(url), "{url}");
        }
    }
}
