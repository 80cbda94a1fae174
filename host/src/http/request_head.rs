//! The head of a request, as RFC 9110, 9112 and 9113 require it: the form and the length of the target, the authority,
//! and the transfer coding. Owns which requests are refused before anything else looks at them, because a proxy in
//! front of the host could understand them differently. Also owns the one form of a path that routes, caches and
//! plugins see.
//!
//! hyper has refused heads that it cannot parse; `server::refused_head` responds to those.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::Ipv6Addr;

use axum::http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::http::uri::{PathAndQuery, Scheme, Uri};
use axum::http::{HeaderMap, Method, Version};

use super::cors::METHODS;
use crate::error::{Error, Kind, Result, code};

/// Maximum length of path and query. A longer one gives a 414. hyper does not parse much longer ones.
pub(super) const MAX_URL_BYTES: usize = 60 * 1024;

/// Checks the head of a request and brings its path and its `Host` into one form.
///
/// # Errors
/// 400, 414 or 501: the request does not follow the protocol, or needs a part of it that the host does not have.
pub(super) fn check(parts: &mut Parts) -> Result<()> {
    check_transfer_coding(&parts.headers)?;
    check_target(&parts.method, &parts.uri)?;
    set_host(parts)?;
    normalize_path(&mut parts.uri)
}

/// Returns the refusal of a URL that is too long.
pub(super) fn url_too_long() -> Error {
    let text = format!("The URL has more than {MAX_URL_BYTES} bytes");
    Error::new(Kind::UrlTooLong, code::URL_TOO_LONG, text)
}

/// Returns the refusal of a request that does not follow the protocol.
pub(super) fn malformed(reason: &'static str) -> Error {
    Error::bad_request(code::MALFORMED_REQUEST, reason)
}

/// Refuses every transfer coding but one `chunked`, which hyper decodes (RFC 9112, section 6.1). hyper only looks at
/// the last one. HTTP/2 has no such header.
fn check_transfer_coding(headers: &HeaderMap) -> Result<()> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let Some(first) = values.next() else { return Ok(()) };
    let is_chunked = |name: &[u8]| name.trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut others = values.peekable();
    if is_chunked(first) && others.peek().is_none() {
        return Ok(());
    }
    let all_chunked = |value: &[u8]| value.split(|byte| *byte == b',').all(|name| name.is_empty() || is_chunked(name));
    if all_chunked(first) && others.all(all_chunked) {
        return Err(malformed("Transfer-Encoding must name chunked once"));
    }
    let text = "The host decodes no Transfer-Encoding but chunked";
    Err(Error::new(Kind::NotImplemented, code::UNSUPPORTED_TRANSFER_ENCODING, text))
}

/// Checks that the target is a path, an `http` or `https` URL, or the asterisk of OPTIONS (RFC 9112, section 3.2).
fn check_target(method: &Method, uri: &Uri) -> Result<()> {
    if uri.path_and_query().is_some_and(|path| path.as_str().len() > MAX_URL_BYTES) {
        return Err(url_too_long());
    }
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(malformed("The request target has a scheme other than http and https"));
    }
    // The authority form of a tunnel. The host is no proxy.
    if method == Method::CONNECT {
        let methods = METHODS.iter().map(|method| (*method).to_owned()).collect();
        return Err(Error::new(Kind::MethodNotAllowed(methods), code::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    }
    let is_asterisk = uri.path() == "*" && method == Method::OPTIONS;
    if uri.path().starts_with('/') || is_asterisk {
        Ok(())
    } else {
        Err(malformed("The request target must be a path that begins with a slash"))
    }
}

/// Checks that a request names one valid host (RFC 9112, section 3.2, and RFC 9113, section 8.3.1). The authority of
/// the target replaces the header, as the RFCs ask, so that everything after this sees one host.
fn set_host(parts: &mut Parts) -> Result<()> {
    let mut named = parts.headers.get_all(HOST).iter();
    let header = named.next();
    if named.next().is_some() {
        return Err(malformed("The request has more than one Host"));
    }
    if header.is_some_and(|host| !is_authority(host.as_bytes())) {
        return Err(malformed("Host must be a host with an optional port"));
    }
    let Some(target) = parts.uri.authority() else {
        // HTTP/1.0 did not have the header.
        return match header {
            None if parts.version > Version::HTTP_10 => Err(malformed("The request has no Host")),
            _ => Ok(()),
        };
    };
    if !is_authority(target.as_str().as_bytes()) {
        return Err(malformed("The authority of the request target must be a host with an optional port"));
    }
    match header {
        None if parts.version == Version::HTTP_11 => return Err(malformed("The request has no Host")),
        Some(host)
            if parts.version >= Version::HTTP_2
                && !host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes()) =>
        {
            return Err(malformed("Host and :authority differ"));
        }
        _ => {}
    }
    let host = HeaderValue::from_str(target.as_str());
    parts.headers.insert(HOST, host.map_err(|_| malformed("The authority of the request target is not valid"))?);
    Ok(())
}

