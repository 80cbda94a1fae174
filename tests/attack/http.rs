//! HTTP: clients that send what no client should, slowly or in masses. What plugins may not answer is in `plugin::limits`.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Arena, Counted};

/// Sends bytes and reads what comes until the other side ends.
async fn exchange(arena: &Arena, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    rest(stream).await
}

/// Sends bytes and reads what comes until the other side ends, which would take an end for a client that has gone.
async fn asked(arena: &Arena, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    rest(stream).await
}

async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const HEAD: &str = "POST /api/v1/attacker/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_do_no_harm() {
    let mut arena = Arena::open(&[("WHARF_HEADER_TIMEOUT", "2s")], "").await;
    let broken = Counted::Host("wharf_http_connections_dropped_total");
    arena
        .attack("100,000 headers", broken, async |arena| {
            let many = |headers: usize| {
                format!("GET / HTTP/1.1\r\nhost: x\r\n{}", "x-many: x\r\n".repeat(headers)).into_bytes()
            };
            for _ in 0..8 {
                // It is closed before they all have come, so whoever goes on sending may lose the answer to that.
                let answer = exchange(arena, &many(100_000)).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
                // Who sends no more than is read hears why.
                let answer = asked(arena, &[many(101), b"\r\n".to_vec()].concat()).await;
                assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
            }
        })
        .await;
    // What one reader takes for the end of a body, a header or a line, and another does not.
    arena
        .attack("forms of smuggling", broken, async |arena| {
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
                let answer = exchange(arena, format!("{HEAD}{body}").as_bytes()).await;
                let answers = answer.matches("HTTP/1.1 ").count();
                let refused = answer.is_empty() || (answers == 1 && answer.starts_with("HTTP/1.1 4"));
                assert!(refused && !answer.contains("\r\n\r\nok"), "{what}: {answer}");
            }
            // These are read as RFC 9112 has it: chunks outrank a length and end the connection (6.3), and a line may end
            // with a LF alone (2.2), so a CRLF in a value is the end of its line.
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
                let answer = asked(arena, format!("{HEAD}{body}").as_bytes()).await;
                assert!(
                    answer.matches("HTTP/1.1 ").count() == 1 && answer.starts_with("HTTP/1.1 200"),
                    "{what}: {answer}"
                );
                assert!(answer.contains(headers) && !answer.contains("content-length\","), "{what}: {answer}");
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
        .attack("headers that are not a plugin's", Counted::Outcome("invalid_response"), async |arena| {
            for header in [
                "name=set-cookie&value=a%3Db",
                "name=x-request-id&value=forged",
                "name=transfer-encoding&value=chunked",
                "name=access-control-allow-origin&value=*",
                "name=x-split&value=a%0D%0Aset-cookie:%20b",
                "name=x-split%0D%0Aset-cookie&value=b",
                "name=x-control&value=%01",
                "name=x-many&value=x&times=65",
            ] {
                let answer = arena.get(&format!("header?{header}")).await;
                answer.has_code(502, "plugin_invalid_response");
                let forged = ["set-cookie", "x-split", "x-control", "x-many"];
                assert!(forged.iter().all(|name| answer.header(name).is_none()), "{header}: {answer:?}");
            }
        })
        .await;
    arena
        .attack("forged identity", Counted::Outcome("success"), async |arena| {
            let id = arena.superuser.get("/users/me").await.ok()["id"].as_str().unwrap().to_owned();
            let token = arena.superuser.token();
            // Whatever some proxy or another host would take for who calls, and true credentials where none belong.
            let forged = format!(
                "x-request-id: forged\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-host: forged\r\nforwarded: for=1.2.3.4\r\n\
                 x-real-ip: 1.2.3.4\r\nx-wharf-user: {id}\r\nx-wharf-caller: {id}\r\nx-user-id: {id}\r\n\
                 x-forwarded-user: {id}\r\nremote-user: {id}\r\ncookie: access_token={token}\r\n\
                 proxy-authorization: Bearer {token}\r\nx-api-key: {token}\r\n"
            );
            let ask = async |path: &str, more: &str| {
                let head = format!("GET /api/v1/attacker/{path} HTTP/1.1\r\nhost: x\r\n{forged}{more}connection: close\r\n\r\n");
                let answer = asked(arena, head.as_bytes()).await;
                assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
                answer
            };
            let answer = ask("echo/x", "").await;
            for withheld in ["forged", "1.2.3.4", token] {
                assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains(withheld), "{withheld}: {answer}");
            }
            let answer = ask("who", "").await;
            assert!(answer.ends_with("\r\n\r\nnull"), "whatever headers say, there is no caller: {answer}");
            assert!(ask("me", "").await.contains("\"not_authenticated\""));
            let other = format!("authorization: Bearer {token}\r\n");
            let answer = ask("who", &other).await;
            assert!(answer.contains(&id), "who calls is known by his token: {answer}");
        })
        .await;
}
