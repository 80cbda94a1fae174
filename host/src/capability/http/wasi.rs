//! `wasi:http/outgoing-handler`, for components that were made for any host: a request goes the way of `wharf:http`, within
//! the same grant and the same limits. What a guest builds out of handles first, and reads piece by piece afterwards, the
//! host holds for it meanwhile; all of that counts as memory of the call.
//!
//! As the interface has it, a redirect is an answer like any other. Trailers are not sent.

use std::future::Future;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request as WireRequest, Response as WireResponse, StatusCode};
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi_http::p2::bindings::LinkOptions;
use wasmtime_wasi_http::p2::bindings::http::{outgoing_handler, types};
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

use super::Sender;
use crate::capability::budget::{Budget, Held};
use crate::capability::guest::MAX_HANDLES;
use crate::capability::{Guest, HostCalls, Limit};
use crate::egress::{Bound, Failure, Request, Response, is_written_by_the_host};

/// The most that one handle holds: fields, or a body that nobody has taken yet (two pieces, in two handles).
const HANDLE_BYTES: usize = 16 * 1024;

/// Defines the functions.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    types::add_to_linker::<Guest, WasiHttp>(linker, &LinkOptions::default().into(), view)?;
    outgoing_handler::add_to_linker::<Guest, WasiHttp>(linker, view)
}

/// What the functions work with in one call of a guest.
pub(in crate::capability) struct Wasi {
    context: WasiHttpCtx,
    hooks: Hooks,
    /// For all handles.
    held: Option<Held>,
}

/// Before each function: what the handles hold is counted.
fn view(guest: &mut Guest) -> WasiHttpCtxView<'_> {
    let budget = &guest.limits.budget;
    let wasi = guest.http.get_or_insert_with(|| {
        let sender = guest.entered.http().and_then(|call| call.sender(&guest.context, &guest.usage)).ok();
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(HANDLE_BYTES);
        Box::new(Wasi { context, hooks: Hooks { sender, budget: budget.clone() }, held: None })
    });
    wasi.count(&mut guest.table, budget);
    WasiHttpCtxView { hooks: &mut wasi.hooks, table: &mut guest.table, ctx: &mut wasi.context }
}

impl Wasi {
    fn count(&mut self, table: &mut ResourceTable, budget: &Budget) {
        self.held = None;
        self.held = budget.hold(table.iter_mut().count().saturating_mul(HANDLE_BYTES)).ok();
        // No function can be refused from here, but none gets another handle.
        table.set_max_capacity(if self.held.is_some() { MAX_HANDLES } else { 0 });
    }
}

struct Hooks {
    /// None for a component that is only asked what it is.
    sender: Option<Sender>,
    budget: Budget,
}

impl Hooks {
    fn sender(&self) -> Result<Sender, Error> {
        let sender = self.sender.as_ref().ok_or_else(|| internal("nothing is sent now"))?;
        HostCalls::http(&sender.usage.host_calls).fetch_add(1, Ordering::Relaxed);
        self.budget.spend_host_call().map_err(internal)?;
        Ok(sender.clone())
    }
}

type Boxed<T> = Box<dyn Future<Output = Result<T, Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: WireRequest<WasiBody>,
        options: Option<RequestOptions>,
        _: Boxed<()>,
    ) -> Boxed<(WireResponse<WasiBody>, Boxed<()>)> {
        let (sender, budget) = (self.sender(), self.budget.clone());
        Box::new(async move {
            let response = exchange(sender?, &budget, request, options.unwrap_or_default()).await?;
            let nothing_follows: Boxed<()> = Box::new(std::future::ready(Ok(())));
            Ok((response, nothing_follows))
        })
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        std::sync::Arc::new(is_forbidden)
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        HANDLE_BYTES
    }
}

/// The length is held against the body before it is sent.
fn is_forbidden(name: &HeaderName) -> bool {
    *name != CONTENT_LENGTH && is_written_by_the_host(name.as_str())
}

