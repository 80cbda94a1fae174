//! `wharf plugin diff`: compares two releases member by member. The input is two descriptions in the form of the
//! operator API; `wharf plugin check` passes that of a file that is not deployed yet.

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::view::{DIGEST_DIGITS, members, printable, text};
use crate::cli::api::{Api, PLUGINS, Remote};
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::id::PluginName;

/// Show the differences between two releases.
#[derive(Debug, Args)]
pub(crate) struct DiffCommand {
    /// The plugin
    name: PluginName,
    /// The number of the first release
    #[arg(value_name = "A", value_parser = clap::value_parser!(i64).range(1..))]
    before: i64,
    /// The number of the second release
    #[arg(value_name = "B", value_parser = clap::value_parser!(i64).range(1..))]
    after: i64,
    #[command(flatten)]
    remote: Remote,
}

impl DiffCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, before, after, remote } = self;
        let api = Api::open(&remote)?;
        let release = |number| api.get(&release_path(&name, number));
        let diff = Diff::of(&release(before)?, &release(after)?);
        if terminal.is_json() {
            terminal.json(&diff);
        } else {
            terminal.line(format!("{} release {before} → {after}", terminal.bold(name.as_str())));
            diff.show(terminal);
        }
        Ok(())
    }
}

/// Returns the path of a release in the operator API.
pub(super) fn release_path(name: &PluginName, number: i64) -> String {
    format!("{PLUGINS}{name}/releases/{number}")
}

/// One difference.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Change {
    name: String,
    change: ChangeKind,
    /// Null if the member has a name only.
    before: Value,
    after: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ChangeKind {
    Added,
    Removed,
    Changed,
}

/// All differences, by topic.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Diff {
    /// Version, digest, size, mount, summary.
    component: Vec<Change>,
    /// By method and path: the access rule.
    routes: Vec<Change>,
    /// By name: the summary.
    permissions: Vec<Change>,
    /// By capability, or capability and parameter.
    grants: Vec<Change>,
    /// By name: the limits of its calls.
    limits: Vec<Change>,
    /// By name: the clients that may receive the events.
    topics: Vec<Change>,
    /// By topic: the repetitions.
    subscriptions: Vec<Change>,
    /// By name: the repetitions and the time limit.
    jobs: Vec<Change>,
    /// By name: the times and the job.
    schedules: Vec<Change>,
    migrations: Vec<Change>,
    /// By JSON pointer.
    settings: Vec<Change>,
}

impl Diff {
    /// Compares two releases as the operator API describes them.
    pub(super) fn of(before: &Value, after: &Value) -> Self {
        let compare = |list: fn(&Value) -> Vec<(String, Value)>| changes(list(before), &list(after));
        Self {
            component: compare(component),
            routes: compare(|release| {
                let name = |route: &Value| format!("{} {}", text(route, "method"), text(route, "path"));
                members(release, "routes").map(|route| (name(route), member(route, "access"))).collect()
            }),
            permissions: compare(|release| {
                let of = |permission: &Value| (text(permission, "name"), member(permission, "summary"));
                members(release, "permissions").map(of).collect()
            }),
            grants: compare(|release| assignments(release, "grants")),
            limits: compare(|release| assignments(release, "limits")),
            topics: compare(|release| {
                members(release, "topics").map(|topic| (text(topic, "name"), member(topic, "access"))).collect()
            }),
            subscriptions: compare(|release| described(release, "subscriptions", "topic")),
            jobs: compare(|release| described(release, "jobs", "name")),
            schedules: compare(|release| described(release, "schedules", "name")),
            migrations: compare(migrations),
            settings: compare(|release| {
                let mut found = Vec::new();
                flatten(&member(release, "settings"), "", &mut found);
                found
            }),
        }
    }

