//! Plugins for people. The host's answers are read leniently: what is missing is left out, what is new is ignored.

pub(super) mod history;
pub(super) mod inspection;
pub(super) mod trial;

use serde_json::{Map, Value};

use super::super::terminal::Terminal;

/// Digits of a digest that tell releases apart.
pub(super) const SHORT: usize = 12;

/// A member as text; empty if it is missing.
pub(super) fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => printable(text),
        Some(other) => other.to_string(),
    }
}

/// What a plugin says of itself must not move the cursor or ring the bell of an operator's terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) fn members<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// A list of texts, or of things with a name.
fn words(value: &Value, name: &str) -> String {
    let word = |item: &Value| item.as_str().or_else(|| item.get("name")?.as_str()).map(printable);
    let words: Vec<_> = members(value, name).filter_map(word).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// A size.
fn bytes(size: Option<&Value>) -> String {
    size.and_then(Value::as_u64).map(|size| format!("{size} bytes")).unwrap_or_default()
}

/// What nobody did.
const HOST: &str = "the host";

/// An account by its address, where that is known.
fn who(account: &str, people: &Map<String, Value>) -> String {
    let email = people.get(account).and_then(Value::as_str).filter(|email| !email.is_empty()).map(printable);
    email.unwrap_or_else(|| if account.is_empty() { HOST.to_owned() } else { account.to_owned() })
}

/// A moment to the second.
fn moment(text: &str) -> String {
    text.get(..19).unwrap_or(text).replacen('T', " ", 1)
}

/// How long the stages took that took a while: `compile 134 ms · migrate 3 ms`.
fn stages(answer: &Value) -> String {
    let stages = members(answer, "stages").filter_map(|passed| {
        let micros = passed.get("micros").and_then(Value::as_f64).filter(|micros| *micros >= 500.0)?;
        Some(format!("{} {:.0} ms", text(passed, "stage"), micros / 1_000.0))
    });
    stages.collect::<Vec<_>>().join(" · ")
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
    let on_trial = answer.get("on_trial").and_then(Value::as_bool).unwrap_or_default();
    terminal.line(match (unchanged, replaced) {
        (false, Some(live)) if on_trial => {
            format!("{} release {number} is on trial beside release {live}", terminal.bold(&name))
        }
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
    for key in members(release(plugin), "signed_by").filter_map(Value::as_str) {
        row("signed", format!("by {}", printable(key)));
    }
    let share = canary(plugin);
    if on_trial && !share.is_empty() {
        row("share", share);
    }
    let took = stages(answer);
    if !took.is_empty() {
        row("took", took);
    }
    for note in members(answer, "notes").filter_map(Value::as_str) {
        terminal.line(format!("  {} {}", terminal.warning("note:"), printable(note)));
    }
    if on_trial {
        terminal.hint(format!("`wharf plugin canary {name}` compares the two"));
        terminal
            .hint(format!("`wharf plugin promote {name}` makes it the live one, `wharf plugin abort {name}` ends it"));
    } else {
        terminal.hint(format!("`wharf plugin show {name}` shows its routes and permissions"));
    }
}

/// What an operation left: the plugin as it is then.
pub(super) fn now(plugin: &Value, done: &str, terminal: &Terminal) {
    let (name, release) = (text(plugin, "name"), release(plugin));
    let (number, version) = (text(release, "number"), text(release, "version"));
    let state = text(plugin, "state");
    terminal.line(format!("{} {}: release {number} ({version}) is {state}", terminal.good(done), terminal.bold(&name)));
}

/// The share of callers that the release on trial has.
fn canary(plugin: &Value) -> String {
    let percent = plugin.pointer("/canary/percent").and_then(Value::as_f64);
    percent.map(trial::share).unwrap_or_default()
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
pub(super) fn plugin(plugin: &Value, people: &Map<String, Value>, terminal: &Terminal) {
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
    let on_trial = plugin.pointer("/canary/release").map(|number| format!("release {number}, {}", canary(plugin)));
    row("on trial", on_trial.unwrap_or_default());
    row(
        "deployed",
        format!("{} by {}", moment(&text(release, "created_at")), who(&text(release, "created_by"), people)),
    );
    row("digest", text(release, "digest"));
    row("size", bytes(release.get("size")));
    for key in members(release, "signed_by").filter_map(Value::as_str) {
        row("signed by", printable(key));
    }
    row("grants", words(plugin, "grants"));
    if members(plugin, "revoked").next().is_some() {
        row("revoked", words(plugin, "revoked"));
    }
    row("imports", imports(plugin));
    permissions(plugin, terminal);
    routes(plugin, terminal);
}

fn permissions(plugin: &Value, terminal: &Terminal) {
    let permissions: Vec<_> = members(plugin, "permissions").map(|p| [text(p, "name"), text(p, "summary")]).collect();
    if !permissions.is_empty() {
        terminal.line("");
        terminal.table(["PERMISSION", "MEANS"], &permissions);
    }
}

fn routes(plugin: &Value, terminal: &Terminal) {
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
    fn stages_that_took_no_time_are_not_told() {
        let passed = |stage: &str, micros: u64| json!({ "stage": stage, "micros": micros });
        let stages_of = |list: Value| stages(&json!({ "stages": list }));
        let list =
            json!([passed("check", 80), passed("compile", 134_400), passed("migrate", 2_500), passed("swap", 700)]);
        assert_eq!(stages_of(list), "compile 134 ms · migrate 2 ms · swap 1 ms");
        assert_eq!(stages_of(json!([passed("check", 80)])), "");
        assert_eq!(stages(&json!({})), "");
    }

    #[test]
    fn a_moment_is_read_to_the_second() {
        assert_eq!(moment("2026-11-23T14:35:13.768681Z"), "2026-11-23 14:35:13");
        assert_eq!(moment(""), "");
    }

    #[test]
    fn imports_of_wasi_do_not_hide_the_others() {
        let plugin = json!({ "imports": ["wasi:io/poll@0.2.6", "wharf:sql/database@0.1.0", "wasi:cli/exit@0.2.6"] });
        assert_eq!(imports(&plugin), "wharf:sql/database@0.1.0, 2 of WASI");
        assert_eq!(imports(&json!({})), "none");
    }
}
