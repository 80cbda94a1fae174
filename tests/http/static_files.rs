//! Serving a frontend. The database makes no difference.

use reqwest::Method;
use tempfile::TempDir;

use crate::support::{Setup, TestHost, TestResponse};

const HTML: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

struct Site {
    host: TestHost,
    _directory: TempDir,
}

impl Site {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("dist");
        std::fs::create_dir_all(root.join("assets")).unwrap();
        std::fs::create_dir_all(root.join("api/v1/users")).unwrap();
        std::fs::write(root.join("index.html"), "<!doctype html>the page").unwrap();
        std::fs::write(root.join("assets/app.js"), "script()").unwrap();
        std::fs::write(root.join(".env"), "key").unwrap();
        std::fs::write(root.join("api/v1/users/me"), "not the API").unwrap();
        std::fs::write(directory.path().join("secret.txt"), "secret").unwrap();
        let setup = Setup::default().with_items().with(|config| config.server.static_dir = Some(root));
        Self { host: TestHost::sqlite(setup).await, _directory: directory }
    }

    async fn ask(&self, method: Method, path: &str, accept: &str) -> TestResponse {
        self.host.anonymous().plain(method, path).header("accept", accept).send().await
    }
}

#[tokio::test]
async fn files_are_served_and_frontend_routes_return_the_index() {
    let site = Site::start().await;
    let file = site.ask(Method::GET, "/assets/app.js", "*/*").await;
    assert_eq!((file.status, file.text().as_str()), (200, "script()"));
    assert!(file.header("content-type").unwrap().contains("javascript"));
    assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    let head = site.ask(Method::HEAD, "/assets/app.js", "*/*").await;
    assert_eq!((head.status, head.header("content-length"), head.bytes.len()), (200, Some("8"), 0));
    let root = site.ask(Method::GET, "/", "*/*").await;
    assert_eq!((root.status, root.text().as_str()), (200, "<!doctype html>the page"));

    for page in
        ["/", "/login", "/signup", "/recover-password", "/reset-password?token=x", "/items", "/admin", "/settings"]
    {
        for accept in [HTML, "application/xhtml+xml", "text/html;q=0.1"] {
            let response = site.ask(Method::GET, page, accept).await;
            assert_eq!(
                (response.status, response.text().as_str()),
                (200, "<!doctype html>the page"),
                "{page} {accept}"
            );
            assert!(response.header("content-type").unwrap().starts_with("text/html"));
        }
        assert_eq!(site.ask(Method::HEAD, page, HTML).await.status, 200, "{page}");
    }
}

#[tokio::test]
async fn unknown_paths_that_are_not_page_requests_are_404() {
    let site = Site::start().await;
    for accept in ["*/*", "application/json", "text/html;q=0", "text/html; q=0.0"] {
        site.ask(Method::GET, "/login", accept).await.is_problem(404, "route_not_found", "Not Found");
    }
    site.ask(Method::POST, "/login", HTML).await.is_problem(404, "route_not_found", "Not Found");
    let post = site.ask(Method::POST, "/assets/app.js", HTML).await;
    post.is_problem(405, "method_not_allowed", "Method Not Allowed");
    assert_eq!(post.header("allow"), Some("GET, HEAD"));
    for path in ["/.env", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/assets/..%2f..%2fsecret.txt", "/assets%00"] {
        site.ask(Method::GET, path, "*/*").await.is_problem(404, "route_not_found", "Not Found");
    }
}

#[tokio::test]
async fn an_api_path_never_returns_a_page_or_a_file() {
    let site = Site::start().await;
    for path in ["/api", "/api/", "/api/v1", "/api/v1/nothing", "/api/v2/users/", "/healthz/x"] {
        for method in [Method::GET, Method::POST] {
            site.ask(method, path, HTML).await.is_problem(404, "route_not_found", "Not Found");
        }
    }
    site.ask(Method::GET, "/docs/nothing", HTML).await.is_problem(404, "route_not_found", "Not Found");
    super::not_authenticated(&site.ask(Method::GET, "/api/v1/users/me", HTML).await);
    site.host.superuser().delete("/plugins/items").await.ok();
    site.ask(Method::GET, "/api/v1/items/", HTML).await.is_problem(404, "plugin_removed", "Not Found");
    assert_eq!(site.ask(Method::GET, "/healthz", HTML).await.text(), "ok");
}

#[tokio::test]
async fn without_a_static_directory_nothing_is_served() {
    let host = TestHost::sqlite(Setup::default()).await;
    for path in ["/", "/index.html", "/login"] {
        let response = host.anonymous().plain(Method::GET, path).header("accept", HTML).send().await;
        response.is_problem(404, "route_not_found", "Not Found");
    }
}