    fn sections(&self) -> [(&'static str, &[Change]); 11] {
        [
            ("component", &self.component),
            ("routes", &self.routes),
            ("permissions", &self.permissions),
            ("grants", &self.grants),
            ("limits", &self.limits),
            ("topics", &self.topics),
            ("subscriptions", &self.subscriptions),
            ("jobs", &self.jobs),
            ("schedules", &self.schedules),
            ("migrations", &self.migrations),
            ("settings", &self.settings),
        ]
    }

    /// Prints the differences: `+` added, `-` removed, `~` changed.
    pub(super) fn show(&self, terminal: &Terminal) {
        let sections = self.sections();
        if sections.iter().all(|(_, changes)| changes.is_empty()) {
            terminal.line("  nothing differs");
        }
        for (title, changes) in sections.into_iter().filter(|(_, changes)| !changes.is_empty()) {
            terminal.line(format!("  {}", terminal.bold(title)));
            for change in changes {
                terminal.line(format!("    {}", change.coloured(title, terminal)));
            }
        }
    }
}

impl Change {
    /// Returns the change as a line without colours, for its section.
    fn line(&self, section: &str) -> String {
        let Self { name, change, before, after } = self;
        let short = section == "component" && name == "digest";
        let shown = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(digest) if short => digest.chars().take(DIGEST_DIGITS).collect(),
            Value::String(oldest) if section == "migrations" => format!("(needs {})", printable(oldest)),
            Value::String(text) => printable(text),
            other => printable(&other.to_string()),
        };
        let name = printable(name);
        let line = match change {
            ChangeKind::Added => format!("+ {name}  {}", shown(after)),
            ChangeKind::Removed => format!("- {name}  {}", shown(before)),
            ChangeKind::Changed => format!("~ {name}  {} → {}", shown(before), shown(after)),
        };
        line.trim_end().to_owned()
    }

    fn coloured(&self, section: &str, terminal: &Terminal) -> String {
        let line = self.line(section);
        match self.change {
            ChangeKind::Added => terminal.good(&line),
            ChangeKind::Removed => terminal.bad(&line),
            ChangeKind::Changed => line,
        }
    }
}

fn member(value: &Value, name: &str) -> Value {
    value.get(name).cloned().unwrap_or_default()
}

fn component(release: &Value) -> Vec<(String, Value)> {
    let present = |name: &&str| release.get(*name).is_some_and(|value| !value.is_null());
    let names = ["version", "digest", "size", "mount", "summary"].into_iter().filter(present);
    names.map(|name| (name.to_owned(), member(release, name))).collect()
}

fn names(release: &Value, list: &str) -> Vec<(String, Value)> {
    members(release, list).filter_map(Value::as_str).map(|name| (name.to_owned(), Value::Null)).collect()
}

/// Returns names, and names with a value: `sql.rows=500`.
fn assignments(release: &Value, list: &str) -> Vec<(String, Value)> {
    let apart = |text: &str| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Value::from(value)),
        None => (text.to_owned(), Value::Null),
    };
    members(release, list).filter_map(Value::as_str).map(apart).collect()
}

/// Returns the members of a list by the name of each, with their other members as text: `retries 3, backoff_ms 1000`.
fn described(release: &Value, list: &str, name: &str) -> Vec<(String, Value)> {
    let others = |value: &Value| {
        let members = value.as_object().into_iter().flatten().filter(|(of, _)| *of != name);
        let texts: Vec<String> = members.map(|(of, _)| format!("{of} {}", text(value, of))).collect();
        Value::from(texts.join(", "))
    };
    members(release, list).map(|value| (text(value, name), others(value))).collect()
}

/// Returns migration names. In the newer form of the API each comes with the oldest migration whose releases can run
/// after it.
fn migrations(release: &Value) -> Vec<(String, Value)> {
    let described = members(release, "migrations").filter(|migration| migration.is_object());
    let described = described.map(|migration| (text(migration, "name"), member(migration, "oldest")));
    names(release, "migrations").into_iter().chain(described).collect()
}

/// Collects all values that are no objects, by JSON pointer.
fn flatten(value: &Value, at: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                // RFC 6901, section 3.
                let step = name.replace('~', "~0").replace('/', "~1");
                flatten(value, &format!("{at}/{step}"), found);
            }
        }
        Value::Null if at.is_empty() => {}
        other => found.push((at.to_owned(), other.clone())),
    }
}

