//! The OpenAPI document and its viewer. The database makes no difference.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::text;
use crate::support::{Component, Setup, TestHost};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

async fn document(host: &TestHost) -> Value {
    host.anonymous().get("/openapi.json").await.ok()
}

/// Returns `METHOD path operationId` of every documented operation.
fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        METHODS.iter().filter_map(move |method| {
            let operation = item.get(method)?;
            Some(format!("{} {path} {}", method.to_uppercase(), text(operation, "operationId")))
        })
    });
    all.collect()
}

/// The operations of the FastAPI full-stack template that the host serves itself.
const TEMPLATE: [&str; 17] = [
    "POST /api/v1/login/access-token login-login_access_token",
    "POST /api/v1/login/test-token login-test_token",
    "POST /api/v1/password-recovery/{email} login-recover_password",
    "POST /api/v1/reset-password/ login-reset_password",
    "POST /api/v1/password-recovery-html-content/{email} login-recover_password_html_content",
    "GET /api/v1/users/ users-read_users",
    "POST /api/v1/users/ users-create_user",
    "GET /api/v1/users/me users-read_user_me",
    "DELETE /api/v1/users/me users-delete_user_me",
    "PATCH /api/v1/users/me users-update_user_me",
    "PATCH /api/v1/users/me/password users-update_password_me",
    "POST /api/v1/users/signup users-register_user",
    "GET /api/v1/users/{user_id} users-read_user_by_id",
    "PATCH /api/v1/users/{user_id} users-update_user",
    "DELETE /api/v1/users/{user_id} users-delete_user",
    "POST /api/v1/utils/test-email/ utils-test_email",
    "GET /api/v1/utils/health-check/ utils-health_check",
];
/// The operations of the template that the items plugin serves.
const ITEMS: [&str; 5] = [
    "GET /api/v1/items/ items-read_items",
    "POST /api/v1/items/ items-create_item",
    "GET /api/v1/items/{id} items-read_item",
    "PUT /api/v1/items/{id} items-update_item",
    "DELETE /api/v1/items/{id} items-delete_item",
];

#[tokio::test]
async fn the_document_names_every_operation_of_the_template() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    let document = document(&host).await;
    assert_eq!((&document["openapi"], &document["info"]["title"]), (&json!("3.1.0"), &json!("Test & Co")));
    let operations = operations(&document);
    for expected in TEMPLATE.iter().chain(&ITEMS) {
        assert!(operations.contains(*expected), "{expected} is not in {operations:#?}");
    }
    // The tag is the word before the dash; client generators name their services by it.
    for item in document["paths"].as_object().unwrap().values() {
        for operation in METHODS.iter().filter_map(|method| item.get(method)) {
            let (tag, _) = text(operation, "operationId").split_once('-').unwrap();
            assert_eq!(operation["tags"], json!([tag]));
            assert!(operation["responses"].is_object() && operation["summary"].is_string());
        }
    }
    let created = &document["paths"]["/api/v1/utils/test-email/"]["post"]["responses"];
    assert!(created.get("201").is_some() && created.get("200").is_none(), "{created}");
}

#[tokio::test]
async fn the_document_says_which_operations_need_a_token_or_a_cookie() {
    let host = TestHost::sqlite(Setup::default().with_items()).await;
    let document = document(&host).await;
    let scheme = &document["components"]["securitySchemes"]["OAuth2PasswordBearer"];
    assert_eq!(scheme["type"], "oauth2");
    assert_eq!(scheme["flows"]["password"]["tokenUrl"], "/api/v1/login/access-token");
    let scheme = &document["components"]["securitySchemes"]["SessionCookie"];
    assert_eq!((&scheme["type"], &scheme["in"]), (&json!("apiKey"), &json!("cookie")));
    assert_eq!(scheme["name"], "__Host-wharf-session");
    let secured = |path: &str, method: &str| document["paths"][path][method]["security"].clone();
    let required = json!([{ "OAuth2PasswordBearer": [] }, { "SessionCookie": [] }]);
    for (path, method) in [
        ("/api/v1/users/me", "get"),
        ("/api/v1/users/", "post"),
        ("/api/v1/items/", "get"),
        ("/api/v1/items/{id}", "put"),
    ] {
        assert_eq!(secured(path, method), required, "{method} {path}");
    }
    for path in ["/api/v1/login/access-token", "/api/v1/users/signup", "/api/v1/reset-password/"] {
        assert_eq!(secured(path, "post"), Value::Null, "{path}");
    }
}

#[tokio::test]
async fn every_reference_in_the_document_resolves() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|member| references(member, found));
            }
            Value::Array(list) => list.iter().for_each(|member| references(member, found)),
            _ => {}
        }
    }
    let host = TestHost::sqlite(Setup::default().with_items().in_development()).await;
    let document = document(&host).await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} points outside the document"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_document_changes_with_every_deploy_and_removal() {
    let host = TestHost::sqlite(Setup::default()).await;
    let before = document(&host).await;
    assert!(!operations(&before).iter().any(|operation| operation.contains("/items")));
    host.deploy_items().await;
    let with = document(&host).await;
    let added: BTreeSet<String> = operations(&with).difference(&operations(&before)).cloned().collect();
    assert_eq!(added, ITEMS.map(ToOwned::to_owned).into());
    assert!(with["components"]["schemas"].get("ItemCreate").is_some());
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    assert!(operations(&document(&host).await).len() > operations(&with).len());
    host.superuser().delete("/plugins/hello").await.ok();
    host.superuser().delete("/plugins/items").await.ok();
    assert_eq!(document(&host).await, before);
}

#[tokio::test]
async fn the_viewer_loads_nothing_from_other_origins() {
    let host = TestHost::sqlite(Setup::default()).await;
    let get = async |path: &str| host.anonymous().plain(Method::GET, path).send().await;
    let page = get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(get("/docs/viewer.js").await.text().contains("/api/v1/openapi.json"));
    assert_eq!(get("/docs/").await.text(), page.text());
    let named: Vec<String> = page
        .text()
        .split(['"', '\''])
        .filter(|text| text.starts_with("/docs/") || text.starts_with("http"))
        .map(ToOwned::to_owned)
        .collect();
    assert!(named.len() >= 3, "{named:?}");
    for path in named {
        assert!(path.starts_with('/'), "{path}");
        assert_eq!(get(&path).await.status, 200, "{path}");
    }
    get("/docs/nothing.js").await.is_problem(404, "route_not_found", "Not Found");
}

#[tokio::test]
async fn document_and_viewer_can_be_disabled() {
    let host = TestHost::sqlite(Setup::default().with(|config| config.server.docs = false)).await;
    for path in ["/api/v1/openapi.json", "/docs", "/docs/swagger-ui.css"] {
        let response = host.anonymous().plain(Method::GET, path).header("accept", "text/html").send().await;
        response.is_problem(404, "route_not_found", "Not Found");
    }
    host.superuser().get("/users/me").await.ok();
}
