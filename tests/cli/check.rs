//! `wharf plugin check`: reports the outcome of a deploy without a host.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::{Process, failure, home, json_of, usage, wharf, write_component};
use crate::plugin::liar;
use crate::support::Component;

fn check(home: &Path, file: &str, more: &[&str]) -> Output {
    wharf(home).args(["plugin", "check", file]).args(more).output().unwrap()
}

/// Returns the JSON output for a file that cannot be deployed, and the text output.
#[track_caller]
fn check_rejected(home: &Path, component: &Component) -> (Value, String) {
    let file = write_component(home, "refused.wasm", component);
    let output = check(home, &file, &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["refused"]["stage"], error["error"]["stage"]);
    assert_eq!(report["refused"]["reason"], error["error"]["message"]);
    (report, failure(&check(home, &file, &[])))
}

#[test]
fn a_plugin_is_described_without_a_host() {
    let home = home();
    let file = Component::file("items");
    let file = file.to_str().unwrap();
    let report = json_of(&check(home.path(), file, &["--json"]));
    assert_eq!(report["refused"], Value::Null);
    assert_eq!(report["size"].as_u64(), Some(std::fs::metadata(file).unwrap().len()));
    assert_eq!(report["needs"], json!(["auth", "events", "sql"]));
    assert!(report["exports"].as_array().unwrap().contains(&json!("wharf:sql/migrations@0.1.0")));
    let declared = &report["declared"];
    assert_eq!((&declared["name"], &declared["settings_schema"]), (&json!("items"), &Value::Null));
    assert_eq!(declared["routes"][0], json!({ "method": "GET", "path": "/", "access": "authenticated" }));
    assert_eq!(declared["migrations"].as_array().unwrap().len(), 2);

    let output = check(home.path(), file, &[]);
    assert!(output.status.success(), "{output:?}");
    let [printed, hint] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(printed.contains(report["digest"].as_str().unwrap()), "{printed}");
    assert!(printed.contains("sql     may store data in its own database"), "{printed}");
    assert!(printed.contains("The file can be deployed") && !printed.contains('\u{1b}'), "{printed}");
    assert!(hint.contains("--grant auth,events,sql"), "{hint}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "no file is left");
}

#[test]
fn an_undeployable_file_is_reported_with_stage_and_reason() {
    let home = home();
    let home = home.path();
    let (report, printed) = check_rejected(home, &Component(b"rubbish".to_vec()));
    assert_eq!(report["refused"]["code"], "invalid_component");
    assert_eq!(report["declared"], Value::Null);
    assert!(printed.contains("it is not WebAssembly") && printed.contains("stage: compile"), "{printed}");

    let (report, printed) = check_rejected(home, &Component::text("(module)"));
    assert_eq!(report["refused"]["stage"], "compile");
    assert!(
        printed.contains("it is a core module, not a component; build it for the target wasm32-wasip2"),
        "{printed}"
    );

    let (report, printed) = check_rejected(home, &Component::text("(component)"));
    assert_eq!(report["refused"]["stage"], "describe");
    assert!(printed.contains("so it is not a Wharf plugin"), "{printed}");

    let crime = Component::chameleon().with_text("wharf:cache/store@0.1.0", "wharf:crime/store@0.1.0");
    let (report, printed) = check_rejected(home, &crime);
    assert!(report["imports"].as_array().unwrap().contains(&json!("wharf:crime/store@0.1.0")));
    assert!(printed.contains("it imports 'wharf:crime/store@0.1.0', which this Wharf does not offer"), "{printed}");

    for (sql, reason) in [
        (
            "BEGIN; CREATE TABLE t (id INTEGER); COMMIT",
            "migration 0001, statement 1: a migration may not contain BEGIN",
        ),
        ("CREATE TABLE t (id INTEGER); ROLLBACK", "migration 0001, statement 2: a migration may not contain ROLLBACK"),
        ("CREATE TABLE _wharf_t (id INTEGER)", "names that begin with _wharf are reserved for the host"),
    ] {
        let (report, printed) = check_rejected(home, &liar(json!({ "migrations": [["0001", sql]] })));
        assert_eq!(
            (&report["refused"]["stage"], &report["refused"]["code"]),
            (&json!("migrate"), &json!("migration_failed"))
        );
        assert!(printed.contains(reason), "{printed}");
    }

    let (_, printed) = check_rejected(home, &liar(json!({ "describe": "loop" })));
    assert!(printed.contains("it fails when it is asked for its declaration"), "{printed}");

    let twice = json!({ "method": "GET", "path": "/a", "access": "public", "operation": {} });
    let (report, printed) = check_rejected(home, &liar(json!({ "routes": [twice, twice] })));
    assert_eq!((&report["refused"]["stage"], &report["declared"]["name"]), (&json!("conflicts"), &json!("liar")));
    assert!(printed.contains("is already served"), "{printed}");

    assert!(usage(&check(home, "nowhere.wasm", &[])).contains("nowhere.wasm"));
}

#[test]
fn required_settings_are_reported() {
    let home = home();
    let schema = json!({ "type": "object", "required": ["key"] }).to_string();
    let file = write_component(home.path(), "liar.wasm", &liar(json!({ "settings_schema": schema })));
    let report = json_of(&check(home.path(), &file, &["--json"]));
    assert_eq!(report["declared"]["settings_required"], true);
    assert_eq!(report["declared"]["settings_schema"]["required"], json!(["key"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_compared_with_the_live_release() {
    let process = Process::start(home()).await;
    let superuser = process.superuser().await;
    let token = superuser.token();
    superuser.deploy(&liar(json!({})).0, "").await.ok();
    let schema = json!({ "type": "object", "required": ["key"] }).to_string();
    let next = liar(json!({
        "version": "2.0.0",
        "routes": [
            { "method": "GET", "path": "/", "access": "superuser", "operation": {} },
            { "method": "GET", "path": "/more", "access": "public", "operation": {} },
        ],
        "migrations": [["0001", "\u{feff}CREATE TABLE t (id INTEGER);\r\n"]],
        "settings_schema": schema,
    }));
    let file = write_component(process.home.path(), "next.wasm", &next);
    let command = ["plugin", "check", &file, "--against", "liar"];
    let report = json_of(&process.command(token, &[&command[..], &["--json"]].concat()));
    let against = &report["against"];
    assert_eq!((&against["release"], &against["missing_grants"]), (&json!(1), &json!(["sql"])));
    assert!(against["settings"].as_str().unwrap().contains("key"), "{against}");
    let diff = &against["diff"];
    assert_eq!(
        diff["routes"],
        json!([
            { "name": "GET /api/v1/liar", "change": "changed", "before": "public", "after": "superuser" },
            { "name": "GET /api/v1/liar/more", "change": "added", "before": null, "after": "public" },
        ])
    );
    assert_eq!(diff["migrations"], json!([{ "name": "0001", "change": "added", "before": null, "after": null }]));
    assert_eq!(
        diff["component"][0],
        json!({ "name": "version", "change": "changed", "before": "1.0.0", "after": "2.0.0" })
    );

    let output = process.command(token, &command);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("+ GET /api/v1/liar/more  public") && printed.contains("not granted: sql"), "{printed}");
    let output = process.command(token, &["plugin", "check", &file, "--against", "nobody"]);
    assert!(failure(&output).contains("There is no plugin 'nobody'"));
    assert_eq!(superuser.get("/plugins/liar").await.ok()["release"]["number"], 1, "nothing was deployed");
}
