//! Tests of the server on real sockets.

use axum::http::HeaderName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A running server: its address, its shutdown token and its task.
struct Running {
    addr: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<Result<()>>,
}

async fn start(header_timeout: Duration, shutdown_grace: Duration) -> Running {
    let config = config::Server { header_timeout, shutdown_grace, ..config::Server::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let refuse = Arc::new(|error: Error, request: Request<()>, _| {
        let mut response: Response<Body> = problem::reply(&error, "/", "").into();
        let origin = request.headers().get("origin").cloned();
        response.headers_mut().extend(origin.map(|origin| (HeaderName::from_static("x-origin"), origin)));
        response
    });
    let served = tokio::spawn(serve(listener, Arc::new(config), Arc::default(), respond, refuse, shutdown.clone()));
    Running { addr, shutdown, served }
}

async fn respond(request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
    match request.uri().path() {
        "/slow" => sleep(Duration::from_millis(400)).await,
        "/hung" => std::future::pending().await,
        "/panic" => panic!("on purpose"),
        _ => {}
    }
    Response::new(Body::from("done"))
}

async fn connect(addr: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// Returns all bytes until the server closes the connection. Fails if the server does not close it.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server does not close the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);
/// How long a test waits for something that must happen; shorter than LONG, which must not delay it.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_client_that_does_not_send_its_headers_is_dropped() {
    let server = start(SHORT, LONG).await;
    for sent in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        rest(&mut connect(server.addr, sent).await).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_a_while_and_then_closed() {
    let server = start(SHORT * 10, LONG).await;
    let mut stream = connect(server.addr, &get("/")).await;
    sleep(SHORT).await;
    stream.write_all(get("/").as_bytes()).await.unwrap();
    let all = rest(&mut stream).await;
    assert_eq!(all.matches("200 OK").count(), 2, "{all}");
}

#[tokio::test]
async fn a_handler_may_take_longer_than_the_header_timeout() {
    let server = start(SHORT, LONG).await;
    let all = rest(&mut connect(server.addr, &get("/slow")).await).await;
    assert!(all.ends_with("done"), "{all}");
}

#[tokio::test]
async fn a_head_that_hyper_refuses_gets_a_problem_with_its_origin() {
    let server = start(LONG, LONG).await;
    let many: String = (0..MAX_HEADERS + 1).map(|n| format!("x-{n}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "a".repeat(MAX_HEADER_BYTES * 2));
    let long = "a".repeat(MAX_HEADER_BYTES * 4);
    let get = |headers: &str| format!("GET / HTTP/1.1\r\n{headers}origin: http://a\r\n\r\n");
    let long_url = |length: usize, headers: &str| {
        format!("GET /{} HTTP/1.1\r\n{headers}origin: http://a\r\n\r\n", long.get(..length).unwrap())
    };
    for (request, status, code) in [
        (get(&many), 431, "headers_too_large"),
        (get(&large), 431, "headers_too_large"),
        (long_url(long.len(), ""), 414, "url_too_long"),
        (long_url(MAX_HEADER_BYTES - 100, &large), 414, "url_too_long"),
        (get("x y: 1\r\n"), 400, "malformed_request"),
        (get("content-length: -1\r\n"), 400, "malformed_request"),
        (get("transfer-encoding: gzip\r\n"), 400, "malformed_request"),
    ] {
        // Also behind a request that is valid.
        for before in [String::new(), "GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()] {
            let mut stream = connect(server.addr, &before).await;
            if !before.is_empty() {
                let mut first = [0; 15];
                stream.read_exact(&mut first).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            stream.write_all(request.as_bytes()).await.unwrap();
            let all = rest(&mut stream).await;
            let refusal = all.split("done").last().unwrap();
            assert!(refusal.starts_with(&format!("HTTP/1.1 {status} ")), "{refusal}");
            for part in [code, "x-origin: http://a\r\n", "connection: close\r\n", "application/problem+json", "date: "]
            {
                assert!(refusal.contains(part), "{part} is not in {refusal}");
            }
        }
    }
    let head = format!("HEAD / HTTP/1.1\r\n{many}\r\n");
    let all = rest(&mut connect(server.addr, &head).await).await;
    assert!(all.starts_with("HTTP/1.1 431 ") && all.ends_with("\r\n\r\n"), "{all}");
}

#[tokio::test]
async fn a_refused_head_without_an_end_is_answered_before_the_client_sends_more() {
    let server = start(LONG, LONG).await;
    // The hello of TLS, HTTP/0.9, an unfinished head, and one behind a valid request.
    for (bytes, expected) in [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03", "HTTP/1.1 400 "),
        ("GET /\r\n", "HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nx y: 1\r\n", "HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /\r\n", "HTTP/1.1 200 "),
    ] {
        let all = rest(&mut connect(server.addr, bytes).await).await;
        assert!(all.starts_with(expected) && all.contains("malformed_request"), "{bytes:?}: {all}");
    }
}

#[tokio::test]
async fn the_refusal_of_a_pipelined_head_knows_its_own_parts_only() {
    let server = start(LONG, LONG).await;
    let bad = |method: &str, headers: &str| format!("{method} / HTTP/1.1\r\n{headers}x y: 1\r\n\r\n");
    let valid = "GET / HTTP/1.1\r\nhost: x\r\norigin: http://first\r\n\r\n";
    let pipelined = |last: String| format!("{valid}{last}");
    let own = rest(&mut connect(server.addr, &pipelined(bad("GET", "origin: http://b\r\n"))).await).await;
    assert!(own.contains("x-origin: http://b\r\n") && !own.contains("http://first"), "{own}");
    let none = rest(&mut connect(server.addr, &pipelined(bad("GET", ""))).await).await;
    assert!(none.contains("malformed_request") && !none.contains("x-origin"), "{none}");
    let head = rest(&mut connect(server.addr, &pipelined(bad("HEAD", ""))).await).await;
    assert!(head.contains("HTTP/1.1 400 ") && head.ends_with("\r\n\r\n"), "{head}");
    // The bytes of a body are no head.
    let posted = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 18\r\n\r\norigin: http://c\r\n";
    let body = rest(&mut connect(server.addr, &format!("{posted}{}", bad("GET", ""))).await).await;
    assert!(!body.contains("x-origin"), "{body}");
}

#[tokio::test]
async fn a_panic_becomes_a_500_response() {
    let server = start(SHORT, LONG).await;
    let all = rest(&mut connect(server.addr, &get("/panic")).await).await;
    assert!(all.starts_with("HTTP/1.1 500") && all.contains("application/problem+json"), "{all}");
}

#[tokio::test]
async fn a_request_in_flight_finishes_at_shutdown() {
    let server = start(LONG, LONG).await;
    let mut idle = connect(server.addr, &get("/")).await;
    let mut busy = connect(server.addr, &get("/slow")).await;
    sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    let all = rest(&mut busy).await;
    assert!(all.contains("connection: close") && all.ends_with("done"), "{all}");
    assert!(rest(&mut idle).await.ends_with("done"), "an idle connection is closed immediately");
    timeout(PATIENCE, server.served).await.expect("nothing delays the shutdown").unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn a_hung_request_is_cut_after_the_grace_period() {
    let server = start(LONG, SHORT).await;
    let mut hung = connect(server.addr, &get("/hung")).await;
    sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    timeout(PATIENCE, server.served).await.expect("the grace period ends").unwrap().unwrap();
    assert_eq!(rest(&mut hung).await, "");
}
