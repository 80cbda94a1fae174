//! Compression of JSON responses with gzip.
//!
//! The size of a compressed body shows whether a text that a client sent occurs in it a second time. An attacker who can
//! make a victim send chosen texts, and sees the sizes of the responses, finds out a secret in the same body (BREACH,
//! breachattack.com). So only a body that everybody may read is compressed. Owns the rules for that:
//!
//! - The request is a GET or HEAD. Signing in, refreshing a token and recovering a password are not.
//! - The request has no credentials.
//! - The response has the status 200, is JSON without a coding, and its `Cache-Control` allows a shared cache to keep
//!   and to transform it.
//! - The response has no strong entity tag. A plugin that sets one compares it with the `If-Match` of a client, which a
//!   weak tag never fits, and both forms of a body cannot have the same strong tag. The tags of the host are weak for
//!   each response that may be compressed.
//!
//! The body is complete in memory, so it is compressed at once: the length is known, only the compressed bytes stay in
//! memory while a slow client reads, and no state of an encoder does. At most half of the processors compress large
//! bodies at the same time; a further response is sent as it is.

use std::io::Write as _;
use std::sync::Arc;

use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, COOKIE, ETAG, HeaderName, HeaderValue,
    PROXY_AUTHORIZATION, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use flate2::write::GzEncoder;
use tokio::sync::Semaphore;

use super::accepted_codings::{AcceptedCodings, Coding};
use super::media_type::MediaType;
use super::reply::Reply;

/// Smaller bodies stay as they are: with its headers, such a response fits into one packet of the network anyway.
const SMALLEST: usize = 1024;
/// Larger bodies are compressed away from the worker threads.
const LARGE: usize = 64 * 1024;
/// Fast: most of the effect for a fraction of the time of the highest level, which is 9.
const LEVEL: u32 = 4;

/// Headers by which a client identifies itself.
const CREDENTIALS: [HeaderName; 4] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HeaderName::from_static("x-api-key")];
/// Directives of `Cache-Control` that say that a body is for one reader, or has to stay as it is.
const UNCHANGED: [&str; 3] = ["no-store", "no-transform", "private"];

const ACCEPTED_CODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");

/// Compresses responses.
#[derive(Debug)]
pub(super) struct Compression {
    enabled: bool,
    large: Arc<Semaphore>,
}

impl Compression {
    /// Uses at most half of the processors for large bodies.
    pub(super) fn new(enabled: bool) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { enabled, large: Arc::new(Semaphore::new(processors.div_ceil(2))) }
    }

    /// Compresses the body of a reply if the rules allow it and the client accepts it.
    pub(super) async fn apply(&self, request: &Parts, mut reply: Reply) -> Reply {
        if !announce(self.enabled, request, &mut reply) {
            return reply;
        }
        let accepted = AcceptedCodings::read(&request.headers);
        if accepted.preferred(&[Coding::Gzip]).is_some()
            && let Some(compressed) = self.compress(reply.body.clone()).await
        {
            reply.body = compressed;
            reply.headers.insert(CONTENT_ENCODING, Coding::Gzip.header());
        }
        reply
    }

    /// Returns `None` if the body would not become smaller, or if too many are being compressed.
    async fn compress(&self, body: Bytes) -> Option<Bytes> {
        if body.len() <= LARGE {
            return gzip(&body);
        }
        let permit = Arc::clone(&self.large).try_acquire_owned().ok()?;
        // A client that leaves does not end the task, so the permit belongs to the task.
        let task = tokio::task::spawn_blocking(move || {
            let compressed = gzip(&body);
            drop(permit);
            compressed
        });
        task.await.ok().flatten()
    }
}

/// Adds the headers of a response that depends on the codings that the client accepts, and returns whether it does. Runs
/// before the conditions of the request are evaluated, so that a 304 has the same headers.
pub(super) fn announce(enabled: bool, request: &Parts, reply: &mut Reply) -> bool {
    if !enabled || !is_public(request) || !may_vary(reply) {
        return false;
    }
    if !reply.headers.get_all(VARY).iter().any(|value| *value == ACCEPTED_CODING) {
        reply.headers.append(VARY, ACCEPTED_CODING);
    }
    true
}

fn gzip(body: &Bytes) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::new(LEVEL));
    encoder.write_all(body).ok()?;
    let compressed = encoder.finish().ok()?;
    (compressed.len() < body.len()).then(|| compressed.into())
}

/// Returns whether everybody gets the same response to a request.
fn is_public(request: &Parts) -> bool {
    let reads = request.method == Method::GET || request.method == Method::HEAD;
    reads && !CREDENTIALS.iter().any(|name| request.headers.contains_key(name))
}

