//! Input that is not HTTP, or stops in the middle of a request.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::assert_healthy;
use crate::support::{Setup, TestHost};

/// Sends bytes, closes the sending half, and reads until the host closes the connection.
async fn exchange(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The host may close the connection before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

async fn host() -> TestHost {
    TestHost::sqlite(Setup::default().with_items()).await
}

#[tokio::test]
async fn malformed_requests_are_rejected_or_dropped() {
    let host = host().await;
    for rubbish in [
        &b"\0\0\0\0"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"POST /api/v1/items/ HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/v1/items/ HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /api/v1/items/ HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /api/v1/items/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish that is no frame",
    ] {
        let response = exchange(host.addr(), rubbish).await;
        let refused = response.starts_with("HTTP/1.1 4") || response.starts_with("HTTP/1.1 505");
        assert!(refused || !response.starts_with("HTTP/1.1"), "{}: {response}", String::from_utf8_lossy(rubbish));
    }
    assert_healthy(&host).await;
}

#[tokio::test]
async fn endless_headers_are_rejected() {
    let host = host().await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: x\r\n".repeat(10_000));
    let line = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    for request in [long, many, line] {
        let response = exchange(host.addr(), request.as_bytes()).await;
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{response}");
    }
    assert_healthy(&host).await;
}

#[tokio::test]
async fn smuggled_requests_get_no_response() {
    let host = host().await;
    let both = "POST /api/v1/login/access-token HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\
                \r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let response = exchange(host.addr(), both.as_bytes()).await;
    assert!(!response.contains("HTTP/1.1 200"), "{response}");
    assert_healthy(&host).await;
}

#[tokio::test]
async fn a_client_that_disconnects_mid_request_leaves_nothing_behind() {
    let host = host().await;
    let whole =
        "POST /api/v1/items/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"ti";
    for length in 0..whole.len() {
        let mut stream = TcpStream::connect(host.addr()).await.unwrap();
        stream.write_all(&whole.as_bytes()[..length]).await.unwrap();
        drop(stream);
    }
    assert_healthy(&host).await;
    host.stop().await;
}

/// A connection that is closed while the client still sends is reset, and the client would lose the response.
#[tokio::test]
async fn a_client_that_sends_too_much_still_gets_the_response() {
    let host = host().await;
    const LENGTH: usize = 6 * 1024 * 1024;
    let announced = format!("content-length: {LENGTH}");
    for (path, framing) in [("/api/v1/items/", &*announced), ("/nowhere", &announced)] {
        for _ in 0..5 {
            let mut stream = TcpStream::connect(host.addr()).await.unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n{framing}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..LENGTH / 65_536 {
                stream.write_all(&[b' '; 65_536]).await.unwrap();
            }
            let mut response = Vec::new();
            stream.read_to_end(&mut response).await.unwrap();
            let response = String::from_utf8_lossy(&response);
            assert!(response.starts_with("HTTP/1.1 413") || response.starts_with("HTTP/1.1 404"), "{response}");
        }
    }
    assert_healthy(&host).await;
}
