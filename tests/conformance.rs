//! The OpenAPI document matches the host: schemathesis derives valid and invalid requests from it and checks the
//! responses. Needs Python 3 with `venv` and `pip`; without them the test is skipped with a message, except in CI.

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
