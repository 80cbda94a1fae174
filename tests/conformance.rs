//! The OpenAPI document matches the host: schemathesis derives valid and invalid requests from it and checks the
//! responses. Needs Python 3 with `venv` and `pip`; without them the test is skipped with a message, except in CI.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::component::{target, workspace};
use crate::support::{Setup, TestHost};

fn directory() -> PathBuf {
    workspace().join("tests/conformance")
}

fn run(program: &Path, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(output) } else { Err(output_text(&output)) }
}

fn output_text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns a Python interpreter with schemathesis, installed into the target directory once per version. It is run as a
/// module, because its scripts contain the installation path and do not survive a clone that is moved.
fn schemathesis() -> Result<PathBuf, String> {
    let requirements = directory().join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).unwrap();
    let environment = target().join("schemathesis");
    let python = environment.join("bin/python");
    let installed = environment.join("installed.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    run(Path::new("python3"), &["-m", "venv", "--clear", environment.to_str().unwrap()])?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "10", "--timeout", "60"];
    let pip = [&pip[..], &["-r", requirements.to_str().unwrap()]].concat();
    run(&python, &pip)?;
    // Written last, so that an interrupted installation starts again.
    std::fs::write(&installed, wanted).unwrap();
    Ok(python)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_conforms_to_its_openapi_document() {
    let python = match tokio::task::spawn_blocking(schemathesis).await.unwrap() {
        Ok(python) => python,
        Err(reason) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "schemathesis cannot be installed: {reason}");
            eprintln!("skipped: schemathesis cannot be installed: {reason}");
            return;
        }
    };
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
