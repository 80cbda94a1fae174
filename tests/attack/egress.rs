//! Egress: a plugin that uses its outgoing requests against internal addresses, against other servers, or to exhaust
//! its host. `egress` attacks each step of an exchange in more ways; these tests check that a neighbour is unaffected.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Arena, CountedBy};
use crate::support::remote;

/// Starts a server that reads a request, sends `head` and then `more` the given number of times, and keeps the
/// connection open.
async fn server(head: &'static str, more: &'static str, times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                for part in std::iter::once(head).chain(std::iter::repeat_n(more, times)) {
                    if stream.write_all(part.as_bytes()).await.is_err() {
                        return;
                    }
                }
                // Until the other side closes the connection.
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    origin
}

async fn fetch(arena: &Arena, url: &str) -> String {
    let response: Value = arena.process.client().post("/attacker/fetch", &json!({ "url": url })).await.ok();
    response["error"].as_str().unwrap_or_else(|| panic!("{url}: {response}")).to_owned()
}

/// Makes the same request through `wasi:http`.
async fn standard_fetch(arena: &Arena, url: &str) -> String {
    let response: Value = arena.process.client().post("/attacker/standard-fetch", &json!({ "url": url })).await.ok();
    response["error"].as_str().unwrap_or_else(|| panic!("{url}: {response}")).to_owned()
}