/// Returns whether a text is a host with an optional port, without user information: `uri-host [ ":" port ]` of RFC
/// 3986.
fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let (host_is_valid, port) = match text.strip_prefix('[') {
        Some(literal) => {
            let Some((address, after)) = literal.split_once(']') else { return false };
            (address.parse::<Ipv6Addr>().is_ok(), after)
        }
        None => {
            let (name, port) = text.split_at_checked(text.find(':').unwrap_or(text.len())).unwrap_or_default();
            (is_name(name), port)
        }
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || (digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    host_is_valid && port_is_valid
}

/// Returns whether a text is a name or an IPv4 address. An empty one is not valid in an `http` URL.
fn is_name(text: &str) -> bool {
    let mut parts = text.split('%');
    let plain = |part: &str| part.bytes().all(|byte| is_unreserved(byte) || b"!$&'()*+,;=".contains(&byte));
    let first = parts.next().unwrap_or_default();
    !text.is_empty() && plain(first) && parts.all(|part| escaped(part).is_some_and(|(_, rest)| plain(rest)))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Returns the byte of an escape whose percent sign was before the text, and the text after it.
fn escaped(text: &str) -> Option<(u8, &str)> {
    let (digits, rest) = text.split_at_checked(2)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten().map(|byte| (byte, rest))
}

/// Decodes the unreserved characters of the path (RFC 3986, section 6.2.2.2), so that `/%69tems` is `/items`.
fn normalize_path(uri: &mut Uri) -> Result<()> {
    let Cow::Owned(path) = normalized(uri.path()) else { return Ok(()) };
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let invalid = || malformed("The request target is not valid");
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|error| invalid().with_source(error))?);
    *uri = Uri::from_parts(parts).map_err(|error| invalid().with_source(error))?;
    Ok(())
}

/// Returns the path with its unreserved characters decoded, and the digits of other escapes in upper case. Decodes
/// once: `%2569` stays as it is. A slash, a backslash, a NUL and all other bytes keep their escapes, so no segment can
/// become two. Dot segments are not removed: a proxy that did not remove them has checked another path.
pub(super) fn normalized(path: &str) -> Cow<'_, str> {
    let mut parts = path.split('%');
    let first = parts.next().unwrap_or_default();
    if first.len() == path.len() {
        return Cow::Borrowed(path);
    }
    let mut text = String::with_capacity(path.len());
    text.push_str(first);
    for part in parts {
        match escaped(part) {
            Some((byte, rest)) if is_unreserved(byte) => {
                text.push(char::from(byte));
                text.push_str(rest);
            }
            Some((byte, rest)) => {
                // Writing to a string never fails.
                let _ = write!(text, "%{byte:02X}{rest}");
            }
            // With a bare percent sign, the next characters could become an escape.
            None => {
                text.push_str("%25");
                text.push_str(part);
            }
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests;
