//! Calls of plugins: which parts of a request the plugin receives, and how its response becomes a reply. `cached_call`
//! decides whether a call is needed. `dispatch` counts every body that a client has not read. `browser_rules` isolates the
//! pages of plugins.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::header::{HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;

use super::body_memory::BodyBudget;
use super::client_origin::ClientOrigin;
use super::problem;
use super::reply::Reply;
use crate::auth::Caller;
use crate::capability::Limit;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::call_stats::CallOutcome;
use crate::plugin::canary::Assignment;
use crate::plugin::release::Prepared;
use crate::plugin::{PluginResponse, Registry, Release, Request};

/// Returns whether a plugin never receives a request header of this name from a client: credentials, framing, and headers
/// that only the host may set. The host has decoded the body, so its content coding is part of the framing.
fn is_withheld(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "cookie"
            | "expect"
            | "forwarded"
            | "keep-alive"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-api-key"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-real-ip"
            | "x-request-id"
    )
}

/// The header whose query a plugin does not receive.
const REFERER: &str = "referer";

/// Conditions of a request that the host evaluates itself on cached routes. The plugin returns the whole response
/// there, so that it can be cached.
const CONDITIONS: &[&str] = &["if-none-match", "if-modified-since"];

/// The maximum number of headers that the host adds.
const HEADERS_OF_HOST: usize = 3;

/// A request to a plugin after the access check and validation.
pub(super) struct PluginCall<'a> {
    pub(super) release: &'a Arc<Release>,
    /// The parts of the release, which the call keeps.
    pub(super) prepared: &'a Arc<Prepared>,
    pub(super) route: usize,
    /// The method of the route: GET also for a request with HEAD, whose response `dispatch` strips of its body.
    pub(super) method: &'a str,
    pub(super) parts: &'a Parts,
    pub(super) request_id: &'a Arc<str>,
    pub(super) origin: &'a ClientOrigin,
    pub(super) params: &'a [(&'a str, Cow<'a, str>)],
    pub(super) caller: Option<Arc<Caller>>,
    /// The part of the call in the trial of a canary.
    pub(super) trial: Option<Assignment>,
    pub(super) body: Bytes,
    /// Whether the plugin receives the conditions of the request.
    pub(super) conditions: bool,
}

/// Calls the plugin.
pub(super) async fn run(registry: &Registry, budget: &BodyBudget, call: PluginCall<'_>) -> Result<PluginResponse> {
    let ready = || budget.admit_response(call.release.bulkhead.unread());
    let refused = |error: &Error| call.release.stats.count(CallOutcome::of_error(error));
    ready().inspect_err(refused)?;
    let passed_on = passed_on(&call.parts.headers);
    let mut headers: Vec<(&str, &str)> = Vec::with_capacity(passed_on.len() + HEADERS_OF_HOST);
    let admitted = passed_on.iter().filter(|(name, _)| call.conditions || !CONDITIONS.contains(name));
    headers.extend(admitted.map(|(name, value)| (*name, value.as_ref())));
    check_size(call.release, &headers).inspect_err(refused)?;
    let address = call.origin.address.to_string();
    headers.extend([("x-forwarded-for", address.as_str()), ("x-forwarded-proto", call.origin.scheme)]);
    headers.extend(call.origin.host.as_deref().map(|host| ("x-forwarded-host", host)));
    let params: Vec<(&str, &str)> = call.params.iter().map(|(name, text)| (*name, text.as_ref())).collect();
    let request = Request {
        id: call.request_id,
        route: u32::try_from(call.route).unwrap_or(u32::MAX),
        method: call.method,
        path: call.release.below_mount(call.parts.uri.path()),
        params: &params,
        query: call.parts.uri.query().unwrap_or_default(),
        headers: &headers,
        body: &call.body,
        head_bytes: head_bytes(call.parts),
        client: Some(call.origin.address),
    };
    // `call` runs this check again: the budget may have been used up while the request waited for its turn.
    registry.call(call.release, call.prepared, request, call.caller, call.trial, ready).await
}

