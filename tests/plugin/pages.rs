//! Pages of plugins: a browser gives them an origin of their own, unless the operator grants `web`.

use std::process::Command;

use reqwest::Method;
use serde_json::json;

use crate::support::host::CHAMELEON;
use crate::support::{Component, Setup, TestHost, TestResponse};

const ISOLATED: &str = "sandbox allow-scripts allow-forms allow-popups allow-downloads";

fn is_isolated(response: &TestResponse) {
    let policies: Vec<_> = response.headers.get_all("content-security-policy").iter().collect();
    assert_eq!(policies, [ISOLATED], "{response:?}");
    assert!(!ISOLATED.contains("allow-same-origin"));
    let types: Vec<_> = response.headers.get_all("x-content-type-options").iter().collect();
    assert_eq!(types, ["nosniff"], "{response:?}");
}

#[tokio::test]
async fn every_response_of_a_plugin_is_isolated() {
    let host = TestHost::sqlite(Setup::default()).await;
    host.deploy_chameleon().await;
    let client = host.anonymous();
    for path in [
        "page",
        "echo/x",
        "status/404",
        "problem?status=404&code=x&detail=y",
        "cached",
        "cached",
        "header?name=x-content-type-options&value=none",
        "header?name=content-type&value=image/svg%2Bxml",
    ] {
        let response = client.get(&format!("/chameleon/{path}")).await;
        assert!(response.status < 500, "{path}: {response:?}");
        is_isolated(&response);
    }
    let own = client.get("/utils/health-check/").await;
    assert_eq!(own.header("content-security-policy"), Some("default-src 'none'; frame-ancestors 'none'"));
}

#[tokio::test]
async fn a_grant_makes_pages_belong_to_the_origin_of_the_host_and_says_so() {
    let host = TestHost::sqlite(Setup::default()).await;
    let deployed = host.superuser().deploy(&Component::chameleon().0, &format!("{CHAMELEON},web")).await.ok();
    let notes = deployed["notes"].to_string();
    assert!(notes.contains("grant 'web': the plugin may show pages on the origin of this host"), "{notes}");
    assert!(deployed["plugin"]["grants"].as_array().unwrap().contains(&json!("web")), "{deployed}");
    let client = host.anonymous();
    assert_eq!(client.get("/chameleon/page").await.header("content-security-policy"), None);
    let own = client.get("/chameleon/header?name=content-security-policy&value=default-src%20'self'").await;
    assert_eq!(own.header("content-security-policy"), Some("default-src 'self'"));
    let worker = client.get("/chameleon/header?name=service-worker-allowed&value=/").await;
    worker.has_code(502, "plugin_invalid_response");
    // The next release keeps the grant, and a revocation ends it.
    let again = host.superuser().deploy(&Component::chameleon().rebuilt("again").0, "").await.ok();
    assert!(again["notes"].to_string().contains("grant 'web'"), "{again}");
    host.superuser().delete("/plugins/chameleon/grants/web").await.ok();
    client.get("/chameleon/page").await.has_code(503, "plugin_revoked");
    let given = host.superuser().request(Method::PUT, "/plugins/chameleon/grants/web").send().await.ok();
    assert!(given["message"].as_str().unwrap().contains("may show pages on the origin of this host"), "{given}");
    assert_eq!(client.get("/chameleon/page").await.header("content-security-policy"), None);
}

/// Returns the headless browser of this machine, if there is one.
fn browser() -> Option<&'static str> {
    let known = ["chromium-headless-shell", "chromium", "google-chrome"];
    known.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success()))
}

/// Opens a page, and returns its content after its scripts ran.
async fn open(browser: &'static str, url: String) -> String {
    let profile = tempfile::tempdir().unwrap();
    let data = format!("--user-data-dir={}", profile.path().display());
    let options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"];
    let output = tokio::task::spawn_blocking(move || Command::new(browser).args(options).args([data, url]).output());
    let output = output.await.unwrap().unwrap();
    drop(profile);
    String::from_utf8(output.stdout).unwrap()
}

/// The frontend stores a token, and a page of a plugin on the same origin looks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_plugin_cannot_read_the_token_of_the_frontend() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium-headless-shell, chromium or google-chrome in PATH");
        return;
    };
    let frontend = tempfile::tempdir().unwrap();
    let script = "localStorage.setItem('access_token', 'hunter2'); location = '/api/v1/chameleon/page';";
    std::fs::write(frontend.path().join("index.html"), format!("<script>{script}</script>")).unwrap();
    let directory = frontend.path().to_owned();
    let host = TestHost::sqlite(Setup::default().with(|config| config.server.static_dir = Some(directory))).await;
    host.deploy_chameleon().await;
    let url = format!("http://{}/", host.addr());
    let page = open(browser, url.clone()).await;
    assert!(page.contains("origin: null") && page.contains("token: SecurityError"), "{page}");
    assert!(page.contains("worker: refused") && page.contains("api: refused"), "{page}");
    // The same page with the grant shows that the test would notice a token.
    host.superuser().deploy(&Component::chameleon().0, "grant=web").await.ok();
    let page = open(browser, url).await;
    assert!(page.contains("token: hunter2") && page.contains("api: 401"), "{page}");
}

/// The viewer of the OpenAPI document works under its policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_viewer_shows_the_routes_under_its_policy() {
    let host = TestHost::sqlite(Setup::default()).await;
    let page = host.anonymous().plain(Method::GET, "/docs").send().await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'self';") && !page.text().contains("<script>"), "{policy}");
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium-headless-shell, chromium or google-chrome in PATH");
        return;
    };
    let page = open(browser, format!("http://{}/docs", host.addr())).await;
    assert!(page.contains("/api/v1/users/signup"), "{page}");
}
