//! The OpenAPI document and its viewer.

use reqwest::Method;
use serde_json::Value;

use crate::support::host::Setup;
use crate::support::{Component, TestHost};

/// Operation ids of the reference; generated clients are named after them.
const OPERATIONS: [(&str, &str, &str); 23] = [
    ("/api/v1/login/access-token", "post", "login-login_access_token"),
    ("/api/v1/login/test-token", "post", "login-test_token"),
    ("/api/v1/password-recovery/{email}", "post", "login-recover_password"),
    ("/api/v1/reset-password/", "post", "login-reset_password"),
    ("/api/v1/password-recovery-html-content/{email}", "post", "login-recover_password_html_content"),
    ("/api/v1/users/", "get", "users-read_users"),
    ("/api/v1/users/", "post", "users-create_user"),
    ("/api/v1/users/me", "get", "users-read_user_me"),
    ("/api/v1/users/me", "delete", "users-delete_user_me"),
    ("/api/v1/users/me", "patch", "users-update_user_me"),
    ("/api/v1/users/me/password", "patch", "users-update_password_me"),
    ("/api/v1/users/signup", "post", "users-register_user"),
    ("/api/v1/users/{user_id}", "get", "users-read_user_by_id"),
    ("/api/v1/users/{user_id}", "patch", "users-update_user"),
    ("/api/v1/users/{user_id}", "delete", "users-delete_user"),
    ("/api/v1/utils/test-email/", "post", "utils-test_email"),
    ("/api/v1/utils/health-check/", "get", "utils-health_check"),
    ("/api/v1/items/", "get", "items-read_items"),
    ("/api/v1/items/", "post", "items-create_item"),
    ("/api/v1/items/{id}", "get", "items-read_item"),
    ("/api/v1/items/{id}", "put", "items-update_item"),
    ("/api/v1/items/{id}", "delete", "items-delete_item"),
    ("/api/v1/private/users/", "post", "private-create_user"),
];

#[tokio::test]
async fn the_document_names_every_operation_of_host_and_plugins() {
    let host = TestHost::sqlite(Setup::default().in_development().with_items()).await;
    let document = host.anonymous().get("/openapi.json").await.ok();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["title"], "Test & Co");
    for (path, method, operation) in OPERATIONS {
        let found = &document["paths"][path][method];
        assert_eq!(found["operationId"], operation, "{method} {path}");
        assert_eq!(found["tags"][0].as_str(), operation.split('-').next());
    }
    let scheme = &document["components"]["securitySchemes"]["OAuth2PasswordBearer"];
    assert_eq!(scheme["type"], "oauth2");
    assert_eq!(scheme["flows"]["password"]["tokenUrl"], "/api/v1/login/access-token");
    let secured = |path: &str, method: &str| !document["paths"][path][method]["security"].is_null();
    assert!(secured("/api/v1/items/", "get") && secured("/api/v1/users/", "get"));
    assert!(!secured("/api/v1/users/signup", "post") && !secured("/api/v1/login/access-token", "post"));
    host.stop().await;
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere_and_ids_are_unique() {
    let host = TestHost::sqlite(Setup::default().in_development().with_items()).await;
    host.deploy_chameleon().await;
    let document = host.anonymous().get("/openapi.json").await.ok();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let mut ids = std::collections::HashSet::new();
    for operation in document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values())
    {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{}", operation["operationId"]);
    }
    host.stop().await;
}

fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            references.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|member| collect(member, references));
        }
        Value::Array(list) => list.iter().for_each(|member| collect(member, references)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_follows_deploys_and_removals() {
    let host = TestHost::sqlite(Setup::default()).await;
    let has_hello = async || {
        let document = host.anonymous().get("/openapi.json").await.ok();
        document["paths"].as_object().unwrap().contains_key("/api/v1/hello/{name}")
    };
    assert!(!has_hello().await);
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    assert!(has_hello().await);
    host.superuser().delete("/plugins/hello").await.ok();
    assert!(!has_hello().await);
    host.stop().await;
}

#[tokio::test]
async fn the_viewer_is_complete_without_any_other_server() {
    let host = TestHost::sqlite(Setup::default()).await;
    let page = host.anonymous().plain(Method::GET, "/docs").send().await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(!page.text().contains("http://") && !page.text().contains("https://") && !page.text().contains("\"//"));
    let mut files = 0;
    for part in page.text().split('"').filter(|part| part.starts_with("/docs/")) {
        let file = host.anonymous().plain(Method::GET, part).send().await;
        assert_eq!(file.status, 200, "{part}");
        files += 1;
    }
    assert!(files >= 2);
    host.anonymous().plain(Method::GET, "/docs/nothing.js").send().await.has_code(404, "route_not_found");
    host.anonymous().plain(Method::GET, "/docs/..%2f..%2fCargo.toml").send().await.has_code(404, "route_not_found");
    host.stop().await;
}

#[tokio::test]
async fn both_can_be_switched_off() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.server.docs = false)).await;
    for path in ["/api/v1/openapi.json", "/docs", "/docs/swagger-ui.css"] {
        host.superuser().plain(Method::GET, path).send().await.is_problem(404, "route_not_found", "Not Found");
    }
    host.stop().await;
}
