//! Releases on the command line: compared, rolled back, run as a canary, paused, and without a grant.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Process, failure, home, json_of, usage, write_component};
use crate::plugin::liar;
use crate::support::patience::patience;

/// A host with two releases of a liar; the second is live.
struct Releases {
    process: Process,
    token: String,
}

fn first() -> Value {
    json!({ "migrations": [["0001", "CREATE TABLE t (id INTEGER)"]] })
}

fn second() -> Value {
    json!({
        "version": "1.1.0",
        "answer": "two",
        "permissions": [["read", "Reads"]],
        "routes": [
            { "method": "GET", "path": "/", "access": "public", "operation": {} },
            { "method": "GET", "path": "/more", "access": "read", "operation": {} },
        ],
        "migrations": [["0001", "CREATE TABLE t (id INTEGER)"]],
    })
}

impl Releases {
    async fn start() -> Self {
        let process = Process::start(home()).await;
        let token = process.superuser().await.token().to_owned();
        let releases = Self { process, token };
        releases.deploy(first(), &["--grant", "sql"]);
        releases.deploy(second(), &[]);
        releases
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.process.command(&self.token, &[&["plugin"], arguments].concat())
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        json_of(&self.run(&[arguments, &["--json"]].concat()))
    }

    /// Returns the text output of a successful command, and checks that it contains no colour codes without a terminal.
    #[track_caller]
    fn printed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(!printed.contains('\u{1b}'), "{printed}");
        printed
    }

    #[track_caller]
    fn deploy(&self, declaration: Value, more: &[&str]) -> Value {
        let file = write_component(self.process.home.path(), "liar.wasm", &liar(declaration));
        self.json(&[&["deploy", &file], more].concat())
    }

    async fn response_text(&self) -> String {
        self.process.client().get("/liar/").await.text()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_are_listed_compared_and_rolled_back() {
    let releases = Releases::start().await;
    let listed = releases.json(&["releases", "liar"]);
    assert_eq!((&listed["live"], &listed["on_trial"], &listed["count"]), (&json!(2), &Value::Null, &json!(2)));
    let printed = releases.printed(&["releases", "liar"]);
    let live = printed.lines().find(|line| line.contains("live")).unwrap();
    assert!(live.starts_with("2 ") && live.contains("1.1.0") && live.ends_with("admin@example.com"), "{printed}");

    let diff = releases.json(&["diff", "liar", "1", "2"]);
    let more = json!({ "name": "GET /api/v1/liar/more", "change": "added", "before": null,
        "after": "permission read" });
    assert_eq!(diff["routes"], json!([more]));
    let read = json!({ "name": "read", "change": "added", "before": null, "after": "Reads" });
    assert_eq!((&diff["permissions"], &diff["grants"], &diff["migrations"]), (&json!([read]), &json!([]), &json!([])));
    let printed = releases.printed(&["diff", "liar", "2", "1"]);
    assert!(printed.contains("- GET /api/v1/liar/more  permission read"), "{printed}");
    assert!(printed.contains("~ version  1.1.0 → 1.0.0"), "{printed}");
    assert!(releases.printed(&["diff", "liar", "1", "1"]).contains("nothing differs"));
    assert!(failure(&releases.run(&["diff", "liar", "1", "9"])).contains("no release 9"));

    assert_eq!(releases.response_text().await, "two");
    let back = releases.json(&["rollback", "liar"]);
    assert_eq!((&back["release"]["number"], releases.response_text().await.as_str()), (&json!(1), "one"));
    let printed = releases.printed(&["rollback", "liar", "--to", "2"]);
    assert!(printed.contains("Rolled back liar: release 2 (1.1.0) is live"), "{printed}");
    assert_eq!(releases.response_text().await, "two");
    assert!(failure(&releases.run(&["rollback", "liar", "--to", "2"])).contains("is already the live one"));
    assert!(failure(&releases.run(&["rollback", "liar", "--to", "9"])).contains("wharf plugin releases"));
    usage(&releases.run(&["rollback", "liar", "--to", "0"]));

    let history = releases.json(&["history", "liar"]);
    let actions: Vec<&str> =
        history["data"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["rollback", "rollback", "deploy", "deploy"]);
    let printed = releases.printed(&["history", "liar", "--limit", "1"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    for word in ["rollback", "admin@example.com", "success", "1 → 2"] {
        assert!(lines[1].contains(word), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_release_runs_next_to_the_live_one() {
    let releases = Releases::start().await;
    let schema = json!({ "properties": { "key": { "type": "string" } } }).to_string();
    let third = json!({
        "version": "1.2.0", "answer": "three", "migrations": first()["migrations"], "settings_schema": &schema,
    });
    let file = write_component(releases.process.home.path(), "third.wasm", &liar(third.clone()));
    usage(&releases.run(&["deploy", &file, "--hold", "1h"]));
    assert!(failure(&releases.run(&["deploy", &file, "--canary", "some"])).contains("query.canary"));

    let settings = releases.process.home.path().join("settings.json");
    std::fs::write(&settings, r#"{ "key": "hunter2 }"#).unwrap();
    let settings = settings.to_str().unwrap();
    let broken = usage(&releases.run(&["deploy", &file, "--settings", settings]));
    assert!(broken.contains("not JSON, at line 1") && !broken.contains("hunter2"), "{broken}");
    std::fs::write(settings, r#"{ "key": "hunter2" }"#).unwrap();
    let output = releases.run(&["deploy", &file, "--canary", "header", "--settings", settings]);
    let [printed, hint] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(printed.contains("liar release 3 is a canary next to release 2"), "{printed}");
    assert!(printed.contains("compile ") && printed.contains(" ms"), "{printed}");
    assert!(hint.contains("wharf plugin promote liar") && hint.contains("wharf plugin abort liar"), "{hint}");
    assert_eq!(releases.response_text().await, "two");
    let client = releases.process.superuser().await;
    let tried = client.request(Method::GET, "/liar/").header("x-wharf-canary", "always").send().await;
    assert_eq!(tried.text(), "three");

    let compared = releases.json(&["canary", "liar"]);
    let calls = |release: &str| compared["comparison"][release]["calls"].clone();
    assert_eq!((calls("live"), calls("candidate")), (json!(1), json!(1)));
    let printed = releases.printed(&["canary", "liar"]);
    assert!(printed.contains("LIVE 2") && printed.contains("CANARY 3") && printed.contains('█'), "{printed}");
    assert!(printed.contains("only requests of superusers with X-Wharf-Canary: always"), "{printed}");
    assert!(releases.printed(&["releases", "liar"]).lines().any(|line| line.contains("canary")));
    assert!(releases.printed(&["show", "liar"]).contains("canary    release 3"));

    let release = releases.process.superuser().await.get("/plugins/liar/releases/3").await.ok();
    assert_eq!(release["settings"], json!({ "key": "hunter2" }));
    let printed = releases.printed(&["promote", "liar"]);
    assert!(printed.contains("Promoted liar: release 3 (1.2.0) is live"), "{printed}");
    assert_eq!(releases.response_text().await, "three");

    // The settings carry over, so the next release takes some too.
    let mut fourth = first();
    fourth["settings_schema"] = schema.into();
    let trial = releases.deploy(fourth, &["--canary", "10%,100%", "--hold", "1h", "--minimum", "7"]);
    assert_eq!((&trial["on_trial"], &trial["replaced"]), (&json!(true), &json!(3)));
    let canary = &trial["plugin"]["canary"];
    assert_eq!(
        (&canary["steps"], &canary["hold_ms"], &canary["minimum"]),
        (&json!([10.0, 100.0]), &json!(3_600_000), &json!(7))
    );
    assert!(releases.printed(&["canary", "liar"]).contains("[10%] → 100%, each for at least 1h"));
    assert_eq!(releases.json(&["abort", "liar"]), json!({ "message": "The canary of 'liar' was aborted" }));
    assert!(failure(&releases.run(&["abort", "liar"])).contains("No release of 'liar' is on trial"));
    assert!(failure(&releases.run(&["canary", "liar"])).contains("No release of 'liar' is on trial"));
    assert_eq!(releases.response_text().await, "three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_paused_and_loses_a_grant() {
    let releases = Releases::start().await;
    let client = releases.process.client();
    let mut third = second();
    third["answer"] = json!("three");
    assert_eq!(releases.json(&["pause", "liar"])["state"], "paused");
    client.get("/liar/").await.has_code(503, "plugin_paused");
    assert!(failure(&releases.run(&["pause", "liar"])).contains("is already paused"));
    let file = write_component(releases.process.home.path(), "liar.wasm", &liar(third));
    for deployed in ["Deployed liar release 3, in place of release 2", "liar has this already, release 3"] {
        let output = releases.run(&["deploy", &file]);
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains(deployed) && printed.contains("liar stays paused"), "{printed}");
        let hints = String::from_utf8(output.stderr).unwrap();
        assert!(hints.contains("wharf plugin resume liar"), "{hints}");
    }
    client.get("/liar/").await.has_code(503, "plugin_paused");
    assert!(releases.printed(&["resume", "liar"]).contains("Resumed liar: release 3 (1.1.0) is live"));
    assert_eq!(releases.response_text().await, "three");

    let taken = releases.json(&["revoke", "liar", "sql"]);
    assert_eq!(taken, json!({ "message": "The grant 'sql' of 'liar' was revoked" }));
    client.get("/liar/").await.has_code(503, "plugin_revoked");
    assert!(releases.printed(&["list"]).contains("revoked"));
    assert!(failure(&releases.run(&["revoke", "liar", "a/../b"])).contains("does not have the grant 'a/../b'"));
    assert!(releases.printed(&["grant", "liar", "sql"]).contains("'liar' has the grant 'sql' again"));
    assert_eq!(releases.response_text().await, "three");
    assert!(releases.printed(&["history", "liar"]).contains("revoke sql"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_deploy_names_its_stage() {
    let releases = Releases::start().await;
    let broken = json!({ "migrations": [["0001", "CREATE TABLE t (id INTEGER)"], ["0002", "NONSENSE"]] });
    let file = write_component(releases.process.home.path(), "broken.wasm", &liar(broken));
    assert!(failure(&releases.run(&["deploy", &file])).contains("stage: migrate"));
    let output = releases.run(&["deploy", &file, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["error"]["stage"], &error["error"]["code"]), (&json!("migrate"), &json!("migration_failed")));
    // A request that is refused before the deploy begins has no stage.
    let nobody = releases.process.command("nonsense", &["plugin", "deploy", &file]);
    let printed = failure(&nobody);
    assert!(printed.contains("wharf login") && !printed.contains("stage"), "{printed}");
    assert_eq!(releases.response_text().await, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_removal_says_whether_the_data_is_deleted() {
    let releases = Releases::start().await;
    let removed = json!({ "message": "Plugin 'liar' removed" });
    assert_eq!(releases.json(&["remove", "liar", "--keep-data", "--yes"]), removed);
    assert!(releases.printed(&["history", "liar"]).contains("data kept"));
    let listed = releases.json(&["releases", "liar"]);
    assert_eq!((&listed["live"], &listed["count"]), (&Value::Null, &json!(2)));
    // The data can be deleted later.
    assert_eq!(releases.json(&["remove", "liar", "--delete-data", "--yes"]), removed);
    assert!(releases.printed(&["history", "liar"]).contains("data deleted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_of_a_grant_are_changed_shown_and_compared() {
    let releases = Releases::start().await;
    let printed = releases.printed(&["grant", "liar", "sql.rows=5", "sql.time=2s"]);
    assert!(printed.contains("'liar' has the grant 'sql' with these parameters from release 3 on"), "{printed}");
    assert!(releases.printed(&["show", "liar"]).contains("sql, sql.rows=5, sql.time=2s"));
    releases.printed(&["grant", "liar", "sql.rows=6", "sql.time=default"]);
    let printed = releases.printed(&["diff", "liar", "3", "4"]);
    assert!(printed.contains("~ sql.rows  5 → 6") && printed.contains("- sql.time  2s"), "{printed}");
    let file = write_component(releases.process.home.path(), "same.wasm", &liar(second()));
    assert!(releases.printed(&["check", &file, "--against", "liar"]).contains("nothing differs"));

    let refused = failure(&releases.run(&["grant", "liar", "sql.row=5"]));
    assert!(refused.contains("'sql' has no parameter 'row'; it has rows, bytes, time, connections, disk"), "{refused}");
    assert!(usage(&releases.run(&["grant", "liar", "sql.rows=5", "cache"])).contains("one capability at a time"));
    releases.printed(&["revoke", "liar", "sql"]);
    assert!(releases.printed(&["show", "liar"]).contains("revoked   sql"));
    assert!(releases.printed(&["check", &file, "--against", "liar"]).contains("not granted: sql"));
    releases.printed(&["grant", "liar", "sql"]);
    assert_eq!(releases.response_text().await, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_shown_changed_and_compared() {
    let releases = Releases::start().await;
    let printed = releases.printed(&["limits", "liar"]);
    let row = |printed: &str, name: &str| {
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(&printed, "deadline"), ["deadline", &patience(), "host", "-", "-", "0"]);
    assert_eq!(row(&printed, "sql.rows"), ["sql.rows", "10000", "host", "-", "-", "0"]);
    let printed = releases.printed(&["limits", "liar", "memory=128MiB", "deadline=5s"]);
    assert!(printed.contains("'liar' has these limits from release 3 on"), "{printed}");
    let limits = releases.json(&["limits", "liar"]);
    let memory = limits["data"].as_array().unwrap().iter().find(|limit| limit["name"] == "memory").unwrap();
    assert_eq!((&memory["value"], &memory["own"]), (&json!("128MiB"), &json!(true)));
    let printed = releases.printed(&["diff", "liar", "2", "3"]);
    assert!(printed.contains("+ deadline  5s") && printed.contains("+ memory  128MiB"), "{printed}");
    let deployed = releases.deploy(first(), &["--limit", "deadline=6s,host_calls=7"]);
    assert_eq!(deployed["plugin"]["release"]["number"], 4);
    assert_eq!(row(&releases.printed(&["limits", "liar"]), "deadline")[..3], ["deadline", "6s", "plugin"]);

    assert!(failure(&releases.run(&["limits", "liar", "memry=1MiB"])).contains("there is no limit 'memry'"));
    assert!(usage(&releases.run(&["limits", "liar", "sql.rows=5"])).contains("wharf plugin grant liar sql.rows=5"));
}
