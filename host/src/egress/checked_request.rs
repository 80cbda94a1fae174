//! A plugin's request after its check, and the next request of a redirect. A plugin cannot set the headers that the
//! host owns (framing, `host`, trace context). A redirect to another server carries only harmless headers; it carries
//! the body where RFC 9110 says so, and only to a server that the grant names.

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use super::connection::{MAX_HEADER_BYTES, MAX_HEADERS};
use super::exchange::Request;
use super::failure::{Failure, LimitKind};
use super::origin::{Scheme, Target};

/// Headers that only the host writes, in addition to all that begin with `proxy-`.
const WRITTEN_BY_THE_HOST: &[&str] = &[
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

/// Headers that a redirect to another server keeps. An allowlist, because nobody can list all secret headers.
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

/// Headers that describe a body, removed together with it.
const OF_THE_BODY: &[HeaderName] =
    &[header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION, header::CONTENT_TYPE];

const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// Returns whether only the host writes a header. The name is in lower case.
pub fn is_written_by_the_host(name: &str) -> bool {
    WRITTEN_BY_THE_HOST.contains(&name) || name.starts_with("proxy-")
}

/// A checked request.
#[derive(Debug, Clone)]
pub(super) struct CheckedRequest {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl CheckedRequest {
    pub(super) fn check(request: Request, max_bytes: usize) -> Result<Self, Failure> {
        let method = check_method(&request.method)?;
        let target = Target::read(&request.url).map_err(Failure::Invalid)?;
        if request.body.len() > max_bytes {
            return Err(Failure::Limit(LimitKind::Bytes, format!("request body: {max_bytes} bytes")));
        }
        if request.headers.len() > MAX_HEADERS {
            return Err(Failure::Limit(LimitKind::Headers, format!("request headers: {MAX_HEADERS}")));
        }
        if request.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_HEADER_BYTES {
            return Err(Failure::Limit(LimitKind::Headers, format!("request headers: {MAX_HEADER_BYTES} bytes")));
        }
        let mut headers = HeaderMap::with_capacity(request.headers.len() + 5);
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Failure::Invalid(format!("{name:?} is not a valid header name")))?;
            if is_written_by_the_host(name.as_str()) {
                return Err(Failure::Invalid(format!("only the host writes the header '{name}'")));
            }
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| Failure::Invalid(format!("the value of '{name}' contains a control character")))?;
            headers.append(name, value);
        }
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        Ok(Self { method, target, headers, body: request.body })
    }

    /// Returns the next request if the response is a redirect (RFC 9110, 15.4).
    pub(super) fn redirected(&self, status: StatusCode, headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let keeps_method = match status {
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method != Method::POST,
            StatusCode::SEE_OTHER => self.method == Method::GET || self.method == Method::HEAD,
            _ => return Ok(None),
        };
        let Some(location) = headers.get(header::LOCATION) else { return Ok(None) };
        let bad_redirect =
            |reason: String| Failure::Protocol(format!("{} sent an invalid redirect: {reason}", self.target.server));
        let location = location.to_str().map_err(|_| bad_redirect("the location is not text".to_owned()))?;
        let target = self.target.join(location).map_err(bad_redirect)?;
        if self.target.server.scheme == Scheme::Https && target.server.scheme == Scheme::Http {
            let (from, to) = (&self.target.server, &target.server);
            return Err(Failure::Denied(format!("{from} redirects to {to}, which is not encrypted")));
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
        Ok(_) | Err(_) => Err(Failure::Invalid(format!(
            "{:?} is not a method in upper case",
            text.chars().take(40).collect::<String>()
        ))),
    }
}
