//! The prompts of the program on a terminal, created by util-linux's `script`. Skipped where `script` is not installed.

#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{Process, home, program, wharf};
use crate::support::Component;

/// Returns the terminal output of a command whose prompts get these lines as input, or `None` without `script`.
fn run_with_input(process: &Process, token: &str, arguments: &str, input: &str) -> Option<String> {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `script`");
        return None;
    }
    let plain = wharf(process.home.path());
    let mut script = Command::new("script");
    script.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("SHELL", "/bin/sh");
    script.env("WHARF_URL", format!("http://{}", process.addr)).env("WHARF_TOKEN", token);
    script.args(["-qec", &format!("{} {arguments}", program().display()), "/dev/null"]);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Kept open until the end: closing it would close the terminal.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    child.wait().unwrap();
    Some(printed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_grant_is_explained_and_given_after_confirmation() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let file = Component::file("items");
    let deploy = format!("plugin deploy {}", file.display());
    let ask = |arguments: &str, input: &str| run_with_input(&process, superuser.token(), arguments, input);
    let Some(printed) = ask(&deploy, "n\n") else { return };
    assert!(printed.contains("auth    may read the caller") && printed.contains("sql     may store data"), "{printed}");
    assert!(printed.contains("nothing was deployed"), "{printed}");
    let printed = ask(&format!("{deploy} --yes"), "y\n").unwrap();
    assert!(printed.contains("--grant auth,events,sql") && !printed.contains("[y/N]"), "{printed}");
    superuser.get("/plugins/items").await.has_code(404, "plugin_not_found");

    let printed = ask(&deploy, "y\n").unwrap();
    assert!(printed.contains("Deployed") && printed.contains("\u{1b}["), "{printed}");
    assert_eq!(superuser.get("/plugins/items").await.ok()["grants"], json!(["auth", "events", "sql"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_asks_whether_to_delete_the_data() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    superuser.deploy(&Component::hello().0, "").await.ok();
    let ask = |input: &str| run_with_input(&process, superuser.token(), "plugin remove hello", input);
    let Some(printed) = ask("perhaps\n") else { return };
    assert!(printed.contains("nothing was removed"), "{printed}");
    assert!(ask("delete\nother\n").unwrap().contains("nothing was removed"));
    superuser.get("/plugins/hello").await.ok();
    let printed = ask("keep\nhello\n").unwrap();
    assert!(printed.contains("Plugin 'hello' removed") && printed.contains("Its data are kept"), "{printed}");
    superuser.get("/plugins/hello").await.has_code(404, "plugin_not_found");
}
