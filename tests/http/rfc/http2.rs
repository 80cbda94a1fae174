//! RFC 9113: requests as frames.

use super::Site;
use crate::support::http2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, Wire, frame, header,
};

type Fields = &'static [(&'static str, &'static str)];

/// The outcome of a request.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// A response whose body contains the text.
    Body(&'static str),
    /// A response without a body.
    Empty,
    /// The stream or the connection ends with an error.
    Reset,
}

const GET: (&str, &str) = (":method", "GET");
const HTTP: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/healthz");
const AUTHORITY: (&str, &str) = (":authority", "x");
const ECHO: (&str, &str) = (":path", "/api/v1/chameleon/echo/x");

const CASES: &[(&str, Fields, Outcome)] = &[
    ("8.3.1 a request", &[GET, HTTP, PATH, AUTHORITY], Outcome::Body("ok")),
    ("8.3.1 Host instead of the authority", &[GET, HTTP, PATH, ("host", "x")], Outcome::Body("ok")),
    ("8.3.1 neither", &[GET, HTTP, PATH], Outcome::Body("malformed_request")),
    ("8.3.1 both, and they differ", &[GET, HTTP, PATH, AUTHORITY, ("host", "y")], Outcome::Body("malformed_request")),
    ("8.3.1 both", &[GET, HTTP, PATH, AUTHORITY, ("host", "X")], Outcome::Body("ok")),
    ("8.3.1 a user", &[GET, HTTP, PATH, (":authority", "u@x")], Outcome::Body("malformed_request")),
    ("8.3.1 two hosts", &[GET, HTTP, PATH, ("host", "x"), ("host", "x")], Outcome::Body("malformed_request")),
    ("8.3.1 a malformed host", &[GET, HTTP, PATH, ("host", "x y")], Outcome::Body("malformed_request")),
    ("8.3.1 the authority as Host", &[GET, HTTP, ECHO, (":authority", "a:1")], Outcome::Body(r#"["host","a:1"]"#)),
    ("8.3.1 no method", &[HTTP, PATH, AUTHORITY], Outcome::Reset),
    ("8.3.1 no path", &[GET, HTTP, AUTHORITY], Outcome::Reset),
    ("8.3.1 an empty path", &[GET, HTTP, (":path", ""), AUTHORITY], Outcome::Reset),
    ("8.3 two methods", &[GET, GET, HTTP, PATH, AUTHORITY], Outcome::Reset),
    ("8.3 a status", &[GET, HTTP, PATH, AUTHORITY, (":status", "200")], Outcome::Reset),
    ("8.3 an unknown one", &[GET, HTTP, PATH, AUTHORITY, (":x", "y")], Outcome::Reset),
    ("8.3 after a field", &[GET, HTTP, ("x", "y"), PATH, AUTHORITY], Outcome::Reset),
    ("8.2.1 capital letters", &[GET, HTTP, PATH, AUTHORITY, ("X", "y")], Outcome::Reset),
    ("8.2.2 a field of the connection", &[GET, HTTP, PATH, AUTHORITY, ("connection", "close")], Outcome::Reset),
    ("8.2.2 a transfer coding", &[GET, HTTP, PATH, AUTHORITY, ("transfer-encoding", "chunked")], Outcome::Reset),
    ("8.2.2 TE", &[GET, HTTP, PATH, AUTHORITY, ("te", "gzip")], Outcome::Reset),
    ("8.2.2 TE of trailers", &[GET, HTTP, PATH, AUTHORITY, ("te", "trailers")], Outcome::Body("ok")),
    ("8.1.1 a length without a body", &[GET, HTTP, PATH, AUTHORITY, ("content-length", "1")], Outcome::Reset),
    ("9110 9.3.2 HEAD", &[(":method", "HEAD"), HTTP, PATH, AUTHORITY], Outcome::Empty),
    ("9110 9.3.2 HEAD of a plugin", &[(":method", "HEAD"), HTTP, ECHO, AUTHORITY], Outcome::Empty),
];

/// Sends a request without a body on a new connection, and returns its outcome as a text.
async fn ask(site: &Site, fields: &[(&str, &str)]) -> (Option<Frame>, String) {
    let mut wire = Wire::connect(site.host.addr(), 1 << 20).await;
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| header(name, value)).collect();
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await;
    let mut head = None;
    let mut body = Vec::new();
    while let Some(next) = wire.next().await {
        match next.kind {
            GOAWAY | RST_STREAM => return (None, String::new()),
            HEADERS => head = Some(next),
            DATA => {
                body.extend_from_slice(&next.payload);
                if next.flags & END_STREAM != 0 {
                    break;
                }
                continue;
            }
            _ => continue,
        }
        if head.as_ref().is_some_and(|head| head.flags & END_STREAM != 0) {
            break;
        }
    }
    (head, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn requests_follow_rfc_9113() {
    let site = Site::start().await;
    let mut wrong = Vec::new();
    for (rule, fields, expected) in CASES {
        let (head, body) = ask(&site, fields).await;
        let is_right = match (expected, &head) {
            (Outcome::Reset, head) => head.is_none(),
            (Outcome::Empty, Some(head)) => body.is_empty() && head.flags & END_STREAM != 0,
            (Outcome::Body(part), Some(_)) => body.contains(part),
            (_, None) => false,
        };
        if !is_right {
            wrong.push(format!("9113 {rule}: {expected:?}, but it is {head:?} {body}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.host.stop().await;
}

#[tokio::test]
async fn a_url_that_is_too_long_gets_a_problem() {
    let site = Site::start().await;
    let path = format!("/healthz?{}", "x".repeat(62_000));
    let mut wire = Wire::connect(site.host.addr(), 1 << 20).await;
    let fields = [GET, HTTP, (":path", path.as_str()), AUTHORITY];
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| header(name, value)).collect();
    let mut pieces = block.chunks(16_000).peekable();
    wire.send(&frame(HEADERS, END_STREAM, 1, pieces.next().unwrap())).await;
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        wire.send(&frame(CONTINUATION, flags, 1, piece)).await;
    }
    let data = wire.next_of(DATA, 1).await.unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&data.payload).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&414.into(), &"url_too_long".into()), "{problem}");
    site.host.stop().await;
}
