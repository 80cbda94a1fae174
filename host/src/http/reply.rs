//! The result of a handler: a response whose body is complete in memory.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

use crate::error::{Error, Result};

/// A complete response: status, headers and body.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, without those that `dispatch` adds.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Returns 200 with compact JSON.
    ///
    /// # Errors
    /// The value cannot be serialized, which is a defect of the host.
    pub fn json(value: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(value)
            .map_err(|error| Error::internal("a reply cannot be serialized").with_source(error))?;
        Ok(Self::new(StatusCode::OK, "application/json", body))
    }

    /// Returns 200 with `{"message": …}`.
    ///
    /// # Errors
    /// As [`Reply::json`].
    pub fn message(message: &str) -> Result<Self> {
        Self::json(&Message { message: message.to_owned() })
    }

    /// Returns 200 with HTML.
    pub fn html(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "text/html; charset=utf-8", body)
    }

    /// Returns a reply with the given status, content type and body.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, headers, body: body.into() }
    }

    /// Returns a reply without content.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Replaces the status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Sets a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets a cookie, besides others.
    #[must_use]
    pub fn with_cookie(mut self, cookie: HeaderValue) -> Self {
        self.headers.append(SET_COOKIE, cookie);
        self
    }
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        let mut response = Self::new(Body::from(reply.body));
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    }
}

/// `{"message": "…"}`
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Message {
    /// The result, for people.
    pub message: String,
}

/// The result of a change of many objects: `{"changed": 7}`
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Changed {
    /// The number of objects that were changed.
    pub changed: u64,
}
