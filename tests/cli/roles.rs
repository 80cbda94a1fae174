//! `wharf role` and `wharf user`, against a running host: from the first superuser to a second person who may deploy and
//! not read users.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use super::{failure, json_of, usage};
use crate::support::Component;
use crate::support::host::{PASSWORD, SUPERUSER};
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
    let gone = failure(&run(&["user", "show", "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11"]));
    assert!(gone.contains("code: user_not_found") && gone.contains("wharf user list"), "{gone}");
    // Neither is an account, and neither may become another path of the API.
    for text in ["", "me", "ann", "../roles"] {
        let refused = usage(&run(&["user", "deactivate", text]));
        assert!(refused.contains("is neither an email address nor the id of an account"), "{refused}");
    }

    assert!(failure(&run(&["role", "delete", "deployers"])).contains("in use by 1 account"));
    assert!(printed(&["role", "delete", "deployers", "--take"]).contains("Role 'deployers' deleted"));
    assert!(usage(&run(&["role", "edit", "operator"])).contains("nothing to change"));
    assert!(printed(&["user", "deactivate", "ann@example.com"]).contains("Deactivated"));
    assert_eq!(ann.get("/users/me").await.status, 403);
    printed(&["user", "activate", "ann@example.com"]);
    process.client().signed_in("ann@example.com", PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_invited_on_the_command_line() {
    // No mail server listens there, so the mails stay in the queue.
    let mail = [("WHARF_SMTP_URL", "smtp://127.0.0.1:9"), ("WHARF_EMAIL_FROM", "wharf@example.com")];
    let process = Process::start_with(home(), &mail).await;
    let superuser = process.superuser().await;
    let run = |arguments: &[&str]| process.command(superuser.token(), arguments);

    let invited = run(&["user", "invite", "Ann@EXAMPLE.com", "--name", "Ann", "--role", "operator"]);
    assert!(invited.status.success(), "{invited:?}");
    assert_eq!(String::from_utf8_lossy(&invited.stdout), "Invited Ann@example.com\n");
    let shown = json_of(&run(&["user", "show", "ann@example.com", "--json"]));
    assert_eq!((&shown["full_name"], &shown["roles"]), (&json!("Ann"), &json!(["member", "operator"])));
    assert_eq!(process.client().sign_in("ann@example.com", PASSWORD).await.status, 400);

    // Another mail for the same account. Roles of a later invitation are not given, and the command says so.
    let again = json_of(&run(&["user", "invite", "ann@example.com", "--role", "operator", "--json"]));
    assert_eq!(again["id"], shown["id"]);
    let refused = failure(&run(&["user", "invite", "ann@example.com", "--role", "operator,superuser"]));
    assert!(refused.contains("but not the roles superuser"), "{refused}");
    assert!(refused.contains("wharf user roles Ann@example.com --give superuser"), "{refused}");

    let taken = failure(&run(&["user", "invite", SUPERUSER]));
    assert!(taken.contains("code: email_taken") && taken.contains("wharf user show"), "{taken}");
    let unknown = failure(&run(&["user", "invite", "joe@example.com", "--role", "nothing"]));
    assert!(unknown.contains("body.roles.0: There is no such role"), "{unknown}");
    usage(&run(&["user", "invite", "joe@example.com", "--role", "Not A Name"]));
    usage(&run(&["user", "invite"]));

    // An inviter who may not read roles gets the plain outcome.
    let role = ["role", "create", "inviters", "--permission", "users:invite"];
    assert!(run(&role).status.success());
    let account = json!({ "email": "inviter@example.com", "password": PASSWORD });
    process.client().post("/users/signup", &account).await.ok();
    assert!(run(&["user", "roles", "inviter@example.com", "--give", "inviters"]).status.success());
    let inviter = process.client().signed_in("inviter@example.com", PASSWORD).await;
    let by_inviter = |arguments: &[&str]| process.command(inviter.token(), arguments);
    assert_eq!(json_of(&by_inviter(&["user", "invite", "bob@example.com", "--json"]))["email"], "bob@example.com");
    let exceeds = failure(&by_inviter(&["user", "invite", "eve@example.com", "--role", "operator"]));
    assert!(exceeds.contains("code: exceeds_own_permissions") && exceeds.contains("Ask somebody"), "{exceeds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_without_mail_names_the_settings() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let refused = failure(&process.command(superuser.token(), &["user", "invite", "ann@example.com"]));
    assert!(refused.contains("code: mail_off") && refused.contains("email.smtp_url"), "{refused}");
}
