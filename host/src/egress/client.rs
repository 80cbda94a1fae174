//! One exchange: a turn, then for each server on the way the question whether it is allowed, its addresses, a connection,
//! the request, and at last the answer's body, each within its time and all within the whole. Holds nothing that outlives
//! the future: dropping it gives the turn back and closes the connection.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request as WireRequest, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::{self, Reach};
use super::connection::{Connection, MAX_HEADER_BYTES, MAX_HEADERS, Unanswered};
use super::message::Message;
use super::origin::{Host, Server};
use super::{Allowed, Bound, Failure, MAX_REDIRECTS, Memory, Phase, ReleaseEgress, Report, Request, Response, Trace};

/// Headers of an answer that are about the connection.
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

/// How long what is left of an exchange may take.
struct Times {
    end: Instant,
    connect: Duration,
    first_byte: Duration,
    idle: Option<Duration>,
}

/// An answer of which only the head was read.
struct Head {
    parts: Parts,
    body: Incoming,
    connection: Connection,
}

impl ReleaseEgress {
    /// Sends a request and reads the answer whole, in memory that is taken as it comes. `report` is filled as far as it
    /// comes.
    ///
    /// # Errors
    /// The request is wrong or not allowed, a limit is broken, or the server does not answer as it should.
    pub async fn send(
        &self,
        request: Request,
        trace: &Trace,
        memory: &mut dyn Memory,
        report: &mut Report,
    ) -> Result<Response, Failure> {
        let follow = request.redirects.unwrap_or(MAX_REDIRECTS).min(MAX_REDIRECTS);
        let less = |asked: Option<Duration>, limit: Duration| asked.map_or(limit, |asked| asked.min(limit));
        let time = less(request.time, self.limits.time);
        let connect = less(request.connect, self.limits.connect);
        let first_byte = less(request.first_byte, self.limits.first_byte);
        let idle = request.idle;
        let mut message = Message::check(request, self.limits.bytes)?;
        report.server = Some(message.target.server.clone());
        self.allowed.server(&message.target.server)?;
        let times = Times { end: Instant::now() + time, connect, first_byte, idle };
        let turns = &self.share.turns;
        let turn = timeout(self.limits.queue.min(time), turns.acquire()).await;
        let _turn = turn.map_err(|_| Failure::Limit(Bound::Requests, format!("requests: {} at once", turns.size())))?;
        loop {
            let head = self.ask(&message, trace, &times, report).await?;
            let next = match follow {
                0 => None,
                _ => message.sent_on(head.parts.status, &head.parts.headers)?,
            };
            let Some(next) = next else { return self.read(&message, head, &times, memory, report).await };
            // What it says beside is not read: the connection is closed, and its server cannot make anybody wait.
            drop(head);
            if report.redirects >= follow {
                return Err(Failure::Limit(Bound::Redirects, format!("redirects: {follow}")));
            }
            report.redirects += 1;
            report.server = Some(next.target.server.clone());
            message = next;
        }
    }

    /// The head of one server's answer, over a connection that is idle or a new one.
    async fn ask(&self, message: &Message, trace: &Trace, times: &Times, report: &mut Report) -> Result<Head, Failure> {
        let server = &message.target.server;
        self.allowed.server(server)?;
        while let Some(connection) = self.pool.take(server) {
            report.reused += 1;
            match self.exchange(connection, message, trace, times, report).await? {
                Ok(head) => return Ok(head),
                // It was closed while it was idle, and the server has seen nothing that matters: once more.
                Err(failed) if failed.unsent => {}
                Err(failed) if is_safe(&message.method) && failed.error.is_incomplete_message() => {}
                Err(failed) => return Err(told(server, &failed.error)),
            }
        }
        let begun = Instant::now();
        let addresses = self.addresses(server, times.end, report).await;
        report.resolve += begun.elapsed();
        let begun = Instant::now();
        let connection = Connection::open(server, &addresses?, &self.shared.tls, times.connect, times.end).await;
        report.connect += begun.elapsed();
        let answer = self.exchange(connection?, message, trace, times, report).await?;
        answer.map_err(|failed| told(server, &failed.error))
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        message: &Message,
        trace: &Trace,
        times: &Times,
        report: &mut Report,
    ) -> Result<Result<Head, Unanswered>, Failure> {
        let request = self.wire(message, trace)?;
        let begun = Instant::now();
        let until = times.end.min(begun + times.first_byte);
        let answer = timeout_at(until, connection.send(request)).await;
        report.first_byte += begun.elapsed();
        let answer = answer.map_err(|_| Phase::FirstByte.over())?;
        Ok(answer.map(|response| {
            let (parts, body) = response.into_parts();
            Head { parts, body, connection }
        }))
    }