async fn fetch_all(arena: &Arena, clients: usize, url: &str) -> Vec<String> {
    futures_util::future::join_all((0..clients).map(|_| fetch(arena, url))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outgoing_requests_reach_only_granted_servers() {
    let (silent, endless) = (server("", "", 0).await, server("HTTP/1.1 200 OK\r\n", "x: x\r\n", 100_000).await);
    let large = server("HTTP/1.1 200 OK\r\ncontent-length: 90000000\r\n\r\n", "", 0).await;
    let half = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "", 0).await;
    let sent_on =
        server("HTTP/1.1 302 X\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n", "", 0).await;
    let off_the_list =
        server("HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "", 0).await;
    let (hanging, _queue) = remote::silent().await;
    let (hanging, encrypted) = (format!("http://{hanging}"), silent.replace("http:", "https:"));
    // Some machines have no trusted certificates; there no TLS handshake would begin.
    let trusted = tempfile::NamedTempFile::new().unwrap();
    let identity = rcgen::generate_simple_self_signed(["api.example".to_owned()]).unwrap();
    std::fs::write(trusted.path(), identity.cert.pem()).unwrap();

    let quotas = "http.networks=127.0.0.0/8,http.time=3s,http.bytes=64KiB,http.requests=4";
    let settings = [("SSL_CERT_FILE", trusted.path().to_str().unwrap()), ("WHARF_PUBLIC_URL", "https://wharf.example")];
    let mut arena = Arena::open(&settings, &format!("&grant={quotas}")).await;
    // All of these are on the allowlist, and are denied nevertheless.
    let own = format!("http://{}", arena.process.addr);
    let metadata = [
        "http://169.254.169.254",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://[2002:a9fe:a9fe::]",
        "http://[fd00:ec2::254]",
        "http://[fe80::a9fe:a9fe]",
    ];
    let hosts: Vec<String> = metadata
        .iter()
        .chain([&*own, &*silent, &*endless, &*large, &*half, &*sent_on, &*off_the_list, &*hanging, &*encrypted].iter())
        // Every public server too. The network of this machine is granted, but only for servers that are named.
        .chain(["https://*"].iter())
        .map(|host| format!("parameter=hosts={host}"))
        .collect();
    let path = format!("/plugins/attacker/grants/http?{}", hosts.join("&"));
    arena.superuser.request(Method::PUT, &path).send().await.ok();
    arena
        .attack("every spelling of internal addresses", CountedBy::Limit("http.hosts"), async |arena| {
            for url in [
                "http://169.254.169.254/latest/meta-data/",
                "http://2852039166/",
                "http://0251.0376.0251.0376/",
                "http://0xa9fea9fe/",
                "http://[::ffff:169.254.169.254]/",
                "http://[64:ff9b::a9fe:a9fe]/",
                "http://[2002:a9fe:a9fe::]/",
                "http://[fd00:ec2::254]/",
                "http://[fe80::a9fe:a9fe]/",
            ] {
                let error = fetch(arena, url).await;
                assert!(error.contains("not among the http.networks"), "{url}: {error}");
                let error = standard_fetch(arena, url).await;
                assert!(error.contains("HttpRequestDenied"), "{url}: {error}");
            }
        })
        .await;
    arena
        .attack("the host's own operator API", CountedBy::Limit("http.hosts"), async |arena| {
            let error = fetch(arena, &format!("{own}/api/v1/plugins/")).await;
            assert!(error.contains("no grant allows requests to this host itself"), "{error}");
        })
        .await;
    arena
        .attack("a redirect to an internal address", CountedBy::Limit("http.hosts"), async |arena| {
            for error in fetch_all(arena, 4, &sent_on).await {
                assert!(error.contains("not among the http.networks"), "{error}");
            }
        })
        .await;
    arena
        .attack("a redirect to a server that is not on the allowlist", CountedBy::Limit("http.hosts"), async |arena| {
            for error in fetch_all(arena, 4, &off_the_list).await {
                assert!(error.starts_with("Error::Denied") && error.contains("http.hosts"), "{error}");
            }
        })
        .await;
    for (name, url, limit, phase) in [
        ("a server that never accepts", &hanging, "http.connect", "connect"),
        ("a handshake that never ends", &encrypted, "http.connect", "tls"),
        ("a server that sends nothing", &silent, "http.time", "first byte"),
        ("a body that never ends", &half, "http.time", "body"),
    ] {
        arena
            .attack(name, CountedBy::Limit(limit), async |arena| {
                for error in fetch_all(arena, 4, url).await {
                    assert_eq!(error, format!("Error::Timeout(\"{phase}\")"));
                }
            })
            .await;
    }
    arena
        .attack("too many concurrent requests", CountedBy::Limit("http.requests"), async |arena| {
            let errors = fetch_all(arena, 24, &silent).await;
            assert!(errors.iter().any(|error| error.starts_with("Error::Limit")), "{errors:?}");
        })
        .await;
    arena
        .attack("an oversized response", CountedBy::Limit("http.bytes"), async |arena| {
            for error in fetch_all(arena, 4, &large).await {
                assert!(error.starts_with("Error::Limit"), "{error}");
            }
        })
        .await;
    arena
        .attack("endless headers", CountedBy::Limit("http.headers"), async |arena| {
            for error in fetch_all(arena, 4, &endless).await {
                assert!(error.starts_with("Error::Limit(\"response headers"), "{error}");
            }
        })
        .await;
    arena
        .attack("internal servers among all public ones", CountedBy::Limit("http.hosts"), async |arena| {
            for (url, why) in [
                ("https://127.0.0.1/", "allows public addresses only"),
                ("https://[::1]/", "allows public addresses only"),
                ("https://10.0.0.1/", "allows public addresses only"),
                ("https://2852039166/latest/meta-data/", "allows public addresses only"),
                ("https://[64:ff9b::a9fe:a9fe]/", "allows public addresses only"),
                ("https://wharf.example/api/v1/plugins/", "is this host itself"),
                ("https://127.0.0.1:8443/", "not among the http.hosts"),
                ("http://10.0.0.1/", "not among the http.hosts"),
            ] {
                let error = fetch(arena, url).await;
                assert!(error.starts_with("Error::Denied") && error.contains(why), "{url}: {error}");
                let error = standard_fetch(arena, url).await;
                assert!(error.contains("HttpRequestDenied"), "{url}: {error}");
            }
        })
        .await;
}
