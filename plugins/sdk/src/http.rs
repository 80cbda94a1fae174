//! Requests to other servers. The operator allows each by scheme, host and port with `http.hosts`, or every public server
//! with `https://*`.
//!
//! ```
//! use wharf_sdk::prelude::*;
//! use wharf_sdk::http;
//!
//! #[derive(serde::Deserialize)]
//! struct Rate {
//!     euro: f64,
//! }
//!
//! fn rate(currency: &str) -> Result<f64> {
//!     let request = http::get("https://rates.example.com/v1/latest").query(&[("of", currency)]);
//!     let response = request.header("accept", "application/json").send()?.successful()?;
//!     Ok(response.json::<Rate>()?.euro)
//! }
//!
//! fn announce(rate: f64) -> Result<(), http::Error> {
//!     let response = http::post("https://hooks.example.com/rates").json(&serde_json::json!({ "euro": rate })).send()?;
//!     assert_eq!(response.status(), 202);
//!     Ok(())
//! }
//! # use wharf_sdk::serde_json;
//! # plugin! { name: "rates", summary: "Rates", routes: [] }
//! # let plugin = wharf_sdk::testing::TestPlugin::new(&PLUGIN)
//! #     .server("https://rates.example.com", |request| {
//! #         assert_eq!(request.url, "https://rates.example.com/v1/latest?of=a%26b");
//! #         Ok(http::Response::new(200, r#"{"euro":1.5}"#))
//! #     })
//! #     .server("https://hooks.example.com", |request| {
//! #         assert_eq!((request.method.as_str(), &*request.body), ("POST", &br#"{"euro":1.5}"#[..]));
//! #         Ok(http::Response::new(202, ""))
//! #     });
//! # plugin.run(|| announce(rate("a&b").unwrap()).unwrap());
//! # assert!(matches!(plugin.run(|| http::get("https://evil.example/").send()), Err(http::Error::Denied(_))));
//! ```
//!
//! A status of 400 and above is an ordinary response; [`Response::successful`] turns it into an error. The host sets
//! `host`, `content-length` and the trace headers. It refuses these from a plugin, and every other header that frames a
//! message.

use crate::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::Duration;

use crate::host::http as host;

use crate::bindings::imports::wharf::http::client as wit;

pub use wit::Error;
/// A request as it is sent. The server functions of tests get it.
pub use wit::Request as SentRequest;

/// Starts a `GET` request.
pub fn get(url: impl Into<String>) -> Request {
    request("GET", url)
}

/// Starts a `POST` request.
pub fn post(url: impl Into<String>) -> Request {
    request("POST", url)
}

/// Starts a `PUT` request.
pub fn put(url: impl Into<String>) -> Request {
    request("PUT", url)
}

/// Starts a `PATCH` request.
pub fn patch(url: impl Into<String>) -> Request {
    request("PATCH", url)
}

/// Starts a `DELETE` request.
pub fn delete(url: impl Into<String>) -> Request {
    request("DELETE", url)
}

/// Starts a request with any method, in upper case, to an absolute URL.
pub fn request(method: impl Into<String>, url: impl Into<String>) -> Request {
    Request {
        raw: wit::Request {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms: None,
            redirects: None,
        },
        invalid: None,
    }
}

/// A builder for a request; [`Request::send`] sends it.
#[derive(Debug, Clone)]
#[must_use]
pub struct Request {
    raw: wit::Request,
    /// Why the request cannot be sent.
    invalid: Option<String>,
}

impl Request {
    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.raw.headers.push((name.into(), value.into()));
        self
    }

    /// Encodes parameters and adds them to the URL's query.
    pub fn query(mut self, parameters: &[(&str, &str)]) -> Self {
        if !parameters.is_empty() {
            // A fragment is not sent anyway.
            let url = self.raw.url.split('#').next().unwrap_or_default();
            let separator = if url.contains('?') { '&' } else { '?' };
            let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
            self.raw.url = format!("{url}{separator}{query}");
        }
        self
    }

    /// Sets a JSON body.
    pub fn json(self, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(bytes) => self.header("content-type", "application/json").body(bytes),
            Err(error) => Self { invalid: Some(format!("the body cannot be written as JSON: {error}")), ..self },
        }
    }

    /// Sets a body of form fields.
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.header("content-type", "application/x-www-form-urlencoded").body(body)
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.raw.body = body.into();
        self
    }

    /// Limits the time of the whole exchange. The limit of the grant applies as well.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.raw.timeout_ms = Some(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
        self
    }

    /// Limits the redirects to follow. The default and maximum is 5. With 0 a redirect is returned as the response.
    pub fn redirects(mut self, limit: u32) -> Self {
        self.raw.redirects = Some(limit);
        self
    }

    /// Sends the request and reads the whole response.
    ///
    /// # Errors
    /// There is no response. A status of 400 and above is not an error.
    pub fn send(self) -> Result<Response, Error> {
        match self.invalid {
            Some(reason) => Err(Error::Invalid(reason)),
            None => host::send(&self.raw).map(|raw| Response { raw }),
        }
    }
}

/// The response of another server.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub(crate) raw: wit::Response,
}

impl Response {
    /// Creates a response, for the server functions of tests. Its URL becomes that of the request.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { raw: wit::Response { url: String::new(), status, headers: Vec::new(), body: body.into() } }
    }

    /// Adds a header; the name is lower-cased.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.raw.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.raw.status
    }

    /// Returns the URL that the response came from, after redirects.
    pub fn url(&self) -> &str {
        &self.raw.url
    }

    /// Returns the first header with a name. The case of the name does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns all headers, with names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.raw.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the body.
    pub fn bytes(&self) -> &[u8] {
        &self.raw.body
    }

    /// Returns the body without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw.body
    }

    /// Returns the body as text. Bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw.body).into_owned()
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    /// [`Error::Protocol`]: the body is not JSON or does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let read = serde_json::from_slice(&self.raw.body);
        read.map_err(|error| Error::Protocol(format!("the response is not the expected JSON: {error}")))
    }

    /// Returns the response if its status is 200 to 299.
    ///
    /// # Errors
    /// [`Error::Protocol`], which names the status.
    pub fn successful(self) -> Result<Self, Error> {
        match self.raw.status {
            200..=299 => Ok(self),
            status => Err(Error::Protocol(format!("the server responded with status {status}"))),
        }
    }
}

/// 502 `upstream_failed` if the other server is at fault, 504 `upstream_timeout` if it is slow, 503 `upstream_busy` if
/// the plugin has too many requests at once, 500 `plugin_error` for an error that the plugin's author or operator has to
/// fix. The reason goes to the plugin's log.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let upstream = |status, code, reason: &dyn fmt::Display| {
            crate::host::diagnostic(format_args!("{code}: {reason}"));
            Self::new(status, code, "An external service failed, try again later")
        };
        match error {
            Error::Invalid(reason) => Self::internal(format_args!("request to another server: {reason}")),
            Error::Denied(reason) => Self::internal(format_args!("request to another server is denied: {reason}")),
            Error::Limit(limit) if limit.starts_with("requests:") => {
                crate::host::diagnostic(format_args!("upstream_busy: {limit}"));
                Self::new(503, "upstream_busy", "Too many requests to external services at once, try again later")
            }
            Error::Limit(limit) => Self::internal(format_args!("limit of requests to other servers: {limit}")),
            Error::Unreachable(reason) | Error::Protocol(reason) => upstream(502, "upstream_failed", &reason),
            Error::Timeout(phase) => upstream(504, "upstream_timeout", &phase),
        }
    }
}
