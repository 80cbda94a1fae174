//! RFC 9110, over HTTP/1.1 and HTTP/2.

use super::{Case, Site};

const GET: Case = Case { rule: "", request: "GET /", headers: &[], body: b"", status: 200, expected: &[] };
const BEARER: &str = "authorization: Bearer TOKEN";
const JSON: &str = "content-type: application/json";

const CASES: &[Case] = &[
    // HEAD
    Case {
        rule: "9110 9.3.2 a route of the host",
        request: "HEAD /healthz",
        expected: &["content-length: 2", "= "],
        ..GET
    },
    Case {
        rule: "9110 9.3.2 a route with credentials",
        request: "HEAD /api/v1/users/me",
        headers: &[BEARER],
        expected: &["content-type: application/json", "content-length:", "x-request-id:", "= "],
        ..GET
    },
    Case {
        rule: "9110 9.3.2 a plugin, asked as for GET",
        request: "HEAD /api/v1/chameleon/echo/word",
        expected: &["content-type: application/json", "content-length:", "= "],
        ..GET
    },
    Case {
        rule: "9110 9.3.2 a file",
        request: "HEAD /assets/app.js",
        expected: &["content-length: 8", "etag:", "= "],
        ..GET
    },
    Case {
        rule: "9110 9.3.2 an error",
        request: "HEAD /api/v1/users/me",
        status: 401,
        expected: &["content-type: application/problem+json", "content-length:", "www-authenticate: Bearer", "= "],
        ..GET
    },
    Case { rule: "9110 9.3.2 no resource", request: "HEAD /api/v1/nothing", status: 404, expected: &["= "], ..GET },
    Case {
        rule: "9110 9.3.2 where GET is not allowed",
        request: "HEAD /api/v1/login/logout",
        status: 405,
        expected: &["allow: POST", "= "],
        ..GET
    },
    // Methods
    Case {
        rule: "9110 15.5.6 Allow of a host route",
        request: "PUT /healthz",
        status: 405,
        expected: &["allow: GET, HEAD"],
        ..GET
    },
    Case {
        rule: "9110 15.5.6 Allow of a plugin",
        request: "PATCH /api/v1/chameleon/echo/word",
        status: 405,
        expected: &["allow: GET, HEAD"],
        ..GET
    },
    Case {
        rule: "9110 15.5.6 Allow of a file",
        request: "POST /assets/app.js",
        status: 405,
        expected: &["allow: GET, HEAD"],
        ..GET
    },
    Case { rule: "9110 9.1 methods are case-sensitive", request: "get /healthz", status: 405, ..GET },
    Case {
        rule: "9110 9.3.8 TRACE is not served",
        request: "TRACE /healthz",
        status: 405,
        expected: &["allow:"],
        ..GET
    },
    // The target
    Case {
        rule: "9110 4.2.3 unreserved characters may be escaped",
        request: "GET /api/v1/%69tems/",
        headers: &[BEARER],
        expected: &["~ \"data\""],
        ..GET
    },
    Case { rule: "9110 4.2.3 for a route of the host", request: "GET /%68ealthz", expected: &["= ok"], ..GET },
    Case { rule: "9110 4.2.3 for a file", request: "GET /%61ssets/%61pp.js", expected: &["= script()"], ..GET },
    Case {
        rule: "9110 4.2.3 a slash stays data",
        request: "GET /api/v1/chameleon/echo/a%2fb%2569",
        expected: &["~ \"word\":\"a/b%69\""],
        ..GET
    },
    Case { rule: "9110 4.2.3 not a separator", request: "GET /api%2Fv1/users/me", status: 404, ..GET },
    Case { rule: "9110 4.2.3 once", request: "GET /%2568ealthz", status: 404, ..GET },
    // Media types
    Case {
        rule: "9110 8.3.1 blanks around the semicolon",
        request: "POST /api/v1/items/",
        headers: &[BEARER, "content-type: application/json ;charset=UTF-8"],
        body: br#"{"title":"x"}"#,
        expected: &["~ \"title\":\"x\""],
        ..GET
    },
    Case {
        rule: "8259 8.1 a byte order mark",
        request: "POST /api/v1/items/",
        headers: &[BEARER, JSON],
        body: b"\xef\xbb\xbf{\"title\":\"x\"}",
        expected: &["~ \"title\":\"x\""],
        ..GET
    },
    // Content codings
    Case {
        rule: "9110 8.4 a coding is decoded",
        request: "POST /api/v1/items/",
        headers: &[BEARER, JSON, "content-encoding: BR"],
        body: b"\x8b\x08\x80{\"title\":\"packed\"}\x03",
        expected: &["~ \"title\":\"packed\""],
        ..GET
    },
    Case {
        rule: "9110 8.4 identity",
        request: "POST /api/v1/items/",
        headers: &[BEARER, JSON, "content-encoding: identity"],
        body: br#"{"title":"x"}"#,
        ..GET
    },
    Case {
        rule: "9110 15.5.16 another coding",
        request: "POST /api/v1/items/",
        headers: &[BEARER, JSON, "content-encoding: compress"],
        body: b"x",
        status: 415,
        expected: &["accept-encoding: gzip, deflate, br, zstd", "~ unsupported_content_encoding"],
    },
    Case {
        rule: "9110 15.5.16 several codings",
        request: "POST /api/v1/chameleon/echo",
        headers: &["content-encoding: gzip, br"],
        body: b"x",
        status: 415,
        expected: &["accept-encoding:"],
    },
    Case {
        rule: "9110 8.4 a body that does not fit its coding",
        request: "POST /api/v1/items/",
        headers: &[BEARER, JSON, "content-encoding: gzip"],
        body: b"{}",
        status: 400,
        expected: &["~ malformed_body"],
    },
    // Fields of every response
    Case { rule: "9110 6.6.1 Date", request: "GET /healthz", expected: &["date:"], ..GET },
    Case { rule: "9110 6.6.1 Date of an error", request: "GET /nothing", status: 404, expected: &["date:"], ..GET },
    Case { rule: "9110 12.5.5 Vary without an origin", request: "GET /healthz", expected: &["vary: Origin"], ..GET },
    Case {
        rule: "9110 12.5.5 Vary with another origin",
        request: "GET /assets/app.js",
        headers: &["origin: https://evil.example"],
        expected: &["vary: Origin", "!access-control-allow-origin"],
        ..GET
    },
    Case {
        rule: "9110 12.5.5 Vary of a plugin",
        request: "GET /api/v1/chameleon/echo/x",
        headers: &["origin: https://shop.example"],
        expected: &["vary: Origin", "access-control-allow-origin: https://shop.example"],
        ..GET
    },
    Case {
        rule: "9110 11.6.1 a challenge",
        request: "GET /api/v1/items/",
        status: 401,
        expected: &["www-authenticate: Bearer", "vary: Origin"],
        ..GET
    },
    Case {
        rule: "9110 10.1.1 an expectation other than 100-continue",
        request: "GET /healthz",
        headers: &["expect: tea"],
        expected: &["= ok"],
        ..GET
    },
];

#[tokio::test]
async fn semantics_follow_rfc_9110() {
    let site = Site::start().await;
    site.check(CASES).await;
    site.host.stop().await;
}
