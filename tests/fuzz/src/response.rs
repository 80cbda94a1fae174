//! A guest's response, and the request headers that it receives. The input is text: the status, one header per line
//! (`name: value`, with `\r`, `\n` and `\0` as in Rust), an empty line, the body.
//!
//! Properties: an accepted response can be written as HTTP, is unchanged, and has none of the host's own headers; an
//! ordinary response is accepted; a rejection blames the plugin. No credential and no header reserved for the host
//! reaches a guest.

use wharf::config::Plugins;
use wharf::error::Kind;
use wharf::http::fuzzing as http;
use wharf::plugin::{PluginResponse, fuzzing};

use crate::input::{lines, unescaped};

/// The headers that a plugin may not set without a grant, as an independent copy.
const RESERVED: &[&str] = &[
    "accept-ch",
    "activate-storage-access",
    "alt-svc",
    "authentication-info",
    "clear-site-data",
    "connection",
    "content-security-policy",
    "content-security-policy-report-only",
    "critical-ch",
    "cross-origin-embedder-policy",
    "cross-origin-embedder-policy-report-only",
    "cross-origin-opener-policy",
    "cross-origin-opener-policy-report-only",
    "date",
    "document-policy",
    "expect-ct",
    "feature-policy",
    "keep-alive",
    "nel",
    "origin-agent-cluster",
    "origin-trial",
    "permissions-policy",
    "public-key-pins",
    "public-key-pins-report-only",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "server",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "set-login",
    "speculation-rules",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "use-as-dictionary",
    "www-authenticate",
    "x-request-id",
];

/// The beginnings of further names that a plugin may not set.
const RESERVED_PREFIXES: &[&str] = &[
    "access-control-",
    "attribution-reporting-",
    "proxy-",
    "sec-",
    "x-accel-",
    "x-envoy-",
    "x-forwarded-",
    "x-lighttpd-",
    "x-litespeed-",
    "x-reproxy-",
    "x-sendfile",
];

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The headers that a plugin does not receive, as an independent copy.
const WITHHELD: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

const BODY_LIMIT: usize = 256;
const HEADER_LIMIT: usize = 16 * 1024;

/// Checks one response.
pub fn check(data: &[u8]) {
    let lines = lines(data);
    let status = lines[0].parse().unwrap_or(200);
    let mut parts = lines[1..].splitn(2, String::is_empty);
    let header = |line: &String| {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        (unescaped(name), unescaped(value))
    };
    let headers: Vec<(String, String)> = parts.next().unwrap_or_default().iter().map(header).collect();
    let body = parts.next().unwrap_or_default().join("\n").into_bytes();
    check_response(status, &headers, &body);
    check_problem(status, &headers, &body);
    check_request(&headers);
}

fn check_response(status: u16, headers: &[(String, String)], body: &[u8]) {
    let host = Plugins { response_bytes: BODY_LIMIT, header_bytes: HEADER_LIMIT, ..Plugins::default() };
    let response = fuzzing::response(status, headers.to_vec(), body.to_vec(), &host);
    let harmless = |(name, value): &(String, String)| {
        let own = name.starts_with("x-") && !is_reserved(name);
        own && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            && value.bytes().all(|b| (b' '..0x7f).contains(&b))
    };
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let sound =
        (200..=599).contains(&status) && body.len() <= BODY_LIMIT && headers.len() <= 64 && bytes <= HEADER_LIMIT;
    let response = match response {
        Err(error) => {
            assert_eq!(*error.kind(), Kind::Plugin);
            assert!(!(sound && headers.iter().all(harmless)), "an ordinary response was rejected: {}", error.report());
            return;
        }
        Ok(response) => response,
    };
    assert!(sound, "it was accepted above a limit");
    let PluginResponse::Response { status: given, headers: passed, .. } = &response else {
        let is_document = headers.iter().any(|(_, value)| value.to_lowercase().contains("application/problem+json"));
        assert!(is_document, "a response became a problem");
        return;
    };
    // The host writes the length.
    let expected: Vec<_> = headers.iter().filter(|(name, _)| name != "content-length").cloned().collect();
    let headers = expected.as_slice();
    assert_eq!((*given, passed.as_slice()), (status, headers), "the check changed the response");
    let body = if [204, 205, 304].contains(&status) { &[][..] } else { body };
    let reply = http::reply(response.clone())
        .unwrap_or_else(|error| panic!("it was accepted but is not valid HTTP: {}", error.report()));
    assert_eq!((reply.status.as_u16(), &*reply.body, reply.headers.len()), (status, body, headers.len()));
    for (name, value) in &reply.headers {
        let name = name.as_str();
        assert!(!is_reserved(name), "only the host may set {name}");
        assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0\x7f".contains(byte)), "{name} holds a control character");
    }
    for (name, _) in headers {
        let given = headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_bytes());
        let written = reply.headers.get_all(name).iter().map(|value| value.as_bytes());
        assert!(given.eq(written), "{name} was changed");
    }
}

/// Checks the same input as a problem: the first header is its code and detail, the others are field errors.
fn check_problem(status: u16, headers: &[(String, String)], body: &[u8]) {
    let Some(((code, detail), errors)) = headers.split_first() else { return };
    let detail = format!("{detail}{}", String::from_utf8_lossy(body));
    let errors: Vec<_> = errors
        .iter()
        .map(|(place, text)| {
            ("value_error".to_owned(), place.split('.').map(str::to_owned).collect::<Vec<_>>(), text.clone())
        })
        .collect();
    let response = match fuzzing::problem(status, code.clone(), detail.clone(), errors.clone()) {
        Err(error) => return assert_eq!(*error.kind(), Kind::Plugin),
        Ok(response) => response,
    };
    assert!((400..=599).contains(&status) && (1..=64).contains(&code.len()) && errors.len() <= 256);
    assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    let reply = http::reply(response)
        .unwrap_or_else(|error| panic!("it was accepted but is not valid HTTP: {}", error.report()));
    let written: serde_json::Value = serde_json::from_slice(&reply.body).expect("a problem is JSON");
    assert_eq!(
        (&written["status"], &written["code"], &written["detail"]),
        (&status.into(), &code.as_str().into(), &detail.into())
    );
    assert_eq!(written["errors"].as_array().map_or(0, Vec::len), errors.len());
}

fn check_request(headers: &[(String, String)]) {
    let given: Vec<(&[u8], &[u8])> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    for (name, value) in http::passed_on(&given) {
        assert!(!WITHHELD.contains(&name.as_str()), "{name} reaches a guest");
        assert!(value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)), "{name}: {value:?}");
        // The query of the page that sent the request is cut off.
        let is_text = |text: &str| text == value.trim() || (name == "referer" && text.starts_with(value.trim()));
        let same = |(other, text): &(String, String)| other.eq_ignore_ascii_case(&name) && is_text(text.trim());
        assert!(headers.iter().any(same), "{name}: {value:?} was not in the request");
    }
}
