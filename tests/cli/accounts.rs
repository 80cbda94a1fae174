//! `wharf user import` and `wharf user export`: accounts come with their passwords, and can leave with them.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::{Value, json};

use super::{failure, json_of};
use crate::support::host::SUPERUSER;
use crate::support::process::{home, wharf};
use crate::support::{TestHost, both};

both!(accounts_come_with_their_passwords_and_leave_with_them);

/// `correct horse`, as Django stores it.
const DJANGO: &str = "pbkdf2_sha256$1000$Xk3pQ9sLw2Zb$5KPEaZFGhf9DOLr0jLyjuoiST1HyU3Su7smJRWwpySk=";

async fn accounts_come_with_their_passwords_and_leave_with_them(host: &TestHost) {
    let home = home();
    let run = |arguments: &[&str]| -> Output {
        let mut command = wharf(home.path());
        command.arg("user").args(arguments).env("WHARF_DATA_DIR", &host.config().server.data_dir);
        if let Some(database) = host.database() {
            command.env("WHARF_DATABASE_URL", &database.url);
        }
        command.output().unwrap()
    };
    let file = home.path().join("accounts.jsonl");
    let path = file.to_str().unwrap();
    let jane = json!({ "email": "Jane@EXAMPLE.com", "password": DJANGO, "name": "Jane", "is_superuser": true });
    let refused = json!({ "email": "john@example.com", "password": "hunter2" });
    std::fs::write(&file, format!("{jane}\n{refused}\n")).unwrap();

    // A dry run adds nothing.
    let checked = failure(&run(&["import", path, "--dry-run"]));
    assert!(
        checked.contains("line 2: password_hash: has an unknown format") && !checked.contains("hunter2"),
        "{checked}"
    );
    assert_eq!(host.anonymous().sign_in("jane@example.com", "correct horse").await.status, 400);

    // The host runs meanwhile, and the account can sign in at once.
    assert!(failure(&run(&["import", path])).contains("1 line was refused"));
    std::fs::write(&file, format!("{jane}\n")).unwrap();
    let again = json_of(&run(&["import", path, "--json"]));
    assert_eq!((&again["imported"], &again["existing"]), (&json!(0), &json!(1)));
    let checked = json_of(&run(&["import", path, "--dry-run", "--json"]));
    assert_eq!(checked, again, "a dry run tells what exists already");
    assert_eq!(host.anonymous().sign_in("jane@example.com", "wrong").await.status, 400);
    let me = host.anonymous().signed_in("jane@example.com", "correct horse").await.get("/users/me").await.ok();
    assert_eq!((&me["email"], &me["full_name"]), (&json!("Jane@example.com"), &json!("Jane")));
    assert_eq!(me["is_superuser"], false, "only --superusers imports superusers");

    let exported = run(&["export"]);
    assert!(exported.status.success(), "{exported:?}");
    let lines: Vec<Value> =
        String::from_utf8(exported.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |email: &str| lines.iter().find(|line| line["email"] == email).unwrap();
    assert_eq!((lines.len(), &of(SUPERUSER)["is_superuser"]), (2, &json!(true)));
    // The sign-in has replaced the hash of the other system.
    let hash = of("Jane@example.com")["password_hash"].as_str().unwrap();
    assert!(hash.starts_with("$argon2id$"), "{hash}");

    let output = home.path().join("export.jsonl");
    let written = json_of(&run(&["export", "--output", output.to_str().unwrap(), "--json"]));
    assert_eq!(written["exported"], 2);
    assert_eq!(output.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(failure(&run(&["export", "--output", output.to_str().unwrap()])).contains("exists"));
}