/// Returns whether a reply can depend on the codings that the client accepts. The same tag then stands for both forms of
/// its body, so it has to be a weak one.
pub(super) fn may_vary(reply: &Reply) -> bool {
    let is_strong = reply.headers.get(ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
    reply.status == StatusCode::OK
        && !is_strong
        && reply.body.len() >= SMALLEST
        && ![CONTENT_ENCODING, CONTENT_RANGE].iter().any(|name| reply.headers.contains_key(name))
        && !has_directive(&reply.headers)
        && MediaType::of(&reply.headers).is_json()
}

fn has_directive(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CACHE_CONTROL).iter().map(|value| value.to_str().unwrap_or("private"));
    values.flat_map(|value| value.split(',')).any(|directive| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        UNCHANGED.iter().any(|unchanged| name.eq_ignore_ascii_case(unchanged))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use axum::http::Request;
    use axum::http::header::CONTENT_TYPE;

    use super::*;

    const GZIP: (&str, &str) = ("accept-encoding", "gzip, br");

    fn request(method: Method, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn json(length: usize) -> Reply {
        Reply::new(StatusCode::OK, "application/json", format!("\"{}\"", "a".repeat(length - 2)))
    }

    async fn applied(request: Parts, reply: Reply) -> Reply {
        Compression::new(true).apply(&request, reply).await
    }

    async fn is_compressed(request: Parts, reply: Reply) -> bool {
        applied(request, reply).await.headers.contains_key(CONTENT_ENCODING)
    }

    #[tokio::test]
    async fn a_public_json_response_above_the_size_is_compressed() {
        for length in [SMALLEST, LARGE, LARGE * 20] {
            let reply = applied(request(Method::GET, &[GZIP]), json(length)).await;
            assert_eq!(reply.headers[CONTENT_ENCODING], "gzip");
            assert_eq!(reply.headers[VARY], "Accept-Encoding");
            let mut decoded = Vec::new();
            flate2::read::GzDecoder::new(&*reply.body).read_to_end(&mut decoded).unwrap();
            assert_eq!(decoded, json(length).body);
            assert!(reply.body.len() < length / 10);
        }
        let head = applied(request(Method::HEAD, &[GZIP]), json(SMALLEST)).await;
        assert_eq!(head.headers[CONTENT_ENCODING], "gzip");
        let plain = applied(request(Method::GET, &[("accept-encoding", "br")]), json(SMALLEST)).await;
        assert_eq!((plain.body.len(), &plain.headers[VARY]), (SMALLEST, &HeaderValue::from_static("Accept-Encoding")));
        assert!(!plain.headers.contains_key(CONTENT_ENCODING));
        let small = applied(request(Method::GET, &[GZIP]), json(SMALLEST - 1)).await;
        assert!(!small.headers.contains_key(VARY) && !small.headers.contains_key(CONTENT_ENCODING));
        let off = Compression::new(false).apply(&request(Method::GET, &[GZIP]), json(SMALLEST)).await;
        assert!(off.headers.get(VARY).is_none());
    }

    #[tokio::test]
    async fn a_response_to_a_request_with_credentials_is_never_compressed() {
        for name in ["authorization", "cookie", "proxy-authorization", "x-api-key"] {
            assert!(!is_compressed(request(Method::GET, &[GZIP, (name, "x")]), json(SMALLEST)).await, "{name}");
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            assert!(!is_compressed(request(method.clone(), &[GZIP]), json(SMALLEST)).await, "{method}");
        }
    }

    #[tokio::test]
    async fn a_response_for_one_reader_or_of_another_kind_stays_as_it_is() {
        for (name, value) in [
            (CACHE_CONTROL, "max-age=5, Private=\"x\""),
            (CACHE_CONTROL, "no-store"),
            (CACHE_CONTROL, "no-transform"),
            (CONTENT_ENCODING, "br"),
            (CONTENT_RANGE, "bytes 0-1023/2048"),
            (CONTENT_TYPE, "text/html"),
            (CONTENT_TYPE, "x"),
        ] {
            let reply = json(SMALLEST).with_header(name.clone(), HeaderValue::from_static(value));
            let reply = applied(request(Method::GET, &[GZIP]), reply).await;
            assert_eq!((reply.body.len(), reply.headers.get(VARY)), (SMALLEST, None), "{name}: {value}");
        }
        for status in [StatusCode::CREATED, StatusCode::BAD_REQUEST] {
            assert!(!is_compressed(request(Method::GET, &[GZIP]), json(SMALLEST).with_status(status)).await);
        }
        let kinds = ["application/json; charset=utf-8", "application/vnd.api+json"];
        for kind in kinds {
            let reply = json(SMALLEST).with_header(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert!(is_compressed(request(Method::GET, &[GZIP]), reply).await, "{kind}");
        }
    }

    #[tokio::test]
    async fn a_response_with_a_strong_tag_stays_as_it_is() {
        let tagged = |tag| json(SMALLEST).with_header(ETAG, HeaderValue::from_static(tag));
        let get = || request(Method::GET, &[GZIP]);
        let strong = applied(get(), tagged("\"a\"")).await;
        assert_eq!((strong.body.len(), &strong.headers[ETAG]), (SMALLEST, &HeaderValue::from_static("\"a\"")));
        assert!(!strong.headers.contains_key(VARY) && !strong.headers.contains_key(CONTENT_ENCODING));
        let mut weak = tagged("W/\"a\"");
        assert!(announce(true, &get(), &mut weak));
        let twice = applied(get(), weak).await;
        assert_eq!(
            (twice.headers.get_all(VARY).iter().count(), &twice.headers[CONTENT_ENCODING]),
            (1, &Coding::Gzip.header())
        );
        assert_eq!(twice.headers[ETAG], "W/\"a\"");
    }

    #[tokio::test]
    async fn without_a_free_processor_a_large_body_is_sent_as_it_is() {
        let compression = Compression::new(true);
        let _busy = Arc::clone(&compression.large).acquire_many_owned(1).await.unwrap();
        while compression.large.try_acquire().map(tokio::sync::SemaphorePermit::forget).is_ok() {}
        let reply = compression.apply(&request(Method::GET, &[GZIP]), json(LARGE + 1)).await;
        assert_eq!((reply.body.len(), &reply.headers[VARY]), (LARGE + 1, &HeaderValue::from_static("Accept-Encoding")));
    }
}
