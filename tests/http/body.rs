//! What holds on every route: bodies, paths, methods, problems, CORS, the document (reference sections 1, 5 and 8).

use reqwest::Method;
use serde_json::json;

use crate::support::{Setup, TestHost};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_paths_and_methods_are_told_apart() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    let client = host.superuser();
    let items = |client: &crate::support::Client| client.request(Method::POST, "/items/");
    let offset = "body.9 json_invalid: JSON decode error";
    items(&host.anonymous()).json_text("{\"title\":x}").send().await.refuses(&[offset]);
    items(client).json_text(vec![b'"', 0xff, b'"']).send().await.is_problem(
        400,
        "malformed_body",
        "There was an error parsing the body",
    );
    let object = "body model_attributes_type: Input should be a valid dictionary or object to extract fields from";
    for body in ["[]", "1", "\"x\""] {
        items(client).json_text(body).send().await.refuses(&[object]);
    }
    items(client).header("content-type", "text/plain").body("{\"title\":\"x\"}").send().await.refuses(&[object]);
    items(client).json_text("null").send().await.refuses(&["body missing: Field required"]);
    items(client).send().await.refuses(&["body missing: Field required"]);
    items(client).json_text(r#"{"title":"\ud800"}"#).send().await.refuses(&["body value_error: …"]);
    items(client).json_text(vec![b' '; 2 * 1024 * 1024 + 1]).send().await.is_problem(
        413,
        "body_too_large",
        "Request body too large",
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(items(client).json_text(deep).send().await.problem()["code"], "validation_error");

    let patched = client.patch("/items/x", &json!({})).await;
    patched.is_problem(405, "method_not_allowed", "Method Not Allowed");
    assert_eq!(patched.header("allow"), Some("GET, PUT, DELETE"));
    for path in ["/nothing", "/users//me", "/items/a/b", "/%2e%2e/x"] {
        let answer = client.request(Method::GET, path).header("accept", "text/html").send().await;
        answer.is_problem(404, "route_not_found", "Not Found");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_origin_is_allowed() {
    let host = TestHost::sqlite(Setup::default()).await;
    let client = host.anonymous();
    let preflight = |origin| {
        let request = client.request(Method::OPTIONS, "/users/me").header("origin", origin);
        request.header("access-control-request-method", "GET").header("access-control-request-headers", "x-a")
    };
    let allowed = preflight("https://shop.example").send().await;
    assert_eq!((allowed.status, allowed.text().as_str()), (200, "OK"));
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(allowed.header("access-control-allow-headers"), Some("x-a"));
    let refused = preflight("https://evil.example").send().await;
    assert_eq!((refused.status, refused.text().as_str()), (400, "Disallowed CORS origin"));
    assert_eq!(refused.header("access-control-allow-origin"), None);
    let simple = client.request(Method::GET, "/users/me").header("origin", "https://shop.example").send().await;
    assert_eq!(simple.header("access-control-allow-origin"), Some("https://shop.example"), "problems too");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_follows_the_plugins() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    let client = host.anonymous();
    let document = client.get("/openapi.json").await.ok();
    assert_eq!((&document["openapi"], &document["info"]["title"]), (&json!("3.1.0"), &json!("Test & Co")));
    let list = &document["paths"]["/api/v1/items/"]["get"];
    assert_eq!((&list["operationId"], &list["tags"]), (&json!("items-read_items"), &json!(["items"])));
    assert_eq!(document["paths"]["/api/v1/login/access-token"]["post"]["operationId"], "login-login_access_token");
    host.superuser().delete("/plugins/items").await;
    assert!(client.get("/openapi.json").await.ok()["paths"]["/api/v1/items/"].is_null());
    let viewer = client.plain(Method::GET, "/docs").send().await;
    assert!(viewer.text().contains("/docs/swagger-ui-bundle.js"));
    assert_eq!(client.plain(Method::GET, "/docs/swagger-ui-bundle.js").send().await.status, 200);
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(client.plain(Method::GET, probe).send().await.status, 200);
    }
    host.stop().await;
}
