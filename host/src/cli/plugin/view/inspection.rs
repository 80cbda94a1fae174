//! The output of `wharf plugin check`: a file that is not deployed yet.

use serde_json::Value;

use super::super::capabilities::meaning;
use super::{bytes, imports, members, messages, permissions, printable, routes, text, words};
use crate::cli::terminal::Terminal;

/// Prints the description of a file.
pub(in crate::cli::plugin) fn inspection(inspection: &Value, terminal: &Terminal) {
    let declared = inspection.get("declared").filter(|declared| !declared.is_null());
    let title = declared.map(|declared| [text(declared, "name"), text(declared, "version")].join(" "));
    let summary = declared.map(|declared| text(declared, "summary")).unwrap_or_default();
    let title = title.unwrap_or_else(|| "Not a deployable plugin".to_owned());
    terminal.line(format!("{} {}", terminal.bold(&title), terminal.faint(&summary)).trim_end());
    let row = |name: &str, value: &str| terminal.line(format!("  {name:<12}{value}"));
    row("digest", &text(inspection, "digest"));
    row("size", &bytes(inspection.get("size")));
    let known = ["imports", "exports"].into_iter().any(|list| members(inspection, list).next().is_some());
    if known {
        row("imports", &imports(inspection));
        row("exports", &words(inspection, "exports"));
    }
    let needs: Vec<&str> = members(inspection, "needs").filter_map(Value::as_str).collect();
    let width = needs.iter().map(|need| need.chars().count()).max().unwrap_or_default();
    for (index, need) in needs.iter().enumerate() {
        row(if index == 0 { "needs" } else { "" }, &format!("{need:width$}  {}", meaning(need)));
    }
    for parameter in members(inspection, "needs_parameters").filter_map(Value::as_str) {
        row("", &printable(parameter));
    }
    if let Some(declared) = declared {
        if needs.is_empty() {
            row("needs", "no capability");
        }
        row("migrations", &words(declared, "migrations"));
        row("settings", settings(declared));
        permissions(declared, terminal);
        routes(declared, terminal);
        messages(declared, terminal);
    }
    if inspection.get("refused").is_none_or(Value::is_null) {
        terminal.line("");
        terminal.line(terminal.good("The file can be deployed"));
    }
}

fn settings(declared: &Value) -> &'static str {
    let takes = declared.get("settings_schema").is_some_and(|schema| !schema.is_null());
    let required = declared.get("settings_required").and_then(Value::as_bool).unwrap_or_default();
    match (takes, required) {
        (false, _) => "none",
        (true, false) => "optional (--settings FILE)",
        (true, true) => "required (--settings FILE)",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_none_optional_or_required() {
        assert_eq!(settings(&json!({ "settings_schema": null })), "none");
        assert_eq!(settings(&json!({ "settings_schema": {} })), "optional (--settings FILE)");
        assert_eq!(
            settings(&json!({ "settings_schema": {}, "settings_required": true })),
            "required (--settings FILE)"
        );
    }
}
