//! `wharf key`: creates, lists and revokes API keys. A new key is the only result on standard output, so that a script
//! can store it without showing it.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::api::{Api, Remote};
use super::failure::Failure;
use super::plugin::view::{members, show_response, text, to_the_second};
use super::terminal::Terminal;

/// The paths of all keys, and of those of the caller.
const ALL: &str = "/api/v1/keys/";
const OWN: &str = "/api/v1/users/me/keys";

/// Create, list and revoke API keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create an API key and print it; it cannot be shown again
    Create(CreateCommand),
    /// List API keys
    List(ListCommand),
    /// Revoke an API key; its next request is refused
    Revoke(RevokeCommand),
}

/// Create an API key.
#[derive(Debug, Args)]
pub(super) struct CreateCommand {
    /// A name for people, such as the pipeline that will use it
    name: String,
    /// A permission (plugins:deploy); repeat it, or separate several by commas
    #[arg(long = "permission", value_name = "PERMISSION", required = true, value_delimiter = ',')]
    permissions: Vec<String>,
    /// The lifetime, such as 12h or 90d, or `never`
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = lifetime)]
    expires_in: Lifetime,
    /// Create a key that belongs to nobody, and not to the account that is signed in
    #[arg(long)]
    nobody: bool,
    #[command(flatten)]
    remote: Remote,
}

/// List API keys.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    /// List the keys of all accounts, and those that belong to nobody
    #[arg(long)]
    all: bool,
    /// The number of keys to show, newest first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

/// Revoke an API key.
#[derive(Debug, Args)]
pub(super) struct RevokeCommand {
    /// The id of the key, as `wharf key list` shows it
    id: Uuid,
    /// Revoke a key of any account, or of nobody
    #[arg(long)]
    any: bool,
    #[command(flatten)]
    remote: Remote,
}

/// The lifetime of a key; `None` means that it does not expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lifetime(Option<Duration>);

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    humantime::parse_duration(text).map(|time| Lifetime(Some(time))).map_err(|error| error.to_string())
}

impl KeyCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(terminal),
            Self::List(list) => list.run(terminal),
            Self::Revoke(revoke) => revoke.run(terminal),
        }
    }
}

impl CreateCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, permissions, expires_in: Lifetime(lifetime), nobody, remote } = self;
        let api = Api::open(&remote)?;
        let body = json!({
            "name": name, "permissions": permissions, "expires_in": lifetime.map(|lifetime| lifetime.as_secs()),
        });
        let created = api.post_json(if nobody { ALL } else { OWN }, &body)?;
        show_response(&created, terminal, |created, terminal| {
            terminal.line(text(created, "key"));
            terminal.note(format!(
                "{} key {} ({})",
                terminal.good("Created"),
                text(created, "name"),
                text(created, "id")
            ));
            terminal.note(format!("Expires: {}", time(created, "expires_at", "never")));
            terminal.hint("Store it now: it cannot be shown again. A pipeline passes it in WHARF_TOKEN");
        });
        Ok(())
    }
}

impl ListCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let path = format!("{}?limit={}", if self.all { ALL } else { OWN }, self.limit);
        show_response(&Api::open(&self.remote)?.get(&path)?, terminal, show);
        Ok(())
    }
}

impl RevokeCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let path = if self.any { ALL.trim_end_matches('/') } else { OWN };
        let response = Api::open(&self.remote)?.delete(&format!("{path}/{}", self.id))?;
        show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
        Ok(())
    }
}

/// Returns a time to the second, or a word if there is none.
fn time(value: &Value, name: &str, none: &str) -> String {
    let time = to_the_second(&text(value, name));
    if time.is_empty() { none.to_owned() } else { time }
}

fn show(response: &Value, terminal: &Terminal) {
    let row = |key: &Value| {
        let owner = text(key, "owner");
        let permissions: Vec<_> = members(key, "permissions").filter_map(Value::as_str).collect();
        [
            text(key, "id"),
            text(key, "name"),
            if owner.is_empty() { "nobody".to_owned() } else { owner },
            permissions.join(" "),
            time(key, "expires_at", "never"),
            time(key, "last_used_at", "never"),
        ]
    };
    let rows: Vec<_> = members(response, "data").map(row).collect();
    terminal.table(["ID", "NAME", "OWNER", "PERMISSIONS", "EXPIRES (UTC)", "LAST USED (UTC)"], &rows);
    let count = response.get("count").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
    if let Some(count) = count.filter(|count| *count > rows.len()) {
        terminal.hint(format!("These are the newest {} of {count}; --limit shows more", rows.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_duration_or_never() {
        assert_eq!(lifetime("90d"), Ok(Lifetime(Some(Duration::from_secs(90 * 24 * 3600)))));
        assert_eq!(lifetime("never"), Ok(Lifetime(None)));
        assert!(lifetime("forever").is_err() && lifetime("").is_err());
    }
}
