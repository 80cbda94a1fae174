//! Servers that hang, flood, or send malformed responses.

use std::sync::Arc;
use std::time::Duration;

use super::{EgressClient, EgressLimits, FakeDns, LOOPBACK, generous_limits, get, port, release, send};
use crate::support::patience::NEVER;
use crate::support::remote::{Identity, Remote, Reply, silent};
use wharf::egress::{Egress, EgressEnvironment, Failure, LimitKind, Report, Request, Resolver, Roots, Trace};

/// Long enough that a busy machine gets to the phase that hangs.
const SHORT: Duration = Duration::from_secs(1);

fn timeout(phase: &'static str) -> Result<wharf::egress::Response, Failure> {
    Err(Failure::Timeout(phase))
}

/// Returns three ways to limit a phase: its own limit, the limit of the exchange, and the timeout that the plugin
/// requests.
fn limit_variants(own: impl Fn(&mut EgressLimits)) -> [(EgressLimits, Option<Duration>); 3] {
    let mut short = generous_limits();
    own(&mut short);
    [(short, None), (EgressLimits { time: SHORT, ..generous_limits() }, None), (generous_limits(), Some(SHORT))]
}

#[tokio::test]
async fn a_name_lookup_that_hangs_times_out() {
    for (limits, time) in limit_variants(|limits| limits.resolve = SHORT) {
        let resolver = Resolver::new(|_| std::future::pending());
        let egress = Egress::new(EgressEnvironment { resolver, roots: Roots::default() }, wharf::clock::Random::System);
        let release = release(&egress, &["http://api.example"], LOOPBACK, limits);
        // More lookups than may run at once: each waits for the others no longer than its own limit.
        let requests = (0..12).map(|_| send(&release, Request { time, ..get("http://api.example/") }));
        for outcome in futures_util::future::join_all(requests).await {
            assert_eq!(outcome, timeout("resolve"));
        }
    }
}

#[tokio::test]
async fn a_connect_that_hangs_times_out() {
    let (addr, _full) = silent().await;
    let url = format!("http://{addr}");
    for (limits, time) in limit_variants(|limits| limits.connect = SHORT) {
        assert_eq!(EgressClient::within(&[&url], limits).send(Request { time, ..get(&url) }).await, timeout("connect"));
    }
}

#[tokio::test]
async fn an_address_that_hangs_leaves_time_for_the_next_one() {
    let (addr, _full) = silent().await;
    let names = FakeDns::of(&[("api.example", &[&["127.0.0.1", "127.0.0.2"]])]);
    // A server listens on the same port of the second address.
    let listener = tokio::net::TcpListener::bind(("127.0.0.2", port(addr))).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let origin = format!("http://api.example:{}", port(addr));
    let limits = EgressLimits { connect: Duration::from_secs(4), ..generous_limits() };
    let client = EgressClient::new(&names, Roots::default(), &[&origin], LOOPBACK, limits);
    assert_eq!(client.get(&origin).await.unwrap().status, 204);
}

#[tokio::test]
async fn a_handshake_that_hangs_times_out() {
    // Accepts TCP and never sends a byte.
    let remote = Remote::start(|_| Reply::Hang(String::new())).await;
    let url = format!("https://{}", remote.addr);
    for (limits, time) in limit_variants(|limits| limits.connect = SHORT) {
        let roots = Roots::Only(vec![Identity::of("api.example").certificate]);
        let client = EgressClient::new(&FakeDns::default(), roots, &[&url], LOOPBACK, limits);
        assert_eq!(client.send(Request { time, ..get(&url) }).await, timeout("tls"));
        remote.until_closed().await;
    }
}

