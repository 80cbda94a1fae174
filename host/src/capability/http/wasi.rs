//! `wasi:http/outgoing-handler`, for components that are not written for Wharf. A request is sent as with `wharf:http`,
//! within the same grant and limits. A guest builds a request from handles and reads a response piece by piece; the
//! host's memory for those handles counts as memory of the call.
//!
//! As in the interface's specification, a redirect is returned like any other response. Trailers are not sent.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request as WireRequest, Response as WireResponse, StatusCode};
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi_http::p2::bindings::LinkOptions;
use wasmtime_wasi_http::p2::bindings::http::{outgoing_handler, types};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;
use wasmtime_wasi_http::{
    Error, FieldMap, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView,
    WasiHttpHooks,
};

use super::sender::{CAPABILITY, Sender};
use crate::capability::budget::{Budget, MemoryReservation};
use crate::capability::{Guest, HostCalls, Limit, Revocations};
use crate::egress::{Failure, LimitKind, Request, Response, is_written_by_the_host};

/// Maximum size of one map of fields, and of one piece of a body.
const FIELDS: usize = 16 * 1024;
/// Memory of a field in its map, and of one more value of the same name. Values are in a list that grows by doubling.
const FIELD: usize = size_of::<HeaderName>() + size_of::<HeaderValue>() + 6 * size_of::<usize>();
const VALUE: usize = 2 * (size_of::<HeaderValue>() + 4 * size_of::<usize>());
/// Memory of a request in addition to its texts: its fields, and two pieces and the trailers of an unread body.
const REQUEST: usize = 4 * FIELDS;
/// Memory of any other handle. Response bodies are counted where they are received.
const HANDLE: usize = 1024;

/// Defines the functions.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    types::add_to_linker::<Guest, WasiHttp>(linker, &LinkOptions::default().into(), view)?;
    outgoing_handler::add_to_linker::<Guest, WasiHttp>(linker, view)
}

/// The state of the functions in one call of a guest.
pub(in crate::capability) struct Wasi {
    context: WasiHttpCtx,
    hooks: Hooks,
    /// The memory of all handles.
    reservation: Option<MemoryReservation>,
    /// An empty table in place of the call's. Every function needs a handle or space for one, so it traps with this
    /// table.
    nothing: ResourceTable,
}

/// Counts the memory of the handles before each function. A function can no longer be called when the handles use too
/// much memory, or when the component was not granted requests to other servers. It cannot be refused from here, so it
/// gets an empty table.
fn view(guest: &mut Guest) -> WasiHttpCtxView<'_> {
    guest.release_result();
    let budget = &guest.limits.budget;
    let wasi = guest.http.get_or_insert_with(|| {
        // Requests are refused after a revocation (`Hooks`); the handles of a call stay usable.
        let revocations = Arc::clone(&guest.entered.revocations);
        let call = guest.entered.http.as_mut().ok_or_else(|| wasmtime::Error::msg("http was not entered"));
        let sender = call.and_then(|call| call.sender(&guest.context, &guest.usage, &guest.dependencies));
        let sender =
            sender.inspect_err(|error| tracing::debug!(%error, "no requests to other servers in this call")).ok();
        Box::new(Wasi::new(sender, revocations, budget))
    });
    let allowed = wasi.hooks.sender.is_some() && wasi.count(&mut guest.table, budget);
    let table = if allowed { &mut guest.table } else { &mut wasi.nothing };
    WasiHttpCtxView { hooks: &mut wasi.hooks, table, ctx: &mut wasi.context }
}

impl Wasi {
    fn new(sender: Option<Sender>, revocations: Arc<Revocations>, budget: &Budget) -> Self {
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(FIELDS);
        let mut nothing = ResourceTable::new();
        nothing.set_max_capacity(0);
        Self { context, hooks: Hooks { sender, revocations, budget: budget.clone() }, reservation: None, nothing }
    }

    /// Returns whether the budget has memory for the handles.
    fn count(&mut self, table: &mut ResourceTable, budget: &Budget) -> bool {
        let bytes = table.iter_mut().map(|handle| weight(handle)).fold(0, usize::saturating_add);
        match &mut self.reservation {
            Some(reservation) => reservation.resize(bytes).is_ok(),
            none => {
                *none = budget.reserve(bytes).ok();
                none.is_some()
            }
        }
    }
}

fn weight(handle: &(dyn Any + Send)) -> usize {
    if let Some(map) = handle.downcast_ref::<FieldMap>() {
        return fields(map);
    }
    let Some(request) = handle.downcast_ref::<HostOutgoingRequest>() else { return HANDLE };
    let method = if let types::Method::Other(method) = &request.method { method.len() } else { 0 };
    let scheme = if let Some(types::Scheme::Other(scheme)) = &request.scheme { scheme.len() } else { 0 };
    let texts = [&request.authority, &request.path_with_query].into_iter().flatten().map(String::len);
    texts.chain([method, scheme, table_bytes(&request.headers)]).fold(REQUEST, usize::saturating_add)
}

/// Returns the memory of a response's map of fields. The texts are counted with the response; copies of the map share
/// them.
fn fields(map: &HeaderMap) -> usize {
    FIELDS.saturating_add(table_bytes(map))
}

/// Returns the memory of the map's table. Small fields use more memory there than for their texts.
fn table_bytes(map: &HeaderMap) -> usize {
    let more = map.len().saturating_sub(map.keys_len());
    map.capacity().saturating_mul(FIELD).saturating_add(more.saturating_mul(VALUE))
}

