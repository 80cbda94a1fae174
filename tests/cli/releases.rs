//! Releases on the command line: compared, gone back to, tried beside one another, paused, and without a grant.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Process, failure, home, json_of, usage, written};
use crate::plugin::liar;

/// A host with two releases of a liar, the second of which is live.
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

    /// What a command says to people that succeeds: never a colour where there is no terminal.
    #[track_caller]
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(!said.contains('\u{1b}'), "{said}");
        said
    }

    #[track_caller]
    fn deploy(&self, declaration: Value, more: &[&str]) -> Value {
        let file = written(self.process.home.path(), "liar.wasm", &liar(declaration));
        self.json(&[&["deploy", &file], more].concat())
    }

    async fn answer(&self) -> String {
        self.process.client().get("/liar/").await.text()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_are_listed_compared_and_rolled_back() {
    let releases = Releases::start().await;
    let listed = releases.json(&["releases", "liar"]);
    assert_eq!((&listed["live"], &listed["on_trial"], &listed["count"]), (&json!(2), &Value::Null, &json!(2)));
    let said = releases.said(&["releases", "liar"]);
    let live = said.lines().find(|line| line.contains("live")).unwrap();
    assert!(live.starts_with("2 ") && live.contains("1.1.0") && live.ends_with("admin@example.com"), "{said}");

    let diff = releases.json(&["diff", "liar", "1", "2"]);
    let more = json!({ "name": "GET /api/v1/liar/more", "change": "added", "before": null,
        "after": "permission read" });
    assert_eq!(diff["routes"], json!([more]));
    let read = json!({ "name": "read", "change": "added", "before": null, "after": "Reads" });
    assert_eq!((&diff["permissions"], &diff["grants"], &diff["migrations"]), (&json!([read]), &json!([]), &json!([])));
    let said = releases.said(&["diff", "liar", "2", "1"]);
    assert!(said.contains("- GET /api/v1/liar/more  permission read"), "{said}");
    assert!(said.contains("~ version  1.1.0 → 1.0.0"), "{said}");
    assert!(releases.said(&["diff", "liar", "1", "1"]).contains("nothing differs"));
    assert!(failure(&releases.run(&["diff", "liar", "1", "9"])).contains("no release 9"));

    assert_eq!(releases.answer().await, "two");
    let back = releases.json(&["rollback", "liar"]);
    assert_eq!((&back["release"]["number"], releases.answer().await.as_str()), (&json!(1), "one"));
    let said = releases.said(&["rollback", "liar", "--to", "2"]);
    assert!(said.contains("Rolled back liar: release 2 (1.1.0) is live"), "{said}");
    assert_eq!(releases.answer().await, "two");
    assert!(failure(&releases.run(&["rollback", "liar", "--to", "2"])).contains("is the live one already"));
    assert!(failure(&releases.run(&["rollback", "liar", "--to", "9"])).contains("wharf plugin releases"));
    usage(&releases.run(&["rollback", "liar", "--to", "0"]));

    let history = releases.json(&["history", "liar"]);
    let actions: Vec<&str> =
        history["data"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["rollback", "rollback", "deploy", "deploy"]);
    let said = releases.said(&["history", "liar", "--limit", "1"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for word in ["rollback", "admin@example.com", "success", "1 → 2"] {
        assert!(lines[1].contains(word), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_release_runs_next_to_the_live_one() {
    let releases = Releases::start().await;
    let third = json!({ "version": "1.2.0", "answer": "three", "migrations": first()["migrations"] });
    let file = written(releases.process.home.path(), "third.wasm", &liar(third.clone()));
    usage(&releases.run(&["deploy", &file, "--hold", "1h"]));
    assert!(failure(&releases.run(&["deploy", &file, "--canary", "some"])).contains("query.canary"));

    let output = releases.run(&["deploy", &file, "--canary", "header"]);
    let [said, hint] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(said.contains("liar release 3 is on trial beside release 2"), "{said}");
    assert!(said.contains("compile ") && said.contains(" ms"), "{said}");
    assert!(hint.contains("wharf plugin promote liar") && hint.contains("wharf plugin abort liar"), "{hint}");
    assert_eq!(releases.answer().await, "two");
    let client = releases.process.client();
    let tried = client.request(Method::GET, "/liar/").header("x-wharf-canary", "always").send().await;
    assert_eq!(tried.text(), "three");

    let compared = releases.json(&["canary", "liar"]);
    let calls = |release: &str| compared["comparison"][release]["calls"].clone();
    assert_eq!((calls("live"), calls("candidate")), (json!(1), json!(1)));
    let said = releases.said(&["canary", "liar"]);
    assert!(said.contains("LIVE 2") && said.contains("TRIAL 3") && said.contains('█'), "{said}");
    assert!(said.contains("only who asks with X-Wharf-Canary: always"), "{said}");
    assert!(releases.said(&["releases", "liar"]).lines().any(|line| line.contains("on trial")));
    assert!(releases.said(&["show", "liar"]).contains("on trial"));

    let said = releases.said(&["promote", "liar"]);
    assert!(said.contains("Promoted liar: release 3 (1.2.0) is live"), "{said}");
    assert_eq!(releases.answer().await, "three");

    let trial = releases.deploy(first(), &["--canary", "10%,100%", "--hold", "1h", "--minimum", "7"]);
    assert_eq!((&trial["on_trial"], &trial["replaced"]), (&json!(true), &json!(3)));
    let canary = &trial["plugin"]["canary"];
    assert_eq!(
        (&canary["steps"], &canary["hold_ms"], &canary["minimum"]),
        (&json!([10.0, 100.0]), &json!(3_600_000), &json!(7))
    );
    assert!(releases.said(&["canary", "liar"]).contains("[10%] → 100%, each for at least 1h"));
    assert_eq!(releases.json(&["abort", "liar"]), json!({ "message": "The trial of 'liar' has ended" }));
    assert!(failure(&releases.run(&["abort", "liar"])).contains("No release of 'liar' is on trial"));
    assert!(failure(&releases.run(&["canary", "liar"])).contains("No release of 'liar' is on trial"));
    assert_eq!(releases.answer().await, "three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_paused_and_loses_a_grant() {
    let releases = Releases::start().await;
    let client = releases.process.client();
    assert_eq!(releases.json(&["pause", "liar"])["state"], "paused");
    client.get("/liar/").await.has_code(503, "plugin_paused");
    assert!(failure(&releases.run(&["pause", "liar"])).contains("is paused already"));
    assert!(releases.said(&["resume", "liar"]).contains("Resumed liar: release 2 (1.1.0) is live"));
    assert_eq!(releases.answer().await, "two");

    let taken = releases.json(&["revoke", "liar", "sql"]);
    assert_eq!(taken, json!({ "message": "The grant 'sql' was taken back from 'liar'" }));
    client.get("/liar/").await.has_code(503, "plugin_revoked");
    assert!(releases.said(&["list"]).contains("revoked"));
    assert!(failure(&releases.run(&["revoke", "liar", "a/../b"])).contains("does not have the grant 'a/../b'"));
    assert!(releases.said(&["grant", "liar", "sql"]).contains("'liar' has the grant 'sql' again"));
    assert_eq!(releases.answer().await, "two");
    assert!(releases.said(&["history", "liar"]).contains("revoke sql"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_deploy_names_its_stage() {
    let releases = Releases::start().await;
    let broken = json!({ "migrations": [["0001", "CREATE TABLE t (id INTEGER)"], ["0002", "NONSENSE"]] });
    let file = written(releases.process.home.path(), "broken.wasm", &liar(broken));
    assert!(failure(&releases.run(&["deploy", &file])).contains("stage: migrate"));
    let output = releases.run(&["deploy", &file, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["error"]["stage"], &error["error"]["code"]), (&json!("migrate"), &json!("migration_failed")));
    // Before a deploy begins there is no stage.
    let nobody = releases.process.command("nonsense", &["plugin", "deploy", &file]);
    let said = failure(&nobody);
    assert!(said.contains("wharf login") && !said.contains("stage"), "{said}");
    assert_eq!(releases.answer().await, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_removal_says_whether_the_data_is_deleted() {
    let releases = Releases::start().await;
    let removed = json!({ "message": "Plugin 'liar' removed" });
    assert_eq!(releases.json(&["remove", "liar", "--keep-data", "--yes"]), removed);
    assert!(releases.said(&["history", "liar"]).contains("data kept"));
    let listed = releases.json(&["releases", "liar"]);
    assert_eq!((&listed["live"], &listed["count"]), (&Value::Null, &json!(2)));
    // The data alone can go later.
    assert_eq!(releases.json(&["remove", "liar", "--delete-data", "--yes"]), removed);
    assert!(releases.said(&["history", "liar"]).contains("data deleted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_of_a_grant_are_changed_shown_and_compared() {
    let releases = Releases::start().await;
    let said = releases.said(&["grant", "liar", "sql.rows=5", "sql.time=2s"]);
    assert!(said.contains("'liar' has the grant 'sql' with these bounds from release 3 on"), "{said}");
    assert!(releases.said(&["show", "liar"]).contains("sql, sql.rows=5, sql.time=2s"));
    releases.said(&["grant", "liar", "sql.rows=6", "sql.time=default"]);
    let said = releases.said(&["diff", "liar", "3", "4"]);
    assert!(said.contains("~ sql.rows  5 → 6") && said.contains("- sql.time  2s"), "{said}");
    let file = written(releases.process.home.path(), "same.wasm", &liar(second()));
    assert!(releases.said(&["check", &file, "--against", "liar"]).contains("nothing differs"));

    let refused = failure(&releases.run(&["grant", "liar", "sql.row=5"]));
    assert!(refused.contains("'sql' has no parameter 'row'; it has rows, bytes, time, connections, disk"), "{refused}");
    assert!(usage(&releases.run(&["grant", "liar", "sql.rows=5", "cache"])).contains("one capability at a time"));
    releases.said(&["revoke", "liar", "sql"]);
    assert!(releases.said(&["show", "liar"]).contains("revoked   sql"));
    assert!(releases.said(&["check", &file, "--against", "liar"]).contains("not granted: sql"));
    releases.said(&["grant", "liar", "sql"]);
    assert_eq!(releases.answer().await, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_shown_changed_and_compared() {
    let releases = Releases::start().await;
    let said = releases.said(&["limits", "liar"]);
    let row = |said: &str, name: &str| {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(&said, "deadline"), ["deadline", "10s", "host", "-", "-", "0"]);
    assert_eq!(row(&said, "sql.rows"), ["sql.rows", "10000", "host", "-", "-", "0"]);
    let said = releases.said(&["limits", "liar", "memory=128MiB", "deadline=5s"]);
    assert!(said.contains("'liar' has these limits from release 3 on"), "{said}");
    let limits = releases.json(&["limits", "liar"]);
    let memory = limits["data"].as_array().unwrap().iter().find(|limit| limit["name"] == "memory").unwrap();
    assert_eq!((&memory["value"], &memory["own"]), (&json!("128MiB"), &json!(true)));
    let said = releases.said(&["diff", "liar", "2", "3"]);
    assert!(said.contains("+ deadline  5s") && said.contains("+ memory  128MiB"), "{said}");
    let deployed = releases.deploy(first(), &["--limit", "deadline=6s,host_calls=7"]);
    assert_eq!(deployed["plugin"]["release"]["number"], 4);
    assert_eq!(row(&releases.said(&["limits", "liar"]), "deadline")[..3], ["deadline", "6s", "plugin"]);

    assert!(failure(&releases.run(&["limits", "liar", "memry=1MiB"])).contains("there is no limit 'memry'"));
    assert!(usage(&releases.run(&["limits", "liar", "sql.rows=5"])).contains("wharf plugin grant liar sql.rows=5"));
}
