//! `wharf email`: templates of an operator.

use super::{failure, json_of};
use crate::support::process::{home, wharf};
use serde_json::json;

#[test]
fn an_operator_exports_changes_and_previews_the_templates_of_mails() {
    let home = home();
    let run = |arguments: &[&str]| {
        let directory = home.path().join("mails");
        let mut command = wharf(home.path());
        if directory.exists() && arguments.first() != Some(&"export") {
            command.env("WHARF_EMAIL_TEMPLATES_DIR", directory);
        }
        command.arg("email").args(arguments).output().unwrap()
    };
    let built_in = json_of(&run(&["preview", "recovery", "--json"]));
    assert_eq!(built_in["subject"], "Wharf - Password recovery for user jane@example.com");
    assert!(built_in["html"].as_str().unwrap().contains("/reset-password?token=SAMPLE-TOKEN"), "{built_in}");

    let exported = json_of(&run(&["export", "mails", "--json"]));
    assert_eq!(exported["written"].as_array().unwrap().len(), 28, "{exported}");
    assert_eq!(json_of(&run(&["preview", "recovery", "--json"])), built_in, "the exported templates are the same");

    let file = home.path().join("mails/recovery.txt");
    std::fs::write(&file, "Bonjour {{ username }}: {{ link }}").unwrap();
    let again = json_of(&run(&["export", "mails", "--json"]));
    assert_eq!((&again["written"], again["kept"].as_array().unwrap().len()), (&json!([]), 28));
    let text = String::from_utf8(run(&["preview", "recovery"]).stdout).unwrap();
    assert!(text.contains("To: jane@example.com\n") && text.contains("Bonjour jane@example.com: http"), "{text}");
    let html = String::from_utf8(run(&["preview", "recovery", "--html"]).stdout).unwrap();
    assert!(html.starts_with("<!doctype html>"), "{html}");
    let listed = String::from_utf8(run(&["list"]).stdout).unwrap();
    assert!(listed.contains("recovery.txt") && listed.contains("address_changed"), "{listed}");

    std::fs::write(&file, "Bonjour {{ usrname }}: {{ link }}").unwrap();
    assert!(failure(&run(&["preview", "recovery"])).contains("recovery.txt:1"));
}
