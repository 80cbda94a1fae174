//! Responses to clients that read them slowly or not at all: unread bytes count towards the memory limit, the response
//! ends after a timeout, and other clients are unaffected. The database makes no difference.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::metrics;
use crate::support::http2_frames::{DATA, END_STREAM, HEADERS, RST_STREAM, Wire};
use crate::support::patience::NEVER;
use crate::support::polling::until;
use crate::support::{Setup, TestHost};

/// Starts a host with the given memory for bodies, half of it for responses, and the given timeout for clients that do
/// not read.
async fn host(memory: usize, patience: Duration) -> TestHost {
    let setup = Setup::default().with(|config| {
        config.server.body_memory_bytes = memory;
        config.server.body_timeout = patience;
    });
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    host
}

const SOON: Duration = Duration::from_secs(1);
const CHUNK: u32 = 16 * 1024;

async fn sample(host: &TestHost, name: &str) -> f64 {
    metrics::samples(host.superuser()).await.into_iter().find(|(sample, _)| sample == name).unwrap().1
}

/// Returns the number of unread bytes.
async fn unread_bytes(host: &TestHost) -> f64 {
    sample(host, "wharf_http_body_bytes{kind=\"response\"}").await
}

#[tokio::test]
async fn cached_responses_hold_no_memory_after_they_are_read() {
    let host = host(4 << 20, NEVER).await;
    for number in 0..40 {
        for _ in 0..2 {
            let response = host.anonymous().get(&format!("/chameleon/cached-body/100000?{number}")).await;
            assert_eq!(response.bytes.len(), 100_000);
        }
    }
    until("all responses to be read", async || (unread_bytes(&host).await == 0.0).then_some(())).await;
    assert_eq!(host.anonymous().get("/chameleon/echo/x").await.status, 200);
    // An unread response counts, even though the cache holds the same bytes.
    let mut wire = Wire::connect(host.addr(), 0).await;
    wire.get(1, "/api/v1/chameleon/cached-body/100000?1").await;
    until("the response to wait", async || (unread_bytes(&host).await >= 100_000.0).then_some(())).await;
}

#[tokio::test]
async fn every_unread_response_counts_towards_the_memory_limit() {
    let host = host(4 << 20, NEVER).await;
    for (path, bytes) in [
        ("chameleon/body/9000", 9_000.0),
        ("chameleon/problems/10/1000", 180_000.0),
        // A response of the host itself.
        ("openapi.json", 9_000.0),
    ] {
        let mut wire = Wire::connect(host.addr(), 0).await;
        wire.get(1, &format!("/api/v1/{path}")).await;
        until(path, async || (unread_bytes(&host).await >= bytes).then_some(())).await;
        drop(wire);
        until("the memory to be released", async || (unread_bytes(&host).await == 0.0).then_some(())).await;
    }
}

#[tokio::test]
async fn only_the_stream_that_is_not_read_is_reset() {
    let host = host(64 << 20, SOON * 3).await;
    let mut wire = Wire::connect(host.addr(), 1_000).await;
    // Less than one chunk: hyper takes it all at once.
    wire.get(1, "/api/v1/chameleon/body/10000").await;
    assert_eq!(wire.next_of(DATA, 1).await.unwrap().payload.len(), 1_000);
    wire.widen(1, 1).await;
    assert_eq!(wire.next_of(DATA, 1).await.unwrap().payload.len(), 1);
    // The client keeps sending requests and reads those responses.
    let mut stream = 1;
    loop {
        stream += 2;
        assert!(stream < 400, "the host did not reset the stream");
        assert!(wire.get(stream, "/healthz").await);
        let response = loop {
            let frame = wire.next().await.expect("the connection must stay open");
            if frame.stream == stream || frame.kind == RST_STREAM {
                break frame;
            }
        };
        if (response.kind, response.stream) == (RST_STREAM, 1) {
            break;
        }
        assert_eq!(response.kind, HEADERS, "{response:?}");
        tokio::time::sleep(SOON / 10).await;
    }
    until("the memory to be released", async || (unread_bytes(&host).await == 0.0).then_some(())).await;
    assert_eq!(sample(&host, "wharf_http_streams_stalled_total").await, 1.0);
    wire.widen(0, 100_000).await;
    wire.get(stream + 2, "/api/v1/chameleon/body/500").await;
    assert_eq!(wire.next_of(DATA, stream + 2).await.unwrap().payload.len(), 500);
    let end = wire.next_of(DATA, stream + 2).await.unwrap();
    assert_eq!((end.flags & END_STREAM, end.payload.len()), (END_STREAM, 0));
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_loses_its_response() {
    let host = host(64 << 20, SOON * 2).await;
    let mut wire = Wire::connect(host.addr(), 0).await;
    wire.get(1, "/api/v1/chameleon/body/8000000").await;
    // The client reads one chunk at a time, each within the timeout.
    for _ in 0..8 {
        wire.widen(0, CHUNK).await;
        wire.widen(1, CHUNK).await;
        let mut left = usize::try_from(CHUNK).unwrap();
        while left > 0 {
            let frame = wire.next().await.expect("the connection must stay open");
            match frame.kind {
                DATA => left -= frame.payload.len(),
                RST_STREAM => return,
                _ => {}
            }
        }
        tokio::time::sleep(SOON * 18 / 10).await;
    }
    panic!("the host did not reset the stream");
}

#[tokio::test]
async fn a_call_that_waited_for_a_slot_also_checks_the_memory_limit() {
    let setup = Setup::default().with(|config| {
        config.server.body_memory_bytes = 4 << 20;
        config.plugins.concurrency = 1;
    });
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    let mut slow = TcpStream::connect(host.addr()).await.unwrap();
    slow.write_all(b"GET /api/v1/chameleon/late-body/1500/8000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let running = "wharf_plugin_calls_running{plugin=\"chameleon\"}";
    until("the call to run", async || (sample(&host, running).await == 1.0).then_some(())).await;
    host.anonymous().get("/chameleon/echo/x").await.has_code(503, "overloaded");
}
