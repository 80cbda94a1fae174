//! Headers, methods and bodies that a plugin may send, and those that it may not.

use super::{EgressClient, EgressLimits, generous_limits, get};
use crate::support::remote::{Remote, Reply};
use wharf::egress::{Failure, Request};

fn with(url: &str, headers: &[(&str, &str)]) -> Request {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Request { headers, ..get(url) }
}

#[tokio::test]
async fn a_plugin_cannot_set_message_framing() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let client = EgressClient::to(&[&remote.origin()]);
    let refused = async |request: Request| {
        let outcome = client.send(request.clone()).await;
        assert!(matches!(outcome, Err(Failure::Invalid(_))), "{request:?}: {outcome:?}");
    };
    for name in [
        "host",
        "Host",
        "content-length",
        "transfer-encoding",
        "Transfer-Encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "http2-settings",
        "proxy-authorization",
        "proxy-connection",
        "Proxy-Anything",
        "traceparent",
        "tracestate",
    ] {
        refused(with(&remote.url("/"), &[(name, "1")])).await;
    }
    for name in ["", " ", "a b", "a:", ":authority", "a\r\nb", "a\0", "a\u{e9}", "host ", " host", "a\tb", "a(b)"] {
        refused(with(&remote.url("/"), &[(name, "1")])).await;
    }
    for value in ["a\r\nx: y", "a\nb", "a\rb", "a\0b", "\r\n\r\nGET / HTTP/1.1", "\u{7f}", "\u{1}"] {
        refused(with(&remote.url("/"), &[("x-a", value)])).await;
    }
    for method in ["", "get", "CONNECT", "TRACE", "G T", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "GET\0", "GÉT"] {
        refused(Request { method: method.to_owned(), ..get(&remote.url("/")) }).await;
    }
    for path in ["/a b", "/\r\nx: y", "/\0", "/a\tb", "\\@evil.example/", "/?a b", "/#a\nb"] {
        refused(get(&remote.url(path))).await;
    }
    refused(get(&format!("{}/{}", remote.origin(), "a".repeat(8 * 1024)))).await;
    assert_eq!(remote.accepted(), 0);
}

#[tokio::test]
async fn allowed_headers_and_bodies_arrive_unchanged() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let client = EgressClient::to(&[&remote.origin()]);
    let request =
        Request { method: "POST".to_owned(), ..with(&remote.url("/"), &[("X-A", "1"), ("x-a", "\u{e9}\t2")]) };
    client.send(request.clone()).await.unwrap();
    client.send(Request { body: "body".into(), ..request }).await.unwrap();
    client.send(with(&remote.url("/"), &[("user-agent", "mine")])).await.unwrap();
    let seen = remote.seen();
    for part in [
        "x-a: 1\r\nx-a: \u{e9}\t2\r\n",
        "content-length: 0\r\n",
        concat!("user-agent: wharf/", env!("CARGO_PKG_VERSION")),
        "traceparent: 00-",
    ] {
        assert!(seen[0].contains(part), "{part}: {}", seen[0]);
    }
    assert!(seen[1].contains("content-length: 4\r\n") && seen[1].ends_with("\r\n\r\nbody"), "{}", seen[1]);
    assert!(seen[2].contains("user-agent: mine\r\n") && !seen[2].contains("content-length"), "{}", seen[2]);
    assert!(seen.iter().all(|seen| seen.matches("host: ").count() == 1));
}

#[tokio::test]
async fn an_outgoing_request_is_limited_too() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let client = EgressClient::within(&[&remote.origin()], EgressLimits { bytes: 1_000, ..generous_limits() });
    let limit = async |request| match client.send(request).await {
        Err(Failure::Limit(_, limit)) => limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        limit(Request { body: vec![0; 1_001].into(), ..get(&remote.url("/")) }).await,
        "request body: 1000 bytes"
    );
    assert_eq!(limit(with(&remote.url("/"), &[("a", "b"); 101])).await, "request headers: 100");
    assert_eq!(limit(with(&remote.url("/"), &[("a", &"b".repeat(64 << 10))])).await, "request headers: 65536 bytes");
    assert_eq!(remote.accepted(), 0);
    client.send(Request { body: vec![0; 1_000].into(), ..get(&remote.url("/")) }).await.unwrap();
}
