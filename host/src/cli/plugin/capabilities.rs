//! What each capability allows, in a sentence that somebody can decide by.

use serde_json::Value;

use super::super::failure::Failure;
use super::super::terminal::Terminal;

/// In the words of who has to answer for it.
const MEANINGS: &[(&str, &str)] = &[
    ("auth", "may read who is calling: account and email address, never a password or token"),
    ("cache", "may keep values for a while in a cache of its own"),
    ("config", "may read the settings that you give it"),
    ("http", "may send requests to the servers that you name in http.hosts, and to no others"),
    ("log", "may write lines to the host's log and entries to its audit log"),
    ("sql", "may keep data in a database of its own; it sees nobody else's"),
];

/// What a capability allows.
pub(super) fn meaning(capability: &str) -> &'static str {
    let found = MEANINGS.iter().find(|(name, _)| *name == capability);
    found.map_or("this command does not know it; read the host's documentation", |(_, meaning)| meaning)
}

/// Capabilities that a refused component lacks; empty if it was refused for another reason.
pub(super) fn missing(refusal: &Failure) -> Vec<String> {
    let code = |value: Option<&Value>| value.and_then(Value::as_str) == Some("grant_missing");
    if !code(refusal.members.get("code")) {
        return Vec::new();
    }
    let findings = refusal.members.get("errors").and_then(Value::as_array).into_iter().flatten();
    findings
        .filter(|finding| code(finding.get("type")))
        .filter_map(|finding| finding.get("loc").and_then(Value::as_array)?.last()?.as_str())
        .map(super::view::printable)
        .collect()
}

/// Says of each missing grant what it allows, in place of what is written for programs.
pub(super) fn explain(mut refusal: Failure) -> Failure {
    let missing = missing(&refusal);
    if !missing.is_empty() {
        refusal.details.retain(|detail| !detail.starts_with("query.grant."));
        refusal.details.splice(0..0, lines(&missing));
    }
    refusal
}

fn lines(missing: &[String]) -> impl Iterator<Item = String> {
    let width = missing.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    missing.iter().map(move |capability| format!("{capability:width$}  {}", meaning(capability)))
}

/// Shows what is asked for, and asks whether to grant it.
pub(super) fn ask(missing: &[String], terminal: &Terminal) -> Result<bool, Failure> {
    terminal.note("The component asks for more than it was granted:");
    for line in lines(missing) {
        terminal.note(format!("  {line}"));
    }
    let answer = terminal.ask("Grant it and deploy? [y/N]")?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::capability::Capabilities;

    #[test]
    fn every_capability_is_explained() {
        let offered: Vec<&str> = Capabilities::OFFERED.iter().map(|offer| offer.name).collect();
        let explained: Vec<&str> = MEANINGS.iter().map(|(name, _)| *name).collect();
        assert_eq!(offered, explained);
    }

    #[test]
    fn only_a_missing_grant_is_one() {
        let mut refusal = Failure::new("x");
        let finding = |kind: &str, name: &str| json!({ "type": kind, "loc": ["query", "grant", name], "msg": "x" });
        let errors = json!([finding("grant_missing", "sql"), finding("other", "x"), finding("grant_missing", "a\nb")]);
        refusal.members.insert("errors".to_owned(), errors);
        assert!(missing(&refusal).is_empty());
        refusal.members.insert("code".to_owned(), json!("validation_error"));
        assert!(missing(&refusal).is_empty());
        refusal.members.insert("code".to_owned(), json!("grant_missing"));
        assert_eq!(missing(&refusal), ["sql", "a b"]);
        refusal.details =
            ["query.grant.sql: 'sql' is needed and not granted", "code: grant_missing"].map(str::to_owned).into();
        let explained = explain(refusal);
        let [first, .., last] = explained.details.as_slice() else { panic!("{explained:?}") };
        assert_eq!((explained.details.len(), last.as_str()), (3, "code: grant_missing"));
        assert!(first.starts_with("sql  may keep data"), "{first}");

        let mut refusal = explained;
        refusal.members.remove("errors");
        assert!(missing(&refusal).is_empty(), "an older host names them in its text only");
    }
}
