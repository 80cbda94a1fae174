//! Serving a frontend. The database makes no difference.

use reqwest::Method;
use tempfile::TempDir;

use crate::support::{Setup, TestHost, TestResponse};

const HTML: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

struct Site {
    host: TestHost,
    directory: TempDir,
}

impl Site {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("dist");
        std::fs::create_dir_all(root.join("assets")).unwrap();
        std::fs::create_dir_all(root.join("api/v1/users")).unwrap();
        std::fs::create_dir_all(root.join("about")).unwrap();
        std::fs::create_dir_all(root.join(".well-known")).unwrap();
        std::fs::write(root.join("index.html"), "<!doctype html>the page").unwrap();
        std::fs::write(root.join("about/index.html"), "<!doctype html>about").unwrap();
        std::fs::write(root.join(".well-known/security.txt"), "contact").unwrap();
        std::fs::write(root.join("assets/app.js"), "script()").unwrap();
        std::fs::write(root.join("assets/app.js.br"), "brotli").unwrap();
        std::fs::write(root.join("assets/app-3f2a9c1b.js"), "hashed()").unwrap();
        std::fs::write(root.join(".env"), "key").unwrap();
        std::fs::write(root.join("api/v1/users/me"), "not the API").unwrap();
        std::fs::write(directory.path().join("secret.txt"), "secret").unwrap();
        // The directory is a link, which a release of the frontend replaces.
        std::os::unix::fs::symlink("dist", directory.path().join("current")).unwrap();
        let current = directory.path().join("current");
        let setup = Setup::default().with_items().with(|config| config.server.static_dir = Some(current));
        Self { host: TestHost::sqlite(setup).await, directory }
    }

    async fn ask(&self, method: Method, path: &str, accept: &str) -> TestResponse {
        self.host.anonymous().plain(method, path).header("accept", accept).send().await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> TestResponse {
        let request = self.host.anonymous().plain(Method::GET, path);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send().await
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
async fn a_part_of_a_file_is_sent_by_the_letter_of_rfc_9110() {
    let site = Site::start().await;
    const FILE: &str = "/assets/app-3f2a9c1b.js";
    let whole = site.get(FILE, &[]).await;
    let etag = whole.header("etag").unwrap().to_owned();
    assert_eq!(whole.header("cache-control"), Some("public, max-age=31536000, immutable"));
    let weak = format!("W/{etag}");
    for (headers, status, content_range, text) in [
        (&[("range", "bytes=0-3")][..], 206, Some("bytes 0-3/8"), "hash"),
        (&[("range", "bytes=-100")], 206, Some("bytes 0-7/8"), "hashed()"),
        (&[("range", "bytes=0-3"), ("if-range", etag.as_str())], 206, Some("bytes 0-3/8"), "hash"),
        (&[("range", "bytes=0-3"), ("if-range", weak.as_str())], 200, None, "hashed()"),
        (&[("range", "bytes=0-3"), ("if-range", "\"other\"")], 200, None, "hashed()"),
        (&[("range", "seconds=0-3")], 200, None, "hashed()"),
        (&[("range", "bytes=0-1,4-5")], 200, None, "hashed()"),
        (&[("range", "bytes=8-")], 416, Some("bytes */8"), ""),
        (&[("range", "bytes=0-3"), ("if-none-match", weak.as_str())], 304, None, ""),
        (&[("if-match", "\"other\"")], 412, None, ""),
    ] {
        let response = site.get(FILE, headers).await;
        let seen = (response.status, response.header("content-range"), response.text());
        assert_eq!(seen, (status, content_range, text.to_owned()), "{headers:?}");
    }
    let copy = site.get("/assets/app.js", &[("accept-encoding", "br"), ("range", "bytes=2-")]).await;
    assert_eq!((copy.status, copy.header("content-encoding"), copy.text().as_str()), (206, Some("br"), "otli"));
    assert_eq!(copy.header("vary"), Some("Accept-Encoding"));
}

#[tokio::test]
async fn directories_well_known_files_and_a_replaced_link_are_served() {
    let site = Site::start().await;
    let about = site.get("/about/", &[]).await;
    assert_eq!((about.text().as_str(), about.header("cache-control")), ("<!doctype html>about", Some("no-cache")));
    let redirect = site.get("/about?a=1", &[("accept", HTML)]).await;
    assert_eq!((redirect.status, redirect.header("location")), (308, Some("/about/?a=1")));
    let contact = site.get("/.well-known/security.txt", &[]).await;
    assert_eq!(contact.header("content-type"), Some("text/plain; charset=utf-8"));
    site.get("/.well-known/other", &[("accept", HTML)]).await.is_problem(404, "route_not_found", "Not Found");

    let path = |name: &str| site.directory.path().join(name);
    std::fs::create_dir(path("v2")).unwrap();
    std::fs::write(path("v2/index.html"), "the next page").unwrap();
    std::os::unix::fs::symlink("v2", path("next")).unwrap();
    std::fs::rename(path("next"), path("current")).unwrap();
    std::fs::remove_dir_all(path("dist")).unwrap();
    assert_eq!(site.get("/login", &[("accept", HTML)]).await.text(), "the next page");
    assert_eq!(site.get("/about/", &[]).await.status, 404);
}

#[tokio::test]
async fn unknown_paths_that_are_not_page_requests_are_404() {
    let site = Site::start().await;
    for accept in ["*/*", "application/json", "text/html;q=0", "text/html; q=0.0"] {
        let missing = site.ask(Method::GET, "/login", accept).await;
        missing.is_problem(404, "route_not_found", "Not Found");
        assert!(missing.headers.get_all("vary").iter().any(|value| value == "Accept"), "{accept}");
    }
    let page = site.ask(Method::GET, "/login", HTML).await;
    assert!(page.status == 200 && page.headers.get_all("vary").iter().any(|value| value == "Accept"));
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
