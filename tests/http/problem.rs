//! Properties of every response, and the responses to unknown paths and methods.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::json;

use crate::support::{TestHost, both};

const ID: &str = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

both! {
    every_response_has_a_request_id_and_a_problem_names_its_path => Setup::default().with_items(),
    an_unknown_path_is_404_for_every_accept_header => Setup::default().with_items(),
    a_known_path_with_another_method_is_405_and_lists_the_allowed_methods => Setup::default().with_items(),
    every_path_works_with_and_without_the_trailing_slash => Setup::default().with_items().in_development(),
    unusual_input_is_never_a_500 => Setup::default().with_items(),
}

async fn every_response_has_a_request_id_and_a_problem_names_its_path(host: &TestHost) {
    let mut ids = HashSet::new();
    for path in ["/users/me", "/items/", "/utils/health-check/", "/nothing", "/items/x?skip=1", "/openapi.json"] {
        let response = host.anonymous().get(path).await;
        assert!(ids.insert(response.header("x-request-id").unwrap().to_owned()), "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        for absent in ["set-cookie", "content-encoding"] {
            assert_eq!(response.header(absent), None, "{path}");
        }
        if response.status >= 400 {
            let problem = response.problem();
            let instance = format!("/api/v1{}", path.split('?').next().unwrap());
            assert_eq!((&problem["instance"], &problem["type"]), (&json!(instance), &json!("about:blank")), "{path}");
        }
    }
    // The host always uses its own request id, not the client's.
    let response = host.anonymous().request(Method::GET, "/nothing").header("x-request-id", "mine").send().await;
    assert_ne!(response.header("x-request-id"), Some("mine"));
    let titles = [
        (host.anonymous().get("/nothing").await, "Not Found"),
        (host.anonymous().get("/users/me").await, "Unauthorized"),
        (host.superuser().get("/users/x").await, "Unprocessable Entity"),
    ];
    for (response, title) in titles {
        assert_eq!(response.problem()["title"], title);
    }
    // Problems of plugins have the same form.
    let response = host.superuser().get(&format!("/items/{ID}")).await;
    assert_eq!(response.problem()["instance"], format!("/api/v1/items/{ID}"));
}

async fn an_unknown_path_is_404_for_every_accept_header(host: &TestHost) {
    for path in ["/nothing", "/users/me/nothing", "/items/x/y", "/itemsx", "/users//", "//users/", "/utils", "/", ""] {
        for accept in ["*/*", "text/html", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let response = host.superuser().request(method, path).header("accept", accept).send().await;
                response.is_problem(404, "route_not_found", "Not Found");
            }
        }
    }
    for path in ["/api", "/api/v2/users/", "/nothing", "/"] {
        let response = host.anonymous().plain(Method::GET, path).header("accept", "text/html").send().await;
        response.is_problem(404, "route_not_found", "Not Found");
    }
    let head = host.anonymous().request(Method::HEAD, "/nothing").send().await;
    assert_eq!((head.status, head.bytes.len()), (404, 0));
}

