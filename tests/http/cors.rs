//! Cross-origin requests. The database makes no difference.

use reqwest::Method;
use serde_json::json;

use crate::support::host::SUPERUSER;
use crate::support::{Setup, TestHost, TestResponse};

const ORIGIN: &str = "https://shop.example";
const METHODS: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";

async fn preflight(host: &TestHost, path: &str, origin: &str, method: &str, headers: Option<&str>) -> TestResponse {
    let request = host.anonymous().plain(Method::OPTIONS, path);
    let request = request.header("origin", origin).header("access-control-request-method", method);
    match headers {
        Some(headers) => request.header("access-control-request-headers", headers).send().await,
        None => request.send().await,
    }
}

#[tokio::test]
async fn a_preflight_of_the_frontend_succeeds_on_every_path() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    for path in ["/api/v1/users/me", "/api/v1/items/", "/api/v1/nothing", "/"] {
        let response = preflight(&host, path, ORIGIN, "PATCH", Some("authorization,x-own")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "OK"), "{path}");
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("access-control-allow-origin", ORIGIN),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", METHODS),
            ("access-control-allow-headers", "authorization,x-own"),
            ("access-control-max-age", "600"),
            ("vary", "Origin"),
        ] {
            let found: Vec<_> = response.headers.get_all(name).iter().collect();
            assert_eq!(found, [value], "{path} {name}");
        }
    }
    let response = preflight(&host, "/api/v1/users/me", ORIGIN, "GET", None).await;
    assert_eq!((response.status, response.header("access-control-allow-headers")), (200, None));
}

#[tokio::test]
async fn a_preflight_of_another_origin_or_method_is_rejected() {
    let host = TestHost::sqlite(Setup::default()).await;
    for origin in
        ["https://evil.example", "http://shop.example", "https://shop.example:444", "https://shop.example.evil", "null"]
    {
        let response = preflight(&host, "/api/v1/users/me", origin, "GET", None).await;
        assert_eq!((response.status, response.text().as_str()), (400, "Disallowed CORS origin"), "{origin}");
        assert_eq!(response.header("access-control-allow-origin"), None, "{origin}");
    }
    let response = preflight(&host, "/api/v1/users/me", ORIGIN, "TRACE", None).await;
    assert_eq!((response.status, response.text().as_str()), (400, "Disallowed CORS method"));
}

#[tokio::test]
async fn only_the_frontend_may_read_responses() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    let ask = async |origin: &str, path: &str| {
        host.superuser().request(Method::GET, path).header("origin", origin).send().await
    };
    // Successes and problems, of the host and of a plugin.
    for (path, status) in
        [("/users/me", 200), ("/items/", 200), ("/items/x", 422), ("/nothing", 404), ("/login/logout", 405)]
    {
        let own = ask(ORIGIN, path).await;
        assert_eq!(own.status, status);
        assert_eq!(own.header("access-control-allow-origin"), Some(ORIGIN), "{path}");
        assert_eq!(own.header("access-control-allow-credentials"), Some("true"), "{path}");
        assert_eq!(own.header("vary"), Some("Origin"), "{path}");
        let other = ask("https://evil.example", path).await;
        assert_eq!(other.status, status);
        assert_eq!(other.header("access-control-allow-origin"), None, "{path}");
        assert_eq!(other.header("access-control-allow-credentials"), Some("true"), "{path}");
        // A shared cache must not give either of these to the other, nor the one for a request without an origin.
        let none = host.superuser().get(path).await;
        for response in [&other, &none] {
            assert_eq!(response.header("vary"), Some("Origin"), "{path}");
        }
    }
    let large = json!({ "x": "x".repeat(3 * 1024 * 1024) });
    let large =
        host.anonymous().request(Method::POST, "/users/signup").header("origin", ORIGIN).json(&large).send().await;
    assert_eq!((large.status, large.header("access-control-allow-origin")), (413, Some(ORIGIN)));
    let plain = host.superuser().get("/users/me").await;
    assert_eq!(plain.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn a_path_in_the_frontend_url_is_not_part_of_its_origin() {
    let setup =
        Setup::default().with(|config| config.server.frontend_url = "http://localhost:5173/app".parse().unwrap());
    let host = TestHost::sqlite(setup).await;
    let response = preflight(&host, "/api/v1/users/me", "http://localhost:5173", "GET", None).await;
    assert_eq!((response.status, response.header("access-control-allow-origin")), (200, Some("http://localhost:5173")));
}

#[tokio::test]
async fn each_origin_of_a_list_is_allowed_and_the_first_url_is_the_base_of_links() {
    let urls = "https://shop.example/app/, https://admin.example:8443, https://*.shop.example";
    let host =
        TestHost::sqlite(Setup::default().with(|config| config.server.frontend_url = urls.parse().unwrap())).await;
    for (origin, is_allowed) in [
        (ORIGIN, true),
        ("https://admin.example:8443", true),
        ("https://a.b.shop.example", true),
        ("https://admin.example", false),
        ("https://evilshop.example", false),
        ("http://a.shop.example", false),
        ("null", false),
    ] {
        let allowed = is_allowed.then_some(origin);
        let asked = preflight(&host, "/api/v1/users/me", origin, "GET", None).await;
        assert_eq!(asked.status, if is_allowed { 200 } else { 400 }, "{origin}");
        assert_eq!(asked.header("access-control-allow-origin"), allowed, "{origin}");
        let response = host.anonymous().request(Method::GET, "/users/me").header("origin", origin).send().await;
        assert_eq!(response.header("access-control-allow-origin"), allowed, "{origin}");
        assert_eq!(response.header("vary"), Some("Origin"), "{origin}");
    }
    host.anonymous().request(Method::POST, &format!("/password-recovery/{SUPERUSER}")).send().await.ok();
    let mail = host.mails().take(SUPERUSER).await;
    assert!(mail.html.contains("\"https://shop.example/app/reset-password?token="), "{}", mail.html);
}

#[tokio::test]
async fn a_cached_response_gets_cors_headers_per_request() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    let ask = async |origin: &str| {
        host.anonymous().request(Method::GET, "/chameleon/cached").header("origin", origin).send().await
    };
    let (own, other, again) = (ask(ORIGIN).await, ask("https://evil.example").await, ask(ORIGIN).await);
    assert!(own.text() == other.text() && own.text() == again.text());
    let allowed = [&own, &other, &again].map(|response| response.header("access-control-allow-origin"));
    assert_eq!(allowed, [Some(ORIGIN), None, Some(ORIGIN)]);
    host.stop().await;
}
