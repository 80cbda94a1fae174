//! `wharf role` and `wharf user`, against a running host: from the first superuser to a second person who may deploy and
//! not read users.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use super::{failure, json_of, usage};
use crate::support::Component;
use crate::support::host::PASSWORD;
use crate::support::process::{Process, home, wharf};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_person_may_deploy_and_not_read_users() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let root = superuser.token();
    let run = |arguments: &[&str]| process.command(root, arguments);
    let printed = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };

    assert!(printed(&["role", "list"]).contains("superuser"));
    let permissions = printed(&["role", "permissions"]);
    assert!(permissions.contains("plugins:deploy") && permissions.contains("users:read"), "{permissions}");
    let create = ["role", "create", "deployers", "--description", "Deploy", "--permission", "plugins:deploy"];
    assert!(printed(&create).contains("plugins:deploy"));
    assert!(failure(&run(&create)).contains("There is a role 'deployers' already"));

    let mut command = wharf(process.home.path());
    command.env("WHARF_URL", format!("http://{}", process.addr)).env("WHARF_TOKEN", root);
    command.args(["user", "create", "ann@example.com", "--name", "Ann", "--role", "deployers", "--password-stdin"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    let created = child.wait_with_output().unwrap();
    assert!(created.status.success(), "{created:?}");
    assert!(!String::from_utf8_lossy(&created.stdout).contains(PASSWORD));
    assert!(usage(&run(&["user", "create", "bob@example.com"])).contains("--password-stdin"));

    let ann = process.client().signed_in("ann@example.com", PASSWORD).await;
    let by_ann = |arguments: &[&str]| process.command(ann.token(), arguments);
    let file = Component::file("hello");
    let file = file.to_str().unwrap();
    assert_eq!(json_of(&by_ann(&["plugin", "deploy", file, "--json"]))["plugin"]["name"], "hello");
    assert!(failure(&by_ann(&["user", "list"])).contains("forbidden"));
    assert!(failure(&by_ann(&["plugin", "list"])).contains("forbidden"));
    assert!(printed(&["role", "edit", "deployers", "--add", "plugins:read"]).contains("plugins:deploy, plugins:read"));
    json_of(&by_ann(&["plugin", "list", "--json"]));

    let shown = json_of(&run(&["user", "show", "Ann@EXAMPLE.com", "--json"]));
    assert_eq!((&shown["full_name"], &shown["roles"]), (&json!("Ann"), &json!(["deployers", "member"])));
    assert!(printed(&["user", "list"]).contains("ann@example.com"));
    let roles = printed(&["user", "roles", "ann@example.com", "--give", "operator", "--take", "member"]);
    assert_eq!(roles, "deployers\noperator\n");
    assert!(usage(&run(&["user", "roles", "ann@example.com", "--take", "member"])).contains("does not have the role"));
    assert!(failure(&run(&["user", "show", "nobody@example.com"])).contains("no account has the address"));

    assert!(failure(&run(&["role", "delete", "deployers"])).contains("in use by 1 account"));
    assert!(printed(&["role", "delete", "deployers", "--take"]).contains("Role 'deployers' deleted"));
    assert!(usage(&run(&["role", "edit", "operator"])).contains("nothing to change"));
    assert!(printed(&["user", "deactivate", "ann@example.com"]).contains("Deactivated"));
    assert_eq!(ann.get("/users/me").await.status, 403);
    printed(&["user", "activate", "ann@example.com"]);
    process.client().signed_in("ann@example.com", PASSWORD).await;
}
