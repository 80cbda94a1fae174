//! The entry points for the fuzz targets (`tests/fuzz`), absent from every other build: headers and bodies between the
//! wire and a plugin, each on its own. Checks nothing itself: the fuzz target asserts the properties.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde_json::Value;

use super::body::{self, ReadBody};
use super::reply::Reply;
use super::{plugin_call, problem};
use crate::error::{Error, Result};
use crate::plugin::PluginResponse;

/// Returns the request headers that are passed to a plugin.
pub fn passed_on(headers: &[(&[u8], &[u8])]) -> Vec<(String, String)> {
    let parsed = map(headers);
    plugin_call::passed_on(&parsed).into_iter().map(|(name, value)| (name.to_owned(), value.into_owned())).collect()
}

/// Converts a checked response of a plugin into a reply.
///
/// # Errors
/// The check accepted an invalid response.
pub fn reply(response: PluginResponse) -> Result<Reply> {
    plugin_call::reply(response, "/", "none")
}

/// Returns the response to a request that the host refuses.
pub fn refusal(error: &Error) -> Reply {
    problem::reply(error, "/", "none")
}

/// Parses a body as JSON. Returns its value and whether a string in it may contain U+0000.
///
/// # Errors
/// The body is not JSON.
pub fn json(content_type: &[u8], bytes: Bytes) -> Result<(Option<Value>, bool)> {
    let read = body::parse_json(&map(&[(b"content-type", content_type)]), ReadBody::from_bytes(bytes))?;
    Ok((read.value, read.may_contain_nul))
}

/// Parses a body as a form.
///
/// # Errors
/// The body is not a form.
pub fn form(content_type: &[u8], bytes: Bytes) -> Result<(Option<Value>, bool)> {
    let read = body::parse_form(&map(&[(b"content-type", content_type)]), ReadBody::from_bytes(bytes))?;
    Ok((read.value, read.may_contain_nul))
}

/// Returns a header map without the headers that HTTP does not allow.
fn map(headers: &[(&[u8], &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}
