//! A plugin's request to another server. The input is text: `GET https://a.example/b`, one header per line (with `\r`,
//! `\n` and `\0` as in Rust), an empty line, then the redirects (`302 /c`). Every line is also parsed as an origin of
//! an allowlist.
//!
//! Properties: an accepted request can be written as HTTP, to exactly the server that its URL names; it has none of the
//! host's own headers. A redirect to another server keeps only harmless headers and never leaves TLS. Only `https://*`
//! allows servers that it does not name: by https on port 443, and at public addresses.

use wharf::egress::address::{AddressClass, classify};
use wharf::egress::fuzzing::{self, Written};
use wharf::egress::origin::{Host, Origin, Scheme, Target};
use wharf::egress::{Request, is_written_by_the_host};

use crate::input::{lines, unescaped, words};

/// The headers that a plugin may not set, as an independent copy.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
];

/// The headers that may be sent to another server after a redirect.
const HARMLESS: &[&str] = &[
    "accept",
    "accept-language",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "range",
    "user-agent",
];

/// Checks one request.
pub fn check(data: &[u8]) {
    let lines = lines(data);
    for line in &lines {
        check_origin(line.trim());
    }
    let [method, url] = words(&lines[0]);
    let mut parts = lines[1..].splitn(2, String::is_empty);
    let header = |line: &String| {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        (unescaped(name), unescaped(value))
    };
    let headers: Vec<(String, String)> = parts.next().unwrap_or_default().iter().map(header).collect();
    let responses: Vec<(u16, Vec<u8>)> = parts
        .next()
        .unwrap_or_default()
        .iter()
        .take(8)
        .map(|line| words(line))
        .map(|[status, location]| (status.parse().unwrap_or(302), unescaped(location).into_bytes()))
        .collect();
    let body = if method == "POST" { "body".into() } else { bytes::Bytes::new() };
    let request = Request { method: unescaped(method), url: unescaped(url), headers, body, ..Request::default() };
    let Ok((written, _)) = fuzzing::written(request, 1024, &responses) else { return };
    for one in &written {
        check_written(one);
    }
    for pair in written.windows(2) {
        check_redirect(&pair[0], &pair[1]);
    }
}

fn check_written(written: &Written) {
    let method = written.method.as_str();
    assert!(!matches!(method, "CONNECT" | "TRACE") && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'));
    let target = &written.target;
    let again =
        Target::read(target.url()).unwrap_or_else(|error| panic!("{} cannot be parsed again: {error}", target.url()));
    assert_eq!((&again.server, again.url()), (&target.server, target.url()), "a URL is parsed in two ways");
    // Another parser's view: the server follows the scheme directly.
    let rest =
        target.url().strip_prefix(&format!("{}://", target.server.scheme)).expect("a URL begins with its scheme");
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    assert!(!authority.contains('@') && !path.contains('#'), "{}", target.url());
    assert_eq!(target.path_and_query(), path, "{}", target.url());
    assert!(path.starts_with('/') && path.bytes().all(|b| (0x21..0x7f).contains(&b)), "{path:?} is not an HTTP path");
    let host = target.server.authority();
    assert!(!host.is_empty() && host.bytes().all(|b| (0x21..0x7f).contains(&b) && !b"/?#@\\".contains(&b)), "{host:?}");
    for (name, value) in &written.headers {
        let name = name.as_str();
        assert!(!RESERVED.contains(&name) && !is_written_by_the_host(name), "only the host may set {name}");
        assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0\x7f".contains(byte)), "{name} holds a control character");
    }
    // An allowlist that names this server allows it. None can name a server on port 0.
    let origin = target.server.to_string();
    if target.server.port != 0 {
        let origin = origin.parse::<Origin>().unwrap_or_else(|error| panic!("{origin} {error}"));
        assert!(origin.allows(&target.server), "{origin} does not allow itself");
    }
    let is_default = target.server.scheme == Scheme::Https && target.server.port == 443;
    let every = Origin::EVERY_PUBLIC_SERVER.parse::<Origin>().expect("it is an origin");
    assert_eq!(every.allows(&target.server), is_default, "{every} and {}", target.server);
    if let Host::Address(address) = target.server.host {
        let is_public = classify(address) == AddressClass::Public;
        let is_reached = fuzzing::is_reached_among_all(&target.server, address);
        assert_eq!(is_reached, is_default && is_public, "{every} and {}", target.server);
    }
}

fn check_redirect(from: &Written, to: &Written) {
    assert!(
        from.target.server.scheme == Scheme::Http || to.target.server.scheme == Scheme::Https,
        "{} redirects to {} without TLS",
        from.target.url(),
        to.target.url()
    );
    if from.target.server != to.target.server {
        for name in to.headers.keys() {
            assert!(HARMLESS.contains(&name.as_str()), "{name} is sent to another server");
        }
    }
    if to.method != from.method {
        assert!(to.method == "GET" && to.body.is_empty());
        for name in ["content-encoding", "content-language", "content-location", "content-type"] {
            assert!(!to.headers.contains_key(name), "the body was dropped but {name} was not");
        }
    }
}

fn check_origin(line: &str) {
    let Ok(origin) = line.parse::<Origin>() else { return };
    let written = origin.to_string();
    assert_eq!(written.parse::<Origin>().as_ref(), Ok(&origin), "{written} cannot be parsed again");
    let unnamed = Target::read("https://somewhere.invalid").expect("a URL");
    if written == Origin::EVERY_PUBLIC_SERVER {
        let spellings = ["https://*", "https://*/", "https://*:443", "https://*:443/"];
        assert!(spellings.contains(&line.to_ascii_lowercase().as_str()), "{line} allows every server");
        assert!(origin.allows(&unnamed.server), "{written} does not allow {}", unnamed.server);
        return;
    }
    assert!(!origin.allows(&unnamed.server) || written.ends_with(".invalid"), "{written} allows {}", unnamed.server);
    // An allowed server has the name in the origin, or a name below it.
    let plain = written.replacen("*.", "", 1);
    let target = Target::read(&plain).unwrap_or_else(|error| panic!("{plain}: {error}"));
    assert_eq!(origin.allows(&target.server), plain == written, "{written}");
    let below = plain.replacen("://", "://below.", 1);
    if let Ok(target) = Target::read(&below)
        && plain != written
    {
        assert!(origin.allows(&target.server), "{written} does not allow {below}");
    }
    let sibling = plain.replacen("://", "://x", 1);
    if let Ok(target) = Target::read(&sibling) {
        assert!(!origin.allows(&target.server), "{written} allows {sibling}");
    }
}
