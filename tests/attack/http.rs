//! HTTP: clients that send what no client should, slowly or in masses. What plugins may not answer is in `plugin::limits`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Arena, Counted};

/// Sends bytes and reads what comes until the other side ends.
async fn exchange(arena: &Arena, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const HEAD: &str = "POST /api/v1/attacker/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_no_trouble() {
    let mut arena = Arena::open(&[("WHARF_HEADER_TIMEOUT", "2s")], "").await;
    let broken = Counted::Host("wharf_http_connections_dropped_total");
    arena
        .attack("100,000 headers", broken, async |arena| {
            let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: x\r\n".repeat(100_000));
            for _ in 0..8 {
                let answer = exchange(arena, request.as_bytes()).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
            }
        })
        .await;
    // What one reader takes for the end of a body and another does not; each must be refused, or end its connection.
    arena
        .attack("forms of smuggling", broken, async |arena| {
            let smuggled = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
            for (body, what) in [
                (format!("content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"), "both lengths"),
                (format!("content-length: 0\r\ncontent-length: 44\r\n\r\n{smuggled}"), "two lengths"),
                (format!("content-length: +0\r\n\r\n{smuggled}"), "a signed length"),
                (format!("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"), "another coding"),
                (format!("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"), "an unknown coding"),
                (format!("transfer-encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"), "a space before the colon"),
                (format!("x: a\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"), "a folded header"),
                (format!("x: a\0b\r\n\r\n{smuggled}"), "a NUL"),
            ] {
                let answer = exchange(arena, format!("{HEAD}{body}").as_bytes()).await;
                let answers = answer.matches("HTTP/1.1 ").count();
                assert!(answers <= 1 && !answer.contains("\r\n\r\nok"), "{what}: {answer}");
            }
        })
        .await;
    arena
        .attack("500 slow sockets", broken, async |arena| {
            let mut slow = Vec::new();
            for _ in 0..500 {
                let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
                slow.push(stream);
            }
            for mut stream in slow {
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
            }
        })
        .await;
    arena
        .attack("forged identity", Counted::Outcome("success"), async |arena| {
            let forged = "x-request-id: forged\r\nx-forwarded-for: 1.2.3.4\r\nx-wharf-user: admin\r\ncookie: a=b\r\n";
            let request =
                format!("GET /api/v1/attacker/echo/x HTTP/1.1\r\nhost: x\r\n{forged}connection: close\r\n\r\n");
            let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("forged"), "{answer}");
            assert!(!answer.contains("1.2.3.4") && !answer.contains("a=b"), "{answer}");
            let answer = arena.get("who").await;
            assert_eq!(answer.text(), "null", "whatever headers say, there is no caller");
        })
        .await;
}
