//! Conditional requests (RFC 9110, section 13) to routes of plugins: a response of which the client has a copy becomes a
//! 304 without content. Also owns the entity tags of responses that have none.

use axum::http::header::{
    CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::preconditions::{lists_tag, weak};
use super::reply::Reply;

/// The headers that describe content, which a 304 does not have (section 15.4.5).
const OF_CONTENT: [HeaderName; 6] =
    [CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE];

/// Replaces a successful response by a 304 if the request says that the client has it.
pub(super) fn evaluate(method: &Method, request: &HeaderMap, mut reply: Reply) -> Reply {
    let reads = method == Method::GET || method == Method::HEAD;
    if !reads || reply.status != StatusCode::OK || !has_copy(request, &reply.headers) {
        return reply;
    }
    reply.status = StatusCode::NOT_MODIFIED;
    reply.body = Bytes::new();
    for name in OF_CONTENT {
        reply.headers.remove(name);
    }
    reply
}

/// Returns the strong entity tag of a response: equal content with an equal description has equal tags.
pub(super) fn entity_tag(headers: &[(String, String)], body: &[u8]) -> String {
    let mut digest = Sha256::new();
    for described in ["content-type", "content-encoding", "content-language"] {
        let values = headers.iter().filter(|(name, _)| name == described);
        for (_, value) in values {
            digest.update(value.as_bytes());
            digest.update(b"\n");
        }
        digest.update(b"\n");
    }
    digest.update(body);
    let digest = URL_SAFE_NO_PAD.encode(digest.finalize());
    // Half of the digest is more than enough to tell the versions of one resource apart.
    format!("\"{}\"", digest.get(..22).unwrap_or_default())
}

/// Returns whether the client has the response, by its tag, or else by its date.
fn has_copy(request: &HeaderMap, response: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return lists_tag(request, &IF_NONE_MATCH, response.get(ETAG).map(HeaderValue::as_bytes), weak);
    }
    let date = |headers: &HeaderMap, name: HeaderName| {
        httpdate::parse_http_date(headers.get(name)?.to_str().ok()?.trim()).ok()
    };
    let (known, modified) = (date(request, IF_MODIFIED_SINCE), date(response, LAST_MODIFIED));
    known.zip(modified).is_some_and(|(known, modified)| modified <= known)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status(method: &Method, request: &[(&str, &str)], response: &[(&str, &str)]) -> u16 {
        let map = |headers: &[(&str, &str)]| {
            let header = |(name, value): &(&str, &str)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap());
            headers.iter().map(header).collect::<HeaderMap>()
        };
        let reply = Reply { status: StatusCode::OK, headers: map(response), body: Bytes::from_static(b"x") };
        let reply = evaluate(method, &map(request), reply);
        assert_eq!(reply.body.is_empty(), reply.status == 304);
        assert_eq!(reply.headers.contains_key(CONTENT_TYPE), reply.status == 200 && response.len() == 3);
        reply.status.as_u16()
    }

    #[test]
    fn a_condition_is_evaluated_as_rfc_9110_says() {
        let dated = "Sun, 06 Nov 1994 08:49:37 GMT";
        let response = [("etag", "\"a,b\""), ("last-modified", dated), ("content-type", "text/plain")];
        for (name, value, expected) in [
            // Section 13.1.2: weak comparison, lists, and any representation.
            ("if-none-match", "\"a,b\"", 304),
            ("if-none-match", "W/\"a,b\"", 304),
            ("if-none-match", "\"x\" , ,W/\"y\",\"a,b\"", 304),
            ("if-none-match", "*", 304),
            ("if-none-match", "\"a\"", 200),
            ("if-none-match", "\"A,B\"", 200),
            ("if-none-match", "a,b", 200),
            ("if-none-match", "\"a,b", 200),
            ("if-none-match", "", 200),
            // Section 13.1.3: not newer than the client's.
            ("if-modified-since", dated, 304),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:38 GMT", 304),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT", 200),
            ("if-modified-since", "yesterday", 200),
        ] {
            assert_eq!(status(&Method::GET, &[(name, value)], &response), expected, "{name}: {value}");
            assert_eq!(status(&Method::HEAD, &[(name, value)], &response), expected, "{name}: {value}");
            assert_eq!(status(&Method::POST, &[(name, value)], &response), 200, "{name}: {value}");
        }
        // A tag decides before a date (section 13.2.2).
        let both = [("if-none-match", "\"x\""), ("if-modified-since", dated)];
        assert_eq!(status(&Method::GET, &both, &response), 200);
        let two = [("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")];
        assert_eq!(status(&Method::GET, &two, &response), 304);
        assert_eq!(status(&Method::GET, &[("if-none-match", "\"a,b\"")], &[("etag", "W/\"a,b\"")]), 304);
        assert_eq!(status(&Method::GET, &[("if-none-match", "\"x\"")], &[]), 200);
    }

    #[test]
    fn equal_tags_mean_equal_content() {
        let tag =
            |content_type: &str, body: &[u8]| entity_tag(&[("content-type".to_owned(), content_type.to_owned())], body);
        let first = tag("text/plain", b"x");
        assert_eq!(first, tag("text/plain", b"x"));
        assert_eq!(first.len(), 24);
        assert!(first != tag("text/html", b"x") && first != tag("text/plain", b"y"));
    }
}
