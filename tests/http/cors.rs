//! Requests of scripts on other origins.

use reqwest::Method;
use serde_json::json;

use crate::support::host::Setup;
use crate::support::{Answer, Client, TestHost};

const OWN: &str = "https://shop.example";

async fn preflight(client: &Client, origin: &str, method: &str) -> Answer {
    let request = client.request(Method::OPTIONS, "/users/me").header("origin", origin);
    let request = request.header("access-control-request-headers", "authorization, x-mine");
    request.header("access-control-request-method", method).send().await
}

#[tokio::test]
async fn the_frontends_origin_is_allowed_and_no_other() {
    let host = TestHost::sqlite(Setup::default()).await;
    let client = host.anonymous();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let answer = preflight(&client, OWN, method).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "OK"));
        for (name, value) in [
            ("access-control-allow-origin", OWN),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
            ("access-control-allow-headers", "authorization, x-mine"),
            ("access-control-max-age", "600"),
            ("vary", "Origin"),
        ] {
            assert_eq!(answer.header(name), Some(value));
        }
    }
    for origin in ["https://evil.example", "https://shop.example.evil.example", "http://shop.example", "null"] {
        let answer = preflight(&client, origin, "GET").await;
        assert_eq!((answer.status, answer.text().as_str()), (400, "Disallowed CORS origin"));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    host.stop().await;
}

#[tokio::test]
async fn answers_and_problems_may_be_read_by_the_frontend_only() {
    let host = TestHost::sqlite(Setup::default()).await;
    for (client, path, status) in [
        (host.superuser(), "/users/me", 200),
        (&host.anonymous(), "/users/me", 401),
        (host.superuser(), "/nothing", 404),
    ] {
        let own = client.request(Method::GET, path).header("origin", OWN).send().await;
        assert_eq!(own.status, status);
        assert_eq!(own.header("access-control-allow-origin"), Some(OWN));
        assert_eq!(own.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(own.header("vary"), Some("Origin"));
        let other = client.request(Method::GET, path).header("origin", "https://evil.example").send().await;
        assert_eq!(other.status, status);
        assert_eq!(other.header("access-control-allow-origin"), None);
        let none = client.get(path).await;
        assert_eq!(none.header("access-control-allow-origin"), None);
    }
    host.stop().await;
}

#[tokio::test]
async fn a_plugins_answers_may_be_read_too_and_kept_ones_by_their_own_reader() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    let ask = async |origin: &str| {
        host.anonymous().request(Method::GET, "/chameleon/cached").header("origin", origin).send().await
    };
    let (own, other, again) = (ask(OWN).await, ask("https://evil.example").await, ask(OWN).await);
    assert_eq!(own.text(), other.text());
    assert_eq!(own.header("access-control-allow-origin"), Some(OWN));
    assert_eq!(other.header("access-control-allow-origin"), None);
    assert_eq!(again.header("access-control-allow-origin"), Some(OWN));
    let trapped = host.anonymous().request(Method::GET, "/chameleon/trap").header("origin", OWN).send().await;
    assert_eq!((trapped.status, trapped.header("access-control-allow-origin")), (502, Some(OWN)));
    assert_eq!(trapped.problem()["code"], json!("plugin_trap"));
    host.stop().await;
}
