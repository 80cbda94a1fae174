//! `wharf audit`: reads, exports, verifies and prunes the audit log through the API. The verification computes all
//! hashes itself, so that it does not depend on the word of the host.

mod verify;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::verify::VerifyCommand;
use super::api::{AUDIT, Api, Remote};
use super::failure::Failure;
use super::plugin::view::{members, printable, text, to_the_second};
use super::terminal::Terminal;

/// Read and verify the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List entries, newest first
    List(ListCommand),
    /// Write all entries that fit the filters as JSON lines, oldest first
    Export(ExportCommand),
    /// Verify that no entry was removed or changed
    Verify(VerifyCommand),
    /// Delete the entries that are older than audit.keep now, after a signed checkpoint
    Prune {
        #[command(flatten)]
        remote: Remote,
    },
}

/// The filters of a search.
#[derive(Debug, Args)]
struct Filters {
    /// The account that acted: its id or email address
    #[arg(long, value_name = "ACCOUNT")]
    actor: Option<String>,
    /// The API key that acted
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// The action, such as user.update, or a group of them, such as user.*
    #[arg(long)]
    action: Option<String>,
    /// The object, such as role:editor
    #[arg(long)]
    object: Option<String>,
    /// The plugin that recorded the entry, or that the entry is about
    #[arg(long)]
    plugin: Option<String>,
    /// The outcome
    #[arg(long)]
    outcome: Option<Outcome>,
    /// The request id
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// The earliest time, such as 2026-11-30T08:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// The first time that is too late
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Outcome {
    Success,
    Denied,
    Failure,
}

impl Filters {
    /// Returns the path of a page with these filters.
    fn path(&self, order: &str, limit: u32, cursor: Option<&str>) -> String {
        let outcome = self.outcome.map(|outcome| match outcome {
            Outcome::Success => "success",
            Outcome::Denied => "denied",
            Outcome::Failure => "failure",
        });
        let given = [
            ("actor", self.actor.as_deref()),
            ("key", self.key.as_deref()),
            ("action", self.action.as_deref()),
            ("object", self.object.as_deref()),
            ("plugin", self.plugin.as_deref()),
            ("outcome", outcome),
            ("request_id", self.request.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("cursor", cursor),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("order", order).append_pair("limit", &limit.to_string());
        for (name, value) in given {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        format!("{AUDIT}?{}", query.finish())
    }
}

/// List entries.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    #[command(flatten)]
    filters: Filters,
    /// The number of entries to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

/// Write entries as JSON lines.
#[derive(Debug, Args)]
pub(super) struct ExportCommand {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    remote: Remote,
}

impl AuditCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(terminal),
            Self::Export(export) => export.run(terminal),
            Self::Verify(verify) => verify.run(terminal),
            Self::Prune { remote } => prune(&remote, terminal),
        }
    }
}

impl ListCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let page = Api::open(&self.remote)?.get(&self.filters.path("newest", self.limit, None))?;
        if terminal.is_json() {
            terminal.json(&page);
            return Ok(());
        }
        let rows: Vec<_> = members(&page, "data").map(row).collect();
        terminal.table(["WHEN (UTC)", "WHO", "FROM", "ACTION", "OBJECT", "OUTCOME", "BY PLUGIN", "CHANGE"], &rows);
        if page.get("next").is_some_and(Value::is_string) {
            terminal.hint(format!("These are the latest {}; --limit, --since and --until show others", rows.len()));
        }
        Ok(())
    }
}

fn row(entry: &Value) -> [String; 8] {
    let [email, actor, key] = ["actor_email", "actor", "key"].map(|name| text(entry, name));
    let account = if email.is_empty() { actor } else { email };
    let who = match (account.is_empty(), key.is_empty(), text(entry, "address").is_empty()) {
        (false, true, _) => account,
        (false, false, _) => format!("{account} (key {key})"),
        (true, false, _) => format!("key {key}"),
        (true, true, false) => "anonymous".to_owned(),
        // As `Initiator::terminal` names itself.
        (true, true, true) if text(entry, "request_id") == "terminal" => "the terminal".to_owned(),
        (true, true, true) => "the host".to_owned(),
    };
    // Entries of plugins look like none of the host's.
    let recorded = text(entry, "chain");
    let plugin = recorded.strip_prefix("plugin:").unwrap_or_default().to_owned();
    [
        to_the_second(&text(entry, "at")),
        who,
        text(entry, "address"),
        text(entry, "action"),
        text(entry, "object"),
        text(entry, "outcome"),
        plugin,
        change(entry),
    ]
}

