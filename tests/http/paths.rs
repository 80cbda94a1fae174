//! Which route answers: both slash forms, unknown paths, wrong methods, and the headers every answer has.

use reqwest::Method;
use serde_json::json;

use crate::support::{TestHost, both};

both!(
    both_forms_of_a_path_answer_directly => Setup::default().with_items(),
    an_unknown_path_is_a_problem_whatever_is_accepted,
    another_method_is_refused_and_the_right_ones_are_named => Setup::default().with_items(),
    every_answer_carries_its_request_id,
    a_problem_names_the_path_without_the_query,
    encoded_and_odd_paths_are_only_paths,
);

async fn both_forms_of_a_path_answer_directly(host: &TestHost) {
    for path in ["/users/me", "/users", "/items", "/plugins", "/plugins/items", "/utils/health-check", "/openapi.json"]
    {
        for path in [path.to_owned(), format!("{path}/"), format!("{path}/?x=1")] {
            assert_eq!(host.superuser().get(&path).await.status, 200, "{path}");
        }
    }
}

async fn an_unknown_path_is_a_problem_whatever_is_accepted(host: &TestHost) {
    for path in [
        "/api/v1/nothing",
        "/api/v1",
        "/api",
        "/api/v2/users/",
        "/api/v1/users/me/x",
        "/",
        "/nothing",
        "/api/v1/items/",
        "/api/v1//users/me",
        "/api/v1/users//me",
        "/API/v1/users/me",
    ] {
        for accept in ["*/*", "text/html", "application/json"] {
            let answer = host.superuser().plain(Method::GET, path).header("accept", accept).send().await;
            answer.is_problem(404, "route_not_found", "Not Found");
        }
    }
}

async fn another_method_is_refused_and_the_right_ones_are_named(host: &TestHost) {
    for (method, path, allow) in [
        (Method::PUT, "/users/me", &["GET", "PATCH", "DELETE"][..]),
        (Method::HEAD, "/users/me", &["GET", "PATCH", "DELETE"]),
        (Method::OPTIONS, "/users/me", &["GET", "PATCH", "DELETE"]),
        (Method::PATCH, "/items/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11", &["GET", "PUT", "DELETE"]),
        (Method::DELETE, "/items/", &["GET", "POST"]),
        (Method::GET, "/login/access-token", &["POST"]),
        (Method::from_bytes(b"BREW").unwrap(), "/utils/health-check/", &["GET"]),
    ] {
        let answer = host.superuser().request(method.clone(), path).send().await;
        assert_eq!(answer.status, 405, "{method} {path}");
        if method != Method::HEAD {
            answer.is_problem(405, "method_not_allowed", "Method Not Allowed");
        }
        let mut named: Vec<&str> = answer.header("allow").unwrap().split(", ").collect();
        named.sort_unstable();
        let mut allow = allow.to_vec();
        allow.sort_unstable();
        assert_eq!(named, allow, "{method} {path}");
    }
}

async fn every_answer_carries_its_request_id(host: &TestHost) {
    let mut seen = std::collections::HashSet::new();
    for path in ["/users/me", "/nothing", "/utils/health-check/"] {
        for client in [host.superuser(), &host.anonymous()] {
            let request = client.request(Method::GET, path).header("x-request-id", "mine");
            let id = request.send().await.header("x-request-id").unwrap().to_owned();
            assert!(id != "mine" && seen.insert(id.clone()), "{id}");
        }
    }
}

async fn a_problem_names_the_path_without_the_query(host: &TestHost) {
    let problem = host.anonymous().get("/nothing?token=secret").await;
    assert_eq!(problem.problem()["instance"], "/api/v1/nothing");
    assert!(!problem.text().contains("secret"));
    assert_eq!(problem.problem()["type"], "about:blank");
    assert_eq!(problem.problem()["title"], "Not Found");
}

async fn encoded_and_odd_paths_are_only_paths(host: &TestHost) {
    for path in [
        "/users/%6de",
        "/users/..%2fme",
        "/users/%2e%2e/me",
        "/users/%",
        "/users/%zz",
        "/users/%ff%fe",
        "/users/me;x=1",
        "/users/{user_id}",
        "/users/*",
        "/plugins/..%2f..%2fetc",
    ] {
        let answer = host.superuser().get(path).await;
        assert!((200..500).contains(&answer.status), "{path}: {}", answer.text());
        if answer.status != 200 {
            answer.problem();
        }
    }
    let long = format!("/users/{}", "x".repeat(5_000));
    let answer = host.superuser().post(&long, &json!({})).await;
    assert!((400..500).contains(&answer.status), "{}", answer.text());
}
