//! Runs one exchange: waits for a permit, then for each server of the redirect chain checks it, resolves it, connects
//! and sends the request; at last reads the response's body. Each phase has a time limit, and so has the whole
//! exchange. Keeps nothing that outlives the future: dropping it releases the permit and closes the connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request as WireRequest, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use super::ReleaseEgress;
use super::checked_request::CheckedRequest;
use super::connection::{Connection, MAX_HEADER_BYTES, MAX_HEADERS, SendError};
use super::exchange::{Report, Request, Response, ResponseMemory};
use super::failure::{Failure, LimitKind, Phase};
use super::limits::MAX_REDIRECTS;
use super::origin::{Host, Server};
use super::trace::Trace;

/// Response headers that are about the connection.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The time limits of the rest of an exchange.
struct TimeLimits {
    end: Instant,
    connect: Duration,
    first_byte: Duration,
    idle: Option<Duration>,
}

/// A response whose body is not read yet.
struct ResponseHead {
    parts: Parts,
    body: Incoming,
    connection: Connection,
}

impl ReleaseEgress {
    /// Sends a request and reads the whole response, reserving memory as the body arrives. Fills `report` as far as the
    /// exchange gets.
    ///
    /// # Errors
    /// The request is invalid or not allowed, it hit a limit, or the server violates the protocol.
    pub async fn send(
        &self,
        request: Request,
        trace: &Trace,
        memory: &mut dyn ResponseMemory,
        report: &mut Report,
    ) -> Result<Response, Failure> {
        let follow = request.redirects.unwrap_or(MAX_REDIRECTS).min(MAX_REDIRECTS);
        let shorter = |own: Option<Duration>, limit: Duration| own.map_or(limit, |own| own.min(limit));
        let time = shorter(request.time, self.limits.time);
        let connect = shorter(request.connect, self.limits.connect);
        let first_byte = shorter(request.first_byte, self.limits.first_byte);
        let idle = request.idle;
        let mut message = CheckedRequest::check(request, self.limits.bytes)?;
        report.server = Some(message.target.server.clone());
        self.check_server(&message.target.server)?;
        let times = TimeLimits { end: Instant::now() + time, connect, first_byte, idle };
        let permits = &self.concurrency.requests;
        let permit = timeout(self.limits.queue.min(time), permits.acquire()).await;
        let _permit =
            permit.map_err(|_| Failure::Limit(LimitKind::Requests, format!("requests: {} at once", permits.size())))?;
        loop {
            let head = self.request_head(&message, trace, &times, report).await?;
            let next = match follow {
                0 => None,
                _ => message.redirected(head.parts.status, &head.parts.headers)?,
            };
            let Some(next) = next else { return self.read(&message, head, &times, memory, report).await };
            // The body of a redirect is not read: the connection is closed, so its server cannot delay the exchange.
            drop(head);
            if report.redirects >= follow {
                return Err(Failure::Limit(LimitKind::Redirects, format!("redirects: {follow}")));
            }
            report.redirects += 1;
            report.server = Some(next.target.server.clone());
            message = next;
        }
    }

    fn check_server(&self, server: &Server) -> Result<(), Failure> {
        self.allowlist.check_server(server, self.shared.own_server.get())
    }

    /// Sends the request to one server, over an idle connection or a new one, and returns the response's head.
    async fn request_head(
        &self,
        message: &CheckedRequest,
        trace: &Trace,
        times: &TimeLimits,
        report: &mut Report,
    ) -> Result<ResponseHead, Failure> {
        let server = &message.target.server;
        self.check_server(server)?;
        while let Some(connection) = self.pool.take(server) {
            report.reused += 1;
            match self.exchange(connection, message, trace, times, report).await? {
                Ok(head) => return Ok(head),
                // The connection was closed while it was idle, and no side effect can have happened: retry.
                Err(failed) if failed.unsent => {}
                Err(failed) if is_safe(&message.method) && failed.error.is_incomplete_message() => {}
                Err(failed) => return Err(exchange_failure(server, &failed.error)),
            }
        }
        let begun = Instant::now();
        let addresses = self.addresses(server, times.end, report).await;
        report.resolve += begun.elapsed();
        let begun = Instant::now();
        let connection = Connection::open(server, &addresses?, &self.shared.tls, times.connect, times.end).await;
        report.connect += begun.elapsed();
        let response = self.exchange(connection?, message, trace, times, report).await?;
        response.map_err(|failed| exchange_failure(server, &failed.error))
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        message: &CheckedRequest,
        trace: &Trace,
        times: &TimeLimits,
        report: &mut Report,
    ) -> Result<Result<ResponseHead, SendError>, Failure> {
        let request = self.wire(message, trace)?;
        let begun = Instant::now();
        let until = times.end.min(begun + times.first_byte);
        let response = timeout_at(until, connection.send(request)).await;
        report.first_byte += begun.elapsed();
        let response = response.map_err(|_| Phase::FirstByte.timeout())?;
        Ok(response.map(|response| {
            let (parts, body) = response.into_parts();
            ResponseHead { parts, body, connection }
        }))
    }

