//! The stages that the body of a request passes before the handler: received, decoded, parsed, checked against the
//! schema of its route. `body_work` runs those that take long.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use hyper::body::Body;

use super::Host;
use super::body::{self, ReadBody};
use super::body_work::is_small;
use super::content_coding::{self, ContentCoding};
use super::matched_route::MatchedRoute;
use crate::capability::Limit;
use crate::error::{Error, Findings, Kind, Result};
use crate::route::BodyKind;

/// Reads the body as its route declares. A route without a body ignores one.
pub(super) async fn read<B>(host: &Host, route: MatchedRoute<'_>, headers: &HeaderMap, body: B) -> Result<ReadBody>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(kind) = route.body_kind else { return Ok(ReadBody::default()) };
    let received = receive(host, route.max_body_bytes, headers, body).await.inspect_err(|error| count(route, error));
    let (received, parse) = match kind {
        BodyKind::Json => (received?, body::parse_json as fn(&HeaderMap, ReadBody) -> Result<ReadBody>),
        BodyKind::Form => (received?, body::parse_form as _),
        BodyKind::Raw => return received,
    };
    let content_type = headers.get(CONTENT_TYPE).map(|value| (CONTENT_TYPE, value.clone()));
    let headers = content_type.into_iter().collect();
    host.body_work.run(received.bytes.len(), move || parse(&headers, received)).await?
}

/// Counts a body that is too large for a plugin.
fn count(route: MatchedRoute<'_>, error: &Error) {
    if let Some(release) = route.handler.release()
        && *error.kind() == Kind::TooLarge
    {
        release.usage.hit(Limit::RequestBytes);
    }
}

/// Receives a body of at most `limit` bytes and decodes its content coding.
async fn receive<B>(host: &Host, limit: usize, headers: &HeaderMap, body: B) -> Result<ReadBody>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Before anything is read: a client that waits for `100 Continue` sends nothing in vain.
    let coding = ContentCoding::of(headers)?;
    let most = if coding.is_some() { content_coding::most_received(limit) } else { limit };
    let timeout = host.config.server.body_timeout;
    let received = body::read_raw(headers, body, most, timeout, &host.body_memory.requests).await?;
    match coding {
        // A few bytes can become as many as the limit.
        Some(coding) if !received.bytes.is_empty() => {
            host.body_work.run(limit, move || coding.decode(received, limit)).await?
        }
        _ => Ok(received),
    }
}

/// Checks a body against the schema of its route. `found` has the findings in the parameters.
pub(super) async fn check(host: &Host, route: MatchedRoute<'_>, read: ReadBody, found: Findings) -> Result<ReadBody> {
    rewrite_and_check(host, route, read, found).await.inspect_err(|error| count(route, error))
}

async fn rewrite_and_check(
    host: &Host,
    route: MatchedRoute<'_>,
    mut read: ReadBody,
    mut found: Findings,
) -> Result<ReadBody> {
    if route.body_kind == Some(BodyKind::Raw) {
        return if found.is_empty() { Ok(read) } else { Err(Error::invalid(found)) };
    }
    let (operation, limit) = (Arc::clone(route.operation), route.max_body_bytes);
    // A plugin parses the bytes itself.
    let keeps_value = route.handler.release().is_none();
    let finish = move |mut read: ReadBody, found: Findings| {
        if !keeps_value || !found.is_empty() {
            read.drop_value();
        }
        if found.is_empty() { Ok(read) } else { Err(Error::invalid(found)) }
    };
    let is_small = is_small(read.bytes.len());
    if is_small {
        if operation.body_has_integers() {
            read.rewrite_integers(limit)?;
        }
        // The schema decides how long the check of a small body takes.
        if operation.check_body_briefly(read.value.as_ref(), read.may_contain_nul, &mut found) {
            return finish(read, found);
        }
    }
    let check = move || {
        if !is_small && operation.body_has_integers() {
            read.rewrite_integers(limit)?;
        }
        operation.check_body(read.value.as_ref(), read.may_contain_nul, &mut found);
        finish(read, found)
    };
    host.body_work.run_apart(check).await?
}
