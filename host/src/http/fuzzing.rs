//! The way in for fuzzers (`tests/fuzz`), and in no other build: headers and bodies between the wire and a plugin, each
//! alone. Owns nothing, decides nothing, and checks nothing of its own: what must hold is said by the fuzz target.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use serde_json::Value;

use super::body::{self, ReadBody};
use super::reply::Reply;
use super::{plugin_call, problem};
use crate::error::{Error, Result};
use crate::plugin::PluginResponse;

/// What a plugin gets of a request's headers.
pub fn passed_on(headers: &[(&[u8], &[u8])]) -> Vec<(String, String)> {
    let parsed = map(headers);
    plugin_call::passed_on(&parsed).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A checked answer of a plugin as it is written.
///
/// # Errors
/// The check let something pass that is no answer.
pub fn reply(answer: PluginResponse) -> Result<Reply> {
    match answer {
        PluginResponse::Response { status, headers, body } => plugin_call::response(status, &headers, body),
        PluginResponse::Problem { status, code, detail, errors } => {
            let status = StatusCode::from_u16(status).map_err(Error::internal)?;
            Ok(problem::plugin_reply(status, &detail, &code, &errors, "/", "none"))
        }
    }
}

/// The response to a request that the host refuses.
pub fn refusal(error: &Error) -> Reply {
    problem::reply(error, "/", "none")
}

/// A body as JSON: its value, and whether a NUL may be in it.
///
/// # Errors
/// It is none.
pub fn json(content_type: &[u8], bytes: Bytes) -> Result<(Option<Value>, bool)> {
    let read = body::parse_json(&map(&[(b"content-type", content_type)]), ReadBody::from_bytes(bytes))?;
    Ok((read.value, read.may_contain_nul))
}

/// A body as a form.
///
/// # Errors
/// It is none.
pub async fn form(content_type: &[u8], bytes: Bytes) -> Result<(Option<Value>, bool)> {
    let read = body::parse_form(&map(&[(b"content-type", content_type)]), ReadBody::from_bytes(bytes)).await?;
    Ok((read.value, read.may_contain_nul))
}

/// What the wire would not let through is left out.
fn map(headers: &[(&[u8], &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}
