//! `wharf plugin check`: what a deploy would say, said without a host.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::{Process, failure, home, json_of, usage, wharf, written};
use crate::plugin::liar;
use crate::support::Component;

fn check(home: &Path, file: &str, more: &[&str]) -> Output {
    wharf(home).args(["plugin", "check", file]).args(more).output().unwrap()
}

/// What the command answers for programs about a file that cannot be deployed, and the text that it says.
#[track_caller]
fn refused(home: &Path, component: &Component) -> (Value, String) {
    let file = written(home, "refused.wasm", component);
    let output = check(home, &file, &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["refused"]["stage"], error["error"]["stage"]);
    assert_eq!(answer["refused"]["reason"], error["error"]["message"]);
    (answer, failure(&check(home, &file, &[])))
}

#[test]
fn a_plugin_is_described_without_a_host() {
    let home = home();
    let file = Component::file("items");
    let file = file.to_str().unwrap();
    let answer = json_of(&check(home.path(), file, &["--json"]));
    assert_eq!(answer["refused"], Value::Null);
    assert_eq!(answer["size"].as_u64(), Some(std::fs::metadata(file).unwrap().len()));
    assert_eq!(answer["needs"], json!(["auth", "sql"]));
    assert!(answer["exports"].as_array().unwrap().contains(&json!("wharf:sql/migrations@0.1.0")));
    let declared = &answer["declared"];
    assert_eq!((&declared["name"], &declared["settings_schema"]), (&json!("items"), &Value::Null));
    assert_eq!(declared["routes"][0], json!({ "method": "GET", "path": "/", "access": "authenticated" }));
    assert_eq!(declared["migrations"].as_array().unwrap().len(), 1);

    let output = check(home.path(), file, &[]);
    assert!(output.status.success(), "{output:?}");
    let [said, hint] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(said.contains(answer["digest"].as_str().unwrap()), "{said}");
    assert!(said.contains("sql   may keep data in a database of its own"), "{said}");
    assert!(said.contains("Nothing in the file is against a deploy") && !said.contains('\u{1b}'), "{said}");
    assert!(hint.contains("--grant auth,sql"), "{hint}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is kept");
}

#[test]
fn an_undeployable_file_is_reported_with_stage_and_reason() {
    let home = home();
    let home = home.path();
    let (answer, said) = refused(home, &Component(b"rubbish".to_vec()));
    assert_eq!(answer["refused"]["code"], "invalid_component");
    assert_eq!(answer["declared"], Value::Null);
    assert!(said.contains("it is not WebAssembly") && said.contains("stage: compile"), "{said}");

    let (answer, said) = refused(home, &Component::text("(module)"));
    assert_eq!(answer["refused"]["stage"], "compile");
    assert!(said.contains("it is a core module, not a component; build it for the target wasm32-wasip2"), "{said}");

    let (answer, said) = refused(home, &Component::text("(component)"));
    assert_eq!(answer["refused"]["stage"], "describe");
    assert!(said.contains("so it is not a Wharf plugin"), "{said}");

    let crime = Component::chameleon().with_text("wharf:cache/store@0.1.0", "wharf:crime/store@0.1.0");
    let (answer, said) = refused(home, &crime);
    assert!(answer["imports"].as_array().unwrap().contains(&json!("wharf:crime/store@0.1.0")));
    assert!(said.contains("it imports 'wharf:crime/store@0.1.0', which this Wharf does not offer"), "{said}");

    let (_, said) = refused(home, &liar(json!({ "describe": "loop" })));
    assert!(said.contains("it fails when it is asked what it is"), "{said}");

    let twice = json!({ "method": "GET", "path": "/a", "access": "public", "operation": {} });
    let (answer, said) = refused(home, &liar(json!({ "routes": [twice, twice] })));
    assert_eq!((&answer["refused"]["stage"], &answer["declared"]["name"]), (&json!("conflicts"), &json!("liar")));
    assert!(said.contains("is already served"), "{said}");

    assert!(usage(&check(home, "nowhere.wasm", &[])).contains("nowhere.wasm"));
}

#[test]
fn required_settings_are_reported() {
    let home = home();
    let schema = json!({ "type": "object", "required": ["key"] }).to_string();
    let file = written(home.path(), "liar.wasm", &liar(json!({ "settings_schema": schema })));
    let answer = json_of(&check(home.path(), &file, &["--json"]));
    assert_eq!(answer["declared"]["settings_required"], true);
    assert_eq!(answer["declared"]["settings_schema"]["required"], json!(["key"]));
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
        "migrations": [["0001", "CREATE TABLE t (id INTEGER)"]],
        "settings_schema": schema,
    }));
    let file = written(process.home.path(), "next.wasm", &next);
    let command = ["plugin", "check", &file, "--against", "liar"];
    let answer = json_of(&process.command(token, &[&command[..], &["--json"]].concat()));
    let against = &answer["against"];
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
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("+ GET /api/v1/liar/more  public") && said.contains("not granted: sql"), "{said}");
    let output = process.command(token, &["plugin", "check", &file, "--against", "nobody"]);
    assert!(failure(&output).contains("There is no plugin 'nobody'"));
    assert_eq!(superuser.get("/plugins/liar").await.ok()["release"]["number"], 1, "nothing was deployed");
}
