//! Compressed responses. The database makes no difference.

use std::io::Read as _;

use reqwest::Method;
use serde_json::Value;

use crate::support::{Component, Setup, TestHost, TestResponse};

/// Returns whether a response says that it depends on the codings that the client accepts.
fn varies(response: &TestResponse) -> bool {
    response.headers.get_all("vary").iter().any(|value| value.to_str().unwrap().contains("Accept-Encoding"))
}

#[tokio::test]
async fn json_for_everybody_is_compressed_and_json_for_one_caller_is_not() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    const DOCUMENT: &str = "/api/v1/openapi.json";
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let request = host.anonymous().plain(Method::GET, path);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().await
    };
    let plain = get(DOCUMENT, &[]).await;
    assert!(plain.header("content-encoding").is_none() && varies(&plain));
    let compressed = get(DOCUMENT, &[("accept-encoding", "gzip")]).await;
    assert_eq!((compressed.status, compressed.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(compressed.header("content-length"), Some(compressed.bytes.len().to_string().as_str()));
    assert!(compressed.bytes.len() < plain.bytes.len() / 3);
    let mut decoded = Vec::new();
    flate2::read::GzDecoder::new(&*compressed.bytes).read_to_end(&mut decoded).unwrap();
    assert_eq!(decoded, plain.bytes);

    host.superuser().deploy(&Component::hello().0, "").await.ok();
    let long = format!("/api/v1/hello/{}", "x".repeat(1024));
    let greeting = get(&long, &[("accept-encoding", "gzip")]).await;
    assert_eq!((greeting.status, greeting.header("content-encoding")), (200, Some("gzip")));

    let token = format!("Bearer {}", host.superuser().token());
    let credentials = [("accept-encoding", "gzip"), ("authorization", token.as_str())];
    for path in [DOCUMENT, &long, "/api/v1/plugins/"] {
        let secret = get(path, &credentials).await;
        assert!(secret.bytes.len() >= 1024, "{path}");
        assert_eq!((secret.status, secret.header("content-encoding")), (200, None), "{path}");
    }
    let cookie = get(DOCUMENT, &[("accept-encoding", "gzip"), ("cookie", "a=b")]).await;
    assert_eq!(cookie.header("content-encoding"), None);
    host.stop().await;
}

#[tokio::test]
async fn compression_can_be_disabled() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.server.compression = false)).await;
    let request = host.anonymous().plain(Method::GET, "/api/v1/openapi.json");
    let response = request.header("accept-encoding", "gzip").send().await;
    assert!(response.header("content-encoding").is_none() && !varies(&response));
    serde_json::from_slice::<Value>(&response.bytes).unwrap();
    host.stop().await;
}
