//! The real program, end to end: started, called, signalled, killed.

mod accounts;
mod admin;
mod blocked_log;
mod cascade;
mod check;
mod crash_during_deploy;
mod email;
mod keys;
mod mail;
mod prompts;
mod release_churn;
mod releases;
mod roles;
mod shutdown_grace;
mod signature;
mod tasks;

use std::path::Path;
use std::process::Output;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Component;
use crate::support::host::{CHAMELEON, SUPERUSER};
use crate::support::polling::until;
use crate::support::process::{Process, home, wharf};
use crate::support::program::program;

#[track_caller]
fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Returns the error output of a command that was refused or failed.
#[track_caller]
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the error output of a command with invalid arguments.
#[track_caller]
fn usage(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a component to a file.
fn write_component(directory: &Path, name: &str, component: &Component) -> String {
    let file = directory.join(name);
    std::fs::write(&file, &component.0).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_deployed_listed_shown_and_removed_on_the_command_line() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let token = superuser.token();
    let file = Component::file("hello");
    let file = file.to_str().unwrap();

    let deployed = json_of(&process.command(token, &["plugin", "deploy", file, "--json"]));
    assert_eq!((&deployed["plugin"]["name"], &deployed["unchanged"]), (&json!("hello"), &json!(false)));
    process.client().get("/hello/").await.ok();

    let list = json_of(&process.command(token, &["plugin", "list", "--json"]));
    assert_eq!((&list["count"], &list["data"][0]["name"]), (&json!(1), &json!("hello")));
    let mut shown = json_of(&process.command(token, &["plugin", "show", "hello", "--json"]));
    assert_eq!(shown.as_object_mut().unwrap().shift_remove("revoked"), Some(json!([])));
    assert_eq!(shown, list["data"][0]);
    // The text output names the deployer by email address.
    let shown = process.command(token, &["plugin", "show", "hello"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&format!("by {SUPERUSER}")), "{shown:?}");

    let fate = usage(&process.command(token, &["plugin", "remove", "hello", "--yes"]));
    assert!(fate.contains("--keep-data") && fate.contains("--delete-data"), "{fate}");
    let asked = usage(&process.command(token, &["plugin", "remove", "hello", "--keep-data"]));
    assert!(asked.contains("--yes"), "there was no terminal for the prompt: {asked}");
    usage(&process.command(token, &["plugin", "remove", "hello", "--keep-data", "--delete-data", "--yes"]));
    process.client().get("/hello/").await.ok();
    let remove = ["plugin", "remove", "hello", "--keep-data", "--yes", "--json"];
    let removed = json_of(&process.command(token, &remove));
    assert_eq!(removed, json!({ "message": "Plugin 'hello' removed" }));
    process.client().get("/hello/").await.has_code(404, "plugin_removed");
    let gone = process.command(token, &["plugin", "show", "hello"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("There is no plugin 'hello'"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_grant_is_reported_with_the_flag_to_add() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let file = Component::file("items");
    let refused = process.command(superuser.token(), &["plugin", "deploy", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("The component needs capabilities that it was not granted: auth, events, sql"), "{text}");
    assert!(text.contains("--grant auth,events,sql"), "{text}");
    assert!(text.contains("sql     may store data in its own database"), "{text}");
    assert!(text.contains("stage: describe"), "{text}");
    let granted = process.command(
        superuser.token(),
        &["plugin", "deploy", file.to_str().unwrap(), "--grant", "auth,events,sql", "--json"],
    );
    assert_eq!(json_of(&granted)["plugin"]["grants"], json!(["auth", "events", "sql"]));
}

#[tokio::test]
async fn a_command_without_a_login_says_how_to_get_one() {
    let home = home();
    let output = wharf(home.path()).args(["plugin", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("wharf login"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugin_output_reaches_the_log() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    superuser.deploy(&Component::chameleon().0, CHAMELEON).await.ok();
    let response = process.client().get("/chameleon/panic").await;
    response.is_problem(502, "plugin_trap", "The plugin failed");
    let entry = until("the panic message", async || {
        process.entries().into_iter().find(|entry| {
            entry["target"] == "wharf::plugin::log" && entry.to_string().contains("the guest panics with a secret")
        })
    })
    .await;
    assert_eq!(entry["plugin"], "chameleon");
    assert_eq!(entry["request_id"].as_str(), response.header("x-request-id"));

    process.client().get("/chameleon/flood/1000").await;
    process.client().get("/chameleon/echo/x").await.ok();
    let entries = process.entries();
    let mut requests = entries.iter().filter(|entry| entry["target"] == "wharf::http::request");
    assert!(requests.all(|entry| entry["client"] == "127.0.0.1" && entry["peer"].is_string()), "{entries:?}");
    let lines: Vec<_> = entries.iter().filter(|entry| entry["message"] == "flood").collect();
    assert!((1..1000).contains(&lines.len()), "{} lines", lines.len());
    let fields = lines.iter().all(|entry| entry["fields"]["line"].is_string());
    assert!(fields, "{:?}", lines.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_is_finished_before_the_shutdown() {
    let mut process = Process::start(home()).await;
    let superuser = process.superuser().await;
    superuser.deploy(&Component::chameleon().0, CHAMELEON).await.ok();
    let slow = tokio::spawn({
        let client = process.client();
        // Long enough that the call should still run when the signal arrives. If it does not, the test checks less but
        // does not fail.
        async move { client.get("/chameleon/sleep/2000").await.status }
    });
    until("the call to begin", async || {
        process.entries().iter().any(|entry| entry["message"] == "asleep").then_some(())
    })
    .await;
    let client = process.client();
    process.signal("TERM");
    assert_eq!(slow.await.unwrap(), 204);
    assert!(process.ended().await.success());
    assert!(process.entries().iter().any(|entry| entry["message"] == "stopped"));
    assert!(client.request(Method::GET, "/chameleon/echo/x").try_send().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_not_ready_before_its_plugins_respond() {
    let home = home();
    let file = write_component(home.path(), "hello.wasm", &Component::hello());
    let process = Process::start_serving(home, &["--deploy", &file]).await;
    until("the host to be ready", async || {
        let ready = process.client().plain(Method::GET, "/readyz").send().await;
        if ready.status == 200 {
            return Some(());
        }
        ready.has_code(503, "starting");
        None
    })
    .await;
    process.client().get("/hello/you").await.ok();
}

/// The password is stored nowhere, so a start that fails afterwards must not keep it.
#[test]
fn the_first_password_is_shown_before_a_deploy_that_fails() {
    let home = home();
    std::fs::write(home.path().join("bad.wasm"), "no component").unwrap();
    let mut command = wharf(home.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--deploy", "bad.wasm"]);
    let output = command.env("WHARF_LOG_FORMAT", "json").output().unwrap();
    assert!(failure(&output).contains("bad.wasm could not be deployed"), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("admin@example.com") && shown.contains("(shown only once)"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_is_a_graceful_shutdown_however_often_it_comes() {
    let mut process = Process::start_with_signal(home(), "--default-signal=HUP").await;
    process.signal("HUP");
    process.signal("HUP");
    assert!(process.ended().await.success());
    assert!(process.entries().iter().any(|entry| entry["message"] == "stopped"), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_stays_ignored_under_nohup() {
    let mut process = Process::start_with_signal(home(), "--ignore-signal=HUP").await;
    process.signal("HUP");
    process.signal("TERM");
    assert!(process.ended().await.success(), "it was the first signal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_keeps_its_data() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    superuser.deploy(&Component::chameleon().0, CHAMELEON).await.ok();
    let token = superuser.token().to_owned();
    for text in ["one", "two"] {
        let path = format!("/chameleon/notes/{text}");
        assert_eq!(process.client().request(Method::POST, &path).send().await.status, 204);
    }
    let process = Process::start(process.kill()).await;
    assert_eq!(process.client().get("/chameleon/notes").await.ok(), json!(["one", "two"]));
    // Sessions are stored too.
    assert_eq!(process.client().with_token(token).get("/users/me").await.ok()["email"], SUPERUSER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_host_cannot_use_the_same_data_directory() {
    let process = Process::start(home()).await;
    let second = wharf(process.home.path())
        .arg("serve")
        .env("WHARF_LISTEN", "127.0.0.1:0")
        .env("WHARF_DATA_DIR", process.home.path().join("data"))
        .env("WHARF_START_TIMEOUT", "3s")
        .output()
        .unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("is in use by another wharf") && text.contains(&process.child.id().to_string()), "{text}");
    process.client().plain(Method::GET, "/healthz").send().await;
}

#[test]
fn all_configuration_errors_are_reported_at_once() {
    let home = home();
    let output = wharf(home.path())
        .args(["serve", "--listen", "nowhere"])
        .env("WHARF_SHUTDOWN_GRACE", "soon")
        .env("WHARF_PLUGIN_CONCURRENCY", "many")
        .env("WHARF_NOT_A_SETTING", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    for name in ["--listen", "WHARF_SHUTDOWN_GRACE", "WHARF_PLUGIN_CONCURRENCY", "WHARF_NOT_A_SETTING"] {
        assert!(text.contains(name), "{name} is not in: {text}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let home = home();
    let output = wharf(home.path())
        .args(["config", "show"])
        .env("WHARF_DATABASE_URL", "postgres://user:hunter2@db.example.com/app")
        .env("WHARF_SUPERUSER_EMAIL", SUPERUSER)
        .env("WHARF_SUPERUSER_PASSWORD", "hunter2hunter2")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(SUPERUSER) && !text.contains("hunter2"), "{text}");
}
