//! Generators of clients accept the OpenAPI document, and a generated client works: the validator of OpenAPI finds
//! nothing, openapi-python-client generates a client that calls the host, and the TypeScript of openapi-typescript and
//! @hey-api/openapi-ts passes the type check. Needs Python 3 with `venv`, and Node.js with npm. Without one of them, its
//! half is skipped with a message, except in CI.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::plugin::liar;
use crate::support::component::workspace;
use crate::support::packages::{self, output_text};
use crate::support::{Component, Setup, TestHost};

fn directory() -> PathBuf {
    workspace().join("tests/generated_clients")
}

/// A plugin of another toolchain, with the forms of JSON Schema that generators refuse, and with names that other
/// plugins have too.
fn plugin_of_another_toolchain() -> Component {
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let content = |schema: Value| json!({ "content": { "application/json": { "schema": schema } } });
    liar(json!({
        "name": "foreign",
        "schemas": [
            ["Anything", "true"],
            ["Nothing", "false"],
            ["Colour", json!({ "type": "string", "enum": ["red", "green"] }).to_string()],
            // The host has another schema of this name.
            ["Message", json!({ "type": "object", "properties": { "text": true } }).to_string()],
            ["Thing", json!({
                "type": "object",
                "properties": {
                    "any": true,
                    "anything": reference("Anything"),
                    "note": { "type": "string", "default": null },
                    "count": { "type": "integer", "default": null },
                    "colour": { "$ref": "#/components/schemas/Colour", "default": null },
                    "list": { "type": "array", "items": true },
                    "maybe": { "type": ["string", "null"], "default": null },
                    "either": { "anyOf": [{ "type": "string" }, { "type": "integer" }], "default": null },
                },
                "additionalProperties": true,
            }).to_string()],
        ],
        "routes": [
            { "method": "POST", "path": "/{id}", "access": "public", "operation": {
                "tags": ["items"], "operationId": "items-read_items",
                "parameters": [
                    { "name": "id", "in": "path" },
                    { "name": "any", "in": "query", "schema": true },
                    { "name": "sort", "in": "query", "schema": { "type": "string", "default": null } },
                ],
                "requestBody": content(reference("Thing")),
                "responses": { "200": content(reference("Message")), "201": content(json!(true)) },
            } },
            { "method": "GET", "path": "/", "access": "public", "operation": {} },
        ],
    }))
}

async fn run(program: &Path, arguments: &[&str], directory: &Path, environment: &[(&str, &str)]) {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).envs(environment.iter().copied()).current_dir(directory);
    let output = command.output().await.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{} {arguments:?}:\n{}", program.display(), output_text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_clients_compile_and_call_the_host() {
    let host = TestHost::sqlite(Setup::default().in_development().with_items()).await;
    host.deploy_chameleon().await;
    host.superuser().deploy(&Component::hello().0, "").await.ok();
    host.superuser().deploy(&plugin_of_another_toolchain().0, "").await.ok();
    let document: Value = host.anonymous().get("/openapi.json").await.ok();
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("openapi.json"), document.to_string()).unwrap();
    tokio::join!(with_python(&host, work.path()), with_typescript(work.path()));
    host.stop().await;
}

async fn with_python(host: &TestHost, work: &Path) {
    let installed =
        tokio::task::spawn_blocking(|| packages::python(&directory().join("requirements.txt"), "python-clients"))
            .await
            .unwrap();
    let Some(python) = packages::or_skip(installed, "openapi-python-client") else { return };
    run(&python, &["-m", "openapi_spec_validator", "openapi.json"], work, &[]).await;
    let config = directory().join("python.yml");
    let generate = ["-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"];
    let output = ["--output-path", "wharf_client", "--fail-on-warning", "--config", config.to_str().unwrap()];
    run(&python, &[&generate[..], &output].concat(), work, &[]).await;
    let script = directory().join("call.py");
    let (url, token) = (host.anonymous().url(""), host.superuser().token());
    let environment = [("PYTHONPATH", work.to_str().unwrap()), ("WHARF_URL", url.as_str()), ("WHARF_TOKEN", token)];
    run(&python, &[script.to_str().unwrap()], work, &environment).await;
}

async fn with_typescript(work: &Path) {
    let installed = tokio::task::spawn_blocking(|| packages::npm(&directory(), "typescript-clients")).await.unwrap();
    let Some(installed) = packages::or_skip(installed, "openapi-typescript") else { return };
    // Modules are looked up next to the files that import them.
    std::os::unix::fs::symlink(installed.join("node_modules"), work.join("node_modules")).unwrap();
    for file in ["package.json", "tsconfig.json", "call.ts"] {
        std::fs::copy(directory().join(file), work.join(file)).unwrap();
    }
    let program = |name: &str| installed.join("node_modules/.bin").join(name);
    run(&program("openapi-typescript"), &["openapi.json", "--output", "schema.d.ts"], work, &[]).await;
    let generate = ["--input", "openapi.json", "--output", "client", "--silent"];
    run(&program("openapi-ts"), &generate, work, &[]).await;
    run(&program("tsc"), &["--project", "tsconfig.json"], work, &[]).await;
}
