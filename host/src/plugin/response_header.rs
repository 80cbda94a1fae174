//! The headers that a plugin may set in a response. Owns the lists of those that belong to the host: headers that frame
//! a message, identify somebody, or have an effect beyond the response itself. Also owns the rules that a valid message
//! follows: a header with one value occurs once, and a `content-length` is that of the body.

use crate::error::Result;

/// Headers that only the host may set.
const FORBIDDEN: &[&str] = &[
    // Framing and connection.
    "connection",
    "date",
    "keep-alive",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
    // Identity.
    "authentication-info",
    "set-cookie",
    "set-cookie2",
    "set-login",
    "www-authenticate",
    // Effects on the whole origin, which last after the response.
    "accept-ch",
    "activate-storage-access",
    "alt-svc",
    "clear-site-data",
    "critical-ch",
    "expect-ct",
    "nel",
    "origin-agent-cluster",
    "origin-trial",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "strict-transport-security",
    "use-as-dictionary",
    // Further requests of the browser.
    "refresh",
    "speculation-rules",
];

/// The beginnings of further names that only the host may set: CORS, headers that browsers reserve, and instructions to a
/// reverse proxy in front of the host, such as the path of a file that it shall send instead.
const FORBIDDEN_PREFIXES: &[&str] = &[
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

/// Headers that a plugin may set only if its pages belong to the origin of the host (the grant `web`).
const OF_PAGES: &[&str] = &[
    "content-security-policy",
    "content-security-policy-report-only",
    "cross-origin-embedder-policy",
    "cross-origin-embedder-policy-report-only",
    "cross-origin-opener-policy",
    "cross-origin-opener-policy-report-only",
    "document-policy",
    "feature-policy",
    "permissions-policy",
];

/// Relations of a `link` that cause no request and change no page.
const HARMLESS_RELATIONS: &[&str] = &[
    "alternate",
    "author",
    "canonical",
    "collection",
    "deprecation",
    "describedby",
    "edit",
    "first",
    "help",
    "item",
    "last",
    "latest-version",
    "license",
    "next",
    "predecessor-version",
    "prev",
    "previous",
    "related",
    "search",
    "self",
    "service-desc",
    "service-doc",
    "successor-version",
    "sunset",
    "up",
];

/// Headers with one value (RFC 9110, 9111, 6266). Clients disagree which of two they use.
const SINGLE: &[&str] = &[
    "age",
    "content-disposition",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "location",
    "retry-after",
];

/// The maximum number of headers of a response.
const MAX_HEADERS: usize = 64;

/// Checks the headers of a response and returns those to send: `content-length` is checked and removed, because the host
/// writes it. `pages` says that the pages of the plugin belong to the origin of the host.
///
/// # Errors
/// The reason, for the plugin's author.
pub(super) fn check(
    mut headers: Vec<(String, String)>,
    pages: bool,
    status: u16,
    body: usize,
) -> Result<Vec<(String, String)>, String> {
    if headers.len() > MAX_HEADERS {
        return Err(format!("more than {MAX_HEADERS} headers"));
    }
    for single in SINGLE {
        if headers.iter().filter(|(name, _)| name == single).count() > 1 {
            return Err(format!("the header '{single}' occurs twice"));
        }
    }
    for (name, value) in &headers {
        // RFC 9110: a name is a token, here in lower case; a value is visible text, spaces and tabs.
        let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err("a header's name is not a lower-case token".to_owned());
        }
        if FORBIDDEN.contains(&name.as_str()) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(format!("only the host may set the header '{name}'"));
        }
        if !pages && OF_PAGES.contains(&name.as_str()) {
            return Err(format!("a plugin without the grant 'web' may not set the header '{name}'"));
        }
        if !value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)) {
            return Err(format!("the value of header '{name}' has a control character"));
        }
        if name == "link" && !is_harmless_link(value) {
            return Err("a 'link' is malformed, or has a relation that makes a browser load something".to_owned());
        }
        if name == "content-type" && !matches!(split_unquoted(value, ','), Some((_, None))) {
            return Err("a 'content-type' has two types, or a quote that is not closed".to_owned());
        }
        if name == "content-length" && !is_length(value, status, body) {
            return Err(format!("the 'content-length' is {value:?}, and the body has {body} bytes"));
        }
    }
    headers.retain(|(name, _)| name != "content-length");
    Ok(headers)
}

/// Returns whether a `content-length` is right. That of a 304 is the length of the representation, which is not sent.
fn is_length(value: &str, status: u16, body: usize) -> bool {
    let digits = value.trim_matches([' ', '\t']);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (status == 304 || digits.parse() == Ok(body))
}

