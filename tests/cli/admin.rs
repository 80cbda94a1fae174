//! `wharf admin`: repairs of accounts while the host is stopped.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::{failure, json_of, usage};
use crate::support::authenticator::Authenticator;
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::process::{Process, home, wharf};

/// Runs `wharf admin` in the home directory of a host, with a line on standard input.
fn admin(home: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = wharf(home);
    command.env("WHARF_DATA_DIR", home.join("data")).arg("admin").args(arguments).arg("--json");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_who_is_locked_out_repairs_accounts_on_the_machine() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let running = failure(&admin(process.home.path(), &["reset-password", SUPERUSER], ""));
    assert!(running.contains("is in use by a running wharf; stop it first"), "{running}");
    superuser.get("/users/me").await.ok();
    // It never creates a database: it would be in another directory than that of the host.
    let elsewhere = home();
    let wrong = failure(&admin(elsewhere.path(), &["create-superuser", "x@example.com"], ""));
    assert!(wrong.contains("has no database of a host") && wrong.contains("--data-dir"), "{wrong}");
    assert!(!elsewhere.path().join("data").exists());
    let home = process.stopped().await;

    // A generated password is shown once, and one from standard input is not shown.
    let reset = json_of(&admin(home.path(), &["reset-password", "Admin@EXAMPLE.com"], ""));
    let generated = reset["password"].as_str().unwrap().to_owned();
    assert_eq!(reset["email"], SUPERUSER);
    let unknown = failure(&admin(home.path(), &["reset-password", "nobody@example.com"], ""));
    assert!(unknown.contains("No account has this email address") && unknown.contains("create-superuser"), "{unknown}");
    let short = usage(&admin(home.path(), &["create-superuser", "x@example.com", "--password-stdin"], "short\n"));
    assert!(short.contains("the password must have"), "{short}");
    let created =
        admin(home.path(), &["create-superuser", "second@example.com", "--password-stdin"], "from the terminal\n");
    assert_eq!(json_of(&created)["password"], Value::Null);

    let process = Process::start(home).await;
    // The configured password is not that of the account, and the log tells how to change it.
    let hint = "auth.superuser_password (WHARF_SUPERUSER_PASSWORD) is ignored";
    assert!(process.log().contains(hint) && process.log().contains("wharf admin reset-password"), "{}", process.log());
    assert_eq!(process.client().sign_in(SUPERUSER, PASSWORD).await.status, 400);
    process.client().with_token(superuser.token()).get("/users/me").await.has_code(401, "invalid_token");
    let first = process.client().signed_in(SUPERUSER, &generated).await;
    let second = process.client().signed_in("second@example.com", "from the terminal").await;
    assert_eq!(second.get("/users/me").await.ok()["is_superuser"], true);

    // The audit log names the terminal, and contains no password.
    let list = process.command(first.token(), &["audit", "list"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    let of_terminal = text.lines().filter(|line| line.contains("the terminal")).collect::<Vec<_>>();
    assert!(of_terminal.len() == 2 && of_terminal[0].contains("user.create"), "{text}");
    let exported = process.command(first.token(), &["audit", "export"]);
    let lines = String::from_utf8_lossy(&exported.stdout).into_owned();
    let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries[0]["action"], "user.create", "the oldest entry comes first");
    for secret in [generated.as_str(), "from the terminal", PASSWORD] {
        assert!(!lines.contains(secret) && !process.log().contains(secret), "{secret}");
    }
    let verified = json_of(&process.command(first.token(), &["audit", "verify", "--json"]));
    assert_eq!(verified["valid"], true);

    // A superuser who lost the authenticator app, and an ordinary account that becomes a superuser.
    let begun = second.post("/users/me/factors/totp", &json!({})).await.ok();
    let app = Authenticator::new(begun["secret"].as_str().unwrap());
    second.post("/users/me/factors/totp/verify", &json!({ "code": app.code_now() })).await.ok();
    let sign_in = process.client().sign_in("second@example.com", "from the terminal").await;
    sign_in.has_code(403, "second_factor_required");
    let ann = json!({ "email": "ann@example.com", "password": PASSWORD });
    process.client().post("/users/signup", &ann).await.ok();
    let before = process.client().signed_in("ann@example.com", PASSWORD).await;
    let home = process.stopped().await;
    json_of(&admin(home.path(), &["disable-mfa", "second@example.com"], ""));
    let none = failure(&admin(home.path(), &["disable-mfa", "second@example.com"], ""));
    assert!(none.contains("The account has no such factor"), "{none}");
    let kept = json_of(&admin(home.path(), &["create-superuser", "second@example.com"], ""));
    assert_eq!(kept["password"], Value::Null, "a superuser keeps the password");
    let promoted = json_of(&admin(home.path(), &["create-superuser", "ann@example.com"], ""));
    let new_password = promoted["password"].as_str().unwrap();
    let process = Process::start(home).await;
    process.client().signed_in("second@example.com", "from the terminal").await;
    // A stranger may have registered the account that became a superuser.
    assert_eq!(process.client().sign_in("ann@example.com", PASSWORD).await.status, 400);
    process.client().with_token(before.token()).get("/users/me").await.has_code(401, "invalid_token");
    let ann = process.client().signed_in("ann@example.com", new_password).await;
    assert_eq!(ann.get("/users/me").await.ok()["is_superuser"], true);
}
