//! The request as the host passes it. Extractors read it. A handler that needs more than typed arguments takes all of
//! it.

use std::net::IpAddr;

use crate::bindings::http_role::exports::wharf::plugin::http as wit;

/// Method, path and headers of the current request.
///
/// As a handler argument it has no body. The host reads a body only for routes that declare one, and
/// [`Json`](crate::Json), [`Text`](crate::Text) and [`Bytes`](crate::Bytes) declare one.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[get("/echo", access = public)]
/// fn echo(request: Request) -> Text {
///     Text(request.header("user-agent").unwrap_or("nobody").to_owned())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    raw: wit::Request,
}

impl Request {
    pub(crate) fn new(raw: wit::Request) -> Self {
        Self { raw }
    }

    /// Returns a copy without the body.
    pub(crate) fn head(&self) -> Self {
        Self { raw: wit::Request { body: Vec::new(), ..self.raw.clone() } }
    }

    pub(crate) fn route(&self) -> u32 {
        self.raw.route
    }

    pub(crate) fn params(&self) -> &[(String, String)] {
        &self.raw.params
    }

    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.raw.body)
    }

    /// Returns the request id. It is unique, and the same in the host's logs, traces and problem responses.
    pub fn id(&self) -> &str {
        &self.raw.id
    }

    /// Returns the method: `GET`, `POST`, …
    pub fn method(&self) -> &str {
        &self.raw.method
    }

    /// Returns the path below the plugin's mount, percent-encoded as received.
    pub fn path(&self) -> &str {
        &self.raw.path
    }

    /// Returns the query as received, without `?`.
    pub fn query(&self) -> &str {
        &self.raw.query
    }

    /// Returns the first header with a name, given in lower case. The host removes `authorization` and `cookie`: see
    /// [`Caller`](crate::Caller).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.raw.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the address of the client, if the host tells it. Behind a proxy, the operator of the host names the proxy in
    /// `server.trusted_proxies`; otherwise this is the proxy's address.
    pub fn client_address(&self) -> Option<IpAddr> {
        self.header("x-forwarded-for")?.parse().ok()
    }

    /// Returns the scheme that the client used: `http` or `https`.
    pub fn scheme(&self) -> &str {
        self.header("x-forwarded-proto").unwrap_or("http")
    }

    /// Returns the host that the client used, with the port if it has one.
    pub fn host(&self) -> Option<&str> {
        self.header("x-forwarded-host")
    }

    /// Returns all headers, with names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.raw.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