    /// The request as it is written: the plugin's headers, and those that are the host's to write.
    fn wire(&self, message: &Message, trace: &Trace) -> Result<WireRequest<Full<Bytes>>, Failure> {
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
        message: &Message,
        head: Head,
        times: &Times,
        memory: &mut dyn Memory,
        report: &mut Report,
    ) -> Result<Response, Failure> {
        let Head { parts, body, connection } = head;
        let server = &message.target.server;
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Protocol(format!("{server} changes to a protocol that nobody asked for")));
        }
        let begun = Instant::now();
        let headers = as_text(&parts.headers);
        let heads = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        let room = Room { memory, taken: heads, bytes: self.limits.bytes };
        let read = timeout_at(times.end, collect(server, body, room, times.idle)).await;
        report.body = begun.elapsed();
        let body = read.map_err(|_| Phase::Body.over())??;
        report.bytes = body.len();
        report.status = Some(parts.status.as_u16());
        self.pool.keep(server, connection);
        Ok(Response { url: message.target.url().to_owned(), status: parts.status.as_u16(), headers, body })
    }

    /// Every address that a server may be connected to at, judged. A name is looked up here and nowhere else, and what is
    /// judged is what is connected to.
    async fn addresses(&self, server: &Server, end: Instant, report: &mut Report) -> Result<Vec<SocketAddr>, Failure> {
        let found = match &server.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let until = end.min(Instant::now() + self.limits.resolve);
                match timeout_at(until, self.look_up(name)).await {
                    Err(_) => return Err(Phase::Resolve.over()),
                    Ok(Err(failure)) => return Err(failure),
                    Ok(Ok(found)) => found,
                }
            }
        };
        if found.is_empty() {
            return Err(Failure::Unreachable(format!("{} has no address", server.host)));
        }
        let own = self.shared.own.get().copied();
        // One address that is not allowed is enough: whoever answers with it wants it to be connected to.
        found
            .into_iter()
            .map(|address| {
                let address = SocketAddr::new(address::canonical(address), server.port);
                let denied = self.allowed.address(&server.host, address.ip()).and_then(|()| keep_away(own, address));
                denied.map(|()| address).inspect_err(|_| {
                    report.detail = Some(format!("{} is at {}", server.host, address.ip()));
                })
            })
            .collect()
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let closed = |_| Failure::Internal("no look-ups any more".to_owned());
        let permit = self.share.lookups.clone().acquire_owned().await.map_err(closed)?;
        let look_up = self.shared.resolver.look_up(name.to_owned());
        // The system's look-up goes on when nobody waits for it any more, and counts for as long.
        let found = tokio::spawn(async move {
            let found = look_up.await;
            drop(permit);
            found
        });
        match found.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => Err(Failure::Unreachable(format!("{name} cannot be resolved"))),
        }
    }
}

impl Allowed {
    fn server(&self, server: &Server) -> Result<(), Failure> {
        if self.hosts.iter().any(|origin| origin.allows(server)) {
            return Ok(());
        }
        Err(Failure::Denied(format!(
            "{server} is not among the http.hosts of this plugin's grant; `http.hosts={server}` would allow it"
        )))
    }

    fn address(&self, host: &Host, address: IpAddr) -> Result<(), Failure> {
        let reason = match address::reach(address) {
            Reach::Public => return Ok(()),
            Reach::Inside(_) if self.networks.iter().any(|network| network.contains(address)) => return Ok(()),
            Reach::Inside(reason) => format!("{reason} and not among the http.networks of this plugin's grant"),
            Reach::Nobody(reason) => format!("{reason}, where nobody can be"),
        };
        // Where a name leads inside is not told to a plugin.
        Err(Failure::Denied(match host {
            Host::Address(address) => format!("{address} is {reason}"),
            Host::Name(name) => format!("{name} has an address that is {reason}"),
        }))
    }
}

/// This host's own listener is reached by nobody from here: its operator API is for people, and a plugin that calls its
/// own routes would wait for itself.
fn keep_away(own: Option<SocketAddr>, address: SocketAddr) -> Result<(), Failure> {
    let denied = || Err(Failure::Denied("this host itself is never reached, whatever was granted".to_owned()));
    let Some(own) = own.filter(|own| own.port() == address.port()) else { return Ok(()) };
    let ip = address::canonical(own.ip());
    if ip == address.ip() || (ip.is_unspecified() && is_of_this_machine(address)) { denied() } else { Ok(()) }
}

/// The kernel reaches an address of its own from that very address. Nothing is sent to find out.
fn is_of_this_machine(address: SocketAddr) -> bool {
    let from = |address: SocketAddr| {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    // Where it cannot be found out, nobody gets there either.
    address.ip().is_loopback() || from(address).map_or(true, |local| local.ip() == address.ip())
}

fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD].contains(method)
}

/// What a body may take.
struct Room<'a> {
    memory: &'a mut dyn Memory,
    /// By the headers.
    taken: usize,
    bytes: usize,
}

impl Room<'_> {
    fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes > self.bytes {
            return Err(Failure::Limit(Bound::Bytes, format!("response body: {} bytes", self.bytes)));
        }
        match self.memory.grow(self.taken.saturating_add(bytes)) {
            true => Ok(()),
            false => Err(Failure::Limit(Bound::Memory, "memory: the answer is beyond it".to_owned())),
        }
    }
}

async fn collect(
    server: &Server,
    mut body: Incoming,
    mut room: Room<'_>,
    idle: Option<Duration>,
) -> Result<Bytes, Failure> {
    // What is only announced takes nothing.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    room.grow(if announced > room.bytes { announced } else { 0 })?;
    let mut whole = Vec::new();
    loop {
        let frame = match idle {
            Some(idle) => timeout(idle, body.frame()).await.map_err(|_| Phase::Body.over())?,
            None => body.frame().await,
        };
        let Some(frame) = frame else { return Ok(whole.into()) };
        let frame = frame.map_err(|error| told(server, &error))?;
        // Trailers are nobody's business.
        let Ok(data) = frame.into_data() else { continue };
        room.grow(whole.len().saturating_add(data.len()))?;
        whole.extend_from_slice(&data);
    }
}

fn told(server: &Server, error: &hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        return Failure::Limit(Bound::Headers, format!("response headers: {MAX_HEADERS}, {MAX_HEADER_BYTES} bytes"));
    }
    if error.is_parse() {
        return Failure::Protocol(format!("the answer of {server} is not HTTP/1.1: {error}"));
    }
    Failure::Unreachable(format!("{server} did not answer to the end: {error}"))
}

/// Values are text; one that is not UTF-8 is read as Latin-1, in which every byte is a character.
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
