//! RFC 9112: requests as bytes on a socket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{ORIGIN, Site};
use crate::support::patience::PATIENCE;

/// The rule, the bytes (`\n` stands for CRLF), the status, and texts that the response has.
type Case = (&'static str, &'static str, u16, &'static [&'static str]);

const CASES: &[Case] = &[
    // Lines
    ("2.2 an empty line before the request", "\n\nGET /healthz HTTP/1.1\nhost: x\nconnection: close\n\n", 200, &["ok"]),
    ("2.2 a bare CR", "GET /healthz HTTP/1.1\nhost: x\nx: a\rb\n\n", 400, &["malformed_request"]),
    ("2.2 a blank before the first field", "GET /healthz HTTP/1.1\n host: x\n\n", 400, &["malformed_request"]),
    ("2.3 another protocol", "GET /healthz HTTQ/1.1\nhost: x\n\n", 400, &["malformed_request"]),
    ("3 two blanks", "GET  /healthz HTTP/1.1\nhost: x\n\n", 400, &["malformed_request"]),
    ("3 no target", "GET HTTP/1.1\nhost: x\n\n", 400, &["malformed_request"]),
    ("5.1 a blank before the colon", "GET /healthz HTTP/1.1\nhost: x\nx : y\n\n", 400, &["malformed_request"]),
    ("5.2 a folded line", "GET /healthz HTTP/1.1\nhost: x\nx: y\n z\n\n", 400, &["malformed_request"]),
    ("5 a NUL", "GET /healthz HTTP/1.1\nhost: x\nx: y\0z\n\n", 400, &["malformed_request"]),
    // Host
    ("3.2 no Host", "GET /healthz HTTP/1.1\n\n", 400, &["malformed_request", "application/problem+json"]),
    ("3.2 two", "GET /healthz HTTP/1.1\nhost: x\nhost: x\n\n", 400, &["malformed_request", "connection: close"]),
    ("3.2 an empty one", "GET /healthz HTTP/1.1\nhost:\n\n", 400, &["malformed_request"]),
    ("3.2 a malformed one", "GET /healthz HTTP/1.1\nhost: x y\n\n", 400, &["malformed_request"]),
    ("3.2 a URL", "GET /healthz HTTP/1.1\nhost: http://x/\n\n", 400, &["malformed_request"]),
    ("3.2 a user", "GET /healthz HTTP/1.1\nhost: u@x\n\n", 400, &["malformed_request"]),
    ("3.2 a port that is none", "GET /healthz HTTP/1.1\nhost: x:99999\n\n", 400, &["malformed_request"]),
    ("3.2 an IPv6 address", "GET /healthz HTTP/1.1\nhost: [::1]:80\nconnection: close\n\n", 200, &["ok"]),
    ("3.2 HTTP/1.0 has none", "GET /healthz HTTP/1.0\n\n", 200, &["ok"]),
    ("3.2 refused for a plugin too", "GET /api/v1/chameleon/echo/x HTTP/1.1\n\n", 400, &["malformed_request"]),
    ("3.2 refused for a file too", "GET /assets/app.js HTTP/1.1\n\n", 400, &["malformed_request"]),
    // Forms of the target
    (
        "3.2.2 the absolute form, whose authority replaces Host",
        "GET http://target.example/api/v1/chameleon/echo/x HTTP/1.1\nhost: other\nconnection: close\n\n",
        200,
        &[r#"["host","target.example"]"#],
    ),
    ("3.2.2 it needs Host too", "GET http://target.example/healthz HTTP/1.1\n\n", 400, &["malformed_request"]),
    ("3.2.2 another scheme", "GET ftp://x/healthz HTTP/1.1\nhost: x\n\n", 400, &["malformed_request"]),
    ("3.2.3 the authority form without a tunnel", "GET x:80 HTTP/1.1\nhost: x\n\n", 400, &["malformed_request"]),
    ("3.2.3 a tunnel", "CONNECT x:80 HTTP/1.1\nhost: x\n\n", 405, &["allow: "]),
    ("3.2.4 the asterisk", "OPTIONS * HTTP/1.1\nhost: x\nconnection: close\n\n", 204, &["allow: ", "HEAD"]),
    ("3.2.4 with another method", "GET * HTTP/1.1\nhost: x\n\n", 400, &["malformed_request"]),
    (
        "3.2.1 no dot segment leads out",
        "GET /assets/%2e%2e/%2e%2e/x HTTP/1.1\nhost: x\nconnection: close\n\n",
        404,
        &[],
    ),
    (
        "3.2.1 a dot segment reaches no other plugin",
        "GET /api/v1/chameleon/%2e%2e/users/me HTTP/1.1\nhost: x\nconnection: close\n\n",
        404,
        &["route_not_found"],
    ),
    (
        "3.2.1 a NUL in a path",
        "GET /api/v1/items/%00 HTTP/1.1\nhost: x\nconnection: close\n\n",
        401,
        &["not_authenticated"],
    ),
    // The length of the body
    (
        "6.1 chunked",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\ntransfer-encoding: Chunked\nconnection: close\n\n2\nab\n0\n\n",
        200,
        &[r#""body":"ab""#],
    ),
    (
        "6.1 a coding that is not decoded",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\ntransfer-encoding: gzip, chunked\n\n2\nab\n0\n\n",
        501,
        &["unsupported_transfer_encoding", "connection: close"],
    ),
    (
        "6.1 in two lines",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\ntransfer-encoding: gzip\ntransfer-encoding: chunked\n\n0\n\n",
        501,
        &["unsupported_transfer_encoding", "connection: close"],
    ),
    (
        "6.1 chunked twice",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\ntransfer-encoding: chunked, chunked\n\n2\nab\n0\n\n",
        400,
        &["malformed_request", "connection: close"],
    ),
    (
        "6.1 chunked in two lines",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\ntransfer-encoding: chunked\ntransfer-encoding: chunked\n\n0\n\n",
        400,
        &["malformed_request", "connection: close"],
    ),
    (
        "6.1 not the last coding",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\ntransfer-encoding: chunked, gzip\n\n0\n\n",
        400,
        &["malformed_request"],
    ),
    (
        "6.1 a coding without a body",
        "GET /healthz HTTP/1.1\nhost: x\ntransfer-encoding: gzip, chunked\n\n0\n\n",
        501,
        &["unsupported_transfer_encoding"],
    ),
    ("6.1 HTTP/1.0 has none", "POST /x HTTP/1.0\ntransfer-encoding: chunked\n\n0\n\n", 400, &["malformed_request"]),
    (
        "6.3 two lengths",
        "POST /x HTTP/1.1\nhost: x\ncontent-length: 1\ncontent-length: 2\n\nab",
        400,
        &["malformed_request"],
    ),
    ("6.3 no number", "POST /x HTTP/1.1\nhost: x\ncontent-length: +1\n\na", 400, &["malformed_request"]),
    ("6.3 a negative one", "POST /x HTTP/1.1\nhost: x\ncontent-length: -1\n\n", 400, &["malformed_request"]),
    (
        "6.3 a length and chunked: the connection closes",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\ncontent-length: 1\ntransfer-encoding: chunked\n\n2\nab\n0\n\n",
        200,
        &[r#""body":"ab""#, "connection: close"],
    ),
    // The connection
    (
        "9.3.1 HEAD leaves the connection usable",
        "HEAD /healthz HTTP/1.1\nhost: x\n\nGET /healthz HTTP/1.1\nhost: x\nconnection: close\n\n",
        200,
        &["\r\n\r\nHTTP/1.1 200 OK", "\r\n\r\nok"],
    ),
    (
        "9110 10.1.1 the body is asked for",
        "POST /api/v1/chameleon/echo HTTP/1.1\nhost: x\nexpect: 100-continue\ncontent-length: 2\nconnection: close\n\nab",
        100,
        &["HTTP/1.1 200 OK", r#""body":"ab""#],
    ),
    (
        "9110 10.1.1 unless it is refused",
        "POST /api/v1/items/ HTTP/1.1\nhost: x\nexpect: 100-continue\ncontent-length: 99999999\nconnection: close\n\n",
        413,
        &["body_too_large"],
    ),
    (
        "9110 10.1.1 by its coding too",
        "POST /api/v1/items/ HTTP/1.1\nhost: x\nexpect: 100-continue\ncontent-encoding: x\ncontent-length: 5\nconnection: close\n\n",
        415,
        &["accept-encoding: gzip, deflate, br, zstd"],
    ),
];

/// Sends bytes, and reads until the host closes the connection.
async fn exchange(site: &Site, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(site.host.addr()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut response = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut response)).await;
    let text = String::from_utf8_lossy(&response).into_owned();
    read.unwrap_or_else(|_| panic!("the connection stays open: {text}")).unwrap();
    text
}

#[tokio::test]
async fn messages_follow_rfc_9112() {
    let site = Site::start().await;
    let mut wrong = Vec::new();
    for (rule, request, status, parts) in CASES {
        let response = exchange(&site, request.replace('\n', "\r\n").as_bytes()).await;
        let begins = [format!("HTTP/1.1 {status} "), format!("HTTP/1.0 {status} ")];
        if !begins.iter().any(|begin| response.starts_with(begin)) || !parts.iter().all(|part| response.contains(part))
        {
            wrong.push(format!("9112 {rule}: {status} {parts:?}, but it is {response}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.host.stop().await;
}

#[tokio::test]
async fn a_line_may_end_with_a_bare_line_feed() {
    let site = Site::start().await;
    let response = exchange(&site, b"GET /healthz HTTP/1.1\nhost: x\nconnection: close\n\n").await;
    assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("ok"), "{response}");
}

#[tokio::test]
async fn a_head_that_is_too_large_gets_a_problem_that_the_frontend_can_read() {
    let site = Site::start().await;
    let url = |length: usize| {
        let url = format!("/api/v1/users/?{}", "x".repeat(length));
        format!("GET {url} HTTP/1.1\r\nhost: x\r\norigin: {ORIGIN}\r\n\r\n")
    };
    let headers = |text: String| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{text}origin: {ORIGIN}\r\n\r\n");
    for (request, status, code) in [
        // Longer than the limit of the host, than that of hyper, than the buffer, and than many buffers.
        (url(62_000), 414, "url_too_long"),
        (url(65_530), 414, "url_too_long"),
        (url(70_000), 414, "url_too_long"),
        (url(500_000), 414, "url_too_long"),
        (headers("x: y\r\n".repeat(101)), 431, "headers_too_large"),
        (headers(format!("x: {}\r\n", "y".repeat(100_000))), 431, "headers_too_large"),
        (headers("x y\r\n".to_owned()), 400, "malformed_request"),
    ] {
        let response = exchange(&site, request.as_bytes()).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        for part in [
            "content-type: application/problem+json",
            "connection: close",
            "vary: Origin",
            "x-request-id: ",
            "date: ",
            &format!("access-control-allow-origin: {ORIGIN}"),
        ] {
            assert!(head.contains(part), "{part} is not in {head}");
        }
        assert!(body.contains(code) && body.len() < 4096, "{body}");
    }
    site.host.stop().await;
}