struct Hooks {
    /// `None` for a component that is only asked for its declaration.
    sender: Option<Sender>,
    revocations: Arc<Revocations>,
    budget: Budget,
}

impl Hooks {
    fn sender(&self) -> Result<Sender, Error> {
        let sender = self.sender.as_ref().ok_or_else(|| internal("requests cannot be sent in this call"))?;
        HostCalls::http(&sender.usage.host_calls).fetch_add(1, Ordering::Relaxed);
        self.budget.spend_host_call().map_err(internal)?;
        self.revocations.check(CAPABILITY).map_err(|_revoked| Error::HttpRequestDenied)?;
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
        Arc::new(is_forbidden)
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        FIELDS
    }
}

/// A plugin may write `content-length`; it is compared with the body before the request is sent.
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
    let texts = parts.headers.iter().filter(|(name, _)| **name != CONTENT_LENGTH).map(|(name, value)| {
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| internal(format!("'{name}' is not UTF-8")))?;
        Ok((name.as_str().to_owned(), value.to_owned()))
    });
    let mut request = Request {
        method: parts.method.to_string(),
        url: parts.uri.to_string(),
        headers: texts.collect::<Result<_, Error>>()?,
        body: Bytes::new(),
        connect: options.connect_timeout,
        first_byte: options.first_byte_timeout,
        idle: options.between_bytes_timeout,
        redirects: Some(0),
        time: None,
    };
    let mut reservation = budget.reserve(request.weight().saturating_add(request.method.len())).map_err(internal)?;
    request.body = collect(&sender, &mut reservation, body).await?.into();
    if parts
        .headers
        .get(CONTENT_LENGTH)
        .is_some_and(|declared| declared.as_bytes() != request.body.len().to_string().as_bytes())
    {
        return Err(Error::HttpRequestBodySize(u64::try_from(request.body.len()).ok()));
    }
    let most = sender.bytes;
    let mut response_memory = budget.reserve(0).map_err(internal)?;
    let response = sender.send(request, &mut response_memory).await.map_err(|failure| to_wasi_error(failure, most))?;
    wasi_response(response, response_memory, budget)
}

/// Collects the body of a request. Reserves memory as the body arrives.
async fn collect(sender: &Sender, reservation: &mut MemoryReservation, mut body: WasiBody) -> Result<Vec<u8>, Error> {
    let (headers, mut whole) = (reservation.bytes(), Vec::new());
    while let Some(frame) = body.frame().await {
        let data = frame?.into_data().map_err(|_| Error::HttpRequestTrailerSectionSize(Some(0)))?;
        if data.len() > sender.bytes.saturating_sub(whole.len()) {
            sender.usage.hit(Limit::HttpBytes);
            return Err(Error::HttpRequestBodySize(u64::try_from(sender.bytes).ok()));
        }
        reservation.resize(headers.saturating_add(whole.len()).saturating_add(data.len())).map_err(internal)?;
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// A body that the guest has not finished reading.
struct Unread {
    bytes: Bytes,
    _reservation: MemoryReservation,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn wasi_response(
    response: Response,
    mut reservation: MemoryReservation,
    budget: &Budget,
) -> Result<WireResponse<WasiBody>, Error> {
    let Response { status, headers, body, .. } = response;
    // Handles of the headers may live as long as the call. The body is freed when it is read.
    let heads = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
    reservation.resize(body.len()).map_err(internal)?;
    if !budget.take(heads) {
        return Err(Error::HttpResponseHeaderSectionSize(None));
    }
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in &headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::HttpProtocolError)?;
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Error::HttpProtocolError)?);
    }
    let body = Full::new(Bytes::from_owner(Unread { bytes: body, _reservation: reservation }));
    let mut response = WireResponse::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Error::HttpProtocolError)?;
    *response.headers_mut() = map;
    Ok(response)
}

fn internal(reason: impl std::fmt::Display) -> Error {
    Error::InternalError(Some(reason.to_string()))
}

/// Converts a failure into the interface's error. `most` is the largest body.
fn to_wasi_error(failure: Failure, most: usize) -> Error {
    match failure {
        Failure::Invalid(reason) => internal(reason),
        Failure::Denied(_) => Error::HttpRequestDenied,
        Failure::Unreachable(_) => Error::DestinationUnavailable,
        Failure::Timeout("resolve") => Error::DnsTimeout,
        Failure::Timeout("connect" | "tls") => Error::ConnectionTimeout,
        Failure::Timeout("first byte") => Error::HttpResponseTimeout,
        Failure::Timeout(_) => Error::ConnectionReadTimeout,
        Failure::Limit(LimitKind::Requests, _) => Error::ConnectionLimitReached,
        Failure::Limit(LimitKind::Memory, reason) => internal(reason),
        Failure::Limit(LimitKind::Bytes, _) => Error::HttpResponseBodySize(u64::try_from(most).ok()),
        Failure::Limit(LimitKind::Headers, _) => Error::HttpResponseHeaderSectionSize(None),
        Failure::Limit(LimitKind::Redirects, _) => Error::LoopDetected,
        Failure::Protocol(_) => Error::HttpProtocolError,
        Failure::Internal(reason) => {
            tracing::error!(reason, "a plugin's request failed because of a defect of the host");
            Error::InternalError(None)
        }
    }
}
