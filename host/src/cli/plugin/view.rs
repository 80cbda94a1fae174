//! The output for people. It reads the host's responses leniently: missing members are omitted, and unknown ones are
//! ignored.

pub(super) mod canary;
pub(super) mod history;
pub(super) mod inspection;

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::terminal::Terminal;

/// The number of a digest's digits to show: enough to tell releases apart.
pub(super) const DIGEST_DIGITS: usize = 12;

/// Prints a response: for programs as JSON, for people by `view`.
pub(in crate::cli) fn show_response(response: &Value, terminal: &Terminal, view: impl FnOnce(&Value, &Terminal)) {
    if terminal.is_json() {
        terminal.json(response);
    } else {
        view(response, terminal);
    }
}

/// Returns a member as text; empty if it is missing.
pub(in crate::cli) fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => printable(text),
        Some(other) => other.to_string(),
    }
}

/// Replaces control characters by spaces, so that a plugin's texts cannot move the cursor or ring the bell of an
/// operator's terminal.
pub(in crate::cli) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(in crate::cli) fn members<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// Returns a list of texts, or of objects with a name, as text.
pub(in crate::cli) fn words(value: &Value, name: &str) -> String {
    let word = |item: &Value| item.as_str().or_else(|| item.get("name")?.as_str()).map(printable);
    let words: Vec<_> = members(value, name).filter_map(word).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Returns a size as text.
fn bytes(size: Option<&Value>) -> String {
    size.and_then(Value::as_u64).map(|size| format!("{size} bytes")).unwrap_or_default()
}

/// The actor of an operation without an account.
const HOST: &str = "the host";

/// Returns the email address of an account if it is known, else its id.
fn account_name(account: &str, email_addresses: &Map<String, Value>) -> String {
    let email = email_addresses.get(account).and_then(Value::as_str).filter(|email| !email.is_empty()).map(printable);
    email.unwrap_or_else(|| if account.is_empty() { HOST.to_owned() } else { account.to_owned() })
}

/// Shortens a timestamp to seconds.
pub(in crate::cli) fn to_the_second(text: &str) -> String {
    text.get(..19).unwrap_or(text).replacen('T', " ", 1)
}

/// Returns the stages that took at least half a millisecond: `compile 134 ms · migrate 3 ms`.
fn stages(response: &Value) -> String {
    let stages = members(response, "stages").filter_map(|passed| {
        let micros = passed.get("micros").and_then(Value::as_f64).filter(|micros| *micros >= 500.0)?;
        Some(format!("{} {:.0} ms", text(passed, "stage"), micros / 1_000.0))
    });
    stages.collect::<Vec<_>>().join(" · ")
}

/// Returns the imports of a plugin. Imports of WASI are only counted: every plugin has them, and they grant nothing.
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

/// Prints the outcome of a deploy.
pub(super) fn deployed(response: &Value, url: &str, terminal: &Terminal) {
    let plugin = response.get("plugin").unwrap_or(&Value::Null);
    let name = text(plugin, "name");
    let number = text(release(plugin), "number");
    let unchanged = response.get("unchanged").and_then(Value::as_bool).unwrap_or_default();
    let replaced = response.get("replaced").filter(|value| !value.is_null());
    let on_trial = response.get("on_trial").and_then(Value::as_bool).unwrap_or_default();
    let is_paused = text(plugin, "state") == "paused";
    terminal.line(match (unchanged, replaced) {
        (false, Some(live)) if on_trial => {
            format!("{} release {number} is a canary next to release {live}", terminal.bold(&name))
        }
        (true, _) if is_paused => format!("{} has this already, release {number}", terminal.bold(&name)),
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
    let row = |name: &str, value: String| terminal.line(format!("  {name:<7} {value}"));
    row("at", format!("{url}{}", text(plugin, "mount")));
    row("grants", words(plugin, "grants"));
    row("routes", members(plugin, "routes").count().to_string());
    for list in ["topics", "subscriptions", "jobs", "schedules"] {
        let count = members(plugin, list).count();
        if count > 0 {
            row(list, count.to_string());
        }
    }
    for key in members(release(plugin), "signed_by").filter_map(Value::as_str) {
        row("signed", format!("by {}", printable(key)));
    }
    let share = canary(plugin);
    if on_trial && !share.is_empty() {
        row("share", share);
    }
    let took = stages(response);
    if !took.is_empty() {
        row("took", took);
    }
    for note in members(response, "notes").filter_map(Value::as_str) {
        terminal.line(format!("  {} {}", terminal.warning("note:"), printable(note)));
    }
    if is_paused {
        terminal.line(format!("  {} {name} stays paused", terminal.warning("note:")));
        terminal.hint(format!("Its routes respond with 503; `wharf plugin resume {name}` serves it again"));
    }
    if on_trial {
        terminal.hint(format!("`wharf plugin canary {name}` compares the two releases"));
        terminal.hint(format!(
            "`wharf plugin promote {name}` makes it the live release, `wharf plugin abort {name}` ends it"
        ));
    } else {
        terminal.hint(format!("`wharf plugin show {name}` shows its routes and permissions"));
    }
}

/// Prints the state of a plugin after an operation.
pub(super) fn state(plugin: &Value, done: &str, terminal: &Terminal) {
    let (name, release) = (text(plugin, "name"), release(plugin));
    let (number, version) = (text(release, "number"), text(release, "version"));
    let state = text(plugin, "state");
    terminal.line(format!("{} {}: release {number} ({version}) is {state}", terminal.good(done), terminal.bold(&name)));
}

/// Returns the share of callers that the canary serves.
fn canary(plugin: &Value) -> String {
    let percent = plugin.pointer("/canary/percent").and_then(Value::as_f64);
    percent.map(share).unwrap_or_default()
}

/// Returns a share of callers as text; 0 means callers that ask for the canary.
fn share(percent: f64) -> String {
    if percent == 0.0 {
        return "only requests of superusers with X-Wharf-Canary: always".to_owned();
    }
    format!("{percent}% of callers")
}

/// Prints the list of all plugins.
pub(super) fn list(response: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(response, "data")
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

/// Prints one plugin in full.
pub(super) fn plugin(plugin: &Value, email_addresses: &Map<String, Value>, terminal: &Terminal) {
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
    row("canary", on_trial.unwrap_or_default());
    row(
        "deployed",
        format!(
            "{} by {}",
            to_the_second(&text(release, "created_at")),
            account_name(&text(release, "created_by"), email_addresses)
        ),
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
    messages(plugin, terminal);
}

fn permissions(plugin: &Value, terminal: &Terminal) {
    let permissions: Vec<_> = members(plugin, "permissions").map(|p| [text(p, "name"), text(p, "summary")]).collect();
    table(["PERMISSION", "MEANS"], &permissions, terminal);
}

fn routes(plugin: &Value, terminal: &Terminal) {
    let routes: Vec<_> = members(plugin, "routes")
        .map(|route| [text(route, "method"), text(route, "path"), text(route, "access")])
        .collect();
    table(["METHOD", "PATH", "ACCESS"], &routes, terminal);
}

/// Prints the events and jobs.
fn messages(plugin: &Value, terminal: &Terminal) {
    let millis = |value: &Value, name: &str| {
        let millis = value.get(name).and_then(Value::as_u64).map(Duration::from_millis);
        millis.map(|millis| humantime::format_duration(millis).to_string()).unwrap_or_default()
    };
    let access = |topic: &Value| match text(topic, "access") {
        none if none.is_empty() => "no client".to_owned(),
        access => access,
    };
    let topics: Vec<_> =
        members(plugin, "topics").map(|topic| [text(topic, "name"), access(topic), text(topic, "summary")]).collect();
    let subscriptions: Vec<_> = members(plugin, "subscriptions")
        .map(|one| [text(one, "topic"), text(one, "retries"), millis(one, "backoff_ms")])
        .collect();
    let jobs: Vec<_> = members(plugin, "jobs")
        .map(|job| {
            let [retries, at_once] = ["retries", "concurrency"].map(|name| text(job, name));
            let [backoff, deadline] = ["backoff_ms", "deadline_ms"].map(|name| millis(job, name));
            [text(job, "name"), retries, backoff, deadline, at_once]
        })
        .collect();
    let schedules: Vec<_> = members(plugin, "schedules")
        .map(|one| ["name", "cron", "time_zone", "missed", "job"].map(|name| text(one, name)))
        .collect();
    table(["TOPIC", "CLIENTS", "MEANS"], &topics, terminal);
    table(["SUBSCRIPTION", "RETRIES", "BACKOFF"], &subscriptions, terminal);
    table(["JOB", "RETRIES", "BACKOFF", "DEADLINE", "AT ONCE"], &jobs, terminal);
    table(["SCHEDULE", "CRON", "TIME ZONE", "MISSED", "JOB"], &schedules, terminal);
}

/// Prints a table, unless it is empty.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]], terminal: &Terminal) {
    if !rows.is_empty() {
        terminal.line("");
        terminal.table(head, rows);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn control_characters_of_a_plugins_text_are_replaced() {
        assert_eq!(text(&json!({ "summary": "a\u{1b}[2Jb\nc" }), "summary"), "a [2Jb c");
        assert_eq!(text(&json!({ "n": 3, "x": null }), "n"), "3");
        assert_eq!(text(&json!({}), "x"), "");
    }

    #[test]
    fn stages_that_took_no_time_are_omitted() {
        let passed = |stage: &str, micros: u64| json!({ "stage": stage, "micros": micros });
        let stages_of = |list: Value| stages(&json!({ "stages": list }));
        let list =
            json!([passed("check", 80), passed("compile", 134_400), passed("migrate", 2_500), passed("swap", 700)]);
        assert_eq!(stages_of(list), "compile 134 ms · migrate 2 ms · swap 1 ms");
        assert_eq!(stages_of(json!([passed("check", 80)])), "");
        assert_eq!(stages(&json!({})), "");
    }

    #[test]
    fn a_timestamp_is_shown_to_the_second() {
        assert_eq!(to_the_second("2026-11-23T14:35:13.768681Z"), "2026-11-23 14:35:13");
        assert_eq!(to_the_second(""), "");
    }

    #[test]
    fn imports_of_wasi_are_counted_and_others_are_listed() {
        let plugin = json!({ "imports": ["wasi:io/poll@0.2.6", "wharf:sql/database@0.1.0", "wasi:cli/exit@0.2.6"] });
        assert_eq!(imports(&plugin), "wharf:sql/database@0.1.0, 2 of WASI");
        assert_eq!(imports(&json!({})), "none");
    }
}
