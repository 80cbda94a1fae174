//! The bounds of streams of events: their number, attempts with unknown keys, and clients that do not read.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{deploy, open, path, publish, sample, streams_are};
use crate::http::{invalid_token, text};
use crate::plugin::liar;
use crate::support::http2_frames::{DATA, Wire};
use crate::support::intake::Intake;
use crate::support::{Setup, TestHost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_for_each_caller_and_for_all() {
    let setup = Setup::default().with(|config| {
        config.server.event_streams = 4;
        config.server.event_streams_per_caller = 2;
    });
    let host = TestHost::sqlite(setup).await;
    deploy(&host).await;
    let (jane, joe) = (host.user("jane@example.com").await, host.user("joe@example.com").await);
    let topic = ["shop.public"];
    let mut hers = vec![open(&jane, &topic).await, open(&jane, &topic).await];
    let refused = jane.get(&path(&topic)).await;
    refused.has_code(429, "too_many_streams");
    assert_eq!(refused.header("retry-after"), Some("5"));
    // Clients without credentials are counted by their network.
    let _others = [open(&host.anonymous(), &topic).await, open(&host.anonymous(), &topic).await];
    host.anonymous().get(&path(&topic)).await.has_code(429, "too_many_streams");
    let refused = joe.get(&path(&topic)).await;
    refused.has_code(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(sample(&host, "wharf_event_streams_max").await, 4.0);
    assert_eq!(sample(&host, "wharf_event_streams").await, 4.0);
    drop(hers.pop());
    streams_are(&host, 3.0).await;
    open(&joe, &topic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_an_unknown_key_is_one_attempt_however_many_topics_it_names() {
    const ATTEMPTS: u32 = 5;
    let setup = Setup::default().throttled().with_manual_clock();
    let host = TestHost::sqlite(setup.with(|config| config.auth.network_attempts = ATTEMPTS)).await;
    // The host checks the topics in the order of their names, so the only one that refuses nobody comes last.
    let mut declared: Vec<_> = (0..31).map(|number| json!([format!("open-{number}"), {}, "public"])).collect();
    let mut topics: Vec<_> = (0..31).map(|number| format!("shop.open-{number}")).collect();
    declared.push(json!(["private", {}, "authenticated"]));
    topics.push("shop.private".to_owned());
    let topics: Vec<_> = topics.iter().map(String::as_str).collect();
    let component = liar(json!({ "name": "shop", "topics": declared }));
    host.superuser().deploy(&component.0, "grant=events").await.ok();
    let key = json!({ "name": "k", "permissions": ["routes:call"] });
    let key = host.superuser().post("/keys/", &key).await.ok();
    let client = host.anonymous().with_token(text(&key, "key"));
    let stream = open(&client, &topics).await;
    host.superuser().delete(&format!("/keys/{}", text(&key, "id"))).await.ok();
    // The stream notices that its key is gone. That is no attempt.
    stream.ended().await;
    for _ in 0..ATTEMPTS {
        invalid_token(&client.get(&path(&topics)).await);
    }
    let refused = client.get(&path(&topics)).await;
    refused.has_code(429, "too_many_attempts");
    assert!(refused.header("ratelimit-policy").unwrap().starts_with("\"key-network\";q=5"));
}

/// Starts a host that drops clients soon that do not send or read.
async fn impatient() -> TestHost {
    let setup = Setup::default().with(|config| {
        config.server.header_timeout = Duration::from_secs(2);
        config.server.body_timeout = Duration::from_secs(2);
    });
    let host = TestHost::sqlite(setup).await;
    deploy(&host).await;
    host
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_the_next_event_is_not_slow() {
    let host = impatient().await;
    let client = host.anonymous();
    let mut streams = [open(&client, &["shop.public"]).await, open(&client.over_http2(), &["shop.public"]).await];
    for stream in &mut streams {
        // A heartbeat comes five times a second.
        for _ in 0..20 {
            assert_eq!(stream.block().await.unwrap().data, None);
        }
    }
    let intake = Intake::of(&host).await;
    publish(&intake, &[("shop.public", 1)]).await;
    for stream in &mut streams {
        assert_eq!(stream.message().await.1, 1);
    }
    intake.close().await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_loses_its_stream() {
    let host = impatient().await;
    let mut reader = open(host.superuser(), &["shop.public"]).await;
    // Over HTTP/2, the client takes ten bytes.
    let mut wire = Wire::connect(host.addr(), 10).await;
    wire.get(1, "/api/v1/events?topic=shop.public").await;
    assert_eq!(wire.next_of(DATA, 1).await.unwrap().payload.len(), 10);
    streams_are(&host, 1.0).await;
    // Over HTTP/1.1, the kernel takes some megabytes for the client.
    let mut silent = TcpStream::connect(host.addr()).await.unwrap();
    silent.write_all(b"GET /api/v1/events?topic=shop.public HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    streams_are(&host, 2.0).await;
    let intake = Intake::of(&host).await;
    let large = json!("x".repeat(200_000)).to_string();
    let events: Vec<_> = (0..20).map(|_| ("shop.public", large.clone(), None)).collect();
    for _ in 0..3 {
        // The reader must read meanwhile, or it loses its stream too.
        let reading = async {
            for _ in &events {
                assert!(reader.message().await.1.is_string());
            }
        };
        tokio::join!(intake.announce("shop", &events), reading);
    }
    streams_are(&host, 1.0).await;
    publish(&intake, &[("shop.public", 1)]).await;
    assert_eq!(reader.message().await.1, 1);
    intake.close().await;
    drop(silent);
    host.stop().await;
}
