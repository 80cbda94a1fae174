//! The client of a request behind a proxy: plugins and canaries get the address that a trusted proxy gives, and no
//! other. The database makes no difference.

use reqwest::Method;
use serde_json::Value;
use wharf::config::ProxyHeaders;

use crate::plugin::releases::responding_with;
use crate::support::host::CHAMELEON;
use crate::support::{Client, Component, Setup, TestHost};

const BEHIND_PROXY: &[(&str, &str)] = &[
    ("x-forwarded-for", "203.0.113.9, 192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "api.example"),
];

fn behind(proxy: &str) -> Setup {
    let proxy = proxy.parse().unwrap();
    Setup::default().with(move |config| config.server.trusted_proxies = vec![proxy])
}

async fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> crate::support::TestResponse {
    let request = client.request(Method::GET, path);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().await
}

/// Returns the values of the headers in which a plugin sees its client.
async fn seen(host: &TestHost, headers: &[(&str, &str)]) -> Vec<String> {
    let seen: Value = get(&host.anonymous(), "/chameleon/echo/x", headers).await.ok();
    let headers = seen["headers"].as_array().unwrap();
    let forwarded = headers.iter().filter(|pair| pair[0].as_str().unwrap().contains("forwarded"));
    forwarded.map(|pair| format!("{}: {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_plugin_sees_the_client_that_the_trusted_proxy_names() {
    let host = TestHost::sqlite(behind("127.0.0.0/8")).await;
    host.superuser().deploy(&Component::chameleon().0, CHAMELEON).await.ok();
    let client = ["x-forwarded-for: 192.0.2.7", "x-forwarded-proto: https", "x-forwarded-host: api.example"];
    assert_eq!(seen(&host, BEHIND_PROXY).await, client);
    // A client cannot use the other kind of header.
    let both = [BEHIND_PROXY, &[("forwarded", "for=203.0.113.5;proto=http;host=evil.example")]].concat();
    assert_eq!(seen(&host, &both).await, client);
    let direct = seen(&host, &[]).await;
    assert_eq!(direct[..2], ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"]);
    assert!(direct[2].starts_with("x-forwarded-host: 127.0.0.1:"), "{direct:?}");
}

#[tokio::test]
async fn a_plugin_sees_the_client_that_the_header_forwarded_names() {
    let setup = behind("127.0.0.1").with(|config| config.server.proxy_headers = ProxyHeaders::Forwarded);
    let host = TestHost::sqlite(setup).await;
    host.superuser().deploy(&Component::chameleon().0, CHAMELEON).await.ok();
    let header =
        [("forwarded", "for=\"[2001:db8::7]:99\";proto=https;host=api.example"), ("x-forwarded-for", "9.9.9.9")];
    let client = ["x-forwarded-for: 2001:db8::7", "x-forwarded-proto: https", "x-forwarded-host: api.example"];
    assert_eq!(seen(&host, &header).await, client);
}

#[tokio::test]
async fn the_headers_of_other_senders_do_not_count() {
    let host = TestHost::sqlite(behind("192.0.2.1")).await;
    host.superuser().deploy(&Component::chameleon().0, CHAMELEON).await.ok();
    let seen = seen(&host, BEHIND_PROXY).await;
    assert_eq!(seen[..2], ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"]);
    assert!(!seen[2].contains("api.example"), "{seen:?}");
}

#[tokio::test]
async fn the_callers_of_a_canary_are_the_clients_behind_the_proxy() {
    let host = TestHost::sqlite(behind("127.0.0.1")).await;
    host.superuser().deploy(&responding_with("live").0, "").await.ok();
    host.superuser().deploy(&responding_with("candidate").0, "canary=50%25").await.ok();
    let mut candidates = 0;
    for number in 0..32 {
        let address = format!("192.0.2.{number}");
        let header = [("x-forwarded-for", address.as_str())];
        let side = get(&host.anonymous(), "/liar", &header).await.text();
        assert_eq!(get(&host.anonymous(), "/liar", &header).await.text(), side, "{address}");
        candidates += usize::from(side == "candidate");
    }
    assert!((1..32).contains(&candidates), "{candidates} of 32 clients at 50 %");
}
