//! The meaning of each capability, for an operator who must decide on a grant.

use serde_json::Value;

use crate::capability::Capabilities;
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;

/// Returns the meaning of a capability, or of the capability of a parameter such as `events.hear=items.created`.
pub(super) fn meaning(grant: &str) -> &'static str {
    let capability = grant.split('.').next().unwrap_or_default();
    let found = Capabilities::OFFERED.iter().find(|offer| offer.name == capability);
    found.map_or("unknown to this command; see the host's documentation", |offer| offer.meaning)
}

/// Returns the grants that a refused component lacks; none if it was refused for another reason.
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

/// Replaces the findings on missing grants, which are written for programs, by the meaning of each capability.
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

/// Lists the missing grants and asks whether to add them.
pub(super) fn ask(missing: &[String], terminal: &Terminal) -> Result<bool, Failure> {
    terminal.note("The component needs capabilities that are not granted:");
    for line in lines(missing) {
        terminal.note(format!("  {line}"));
    }
    let answer = terminal.ask("Grant them and deploy? [y/N]")?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_parameter_has_the_meaning_of_its_capability() {
        assert_eq!(meaning("events.hear=items.*"), meaning("events"));
        assert_ne!(meaning("events"), meaning("unknown"));
    }

    #[test]
    fn only_findings_of_a_missing_grant_are_listed() {
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
        assert!(first.starts_with("sql  may store data"), "{first}");

        let mut refusal = explained;
        refusal.members.remove("errors");
        assert!(missing(&refusal).is_empty(), "an older host names them in its text only");
    }
}