/// Returns whether each relation of a `link` (RFC 8288) is harmless. A relation that is a URI has no effect in browsers.
fn is_harmless_link(value: &str) -> bool {
    let mut rest = value.trim_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let Some((_, after)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>')) else { return false };
        let Some((parameters, next)) = split_unquoted(after, ',') else { return false };
        let mut parameters = Some(parameters);
        while let Some(all) = parameters {
            let Some((parameter, others)) = split_unquoted(all, ';') else { return false };
            parameters = others;
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let relations = value.trim().trim_matches('"').split_ascii_whitespace();
            let harmless = |relation: &str| {
                relation.contains(':') || HARMLESS_RELATIONS.iter().any(|known| relation.eq_ignore_ascii_case(known))
            };
            if name.trim().eq_ignore_ascii_case("rel") && !relations.into_iter().all(harmless) {
                return false;
            }
        }
        rest = next.unwrap_or_default().trim_start_matches([' ', '\t', ',']);
    }
    true
}

/// Splits at the first separator outside quotes. Returns `None` if a quote is not closed.
fn split_unquoted(text: &str, separator: char) -> Option<(&str, Option<&str>)> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => {
                let (before, after) = text.split_at_checked(index)?;
                return Some((before, after.strip_prefix(separator)));
            }
            _ => {}
        }
    }
    (!quoted).then_some((text, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, value: &str, pages: bool) -> bool {
        check(vec![(name.to_owned(), value.to_owned())], pages, 200, 0).is_err()
    }

    fn checked(headers: &[(&str, &str)], status: u16, body: usize) -> Result<Vec<(String, String)>, String> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        check(headers, false, status, body)
    }

    #[test]
    fn a_header_with_one_value_occurs_once() {
        for name in SINGLE {
            assert!(checked(&[(name, "1"), (name, "1")], 200, 1).is_err(), "{name}");
        }
        assert!(checked(&[("vary", "accept"), ("vary", "origin")], 200, 0).is_ok());
        for two in ["text/html, text/plain", "text/html; x=\"a"] {
            assert!(refused("content-type", two, false), "{two}");
        }
        assert!(!refused("content-type", "text/html; x=\"a, b\"", false));
    }

    #[test]
    fn a_right_length_is_accepted_and_not_passed_on_and_a_wrong_one_is_refused() {
        let length = |value, status, body| checked(&[("content-length", value), ("x-a", "b")], status, body);
        let passed = vec![("x-a".to_owned(), "b".to_owned())];
        for (value, status, body) in [("5", 200, 5), ("005", 200, 5), (" 0 ", 204, 0), ("99", 304, 0)] {
            assert_eq!(length(value, status, body), Ok(passed.clone()), "{value}");
        }
        for (value, status, body) in
            [("4", 200, 5), ("6", 200, 5), ("", 200, 0), ("+5", 200, 5), ("5, 5", 200, 5), ("x", 304, 0), ("1", 204, 0)]
        {
            assert!(length(value, status, body).is_err(), "{value:?}");
        }
    }

    #[test]
    fn ordinary_headers_pass() {
        for (name, value) in [
            ("content-type", "text/html"),
            ("etag", "\"ü\""),
            ("cache-control", "no-store"),
            ("location", "/x"),
            ("link", "</items?skip=10>; rel=\"next\", </items>; rel=first; title=\"a, b; rel=preload\""),
            ("link", "<https://example.com/preload>; rel=\"prev https://example.com/rel\""),
            ("x-content-type-options", "nosniff"),
            ("x-colour", "green"),
        ] {
            assert!(!refused(name, value, false), "{name}: {value}");
        }
    }

    #[test]
    fn headers_that_have_an_effect_beyond_the_response_belong_to_the_host() {
        let of_prefixes = [
            "access-control-allow-origin",
            "proxy-authenticate",
            "x-accel-redirect",
            "x-envoy-decorator-operation",
            "x-sendfile-temporary",
        ];
        for name in FORBIDDEN.iter().chain(&of_prefixes) {
            assert!(refused(name, "x", false) && refused(name, "x", true), "{name}");
        }
        for name in OF_PAGES {
            assert!(refused(name, "x", false) && !refused(name, "x", true), "{name}");
        }
    }

    #[test]
    fn a_link_may_not_make_a_browser_load_something() {
        for link in [
            "</x.js>; rel=preload; as=script",
            "</x>; rel=\"next preload\"",
            "</x>; REL=\"PreConnect\"",
            "</x>; rel=next, </y>; rel = stylesheet",
            "</x>; title=\"a\\\"\"; rel=modulepreload",
            "</x>; title=\"rel=next",
            "/x; rel=next",
            "</x; rel=next",
        ] {
            assert!(refused("link", link, true), "{link}");
        }
    }
}
