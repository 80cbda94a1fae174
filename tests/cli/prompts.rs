//! What the program asks a person, on a terminal that util-linux's `script` makes; skipped where that is not installed.

#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{Process, home, program, wharf};
use crate::support::Component;

/// What appears on the terminal of a command whose questions are answered by these lines; none without `script`.
fn answered(process: &Process, token: &str, arguments: &str, answers: &str) -> Option<String> {
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
    // Kept open until the end: its end would end the terminal.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(answers.as_bytes()).unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    Some(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_grant_is_explained_and_given_after_confirmation() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let file = Component::file("items");
    let deploy = format!("plugin deploy {}", file.display());
    let ask = |arguments: &str, answers: &str| answered(&process, superuser.token(), arguments, answers);
    let Some(said) = ask(&deploy, "n\n") else { return };
    assert!(said.contains("auth  may read who is calling") && said.contains("sql   may keep data"), "{said}");
    assert!(said.contains("nothing was deployed"), "{said}");
    let said = ask(&format!("{deploy} --yes"), "y\n").unwrap();
    assert!(said.contains("--grant auth,sql") && !said.contains("[y/N]"), "{said}");
    superuser.get("/plugins/items").await.has_code(404, "plugin_not_found");

    let said = ask(&deploy, "y\n").unwrap();
    assert!(said.contains("Deployed") && said.contains("\u{1b}["), "{said}");
    assert_eq!(superuser.get("/plugins/items").await.ok()["grants"], json!(["auth", "sql"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_asks_whether_to_delete_the_data() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    superuser.deploy(&Component::hello().0, "").await.ok();
    let ask = |answers: &str| answered(&process, superuser.token(), "plugin remove hello", answers);
    let Some(said) = ask("perhaps\n") else { return };
    assert!(said.contains("nothing was removed"), "{said}");
    assert!(ask("delete\nother\n").unwrap().contains("nothing was removed"));
    superuser.get("/plugins/hello").await.ok();
    let said = ask("keep\nhello\n").unwrap();
    assert!(said.contains("Plugin 'hello' removed") && said.contains("Its data stay"), "{said}");
    superuser.get("/plugins/hello").await.has_code(404, "plugin_not_found");
}