async fn a_known_path_with_another_method_is_405_and_lists_the_allowed_methods(host: &TestHost) {
    for (method, path, allowed) in [
        ("PUT", "/users/me", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/users/me/", "DELETE, GET, HEAD, PATCH"),
        ("DELETE", "/users/", "GET, HEAD, POST"),
        ("PUT", &format!("/users/{ID}"), "DELETE, GET, HEAD, PATCH"),
        ("GET", "/login/access-token", "POST"),
        ("GET", "/reset-password", "POST"),
        ("POST", "/utils/health-check/", "GET, HEAD"),
        ("PATCH", &format!("/items/{ID}"), "DELETE, GET, HEAD, PUT"),
        ("PUT", "/items/", "GET, HEAD, POST"),
        ("HEAD", "/login/access-token", "POST"),
        // The API does not answer OPTIONS automatically.
        ("OPTIONS", "/users/me", "DELETE, GET, HEAD, PATCH"),
        ("OPTIONS", "/items/", "GET, HEAD, POST"),
        ("BREW", "/utils/health-check/", "GET, HEAD"),
    ] {
        eprintln!("{method} {path}");
        // Sent without credentials and with malformed JSON: neither is checked.
        let response = host.anonymous().request(method.parse().unwrap(), path).json_text("{").send().await;
        let mut found: Vec<&str> = response.header("allow").unwrap().split(", ").collect();
        found.sort_unstable();
        assert_eq!((response.status, found.join(", ").as_str()), (405, allowed));
        if method != "HEAD" {
            response.is_problem(405, "method_not_allowed", "Method Not Allowed");
        }
    }
}

async fn every_path_works_with_and_without_the_trailing_slash(host: &TestHost) {
    for (method, path) in [
        ("POST", "/login/access-token"),
        ("POST", "/login/refresh-token"),
        ("POST", "/login/logout"),
        ("POST", "/login/test-token"),
        ("POST", "/password-recovery/nobody@example.com"),
        ("POST", "/reset-password"),
        ("POST", "/password-recovery-html-content/nobody@example.com"),
        ("GET", "/users"),
        ("POST", "/users"),
        ("GET", "/users/me"),
        ("PATCH", "/users/me"),
        ("DELETE", "/users/me"),
        ("PATCH", "/users/me/password"),
        ("GET", "/users/me/sessions"),
        ("POST", "/users/signup"),
        ("GET", "/users/x"),
        ("PATCH", "/users/x"),
        ("DELETE", "/users/x"),
        ("GET", "/items"),
        ("POST", "/items"),
        ("GET", "/items/x"),
        ("PUT", "/items/x"),
        ("DELETE", "/items/x"),
        ("POST", "/utils/test-email"),
        ("GET", "/utils/health-check"),
        ("POST", "/private/users"),
        ("GET", "/plugins"),
        ("GET", "/openapi.json"),
    ] {
        let ask = async |path: &str| host.anonymous().request(method.parse().unwrap(), path).send().await;
        let (with, without) = (ask(&format!("{path}/")).await, ask(path).await);
        assert_eq!(with.status, without.status, "{method} {path}");
        assert!(![301, 302, 307, 308, 404, 405].contains(&with.status), "{method} {path}: {}", with.status);
        assert_eq!(with.header("location"), None, "{method} {path}");
    }
}

async fn unusual_input_is_never_a_500(host: &TestHost) {
    let admin = host.superuser();
    for path in [
        "/users/%00",
        "/users/%FF",
        "/users/%",
        "/users/%zz",
        "/users/..%2F..%2F",
        "/items/%00",
        "/items/%FF",
        "/items/?skip=%00",
        "/items/?skip=%FF&limit=%FF",
        "/items/?&&&=",
        "/items/?skip",
        "/users/?limit=",
        "/items/?skip=9223372036854775807&limit=1000",
        "/items/?skip=99999999999999999999",
        "/users/?skip=NaN",
        "/plugins/%00",
        "/plugins/..",
        "/plugins/UPPER",
        "/users/me/sessions/%00",
    ] {
        for method in [Method::GET, Method::DELETE, Method::PATCH, Method::POST, Method::PUT] {
            let response = admin.request(method.clone(), path).json(&json!({ "title": "x" })).send().await;
            assert!(response.status < 500, "{method} {path}: {}", response.text());
        }
    }
    for value in
        [json!(1e308), json!(u64::MAX), json!([[[[]]]]), json!({ "a": {} }), json!(""), json!("\0"), json!(null)]
    {
        for (method, path, members) in [
            (Method::POST, "/users/", &["email", "password", "is_active", "is_superuser", "full_name"][..]),
            (Method::POST, "/users/signup", &["email", "password", "full_name"]),
            (Method::PATCH, "/users/me/password", &["current_password", "new_password"]),
            (Method::POST, "/reset-password/", &["token", "new_password"]),
            (Method::POST, "/items/", &["title", "description"]),
            (Method::POST, "/login/refresh-token", &["refresh_token"]),
        ] {
            let body = members.iter().map(|member| ((*member).to_owned(), value.clone())).collect();
            let response = admin.request(method, path).json(&body).send().await;
            assert!((400..500).contains(&response.status), "{path} {body}: {} {}", response.status, response.text());
        }
    }
}
