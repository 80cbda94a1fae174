//! Time: calls, clients and host calls that last for ever without doing anything.

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Arena, CountedBy};
use crate::support::polling::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_waits_are_ended() {
    let settings = [
        ("WHARF_BODY_TIMEOUT", "3s"),
        ("WHARF_HEADER_TIMEOUT", "3s"),
        ("WHARF_PLUGIN_UPLOAD_BYTES", "8MiB"),
        ("WHARF_BODY_MEMORY_BYTES", "24MiB"),
    ];
    let mut arena = Arena::open(&settings, "&limit=deadline=3s").await;
    arena
        .attack("an endless sleep", CountedBy::Limit("deadline"), async |arena| {
            for response in arena.flood(16, "sleep/3600000").await {
                response.has_code(504, "plugin_deadline");
            }
        })
        .await;
    arena
        .attack("clients that disconnect during a call", CountedBy::Outcome("cancelled"), async |arena| {
            // The calls before have quarantined the plugin, and a call during the quarantine does not run.
            until("the quarantine to end", async || (arena.get("echo/x").await.status == 200).then_some(())).await;
            for _ in 0..8 {
                let client = arena.process.client();
                let call = tokio::spawn(async move {
                    let _ = client.request(Method::GET, "/attacker/sleep/3600000").try_send().await;
                });
                let running = CountedBy::Host("wharf_plugin_calls_running{plugin=\"attacker\"");
                until("the call to run", async || (arena.count(running).await > 0.0).then_some(())).await;
                call.abort();
            }
            until("the cancelled calls to be counted", async || {
                (arena.count(CountedBy::Outcome("cancelled")).await >= 4.0).then_some(())
            })
            .await;
        })
        .await;
    arena
        .attack("bodies that never complete", CountedBy::Host("wharf_http_requests_total{status=\"4xx\"}"), async |arena| {
            let mut slow = Vec::new();
            for _ in 0..32 {
                let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
                let head = "POST /api/v1/attacker/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
                            content-length: 1000\r\n\r\nx";
                stream.write_all(head.as_bytes()).await.unwrap();
                slow.push(stream);
            }
            for mut stream in slow {
                let mut response = String::new();
                let _ = stream.read_to_string(&mut response).await;
                assert!(response.starts_with("HTTP/1.1 400"), "{response}");
            }
        })
        .await;
    arena
        .attack("bodies that use all memory", CountedBy::Host("wharf_http_bodies_refused_total"), async |arena| {
            let mut slow = Vec::new();
            for _ in 0..48 {
                let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
                let head = "POST /api/v1/attacker/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
                            content-length: 2000000\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                // A client that was refused may already have lost its connection.
                let _ = stream.write_all(&[b'x'; 1_000_000]).await;
                slow.push(stream);
            }
            let mut refused = 0;
            for mut stream in slow {
                let mut response = String::new();
                let _ = stream.read_to_string(&mut response).await;
                refused += usize::from(response.starts_with("HTTP/1.1 503") && response.contains("\"overloaded\""));
            }
            assert!(refused > 0);
        })
        .await;
    arena
        .attack("clients that never read", CountedBy::Host("wharf_http_connections_dropped_total"), async |arena| {
            let mut slow = Vec::new();
            for _ in 0..16 {
                let mut stream = TcpStream::connect(arena.process.addr).await.unwrap();
                // Far more than socket buffers hold.
                stream.write_all(b"GET /api/v1/attacker/body/7000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                slow.push(stream);
            }
            until("the connections to be dropped", async || {
                (arena.count(CountedBy::Host("wharf_http_connections")).await <= 8.0).then_some(())
            })
            .await;
        })
        .await;
}