async fn exchange(
    sender: Sender,
    budget: &Budget,
    request: WireRequest<WasiBody>,
    options: RequestOptions,
) -> Result<WireResponse<WasiBody>, Error> {
    let (parts, body) = request.into_parts();
    let (body, _held) = collect(&sender, budget, body).await?;
    if parts.headers.get(CONTENT_LENGTH).is_some_and(|told| told.as_bytes() != body.len().to_string().as_bytes()) {
        return Err(Error::HttpRequestBodySize(u64::try_from(body.len()).ok()));
    }
    let texts = parts.headers.iter().filter(|(name, _)| **name != CONTENT_LENGTH).map(|(name, value)| {
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| internal(format!("'{name}' is not UTF-8")))?;
        Ok((name.as_str().to_owned(), value.to_owned()))
    });
    let request = Request {
        method: parts.method.to_string(),
        url: parts.uri.to_string(),
        headers: texts.collect::<Result<_, Error>>()?,
        body: body.into(),
        connect: options.connect_timeout,
        first_byte: options.first_byte_timeout,
        idle: options.between_bytes_timeout,
        redirects: Some(0),
        time: None,
    };
    let most = sender.bytes;
    let response = sender.send(request).await.map_err(|failure| told(failure, most))?;
    answer(response, budget)
}

/// The body of a request, whole, with the memory that it takes.
async fn collect(sender: &Sender, budget: &Budget, mut body: WasiBody) -> Result<(Vec<u8>, Vec<Held>), Error> {
    let (mut whole, mut held) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let data = frame?.into_data().map_err(|_| Error::HttpRequestTrailerSectionSize(Some(0)))?;
        if data.len() > sender.bytes.saturating_sub(whole.len()) {
            sender.usage.hit(Limit::HttpBytes);
            return Err(Error::HttpRequestBodySize(u64::try_from(sender.bytes).ok()));
        }
        held.push(budget.hold(data.len()).map_err(internal)?);
        whole.extend_from_slice(&data);
    }
    Ok((whole, held))
}

/// A body that the guest has not read to its end.
struct Unread {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn answer(response: Response, budget: &Budget) -> Result<WireResponse<WasiBody>, Error> {
    let Response { status, headers, body, .. } = response;
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in &headers {
        // Handles of them may live for as long as the call.
        if !budget.take(name.len().saturating_add(value.len())) {
            return Err(Error::HttpResponseHeaderSectionSize(None));
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::HttpProtocolError)?;
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Error::HttpProtocolError)?);
    }
    let size = u64::try_from(body.len()).ok();
    let _held = budget.hold(body.len()).map_err(|_| Error::HttpResponseBodySize(size))?;
    let body = Full::new(Bytes::from_owner(Unread { bytes: body, _held }));
    let mut answer = WireResponse::new(body.map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(status).map_err(|_| Error::HttpProtocolError)?;
    *answer.headers_mut() = map;
    Ok(answer)
}

fn internal(reason: impl std::fmt::Display) -> Error {
    Error::InternalError(Some(reason.to_string()))
}

/// In the words that the interface has; `most` is the largest body.
fn told(failure: Failure, most: usize) -> Error {
    match failure {
        Failure::Invalid(reason) => internal(reason),
        Failure::Denied(_) => Error::HttpRequestDenied,
        Failure::Unreachable(_) => Error::DestinationUnavailable,
        Failure::Timeout("resolve") => Error::DnsTimeout,
        Failure::Timeout("connect" | "tls") => Error::ConnectionTimeout,
        Failure::Timeout("first byte") => Error::HttpResponseTimeout,
        Failure::Timeout(_) => Error::ConnectionReadTimeout,
        Failure::Limit(Bound::Requests, _) => Error::ConnectionLimitReached,
        Failure::Limit(Bound::Bytes, _) => Error::HttpResponseBodySize(u64::try_from(most).ok()),
        Failure::Limit(Bound::Headers, _) => Error::HttpResponseHeaderSectionSize(None),
        Failure::Limit(Bound::Redirects, _) => Error::LoopDetected,
        Failure::Protocol(_) => Error::HttpProtocolError,
        Failure::Internal(reason) => {
            tracing::error!(reason, "a request of a plugin failed for a reason of this host");
            Error::InternalError(None)
        }
    }
}