/// Returns removed and changed members in the order of `before`, then added ones in the order of `after`.
fn changes(before: Vec<(String, Value)>, after: &[(String, Value)]) -> Vec<Change> {
    let earlier: Map<String, Value> = before.iter().cloned().collect();
    let later: Map<String, Value> = after.iter().cloned().collect();
    let gone_or_changed = before.into_iter().filter_map(|(name, before)| match later.get(&name).cloned() {
        Some(after) if after == before => None,
        Some(after) => Some(Change { name, change: ChangeKind::Changed, before, after }),
        None => Some(Change { name, change: ChangeKind::Removed, before, after: Value::Null }),
    });
    let new = after.iter().filter(|(name, _)| !earlier.contains_key(name)).cloned();
    let new = new.map(|(name, after)| Change { name, change: ChangeKind::Added, before: Value::Null, after });
    gone_or_changed.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(before: &Value, after: &Value) -> Vec<(String, Vec<String>)> {
        let diff = Diff::of(before, after);
        let sections = diff.sections().into_iter().filter(|(_, changes)| !changes.is_empty());
        sections
            .map(|(title, changes)| (title.to_owned(), changes.iter().map(|change| change.line(title)).collect()))
            .collect()
    }

    #[test]
    fn all_sections_are_compared() {
        let before = json!({
            "number": 1, "version": "1.0.0", "digest": "aaaaaaaaaaaaaa", "size": 10, "mount": "/a", "summary": "x",
            "routes": [{ "method": "GET", "path": "/a", "access": "public" },
                { "method": "PUT", "path": "/a", "access": "superuser" }],
            "permissions": [{ "name": "edit", "summary": "Edits" }],
            "grants": ["log", "sql", "sql.bytes=1MiB", "sql.rows=5"], "migrations": ["1"],
            "topics": [{ "name": "created", "access": null, "summary": "x" }],
            "subscriptions": [{ "topic": "user.deleted", "retries": 3, "backoff_ms": 1000 }],
            "jobs": [{ "name": "sync", "retries": 3 }],
            "settings": { "a": { "b/c": 1, "gone": [1] }, "same": true },
        });
        let after = json!({
            "number": 2, "version": "1.1.0", "digest": "bb", "size": 10, "mount": "/a", "summary": "x",
            "routes": [{ "method": "GET", "path": "/a", "access": "authenticated" },
                { "method": "POST", "path": "/a", "access": "public" }],
            "permissions": [{ "name": "edit", "summary": "Edits all" }, { "name": "read", "summary": "" }],
            "grants": ["auth", "auth.x=a=b", "sql", "sql.rows=6"], "migrations": ["1", "2"],
            "topics": [{ "name": "created", "access": "public", "summary": "x" }],
            "subscriptions": [{ "topic": "user.deleted", "retries": 5, "backoff_ms": 1000 }],
            "schedules": [{ "name": "nightly", "cron": "0 2 * * *", "job": "sync" }],
            "settings": { "a": { "b/c": 2 }, "same": true },
        });
        let section = |title: &str, lines: &[&str]| (title.to_owned(), lines.iter().map(ToString::to_string).collect());
        assert_eq!(
            lines(&before, &after),
            [
                section("component", &["~ version  1.0.0 → 1.1.0", "~ digest  aaaaaaaaaaaa → bb"]),
                section("routes", &["~ GET /a  public → authenticated", "- PUT /a  superuser", "+ POST /a  public"]),
                section("permissions", &["~ edit  Edits → Edits all", "+ read"]),
                section("grants", &["- log", "- sql.bytes  1MiB", "~ sql.rows  5 → 6", "+ auth", "+ auth.x  a=b"]),
                section("topics", &["~ created   → public"]),
                section("subscriptions", &["~ user.deleted  retries 3, backoff_ms 1000 → retries 5, backoff_ms 1000"]),
                section("jobs", &["- sync  retries 3"]),
                section("schedules", &["+ nightly  cron 0 2 * * *, job sync"]),
                section("migrations", &["+ 2"]),
                section("settings", &["~ /a/b~1c  1 → 2", "- /a/gone  [1]"]),
            ]
        );
        assert_eq!(Diff::of(&before, &before), Diff::default());
    }

    #[test]
    fn a_migration_is_shown_with_the_oldest_that_its_releases_need() {
        let before = json!({ "migrations": [{ "name": "1", "oldest": null }] });
        let after = json!({ "migrations": [{ "name": "1", "oldest": null }, { "name": "2", "oldest": "1" }] });
        assert_eq!(lines(&before, &after), [("migrations".to_owned(), vec!["+ 2  (needs 1)".to_owned()])]);
    }

    #[test]
    fn a_member_that_is_missing_or_empty_is_no_difference() {
        assert!(lines(&json!({}), &json!({ "settings": {}, "routes": [] })).is_empty());
        assert!(lines(&json!({ "settings": null }), &json!({ "settings": {}, "summary": null })).is_empty());
    }
}
