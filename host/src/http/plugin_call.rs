//! Requests to plugin routes: which parts of a request the plugin receives, the cached responses, and how the response
//! of the plugin becomes a reply. Bodies of cached responses are shared; `dispatch` counts every body that a client has
//! not read.
//!
//! Also owns the isolation of pages: a plugin shares the origin of the host, where the frontend keeps its tokens.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;

use super::body_memory::BodyBudget;
use super::client_origin::ClientOrigin;
use super::problem;
use super::reply::Reply;
use crate::auth::Caller;
use crate::cache::response_cache::{CachedResponse, ResponseKey};
use crate::capability::web::Web;
use crate::capability::{Capability as _, Limit};
use crate::error::{Error, Kind, Result, code};
use crate::plugin::call_stats::CallOutcome;
use crate::plugin::canary::Assignment;
use crate::plugin::release::ReleaseRoute;
use crate::plugin::{PluginResponse, Registry, Release, Request};

/// Request headers that a plugin never receives from a client: credentials, framing, and headers that only the host may
/// set. The host has decoded the body, so its content coding is part of the framing.
const WITHHELD: &[&str] = &[
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Gives a page of a plugin an origin of its own in the browser, so that its scripts reach nothing that belongs to the
/// origin of the host: no storage, no service worker, no page of the frontend, and no response of the API.
const ISOLATED_PAGE: HeaderValue =
    HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-downloads");

/// A request to a plugin after the access check and validation.
pub(super) struct PluginCall<'a> {
    pub(super) release: &'a Release,
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
}

/// Returns a cached response, or calls the plugin and caches its response if the route allows it.
pub(super) async fn respond(
    registry: &Registry,
    budget: &BodyBudget,
    contract: &ReleaseRoute,
    call: PluginCall<'_>,
) -> Result<Reply> {
    let Some(policy) = &contract.cache else { return run(registry, budget, call).await.map(|(reply, _)| reply) };
    let key = cache_key(&call, policy.per_caller);
    let release = call.release;
    if let Some(cached) = release.cache.response(&key) {
        release.stats.count(CallOutcome::Cached);
        return response(cached.status, &cached.headers, cached.body.clone());
    }
    let ticket = release.cache.ticket();
    let (reply, cacheable) = run(registry, budget, call).await?;
    if let Some(cacheable) = cacheable
        && cacheable.status == 200
    {
        let ttl = Duration::from_millis(policy.ttl_ms.into());
        // The tags were checked at the deploy. A response that is larger than the cache is not cached.
        let _ = release.cache.store_response(&key, cacheable, ttl, &policy.tags, ticket);
    }
    Ok(reply)
}

/// Isolates every response of a plugin, because a browser decides by itself what it shows as a page. The pages of a
/// plugin with the grant `web` belong to the origin of the host.
pub(super) fn isolate(headers: &mut HeaderMap, release: &Release) {
    if !release.has_grant(Web::NAME) {
        headers.insert(CONTENT_SECURITY_POLICY, ISOLATED_PAGE);
    }
}

fn cache_key<'a>(call: &PluginCall<'a>, per_caller: bool) -> ResponseKey<'a> {
    let caller = call.caller.as_ref().filter(|_| per_caller).map(|caller| caller.user.id.to_string());
    ResponseKey {
        release: call.release.record.number,
        route: call.route,
        caller,
        path: call.parts.uri.path(),
        query: call.parts.uri.query().unwrap_or_default(),
    }
}

async fn run(
    registry: &Registry,
    budget: &BodyBudget,
    call: PluginCall<'_>,
) -> Result<(Reply, Option<CachedResponse>)> {
    let ready = || budget.admit_response(call.release.bulkhead.unread());
    let refused = |error: &Error| call.release.stats.count(CallOutcome::of_error(error));
    ready().inspect_err(refused)?;
    let mut headers = passed_on(&call.parts.headers);
    check_size(call.release, &headers).inspect_err(refused)?;
    let address = call.origin.address.to_string();
    headers.extend([("x-forwarded-for", address.as_str()), ("x-forwarded-proto", call.origin.scheme)]);
    headers.extend(call.origin.host.as_deref().map(|host| ("x-forwarded-host", host)));
    let path = call.parts.uri.path();
    let mount = call.release.record.mount.to_string();
    let below = path.strip_prefix(mount.as_str()).filter(|rest| !rest.is_empty()).unwrap_or("/");
    let params: Vec<(&str, &str)> = call.params.iter().map(|(name, text)| (*name, text.as_ref())).collect();
    let request = Request {
        id: call.request_id,
        route: u32::try_from(call.route).unwrap_or(u32::MAX),
        method: call.method,
        path: below,
        params: &params,
        query: call.parts.uri.query().unwrap_or_default(),
        headers: &headers,
        body: &call.body,
    };
    // `call` runs this check again: the budget may have been used up while the request waited for a call slot.
    match registry.call(call.release, request, call.caller, call.trial, ready).await? {
        PluginResponse::Response { status, headers, body } => {
            let reply = response(status, &headers, body.clone())?;
            Ok((reply, Some(CachedResponse { status, headers, body })))
        }
        PluginResponse::Problem { status, code, detail, errors } => {
            let status = StatusCode::from_u16(status).map_err(Error::internal)?;
            Ok((problem::plugin_reply(status, &detail, &code, &errors, path, call.request_id), None))
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

pub(super) fn passed_on(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers
        .iter()
        .filter(|(name, _)| !WITHHELD.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect()
}

pub(super) fn response(status: u16, headers: &[(String, String)], body: Bytes) -> Result<Reply> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        // `plugin::response` has checked the header by the same rules.
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(Error::internal)?;
        map.append(name, HeaderValue::from_str(value).map_err(Error::internal)?);
    }
    Ok(Reply { status: StatusCode::from_u16(status).map_err(Error::internal)?, headers: map, body })
}
