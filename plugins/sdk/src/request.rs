//! The request as the host hands it over. Extractors read it; handlers that need more than typed arguments take it whole.

use crate::bindings::http_role::exports::wharf::plugin::http as wit;

/// Method, path, headers and body of the request being answered.
///
/// As a handler argument it has no body: the host reads one only for routes that declare it, which
/// [`Json`](crate::Json), [`Text`](crate::Text) and [`Bytes`](crate::Bytes) do.
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

    /// Unique; the same in the host's logs, traces and problem responses.
    pub fn id(&self) -> &str {
        &self.raw.id
    }

    /// `GET`, `POST`, …
    pub fn method(&self) -> &str {
        &self.raw.method
    }

    /// The path below the plugin's mount, percent-encoded as received.
    pub fn path(&self) -> &str {
        &self.raw.path
    }

    /// The query as received, without `?`.
    pub fn query(&self) -> &str {
        &self.raw.query
    }

    /// The first header of a name in lower case. `authorization` and `cookie` never get here: see
    /// [`Caller`](crate::Caller).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.raw.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All headers, names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.raw.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
