//! HTTP/2: clients that flood a host with hostile frames. `http::response_body` also tests clients that do not read.

use super::{Arena, CountedBy};
use crate::support::http2_frames::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, Wire, frame, head, header,
};
use crate::support::polling::until;

/// The default window size of HTTP/2 peers.
const WINDOW: u32 = 65_535;
const ENHANCE_YOUR_CALM: u32 = 11;
const BROKEN: CountedBy = CountedBy::Host("wharf_http_connections_dropped_total{reason=\"broken\"}");
const SLOW: CountedBy = CountedBy::Host("wharf_http_connections_dropped_total{reason=\"slow\"}");

async fn connect(arena: &Arena, window: u32) -> Wire {
    Wire::connect(arena.process.addr, window).await
}

/// Reads until the host closes the connection, and returns the reason in its GOAWAY frame.
async fn goaway_reason(wire: &mut Wire) -> Option<u32> {
    let mut reason = None;
    while let Some(frame) = wire.next().await {
        if frame.kind == GOAWAY {
            reason = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
        }
    }
    reason
}

/// Sends the same bytes until the host closes the connection. Returns whether it accepted all of them.
async fn flood(wire: &mut Wire, bytes: &[u8], times: usize) -> bool {
    for _ in 0..times {
        if !wire.send(bytes).await {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_frames_do_no_harm() {
    let settings =
        [("WHARF_HEADER_TIMEOUT", "3s"), ("WHARF_BODY_TIMEOUT", "3s"), ("WHARF_PLUGIN_UPLOAD_BYTES", "8MiB")];
    let mut arena = Arena::open(&settings, "").await;
    arena
        .attack("a flood of headers", BROKEN, async |arena| {
            // One header that enters the dynamic table, then one byte for each repetition: 12 MB in 12 KB.
            let mut bomb = header("x-bomb", &"x".repeat(4_000));
            bomb[0] = 0x40;
            let bomb = [head("/healthz"), bomb, vec![0x80 | 62; 3_000]].concat();
            let many = [head("/healthz"), header("x", "y").repeat(3_000)].concat();
            for (stream, headers) in [(1, bomb), (3, many)] {
                let mut wire = connect(arena, WINDOW).await;
                wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &headers)).await;
                // An invalid frame ends the connection unless it has already been closed.
                wire.send(&frame(CONTINUATION, 0, 0, b"")).await;
                let mut refused = false;
                while let Some(frame) = wire.next().await {
                    let is_431 = frame.kind == HEADERS && frame.flags & END_STREAM != 0;
                    assert!(is_431 || frame.kind != HEADERS, "the request got a response: {frame:?}");
                    refused |= is_431 || frame.kind == GOAWAY;
                }
                assert!(refused);
            }
        })
        .await;
    arena
        .attack("endless headers", BROKEN, async |arena| {
            for piece in [&b""[..], &header("x", "y"), &header("x", &"y".repeat(10_000))] {
                let mut wire = connect(arena, WINDOW).await;
                wire.send(&frame(HEADERS, END_STREAM, 1, &head("/healthz"))).await;
                flood(&mut wire, &frame(CONTINUATION, 0, 1, piece), 100_000).await;
                // A client that keeps sending may never read the reason.
                assert!([Some(ENHANCE_YOUR_CALM), None].contains(&goaway_reason(&mut wire).await));
            }
        })
        .await;
    arena
        .attack("requests that are reset at once", BROKEN, async |arena| {
            for _ in 0..8 {
                let mut wire = connect(arena, WINDOW).await;
                let head = head("/api/v1/attacker/sleep/3600000");
                let pair = |stream| {
                    let begin = frame(HEADERS, END_STREAM | END_HEADERS, stream, &head);
                    [begin, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
                };
                let all: Vec<u8> = (0..5_000).flat_map(|number| pair(2 * number + 1)).collect();
                wire.send(&all).await;
                assert!([Some(ENHANCE_YOUR_CALM), None].contains(&goaway_reason(&mut wire).await));
            }
        })
        .await;
    arena
        .attack("requests that are reset while they run", CountedBy::Outcome("cancelled"), async |arena| {
            let mut wire = connect(arena, WINDOW).await;
            let running = CountedBy::Host("wharf_plugin_calls_running{plugin=\"attacker\"");
            for number in 0..16 {
                let stream = 2 * number + 1;
                assert!(wire.get(stream, "/api/v1/attacker/sleep/3600000").await);
                until("the call to run", async || (arena.count(running).await > 0.0).then_some(())).await;
                wire.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await;
                until("the call to end", async || (arena.count(running).await == 0.0).then_some(())).await;
            }
        })
        .await;
    arena
        .attack("unread streams", CountedBy::Host("wharf_http_streams_stalled_total"), async |arena| {
            let waiting = CountedBy::Host("wharf_http_body_bytes{kind=\"response\"}");
            let mut wires = Vec::new();
            for _ in 0..8 {
                let mut wire = connect(arena, 0).await;
                for number in 0..100 {
                    wire.get(2 * number + 1, "/api/v1/attacker/body/9000").await;
                }
                wires.push(wire);
            }
            until("the responses to wait", async || (arena.count(waiting).await > 300_000.0).then_some(())).await;
            until("the memory to be released", async || (arena.count(waiting).await < 100_000.0).then_some(())).await;
        })
        .await;
    arena
        .attack("endless settings and pings", SLOW, async |arena| {
            let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
            for flooding in [frame(PING, 0, 0, &[0; 8]), settings] {
                // This client reads no response.
                let mut wire = connect(arena, WINDOW).await;
                let many = flooding.repeat(1_000);
                let flooded = tokio::time::timeout(FLOOD_TIME, flood(&mut wire, &many, 1_000)).await;
                assert!(flooded != Ok(true), "the host keeps reading although its responses are not read");
                drop(wire);
                // This client reads every response and never sends a request.
                let mut wire = connect(arena, WINDOW).await;
                while wire.send(&flooding).await && wire.next().await.is_some() {}
            }
        })
        .await;
}

/// How long a client floods if it is not refused.
const FLOOD_TIME: std::time::Duration = std::time::Duration::from_secs(3);
