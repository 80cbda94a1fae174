//! Plugins for people. The host's answers are read leniently: what is missing is left out, what is new is ignored.

use serde_json::Value;

use super::super::terminal::Terminal;

/// A member as text; empty if it is missing.
pub(super) fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => printable(text),
        Some(other) => other.to_string(),
    }
}

/// What a plugin says of itself must not move the cursor or ring the bell of an operator's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn members<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn words(value: &Value, name: &str) -> String {
    let words: Vec<_> = members(value, name).filter_map(Value::as_str).map(printable).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// What the plugin asked for. WASI is linked into every plugin and harmless, so it is only counted.
fn imports(plugin: &Value) -> String {
    let (wasi, asked): (Vec<_>, Vec<_>) =
        members(plugin, "imports").filter_map(Value::as_str).map(printable).partition(|name| name.starts_with("wasi:"));
    let mut names = asked;
    if !wasi.is_empty() {
        names.push(format!("{} of WASI", wasi.len()));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn release(plugin: &Value) -> &Value {
    plugin.get("release").unwrap_or(&Value::Null)
}

/// What a deploy did.
pub(super) fn deployed(answer: &Value, url: &str, terminal: &Terminal) {
    let plugin = answer.get("plugin").unwrap_or(&Value::Null);
    let name = text(plugin, "name");
    let number = text(release(plugin), "number");
    let unchanged = answer.get("unchanged").and_then(Value::as_bool).unwrap_or_default();
    let replaced = answer.get("replaced").filter(|value| !value.is_null());
    terminal.line(match (unchanged, replaced) {
        (true, _) => format!("{} is live already, release {number}", terminal.bold(&name)),
        (false, Some(old)) => {
            format!(
                "{} {} release {number}, in place of release {old}",
                terminal.good("Deployed"),
                terminal.bold(&name)
            )
        }
        (false, None) => format!("{} {} release {number}", terminal.good("Deployed"), terminal.bold(&name)),
    });
    let row = |name: &str, value: String| terminal.line(format!("  {name:<8}{value}"));
    row("at", format!("{url}{}", text(plugin, "mount")));
    row("grants", words(plugin, "grants"));
    row("routes", members(plugin, "routes").count().to_string());
    for key in members(answer, "signed_by").filter_map(Value::as_str) {
        row("signed", format!("by {}", printable(key)));
    }
    for note in members(answer, "notes").filter_map(Value::as_str) {
        terminal.line(format!("  {} {}", terminal.warning("note:"), printable(note)));
    }
    terminal.hint(format!("`wharf plugin show {name}` shows its routes and permissions"));
}

/// All plugins.
pub(super) fn list(answer: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(answer, "data")
        .map(|plugin| {
            let release = release(plugin);
            [
                text(plugin, "name"),
                text(plugin, "state"),
                text(release, "version"),
                text(release, "number"),
                text(plugin, "mount"),
                words(plugin, "grants"),
            ]
        })
        .collect();
    if rows.is_empty() {
        terminal.line("Nothing is deployed");
        terminal.hint("`wharf plugin deploy FILE` deploys a component");
    } else {
        terminal.table(["NAME", "STATE", "VERSION", "RELEASE", "MOUNT", "GRANTS"], &rows);
    }
}

/// One plugin, in full.
pub(super) fn plugin(plugin: &Value, terminal: &Terminal) {
    let release = release(plugin);
    let row = |name: &str, value: String| {
        if !value.is_empty() {
            terminal.line(format!("  {name:<10}{value}"));
        }
    };
    terminal.line(format!("{} {}", terminal.bold(&text(plugin, "name")), terminal.faint(&text(plugin, "summary"))));
    row("state", text(plugin, "state"));
    row("mount", text(plugin, "mount"));
    row("version", text(release, "version"));
    row("release", text(release, "number"));
    row("deployed", [text(release, "created_at"), text(release, "created_by")].join(" ").trim().to_owned());
    row("digest", text(release, "digest"));
    row("size", release.get("size").and_then(Value::as_u64).map(|size| format!("{size} bytes")).unwrap_or_default());
    row("grants", words(plugin, "grants"));
    row("imports", imports(plugin));
    let permissions: Vec<_> = members(plugin, "permissions").map(|p| [text(p, "name"), text(p, "summary")]).collect();
    if !permissions.is_empty() {
        terminal.line("");
        terminal.table(["PERMISSION", "MEANS"], &permissions);
    }
    let routes: Vec<_> = members(plugin, "routes")
        .map(|route| [text(route, "method"), text(route, "path"), text(route, "access")])
        .collect();
    if !routes.is_empty() {
        terminal.line("");
        terminal.table(["METHOD", "PATH", "ACCESS"], &routes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_plugin_says_cannot_drive_the_terminal() {
        assert_eq!(text(&json!({ "summary": "a\u{1b}[2Jb\nc" }), "summary"), "a [2Jb c");
        assert_eq!(text(&json!({ "n": 3, "x": null }), "n"), "3");
        assert_eq!(text(&json!({}), "x"), "");
    }

    #[test]
    fn imports_of_wasi_do_not_hide_the_others() {
        let plugin = json!({ "imports": ["wasi:io/poll@0.2.6", "wharf:sql/database@0.1.0", "wasi:cli/exit@0.2.6"] });
        assert_eq!(imports(&plugin), "wharf:sql/database@0.1.0, 2 of WASI");
        assert_eq!(imports(&json!({})), "none");
    }
}
