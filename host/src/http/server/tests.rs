//! Tests of the server on real sockets.

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
    let served = tokio::spawn(serve(listener, Arc::new(config), Arc::default(), respond, shutdown.clone()));
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
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server does not close the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_client_that_does_not_send_its_headers_is_dropped() {
    let server = start(SHORT, LONG).await;
    for sent in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let began = Instant::now();
        rest(&mut connect(server.addr, sent).await).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{sent:?}");
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
async fn too_many_headers_are_refused() {
    let server = start(SHORT, LONG).await;
    let many: String = (0..MAX_HEADERS + 1).map(|n| format!("x-{n}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "a".repeat(MAX_HEADER_BYTES * 2));
    for headers in [many, large] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        // The server may close before it has read all of it.
        let _ = stream.write_all(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
        let mut first = [0; 64];
        let read = stream.read(&mut first).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&first[..read]).into_owned();
        assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    }
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
    timeout(SHORT, server.served).await.expect("nothing delays the shutdown").unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn a_hung_request_is_cut_after_the_grace_period() {
    let server = start(LONG, SHORT).await;
    let mut hung = connect(server.addr, &get("/hung")).await;
    sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    timeout(Duration::from_secs(2), server.served).await.expect("the grace period ends").unwrap().unwrap();
    assert_eq!(rest(&mut hung).await, "");
}
