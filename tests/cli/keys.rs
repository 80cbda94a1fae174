//! API keys, sessions and signing keys on the command line.

use serde_json::{Value, json};

use super::{Process, failure, home, json_of, usage, wharf};
use crate::support::Component;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_deploys_with_a_key_and_may_do_nothing_else() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let token = superuser.token();
    let create = ["key", "create", "pipeline", "--permission", "plugins:deploy,plugins:read"];
    let created = process.command(token, &create);
    assert!(created.status.success(), "{created:?}");
    // The result is the key and nothing else, so that a script can store it.
    let key = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    assert!(key.starts_with("wharf_") && !key.contains(char::is_whitespace), "{key}");
    let notes = String::from_utf8(created.stderr).unwrap();
    assert!(!notes.contains(&key) && notes.contains("cannot be shown again"), "{notes}");

    let file = Component::file("hello");
    let deployed = process.command(&key, &["plugin", "deploy", file.to_str().unwrap(), "--json"]);
    assert_eq!(json_of(&deployed)["plugin"]["name"], "hello");
    let removed = process.command(&key, &["plugin", "remove", "hello", "--keep-data", "--yes"]);
    let refused = failure(&removed);
    assert!(refused.contains("code: forbidden") && refused.contains("permission: plugins:remove"), "{refused}");
    // A key has no session, and the command names the way out.
    let refused = failure(&process.command(&key, &create));
    assert!(refused.contains("code: needs_session") && refused.contains("wharf login"), "{refused}");
    let widened = ["key", "create", "x", "--permission", "users:fly"];
    assert!(failure(&process.command(token, &widened)).contains("validation_error"));

    let never = ["key", "create", "machine", "--permission", "metrics:read", "--nobody", "--expires-in", "never"];
    let nobodys = json_of(&process.command(token, &[&never[..], &["--json"]].concat()));
    assert_eq!((&nobodys["owner"], &nobodys["expires_at"]), (&Value::Null, &Value::Null));
    let own = json_of(&process.command(token, &["key", "list", "--json"]));
    assert_eq!((&own["count"], &own["data"][0]["name"]), (&json!(1), &json!("pipeline")));
    let listed = process.command(token, &["key", "list", "--all"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("machine") && listed.contains("nobody") && listed.contains("plugins:deploy"), "{listed}");

    let id = own["data"][0]["id"].as_str().unwrap();
    json_of(&process.command(token, &["key", "revoke", id, "--json"]));
    assert!(failure(&process.command(&key, &["plugin", "list"])).contains("code: invalid_token"));
    let other = nobodys["id"].as_str().unwrap();
    assert!(failure(&process.command(token, &["key", "revoke", other])).contains("key_not_found"));
    json_of(&process.command(token, &["key", "revoke", other, "--any", "--json"]));
    usage(&process.command(token, &["key", "create", "x"]));
    usage(&process.command(token, &["key", "create", "x", "--permission", "users:read", "--expires-in", "soon"]));

    // Nothing of a key reaches the log.
    let secret = key.rsplit('_').next().unwrap();
    assert!(!process.log().contains(secret), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_signing_keys_are_ended_on_the_command_line() {
    let process = Process::start(home()).await;
    let (superuser, other) = (process.superuser().await, process.superuser().await);
    let token = superuser.token();
    let listed = json_of(&process.command(token, &["session", "list", "--json"]));
    assert_eq!(listed["count"], 2);
    let printed = process.command(token, &["session", "list"]);
    assert!(String::from_utf8(printed.stdout).unwrap().contains("current"));
    usage(&process.command(token, &["session", "end"]));
    json_of(&process.command(token, &["session", "end", "--all", "--json"]));
    assert_eq!(other.get("/users/me").await.status, 401);
    superuser.get("/users/me").await.ok();

    let account = json!({ "email": "jane@example.com", "password": "correct horse" });
    let jane = process.client().post("/users/signup", &account).await.ok();
    let jane_id = jane["id"].as_str().unwrap();
    let jane = process.client().signed_in("jane@example.com", "correct horse").await;
    let of_jane = json_of(&process.command(token, &["session", "list", "--user", jane_id, "--json"]));
    let session = of_jane["data"][0]["id"].as_str().unwrap();
    let refused = process.command(jane.token(), &["session", "end", session, "--user", jane_id]);
    assert!(failure(&refused).contains("code: forbidden"), "{refused:?}");
    // An address names the account, too.
    let by_address = json_of(&process.command(token, &["session", "list", "--user", "Jane@EXAMPLE.com", "--json"]));
    assert_eq!(by_address, of_jane);
    let nobody = failure(&process.command(token, &["session", "list", "--user", "nobody@example.com"]));
    assert!(nobody.contains("no account has the address"), "{nobody}");
    assert!(usage(&process.command(token, &["session", "end", "--all", "--user", ""])).contains("neither an email"));
    superuser.get("/users/me").await.ok();
    json_of(&process.command(token, &["session", "end", session, "--user", "jane@example.com", "--json"]));
    assert_eq!(jane.get("/users/me").await.status, 401);
    // Without the permission to read accounts, an id names one.
    let role = json!({ "name": "watchers", "permissions": ["sessions:read"] });
    superuser.post("/roles/", &role).await.ok();
    superuser.put(&format!("/users/{jane_id}/roles"), &json!({ "roles": ["watchers"] })).await.ok();
    let jane = process.client().signed_in("jane@example.com", "correct horse").await;
    json_of(&process.command(jane.token(), &["session", "list", "--user", jane_id, "--json"]));
    let refused = process.command(jane.token(), &["session", "list", "--user", "jane@example.com"]);
    assert!(failure(&refused).contains("code: forbidden"), "{refused:?}");

    let rotated = json_of(&process.command(token, &["keys", "rotate", "--json"]));
    assert_eq!(rotated["data"][0]["state"], "published");
    let printed = process.command(token, &["keys", "list"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("published") && printed.contains("signs"), "{printed}");
    // Without a terminal, a revocation needs --yes.
    usage(&process.command(token, &["keys", "rotate", "--revoke-old"]));
    json_of(&process.command(token, &["keys", "rotate", "--revoke-old", "--yes", "--json"]));
    let refused = failure(&process.command(token, &["keys", "list"]));
    assert!(refused.contains("code: invalid_token") && refused.contains("wharf login"), "{refused}");
    let help = wharf(process.home.path()).args(["keys", "--help"]).output().unwrap();
    assert!(help.status.success(), "{help:?}");
}