    /// Returns the request as it is written: the plugin's headers, and the headers that only the host sets.
    fn wire(&self, message: &CheckedRequest, trace: &Trace) -> Result<WireRequest<Full<Bytes>>, Failure> {
        let defect = |error: &dyn std::fmt::Display| Failure::Internal(error.to_string());
        let mut headers = message.headers.clone();
        let text = |text: &str| HeaderValue::from_str(text).map_err(|error| defect(&error));
        headers.insert(header::HOST, text(&message.target.server.authority())?);
        let (parent, state) = trace.headers(&self.shared.random).map_err(|error| Failure::Internal(error.report()))?;
        headers.insert("traceparent", text(&parent)?);
        if let Some(state) = state {
            headers.insert("tracestate", text(state)?);
        }
        if !message.body.is_empty() || [Method::POST, Method::PUT, Method::PATCH].contains(&message.method) {
            headers.insert(header::CONTENT_LENGTH, message.body.len().into());
        }
        let mut request = WireRequest::new(Full::new(message.body.clone()));
        *request.method_mut() = message.method.clone();
        *request.uri_mut() = message
            .target
            .path_and_query()
            .parse()
            .map_err(|error| Failure::Invalid(format!("the URL's path or query cannot be sent: {error}")))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn read(
        &self,
        message: &CheckedRequest,
        head: ResponseHead,
        times: &TimeLimits,
        memory: &mut dyn ResponseMemory,
        report: &mut Report,
    ) -> Result<Response, Failure> {
        let ResponseHead { parts, body, connection } = head;
        let server = &message.target.server;
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Protocol(format!("{server} switches to a protocol that was not requested")));
        }
        let begun = Instant::now();
        let headers = as_text(&parts.headers);
        let heads = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        let budget = BodyBudget { memory, head_bytes: heads, max_bytes: self.limits.bytes };
        let read = timeout_at(times.end, collect(server, body, budget, times.idle)).await;
        report.body = begun.elapsed();
        let body = read.map_err(|_| Phase::Body.timeout())??;
        report.bytes = body.len();
        report.status = Some(parts.status.as_u16());
        self.pool.keep(server, connection);
        Ok(Response { url: message.target.url().to_owned(), status: parts.status.as_u16(), headers, body })
    }

    /// Returns the server's addresses, each of which passed the SSRF filter. Names are looked up only here, and the
    /// connection goes to one of the checked addresses.
    async fn addresses(&self, server: &Server, end: Instant, report: &mut Report) -> Result<Vec<SocketAddr>, Failure> {
        let found = match &server.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let until = end.min(Instant::now() + self.limits.resolve);
                match timeout_at(until, self.look_up(name)).await {
                    Err(_) => return Err(Phase::Resolve.timeout()),
                    Ok(Err(failure)) => return Err(failure),
                    Ok(Ok(found)) => found,
                }
            }
        };
        if found.is_empty() {
            return Err(Failure::Unreachable(format!("{} has no address", server.host)));
        }
        let own = self.shared.own.get().copied();
        // One denied address fails the request: a DNS answer that contains one is an attempt to reach it.
        found
            .into_iter()
            .map(|address| {
                let address = SocketAddr::new(address.to_canonical(), server.port);
                let checked = self.allowlist.check_address(server, address, own);
                checked.map(|()| address).inspect_err(|_| {
                    report.detail = Some(format!("{} is at {}", server.host, address.ip()));
                })
            })
            .collect()
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let closed = |_| Failure::Internal("lookups have ended".to_owned());
        let permit = self.concurrency.lookups.clone().acquire_owned().await.map_err(closed)?;
        let lookup = self.shared.resolver.look_up(name.to_owned());
        // The system's lookup continues after its request is gone, and holds its permit until it ends.
        let found = tokio::spawn(async move {
            let found = lookup.await;
            drop(permit);
            found
        });
        match found.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => Err(Failure::Unreachable(format!("{name} cannot be resolved"))),
        }
    }
}

fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD].contains(method)
}

/// The bytes that a response's body may take.
struct BodyBudget<'a> {
    memory: &'a mut dyn ResponseMemory,
    /// Memory that the headers take already.
    head_bytes: usize,
    max_bytes: usize,
}

impl BodyBudget<'_> {
    fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes > self.max_bytes {
            return Err(Failure::Limit(LimitKind::Bytes, format!("response body: {} bytes", self.max_bytes)));
        }
        match self.memory.grow(self.head_bytes.saturating_add(bytes)) {
            true => Ok(()),
            false => Err(Failure::Limit(LimitKind::Memory, "memory: the response needs more than is left".to_owned())),
        }
    }
}

async fn collect(
    server: &Server,
    mut body: Incoming,
    mut budget: BodyBudget<'_>,
    idle: Option<Duration>,
) -> Result<Bytes, Failure> {
    // An announced length takes no memory; one beyond the limit fails at once.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    budget.grow(if announced > budget.max_bytes { announced } else { 0 })?;
    let mut whole = Vec::new();
    loop {
        let frame = match idle {
            Some(idle) => timeout(idle, body.frame()).await.map_err(|_| Phase::Body.timeout())?,
            None => body.frame().await,
        };
        let Some(frame) = frame else { return Ok(whole.into()) };
        let frame = frame.map_err(|error| exchange_failure(server, &error))?;
        // Trailers are dropped.
        let Ok(data) = frame.into_data() else { continue };
        budget.grow(whole.len().saturating_add(data.len()))?;
        whole.extend_from_slice(&data);
    }
}

fn exchange_failure(server: &Server, error: &hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        return Failure::Limit(
            LimitKind::Headers,
            format!("response headers: {MAX_HEADERS}, {MAX_HEADER_BYTES} bytes"),
        );
    }
    if error.is_parse() {
        return Failure::Protocol(format!("the response of {server} is not HTTP/1.1: {error}"));
    }
    Failure::Unreachable(format!("the connection to {server} broke before the response ended: {error}"))
}

/// Returns the headers as text. A value that is not UTF-8 is read as Latin-1, in which every byte is a character.
fn as_text(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
    };
    headers
        .iter()
        .filter(|(name, _)| !HOP_BY_HOP.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}
