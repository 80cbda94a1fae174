//! The built frontend, where the operator has one served.

use reqwest::Method;

use crate::support::host::Setup;
use crate::support::{Answer, TestHost};

const INDEX: &str = "<!doctype html><title>Frontend</title>";
const HTML: &str = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";

async fn host() -> (TestHost, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("dist")).unwrap();
    std::fs::create_dir(directory.path().join("dist/assets")).unwrap();
    std::fs::write(directory.path().join("dist/index.html"), INDEX).unwrap();
    std::fs::write(directory.path().join("dist/assets/app.js"), "let x;").unwrap();
    std::fs::write(directory.path().join("dist/.env"), "SECRET").unwrap();
    std::fs::write(directory.path().join("secret.txt"), "SECRET").unwrap();
    std::os::unix::fs::symlink("../secret.txt", directory.path().join("dist/link.txt")).unwrap();
    let dist = directory.path().join("dist");
    (TestHost::sqlite(Setup::default().with(|config| config.server.static_dir = Some(dist))).await, directory)
}

async fn get(host: &TestHost, path: &str, accept: &str) -> Answer {
    host.anonymous().plain(Method::GET, path).header("accept", accept).send().await
}

#[tokio::test]
async fn files_are_served_as_they_are() {
    let (host, _directory) = host().await;
    let script = get(&host, "/assets/app.js", "*/*").await;
    assert_eq!((script.status, script.text().as_str()), (200, "let x;"));
    assert!(script.header("content-type").unwrap().contains("javascript"));
    assert_eq!(script.header("x-content-type-options"), Some("nosniff"));
    let head = host.anonymous().plain(Method::HEAD, "/assets/app.js").send().await;
    assert_eq!((head.status, head.bytes.len()), (200, 0));
    let page = get(&host, "/", "*/*").await;
    assert_eq!((page.status, page.text().as_str()), (200, INDEX));
    host.stop().await;
}

#[tokio::test]
async fn pages_of_the_frontend_fall_back_to_its_index() {
    let (host, _directory) = host().await;
    for path in
        ["/login", "/signup", "/recover-password", "/reset-password?token=x", "/items", "/admin", "/settings", "/a/b/"]
    {
        let page = get(&host, path, HTML).await;
        assert_eq!((page.status, page.text().as_str()), (200, INDEX), "{path}");
        get(&host, path, "*/*").await.is_problem(404, "route_not_found", "Not Found");
        get(&host, path, "text/html;q=0, */*").await.is_problem(404, "route_not_found", "Not Found");
    }
    host.stop().await;
}

#[tokio::test]
async fn the_api_is_never_a_page() {
    let (host, _directory) = host().await;
    for path in ["/api/v1/nothing", "/api/nothing", "/api/v1/items/"] {
        get(&host, path, HTML).await.is_problem(404, "route_not_found", "Not Found");
    }
    get(&host, "/api/v1/users/me", HTML).await.has_code(401, "not_authenticated");
    host.stop().await;
}

#[tokio::test]
async fn files_are_only_read() {
    let (host, _directory) = host().await;
    host.anonymous().plain(Method::POST, "/assets/app.js").send().await.has_code(405, "method_not_allowed");
    host.anonymous().plain(Method::POST, "/nothing").send().await.has_code(404, "route_not_found");
    host.stop().await;
}

#[tokio::test]
async fn nothing_outside_the_directory_and_nothing_hidden_is_served() {
    let (host, _directory) = host().await;
    for path in [
        "/.env",
        "/%2eenv",
        "/link.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/assets%2f..%2f..%2fsecret.txt",
        "//etc/passwd",
        "/%00",
        "/assets/",
    ] {
        let answer = get(&host, path, "*/*").await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.text().contains("SECRET"));
    }
    host.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_missing_refuses_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = wharf::config::Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.data_dir = directory.path().join("data");
    config.server.static_dir = Some(directory.path().join("missing"));
    let error = wharf::app::App::start(config, wharf::app::Ambient::default()).await.err().unwrap();
    assert!(error.report().contains("missing"), "{}", error.report());
}