/// Turns the response of a plugin into the reply to a request.
pub(super) fn reply(response: PluginResponse, path: &str, request_id: &str) -> Result<Reply> {
    match response {
        PluginResponse::Response { status, headers, body, .. } => self::response(status, &headers, body),
        PluginResponse::Problem { status, code, detail, errors, headers } => {
            let status = StatusCode::from_u16(status).map_err(Error::internal)?;
            let mut reply = problem::plugin_reply(status, &detail, &code, &errors, path, request_id);
            reply.headers.extend(header_map(&headers)?);
            Ok(reply)
        }
    }
}

fn check_size(release: &Release, headers: &[(&str, &str)]) -> Result<()> {
    let most = release.limits.header_bytes;
    if headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= most {
        return Ok(());
    }
    release.usage.hit(Limit::HeaderBytes);
    let text = format!("The headers have more than {most} bytes in total");
    Err(Error::new(Kind::HeadersTooLarge, code::HEADERS_TOO_LARGE, text))
}

/// Returns the size of the head of a request: its target, and all of its headers.
pub(super) fn head_bytes(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    headers.fold(target, usize::saturating_add)
}

/// Returns the headers that a plugin receives. A value that is not UTF-8 is read as Latin-1, in which every byte is a
/// character, as `wharf:http` does. The query of the page that sent the request stays with the host: it may have a code of
/// a sign-in or the token of a link.
pub(super) fn passed_on(headers: &HeaderMap) -> Vec<(&str, Cow<'_, str>)> {
    let mut passed_on = Vec::with_capacity(headers.len());
    let admitted = headers.iter().filter(|(name, _)| !is_withheld(name.as_str()));
    passed_on.extend(admitted.map(|(name, value)| match name.as_str() {
        REFERER => (REFERER, without_query(text(value))),
        name => (name, text(value)),
    }));
    passed_on
}

fn without_query(url: Cow<'_, str>) -> Cow<'_, str> {
    match url.split_once(['?', '#']) {
        Some((page, _)) => Cow::Owned(page.to_owned()),
        None => url,
    }
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => value.as_bytes().iter().copied().map(char::from).collect::<String>().into(),
    }
}

/// Returns a reply with these headers. A status that has no content drops the body (RFC 9110, sections 15.3.5, 15.3.6
/// and 15.4.5).
pub(super) fn response(status: u16, headers: &[(String, String)], body: Bytes) -> Result<Reply> {
    let body = if matches!(status, 204 | 205 | 304) { Bytes::new() } else { body };
    let status = StatusCode::from_u16(status).map_err(Error::internal)?;
    Ok(Reply { status, headers: header_map(headers)?, body })
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        // `plugin::response` has checked the header by the same rules.
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(Error::internal)?;
        map.append(name, HeaderValue::from_str(value).map_err(Error::internal)?);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_in_any_encoding_reach_the_plugin() {
        let values: [&[u8]; 4] = [b"plain", "gr\u{fc}n".as_bytes(), b"gr\xfcn", b"\x80"];
        let headers: HeaderMap = values
            .iter()
            .map(|value| (HeaderName::from_static("x-a"), HeaderValue::from_bytes(value).unwrap()))
            .collect();
        let passed: Vec<_> = passed_on(&headers).into_iter().map(|(_, value)| value.into_owned()).collect();
        assert_eq!(passed, ["plain", "gr\u{fc}n", "gr\u{fc}n", "\u{80}"]);
    }

    #[test]
    fn the_size_of_a_head_includes_credentials() {
        let request = axum::http::Request::get("/shop/?page=2").header("cookie", "a=1").header("accept", "*/*");
        let parts = request.body(()).unwrap().into_parts().0;
        assert_eq!(head_bytes(&parts), "/shop/?page=2cookiea=1accept*/*".len());
    }

    #[test]
    fn a_plugin_does_not_learn_the_query_of_the_page_that_calls_it() {
        for (sent, expected) in [
            ("https://shop.example/login?code=secret", "https://shop.example/login"),
            ("https://shop.example/reset-password#token", "https://shop.example/reset-password"),
            ("https://shop.example/", "https://shop.example/"),
        ] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(REFERER), HeaderValue::from_static(sent))]);
            assert_eq!(passed_on(&headers), [(REFERER, Cow::Borrowed(expected))]);
        }
    }
}
