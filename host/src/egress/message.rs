//! A plugin's request, checked before anything is done with it, and what becomes of it when a server sends it on. What is
//! the host's to say (framing, the `host`, the trace) a plugin cannot say. Of the headers for one server another gets only
//! harmless ones; a body goes on where RFC 9110 has it go on, to a server that the grant names too.

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use super::connection::{MAX_HEADER_BYTES, MAX_HEADERS};
use super::origin::{Scheme, Target};
use super::{Bound, Failure, Request};

/// Beside all that begin with `proxy-`.
const HOSTS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
];

/// What may be told to another server than the one it was meant for. Not a list of what is secret, which nobody can write.
const HARMLESS: &[HeaderName] = &[
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::RANGE,
    header::USER_AGENT,
];

/// What describes a body, and goes with it.
const OF_THE_BODY: &[HeaderName] =
    &[header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION, header::CONTENT_TYPE];

const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// Whether a header is no plugin's to write. The name is in lower case.
pub fn is_written_by_the_host(name: &str) -> bool {
    HOSTS.contains(&name) || name.starts_with("proxy-")
}

/// A checked request.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Message {
    pub(super) fn check(request: Request, most: usize) -> Result<Self, Failure> {
        let method = check_method(&request.method)?;
        let target = Target::read(&request.url).map_err(Failure::Invalid)?;
        if request.body.len() > most {
            return Err(Failure::Limit(Bound::Bytes, format!("request body: {most} bytes")));
        }
        if request.headers.len() > MAX_HEADERS {
            return Err(Failure::Limit(Bound::Headers, format!("request headers: {MAX_HEADERS}")));
        }
        if request.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_HEADER_BYTES {
            return Err(Failure::Limit(Bound::Headers, format!("request headers: {MAX_HEADER_BYTES} bytes")));
        }
        let mut headers = HeaderMap::with_capacity(request.headers.len() + 5);
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Failure::Invalid(format!("{name:?} is no name of a header")))?;
            if is_written_by_the_host(name.as_str()) {
                return Err(Failure::Invalid(format!("the header '{name}' is the host's to write")));
            }
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| Failure::Invalid(format!("the value of '{name}' holds a control character")))?;
            headers.append(name, value);
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        Ok(Self { method, target, headers, body: request.body })
    }

    /// Where the server sends it on to, if it does (RFC 9110, 15.4).
    pub(super) fn sent_on(&self, status: StatusCode, headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let keeps_method = match status {
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method != Method::POST,
            StatusCode::SEE_OTHER => self.method == Method::GET || self.method == Method::HEAD,
            _ => return Ok(None),
        };
        let Some(location) = headers.get(header::LOCATION) else { return Ok(None) };
        let told = |reason: String| Failure::Protocol(format!("{} sends on to nowhere: {reason}", self.target.server));
        let location = location.to_str().map_err(|_| told("the location is no text".to_owned()))?;
        let target = self.target.join(location).map_err(told)?;
        if self.target.server.scheme == Scheme::Https && target.server.scheme == Scheme::Http {
            let (from, to) = (&self.target.server, &target.server);
            return Err(Failure::Denied(format!("{from} sends on to {to}, which is not encrypted any more")));
        }
        let mut next = self.clone();
        if !keeps_method {
            next.method = Method::GET;
            next.body = Bytes::new();
            for name in OF_THE_BODY {
                next.headers.remove(name);
            }
        }
        if target.server != self.target.server {
            next.headers = next
                .headers
                .iter()
                .filter(|(name, _)| HARMLESS.contains(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
        }
        next.target = target;
        Ok(Some(next))
    }
}

fn check_method(text: &str) -> Result<Method, Failure> {
    let sound = text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => Err(Failure::Invalid(format!("the method {text} is not allowed"))),
        Ok(method) if sound => Ok(method),
        Ok(_) | Err(_) => {
            Err(Failure::Invalid(format!("{:?} is no method in upper case", text.chars().take(40).collect::<String>())))
        }
    }
}
