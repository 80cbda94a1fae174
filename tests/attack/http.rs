//! HTTP: clients that send malformed requests, slowly or in large numbers. Invalid responses of plugins are tested in
//! `plugin::limits`.

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Arena, CountedBy};

/// Sends bytes, closes the sending half, and reads until the host closes the connection.
async fn exchange(arena: &Arena, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    read_to_end(stream).await
}

/// Sends bytes and reads until the host closes the connection. The sending half stays open, because a host may treat
/// its end as a client that has left.
async fn exchange_keeping_open(arena: &Arena, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_end(stream).await
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

/// Ten mebibytes of the digit 0, as brotli writes them.
const BROTLI_BOMB: &[u8] =
    b"\xcb\xff\xff\x3f\xf8\x25\x60\xe2\xb1\x40\x20\xf7\xfe\x2f\xff\xff\x3f\xf0\x4b\x00\xc4\x61\x11\x80\xee\xfd\x07";

const HEAD: &str = "POST /api/v1/attacker/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_do_no_harm() {
    let mut arena = Arena::open(&[("WHARF_HEADER_TIMEOUT", "3s")], "").await;
    let broken = CountedBy::Host("wharf_http_connections_dropped_total");
    arena
        .attack("100,000 headers", broken, async |arena| {
            let many = |headers: usize| {
                format!("GET / HTTP/1.1\r\nhost: x\r\n{}", "x-many: x\r\n".repeat(headers)).into_bytes()
            };
            for _ in 0..8 {
                // The host closes the connection before all headers have arrived, so a client that is still sending may
                // lose the response.
                let response = exchange(arena, &many(100_000)).await;
                assert!(response.is_empty() || response.starts_with("HTTP/1.1 431 "), "{response}");
                // A client that sends no more than the host reads gets the reason.
                let response = exchange_keeping_open(arena, &[many(101), b"\r\n".to_vec()].concat()).await;
                assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
            }
        })
        .await;
    // A hundred mebibytes in a hundred kilobytes, and ten in 27 bytes.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![0; 100 << 20]).unwrap();
    let (gzip, brotli) = (encoder.finish().unwrap(), BROTLI_BOMB.to_vec());
    arena
        .attack("compressed bombs", CountedBy::Limit("request_bytes"), async |arena| {
            for (coding, bomb) in [("gzip", &gzip), ("br", &brotli)] {
                for _ in 0..8 {
                    let request = arena.client.request(Method::POST, "/attacker/echo");
                    let request = request.header("content-encoding", coding).body(bomb.clone());
                    request.send().await.has_code(413, "body_too_large");
                }
            }
        })
        .await;
    // Differences between HTTP parsers about the end of a body, a header or a line.
    arena
        .attack("request smuggling", broken, async |arena| {
            let smuggled = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
            for (body, what) in [
                (format!("content-length: 0\r\ncontent-length: 44\r\n\r\n{smuggled}"), "two lengths"),
                (format!("content-length: +0\r\n\r\n{smuggled}"), "a signed length"),
                (format!("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"), "another coding"),
                (format!("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"), "an unknown coding"),
                (format!("transfer-encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"), "a space before the colon"),
                (format!("x: a\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"), "a folded header"),
                (format!("x: a\0b\r\n\r\n{smuggled}"), "a NUL in a value"),
                (format!("x\0: a\r\n\r\n{smuggled}"), "a NUL in a name"),
                (format!("x: a\rcontent-length: 44\r\n\r\n{smuggled}"), "a bare CR in a value"),
                (format!("x\r: a\r\n\r\n{smuggled}"), "a bare CR in a name"),
                (format!("x\n: a\r\n\r\n{smuggled}"), "a bare LF in a name"),
            ] {
                let response = exchange(arena, format!("{HEAD}{body}").as_bytes()).await;
                let responses = response.matches("HTTP/1.1 ").count();
                let refused = response.is_empty() || (responses == 1 && response.starts_with("HTTP/1.1 4"));
                assert!(refused && !response.contains("\r\n\r\nok"), "{what}: {response}");
            }
            // These follow RFC 9112: chunked encoding overrides a length and the connection closes (6.3). A line may
            // end with a bare LF (2.2), so a CRLF in a value ends its line.
            for (body, headers, what) in [
                (format!("content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"), "", "both"),
                (format!("transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n{smuggled}"), "", "both"),
                (
                    "x: a\ny: b\r\nconnection: close\r\n\r\n".to_owned(),
                    r#"["x","a"],["y","b"]"#,
                    "a bare LF in a value",
                ),
                ("x: a\r\ny: b\r\nconnection: close\r\n\r\n".to_owned(), r#"["x","a"],["y","b"]"#, "a CRLF in a value"),
            ] {
                let response = exchange_keeping_open(arena, format!("{HEAD}{body}").as_bytes()).await;
                assert!(
                    response.matches("HTTP/1.1 ").count() == 1 && response.starts_with("HTTP/1.1 200"),
                    "{what}: {response}"
                );
                assert!(response.contains(headers) && !response.contains("content-length\","), "{what}: {response}");
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
                let mut response = Vec::new();
                let _ = stream.read_to_end(&mut response).await;
            }
        })
        .await;
    arena
        .attack("headers that a plugin may not set", CountedBy::Outcome("invalid_response"), async |arena| {
            for header in [
                "name=set-cookie&value=a%3Db",
                "name=x-request-id&value=forged",
                "name=transfer-encoding&value=chunked",
                "name=access-control-allow-origin&value=*",
                "name=content-security-policy&value=sandbox%20allow-same-origin",
                "name=service-worker-allowed&value=/",
                "name=x-split&value=a%0D%0Aset-cookie:%20b",
                "name=x-split%0D%0Aset-cookie&value=b",
                "name=x-control&value=%01",
                "name=x-many&value=x&times=65",
            ] {
                let response = arena.get(&format!("header?{header}")).await;
                response.has_code(502, "plugin_invalid_response");
                let forged = ["set-cookie", "x-split", "x-control", "x-many"];
                assert!(forged.iter().all(|name| response.header(name).is_none()), "{header}: {response:?}");
            }
        })
        .await;
    arena
        .attack("forged identity", CountedBy::Outcome("success"), async |arena| {
            let id = arena.superuser.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
            let token = arena.superuser.token();
            // Headers that a proxy or another host might take for the caller's identity, and valid credentials in the
            // wrong headers.
            let forged = format!(
                "x-request-id: forged\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-host: forged\r\nforwarded: for=1.2.3.4\r\n\
                 x-real-ip: 1.2.3.4\r\nx-wharf-user: {id}\r\nx-wharf-caller: {id}\r\nx-user-id: {id}\r\n\
                 x-forwarded-user: {id}\r\nremote-user: {id}\r\ncookie: access_token={token}\r\n\
                 proxy-authorization: Bearer {token}\r\nx-api-key: {token}\r\n"
            );
            let ask = async |path: &str, more: &str| {
                let head = format!("GET /api/v1/attacker/{path} HTTP/1.1\r\nhost: x\r\n{forged}{more}connection: close\r\n\r\n");
                let response = exchange_keeping_open(arena, head.as_bytes()).await;
                assert!(response.starts_with("HTTP/1.1 "), "{response}");
                response
            };
            let response = ask("echo/x", "").await;
            for withheld in ["forged", "1.2.3.4", token] {
                assert!(response.starts_with("HTTP/1.1 200") && !response.contains(withheld), "{withheld}: {response}");
            }
            let response = ask("who", "").await;
            assert!(response.ends_with("\r\n\r\nnull"), "headers must not set the caller: {response}");
            assert!(ask("me", "").await.contains("\"not_authenticated\""));
            let other = format!("authorization: Bearer {token}\r\n");
            let response = ask("who", &other).await;
            assert!(response.contains(&id), "the token identifies the caller: {response}");
        })
        .await;
}