#[tokio::test]
async fn a_response_that_never_arrives_times_out() {
    let interim = || Reply::Endless(String::new(), "HTTP/1.1 102 X\r\n\r\n".to_owned(), Duration::from_millis(5));
    let half = || Reply::Hang("HTTP/1.1 200 X\r\nx-half: ".to_owned());
    for reply in [Reply::Hang(String::new()), half(), interim()] {
        let remote = Remote::start(move |_| reply.clone()).await;
        for (limits, time) in limit_variants(|limits| limits.first_byte = SHORT) {
            let client = EgressClient::within(&[&remote.origin()], limits);
            assert_eq!(client.send(Request { time, ..get(&remote.url("/")) }).await, timeout("first byte"));
            remote.until_closed().await;
        }
    }
}

#[tokio::test]
async fn a_body_that_never_ends_times_out() {
    let head = "HTTP/1.1 200 X\r\ncontent-length: 1000000\r\n\r\n".to_owned();
    let slow = Reply::Endless(head.clone(), "x".to_owned(), Duration::from_millis(10));
    for reply in [Reply::Hang(head), slow] {
        let remote = Remote::start(move |_| reply.clone()).await;
        for (limits, time) in
            [(EgressLimits { time: SHORT, ..generous_limits() }, None), (generous_limits(), Some(SHORT))]
        {
            let client = EgressClient::within(&[&remote.origin()], limits);
            assert_eq!(client.send(Request { time, ..get(&remote.url("/")) }).await, timeout("body"));
            remote.until_closed().await;
        }
    }
}

#[tokio::test]
async fn a_response_above_its_limits_is_not_read() {
    let declared = "HTTP/1.1 200 X\r\ncontent-length: 1001\r\n\r\n".to_owned();
    let undeclared = "HTTP/1.1 200 X\r\n\r\n".to_owned();
    let chunked = "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    let kilobyte = "x".repeat(100);
    let body = (LimitKind::Bytes, "response body: 1000 bytes");
    let head = (LimitKind::Headers, "response headers: 100, 65536 bytes");
    let now = Duration::ZERO;
    for (reply, (bound, limit)) in [
        (Reply::Hang(declared), body),
        (Reply::Endless(undeclared, kilobyte.clone(), now), body),
        (Reply::Endless(chunked, format!("64\r\n{kilobyte}\r\n"), now), body),
        (Reply::Hang(format!("HTTP/1.1 200 X\r\nx: {}\r\n\r\n", "y".repeat(64 << 10))), head),
        (Reply::Hang(format!("HTTP/1.1 200 X\r\n{}\r\n", "x: y\r\n".repeat(101))), head),
        (Reply::Endless("HTTP/1.1 200 X\r\n".to_owned(), format!("x: {kilobyte}\r\n"), now), head),
    ] {
        let remote = Remote::start(move |_| reply.clone()).await;
        let client = EgressClient::within(&[&remote.origin()], EgressLimits { bytes: 1_000, ..generous_limits() });
        assert_eq!(client.get(&remote.url("/")).await, Err(Failure::Limit(bound, limit.to_owned())));
        remote.until_closed().await;
    }
    let remote = Remote::start(|_| Reply::with(200, &"x: y\r\n".repeat(99), &"x".repeat(1_000))).await;
    let client = EgressClient::within(&[&remote.origin()], EgressLimits { bytes: 1_000, ..generous_limits() });
    let response = client.get(&remote.url("/")).await.unwrap();
    assert_eq!((response.body.len(), response.headers.len()), (1_000, 100));
}