/// Returns the members that differ between before and after, and the details.
fn change(entry: &Value) -> String {
    let empty = json!({});
    let [before, after] =
        ["before", "after"].map(|name| entry.get(name).filter(|value| value.is_object()).unwrap_or(&empty));
    let names = before.as_object().into_iter().chain(after.as_object()).flat_map(|members| members.keys());
    let mut parts: Vec<String> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for name in names.filter(|name| seen.insert((*name).clone())) {
        let [old, new] = [before, after].map(|state| text(state, name));
        if old != new {
            parts.push(format!("{}: {old} → {new}", printable(name)));
        }
    }
    for (name, value) in entry.get("detail").and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        parts.push(format!("{}: {}", printable(name), printable(&value)));
    }
    let whole = parts.join(", ");
    match whole.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", whole.get(..end).unwrap_or_default()),
        None => whole,
    }
}

impl ExportCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let mut cursor: Option<String> = None;
        loop {
            let page = api.get(&self.filters.path("oldest", 1000, cursor.as_deref()))?;
            for entry in members(&page, "data") {
                terminal.line(entry.to_string());
            }
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(());
            }
        }
    }
}

fn prune(remote: &Remote, terminal: &Terminal) -> Result<(), Failure> {
    let pruned = Api::open(remote)?.post(&format!("{AUDIT}prune"))?;
    match terminal.is_json() {
        true => terminal.json(&pruned),
        false => terminal.line(format!("Deleted {} entries that were older than audit.keep", text(&pruned, "entries"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_the_actor_and_only_the_members_that_changed() {
        let entry = json!({ "at": "2026-11-30T08:00:00.5Z", "actor": "a-1", "actor_email": "a@example.com", "key": null,
            "address": "192.0.2.1", "action": "user.update", "object": "user:b", "outcome": "success",
            "before": { "email": "b@example.com", "is_active": true }, "chain": "host",
            "after": { "email": "b@example.com", "is_active": false }, "detail": { "why": "left\n" } });
        let expected = [
            "2026-11-30 08:00:00",
            "a@example.com",
            "192.0.2.1",
            "user.update",
            "user:b",
            "success",
            "",
            "is_active: true → false, why: left ",
        ];
        assert_eq!(row(&entry), expected.map(str::to_owned));
        let who = |entry: Value| row(&entry)[1].clone();
        assert_eq!(who(json!({ "key": "k-1" })), "key k-1");
        assert_eq!(who(json!({ "key": "k-1", "actor": "a-1" })), "a-1 (key k-1)");
        assert_eq!(who(json!({ "address": "192.0.2.1" })), "anonymous");
        assert_eq!(who(json!({})), "the host");
        assert_eq!(who(json!({ "request_id": "terminal" })), "the terminal");
        assert_eq!(row(&json!({ "chain": "plugin:items" }))[6], "items");
        let long = change(&json!({ "detail": { "why": "é".repeat(500) } }));
        assert!(long.chars().count() == 101 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn filters_are_escaped_in_the_query() {
        let filters = Filters {
            actor: Some("a+b@example.com".to_owned()),
            key: None,
            action: Some("user.*".to_owned()),
            object: None,
            plugin: None,
            outcome: Some(Outcome::Denied),
            request: None,
            since: None,
            until: None,
        };
        let expected =
            "/api/v1/audit/?order=newest&limit=5&actor=a%2Bb%40example.com&action=user.*&outcome=denied&cursor=1.2";
        assert_eq!(filters.path("newest", 5, Some("1.2")), expected);
    }
}
