//! Public suites check the host. The OpenAPI document matches it: schemathesis derives valid and invalid requests from
//! the document and checks the responses. REDbot checks responses against the RFCs of HTTP. Both need Python 3 with
//! `venv` and `pip`; without them the tests are skipped with a message, except in CI.

use std::path::PathBuf;

use crate::support::component::{target, workspace};
use crate::support::packages::{self, output_text};
use crate::support::{Setup, TestHost};

fn directory() -> PathBuf {
    workspace().join("tests/conformance")
}

/// Returns an interpreter, or `None` if the program cannot be installed on this machine.
async fn python(program: &'static str, requirements: &'static str) -> Option<PathBuf> {
    let install = move || packages::python(&directory().join(requirements), program);
    packages::or_skip(tokio::task::spawn_blocking(install).await.unwrap(), program)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_conforms_to_its_openapi_document() {
    let Some(python) = python("schemathesis", "requirements.txt").await else { return };
    let host = TestHost::sqlite(Setup::default().in_development().with_items()).await;
    let document = host.anonymous().url("/api/v1/openapi.json");
    let authorization = format!("Authorization: Bearer {}", host.superuser().token());
    for phases in [
        &["--phases", "examples,coverage,fuzzing"][..],
        // Each response feeds the next request: create, read, delete, read again.
        &["--phases", "stateful", "--include-tag", "items"],
    ] {
        let output = tokio::process::Command::new(&python)
            .args(["-m", "schemathesis.cli"])
            .args(["--config-file", directory().join("schemathesis.toml").to_str().unwrap()])
            .args(["run", &document, "--header", &authorization, "--no-color"])
            .args(phases)
            // It writes its files to its working directory.
            .current_dir(target())
            .output()
            .await
            .unwrap();
        let text = output_text(&output);
        assert!(output.status.success() && !text.contains("No test cases"), "{text}");
    }
    // The credentials and the plugin were valid to the end, so no check passed because they were missing.
    host.superuser().get("/items/").await.ok();
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_conform_to_the_rfcs_of_http() {
    let Some(python) = python("redbot", "redbot.txt").await else { return };
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("index.html"), "<!doctype html><title>x</title>").unwrap();
    std::fs::write(site.path().join("app.js"), "script();\n".repeat(500)).unwrap();
    let root = site.path().to_owned();
    let setup = Setup::default().with_items().with(|config| config.server.static_dir = Some(root));
    let host = TestHost::sqlite(setup).await;
    host.deploy_chameleon().await;
    let paths = [
        "/healthz",
        "/",
        "/app.js",
        "/nothing",
        "/api/v1/openapi.json",
        "/api/v1/users/me",
        "/api/v1/items/",
        "/api/v1/chameleon/echo/x",
        "/api/v1/chameleon/cached",
        "/api/v1/chameleon/page",
        "/api/v1/chameleon/status/204",
        "/api/v1/chameleon/body/100000",
    ];
    let output = tokio::process::Command::new(&python)
        .arg(directory().join("check_with_redbot.py"))
        .args(paths.map(|path| host.anonymous().url(path)))
        .output()
        .await
        .unwrap();
    let text = output_text(&output);
    let checked = text.lines().filter(|line| line.starts_with("checked ")).count();
    assert!(output.status.success() && checked == paths.len(), "{text}");
    let bad: Vec<&str> = text.lines().filter(|line| line.starts_with("bad ")).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    host.stop().await;
}