#[tokio::test]
async fn malformed_http_responses_are_errors() {
    for (nonsense, code) in [
        ("nonsense\r\n\r\n", "protocol"),
        ("HTTP/0.9 200 X\r\n\r\n", "protocol"),
        ("HTTP/1.1 200 X\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "protocol"),
        ("HTTP/1.1 200 X\r\nx\0y: z\r\n\r\n", "protocol"),
        ("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "unreachable"),
        ("HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", "protocol"),
        ("HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nshort", "unreachable"),
        ("", "unreachable"),
    ] {
        let remote = Remote::start(move |_| Reply::Close(nonsense.to_owned())).await;
        let outcome = EgressClient::to(&[&remote.origin()]).get(&remote.url("/")).await;
        let message = outcome.map(|response| response.status).unwrap_err().to_string();
        assert!(message.starts_with(code), "{nonsense:?}: {message}");
    }
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome = EgressClient::to(&[&format!("http://{unused}")]).get(&format!("http://{unused}")).await;
    assert!(
        matches!(&outcome, Err(Failure::Unreachable(reason)) if reason.ends_with("connection refused")),
        "{outcome:?}"
    );
    let outcome = EgressClient::to(&["http://no.example"]).get("http://no.example").await;
    assert_eq!(outcome, Err(Failure::Unreachable("no.example cannot be resolved".to_owned())));
}

/// An unrequested response is never taken for the response to the next request.
#[tokio::test]
async fn an_unrequested_second_response_is_never_used() {
    let twice = "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok".repeat(2).replace("okHTTP/1.1 200", "okHTTP/1.1 299");
    let remote = Remote::start(move |_| Reply::Say(twice.clone())).await;
    let client = EgressClient::to(&[&remote.origin()]);
    for _ in 0..10 {
        assert_eq!(client.get(&remote.url("/")).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_cancelled_request_closes_its_connection() {
    let body = "HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n";
    for text in ["", "HTTP/1.1 200 X\r\n", body] {
        let remote = Remote::start(move |_| Reply::Hang(text.to_owned())).await;
        // No limit is near, so only the cancellation can end the request.
        let limits = EgressLimits { first_byte: NEVER, time: NEVER, ..generous_limits() };
        let client = EgressClient::within(&[&remote.origin()], limits);
        let (release, url) = (Arc::clone(&client.release), remote.url("/"));
        let going = tokio::spawn(async move { send(&release, get(&url)).await });
        remote.until_seen(1).await;
        going.abort();
        remote.until_closed().await;
        assert!(going.await.unwrap_err().is_cancelled());
    }
}

#[tokio::test]
async fn concurrent_requests_are_limited() {
    let remote = Remote::start(|request| match request.contains(" /hang ") {
        true => Reply::Hang(String::new()),
        false => Reply::of(200, ""),
    })
    .await;
    let limits = EgressLimits { requests: 2, queue: SHORT, ..generous_limits() };
    let client = EgressClient::within(&[&remote.origin()], limits.clone());
    let hang = || {
        let (release, url) = (Arc::clone(&client.release), remote.url("/hang"));
        tokio::spawn(async move { send(&release, get(&url)).await })
    };
    let (first, second) = (hang(), hang());
    remote.until_seen(2).await;
    // The plugin's other releases count too.
    let other = release(&client.egress, &[&remote.origin()], LOOPBACK, EgressLimits { requests: 3, ..limits });
    for release in [&client.release, &other] {
        let outcome = send(release, get(&remote.url("/"))).await;
        assert_eq!(outcome, Err(Failure::Limit(LimitKind::Requests, "requests: 2 at once".to_owned())));
    }
    assert_eq!(remote.seen().len(), 2);
    // The live release's limit applies.
    other.apply_requests();
    assert_eq!(send(&other, get(&remote.url("/"))).await.unwrap().status, 200);
    client.release.apply_requests();
    assert!(send(&other, get(&remote.url("/"))).await.is_err());
    first.abort();
    assert_eq!(send(&other, get(&remote.url("/"))).await.unwrap().status, 200);
    second.abort();
}

#[tokio::test]
async fn a_report_contains_the_outcome_and_no_secret() {
    let remote = Remote::start(|_| Reply::of(200, "hello")).await;
    let client = EgressClient::to(&[&remote.origin()]);
    let mut report = Report::default();
    let trace = Trace::begin(None, &wharf::clock::Random::System).unwrap();
    client.release.send(get(&remote.url("/s3cret?s3cret")), &trace, &mut (), &mut report).await.unwrap();
    assert_eq!((report.status, report.bytes, report.redirects), (Some(200), 5, 0));
    assert_eq!(report.server.as_ref().unwrap().to_string(), remote.origin());
    assert!(!format!("{report:?}").contains("s3cret"));
}
