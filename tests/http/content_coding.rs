//! Request bodies with a content coding: decoded within the size limit, for routes of the host and of plugins.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use reqwest::Method;

use super::{metrics, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Component, Request, TestHost, both};

const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x20\x12\x91\x00\x00{\"title\":\"packed\"}";
const BROTLI: &[u8] = b"\x8b\x08\x80{\"title\":\"packed\"}\x03";
const TEXT: &[u8] = br#"{"title":"packed"}"#;

both! {
    each_coding_is_decoded_for_every_kind_of_body => Setup::default().with_items(),
    another_coding_is_415_and_lists_those_that_are_decoded => Setup::default().with_items(),
    the_size_limit_counts_decoded_bytes => Setup::default().with_items().with(|config| {
        config.server.max_body_bytes = 100_000;
        config.plugins.request_bytes = 100_000;
    }),
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn coded(request: Request, coding: &str, body: Vec<u8>) -> Request {
    request.header("content-encoding", coding).body(body)
}

async fn each_coding_is_decoded_for_every_kind_of_body(host: &TestHost) {
    let admin = host.superuser();
    let json = |request: Request| request.header("content-type", "application/json");
    // JSON for a plugin and for the host.
    for (coding, body) in [
        ("gzip", gzip(TEXT)),
        ("X-GZIP", gzip(TEXT)),
        ("deflate", zlib(TEXT)),
        ("br", BROTLI.to_vec()),
        ("zstd", ZSTD.to_vec()),
        ("identity", TEXT.to_vec()),
    ] {
        let item = coded(json(admin.request(Method::POST, "/items/")), coding, body).send().await.ok();
        assert_eq!(text(&item, "title"), "packed", "{coding}");
    }
    let me = json(admin.request(Method::PATCH, "/users/me"));
    let me = coded(me, "gzip", gzip(br#"{"full_name":"Packed"}"#)).send().await.ok();
    assert_eq!(text(&me, "full_name"), "Packed");
    // A form, and no body at all.
    let form = host.anonymous().request(Method::POST, "/login/access-token");
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let body = format!("username={SUPERUSER}&password={PASSWORD}").replace(' ', "+").replace('@', "%40");
    coded(form, "gzip", gzip(body.as_bytes())).send().await.ok();
    let empty = coded(json(admin.request(Method::POST, "/items/")), "gzip", Vec::new()).send().await;
    empty.has_findings(&["body missing: Field required"]);
    // A raw body, of which the plugin sees the decoded bytes and no coding.
    host.deploy_chameleon().await;
    let echo = host.anonymous().request(Method::POST, "/chameleon/echo");
    let seen = coded(echo, "gzip", gzip(b"raw")).send().await.ok();
    assert_eq!(seen["body"], "raw");
    assert!(!seen["headers"].to_string().contains("content-encoding"), "{seen}");
    // An upload.
    let upload = admin.request(Method::POST, "/plugins/?name=again");
    let upload = upload.header("content-type", "application/wasm");
    coded(upload, "gzip", gzip(&Component::hello().0)).send().await.ok();
}

async fn another_coding_is_415_and_lists_those_that_are_decoded(host: &TestHost) {
    for coding in ["compress", "gzip, gzip", "gzip, br", "aes128gcm", "gzip;q=1"] {
        let request = host.superuser().request(Method::POST, "/items/").header("content-type", "application/json");
        let response = coded(request, coding, gzip(TEXT)).send().await;
        response.has_code(415, "unsupported_content_encoding");
        assert_eq!(response.header("accept-encoding"), Some("gzip, deflate, br, zstd"));
    }
    // A raw body is not read without the privilege.
    let upload = coded(host.anonymous().request(Method::POST, "/plugins/"), "compress", gzip(TEXT)).send().await;
    super::not_authenticated(&upload);
    for (coding, body) in [
        ("gzip", TEXT.to_vec()),
        ("gzip", gzip(TEXT)[..20].to_vec()),
        ("deflate", gzip(TEXT)),
        ("br", TEXT.to_vec()),
        ("zstd", BROTLI.to_vec()),
    ] {
        let request = host.superuser().request(Method::POST, "/items/").header("content-type", "application/json");
        coded(request, coding, body).send().await.has_code(400, "malformed_body");
    }
}

async fn the_size_limit_counts_decoded_bytes(host: &TestHost) {
    let padded = |length: usize| {
        let begin = r#"{"title":"x","full_name":"x","ignored":""#;
        format!("{begin}{}\"}}", "x".repeat(length - begin.len() - 2)).into_bytes()
    };
    for (method, path) in [(Method::POST, "/items/"), (Method::PATCH, "/users/me")] {
        let send = async |body: Vec<u8>| {
            let request = host.superuser().request(method.clone(), path).header("content-type", "application/json");
            coded(request, "gzip", body).send().await
        };
        send(gzip(&padded(100_000))).await.ok();
        send(gzip(&padded(100_001))).await.is_problem(413, "body_too_large", "Request body too large");
        // 64 MiB in fewer bytes than the limit.
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        send(bomb).await.is_problem(413, "body_too_large", "Request body too large");
    }
    // Data that does not shrink is a little longer than the limit.
    host.deploy_chameleon().await;
    let mut state = 1_u32;
    let random = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        u8::try_from(state >> 24).unwrap()
    });
    let body = gzip(&random.take(100_000).collect::<Vec<_>>());
    assert!(body.len() > 100_000);
    let echo = host.anonymous().request(Method::POST, "/chameleon/echo");
    assert_eq!(coded(echo, "gzip", body).send().await.status, 200);
    let samples = metrics::samples(host.superuser()).await;
    let held = samples.into_iter().find(|(name, _)| name == "wharf_http_body_bytes{kind=\"request\"}").unwrap().1;
    assert!(held < 1000.0, "the memory of refused bodies is released: {held}");
}
