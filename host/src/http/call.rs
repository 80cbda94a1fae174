//! A request as a handler of the host sees it: identified, authenticated, validated.

use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::auth::Caller;
use crate::error::{Error, FieldError, Result};
use crate::route::Inputs;

/// One request, after access and validation.
#[derive(Debug)]
pub struct Call {
    /// Unique; the same in logs and problem responses.
    pub request_id: Arc<str>,
    /// The caller; always there unless the route is public.
    pub caller: Option<Arc<Caller>>,
    /// Path and query parameters, typed by their schemas.
    pub inputs: Inputs,
    /// The body, read as the route declares.
    pub body: Payload,
    /// All headers of the request.
    pub headers: HeaderMap,
}

/// A body, read as the route declares.
#[derive(Debug)]
pub enum Payload {
    /// None declared or none sent.
    None,
    /// JSON, or a form as an object of texts; fits the route's schema.
    Json(Value),
    /// As received.
    Raw(Bytes),
}

impl Call {
    /// The caller of a route that is not public.
    ///
    /// # Errors
    /// There is none: 401.
    pub fn caller(&self) -> Result<&Arc<Caller>> {
        self.caller.as_ref().ok_or_else(Error::invalid_token)
    }

    /// A path parameter.
    ///
    /// # Errors
    /// It is missing or of another type, which validation has made impossible: 422.
    pub fn path<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        read(self.inputs.path.get(name).cloned().unwrap_or_default(), "path")
    }

    /// The query parameters as a struct.
    ///
    /// # Errors
    /// As [`Call::path`].
    pub fn query<T: DeserializeOwned>(&self) -> Result<T> {
        read(Value::Object(self.inputs.query.clone()), "query")
    }

    /// The JSON or form body.
    ///
    /// # Errors
    /// As [`Call::path`].
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        match std::mem::replace(&mut self.body, Payload::None) {
            Payload::Json(value) => read(value, "body"),
            Payload::None | Payload::Raw(_) => read(Value::Null, "body"),
        }
    }

    /// The raw body; empty when none was sent.
    pub fn raw(&mut self) -> Bytes {
        match std::mem::replace(&mut self.body, Payload::None) {
            Payload::Raw(bytes) => bytes,
            Payload::None | Payload::Json(_) => Bytes::new(),
        }
    }
}

fn read<T: DeserializeOwned>(value: Value, place: &'static str) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        // The schema is derived from the same type; where the two differ, the client still gets a 422, not a 500.
        Error::invalid(vec![FieldError::new("value_error", [place], "Input does not fit the schema")])
            .with_internal(error)
    })
}
