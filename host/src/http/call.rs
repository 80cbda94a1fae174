//! A request as a handler of the host receives it: authenticated and validated.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::USER_AGENT;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::auth::{Caller, Client};
use crate::error::{Error, FieldError, Result};
use crate::initiator::Initiator;
use crate::route::Inputs;

/// One request after the access check and validation.
#[derive(Debug)]
pub struct Call {
    /// The unique id that logs and problem responses show.
    pub request_id: Arc<str>,
    /// The address of the client.
    pub address: IpAddr,
    /// Whether the browser says that the request comes from a page of this host or of a frontend.
    pub is_from_frontend: bool,
    /// The caller; always present unless the route is public.
    pub caller: Option<Arc<Caller>>,
    /// Path and query parameters with the types of their schemas.
    pub inputs: Inputs,
    /// The body.
    pub body: Payload,
    /// All headers of the request.
    pub headers: HeaderMap,
}

/// A body, read as the route declares.
#[derive(Debug)]
pub enum Payload {
    /// No body was declared, or none was sent.
    None,
    /// JSON, or a form as an object of strings. It fits the schema of the route.
    Json(Value),
    /// The bytes as received.
    Raw(Bytes),
}

impl Call {
    /// Returns the caller of a route that is not public.
    ///
    /// # Errors
    /// 401: there is no caller.
    pub fn caller(&self) -> Result<&Arc<Caller>> {
        self.caller.as_ref().ok_or_else(Error::invalid_token)
    }

    /// Returns the initiator of whatever the request changes.
    pub fn initiator(&self) -> Initiator {
        let caller = self.caller.as_deref();
        Initiator {
            actor: caller.and_then(Caller::user_id),
            key: caller.and_then(Caller::key_id),
            address: Some(self.address),
            request_id: Arc::clone(&self.request_id),
        }
    }

    /// Returns the client, for a sign-in.
    pub fn client(&self) -> Client {
        let user_agent = self.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        Client { user_agent, address: self.address, request_id: Arc::clone(&self.request_id) }
    }

    /// Returns a path parameter.
    ///
    /// # Errors
    /// 422: it is missing or has another type, which validation has ruled out.
    pub fn path<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        read(self.inputs.path.get(name).cloned().unwrap_or_default(), "path")
    }

    /// Returns the query parameters as a struct.
    ///
    /// # Errors
    /// As [`Call::path`].
    pub fn query<T: DeserializeOwned>(&self) -> Result<T> {
        read(Value::Object(self.inputs.query.clone()), "query")
    }

    /// Takes the JSON or form body.
    ///
    /// # Errors
    /// As [`Call::path`].
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        match std::mem::replace(&mut self.body, Payload::None) {
            Payload::Json(value) => read(value, "body"),
            Payload::None | Payload::Raw(_) => read(Value::Null, "body"),
        }
    }

    /// Takes the raw body; empty when none was sent.
    pub fn raw(&mut self) -> Bytes {
        match std::mem::replace(&mut self.body, Payload::None) {
            Payload::Raw(bytes) => bytes,
            Payload::None | Payload::Json(_) => Bytes::new(),
        }
    }
}

fn read<T: DeserializeOwned>(value: Value, place: &'static str) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        // The schema is derived from the same type. If the two ever differ, the client still gets a 422 and not a 500.
        Error::invalid(vec![FieldError::new("value_error", [place], "Input does not fit the schema")])
            .with_internal(error)
    })
}
