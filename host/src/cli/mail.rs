//! `wharf mail`: the queue of mails of a running host, and the mails that were given up. (`wharf email` has the templates.)

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::api::{Api, Remote};
use super::failure::Failure;
use super::plugin::view::{members, printable, show_response, text, to_the_second};
use super::queue::{PageOptions, confirm_drop, hint_at_next, shortened, show_member, show_message, unnamed};
use super::terminal::Terminal;
use crate::id::PluginName;

/// The operator API's path of mails.
const MAILS: &str = "/api/v1/mails/";

/// The word for the host in the place of a plugin.
const HOST: &str = "(host)";

/// List and repair the mails that wait or were given up.
#[derive(Debug, Subcommand)]
pub(super) enum MailCommand {
    /// Count the mails of the host and of each plugin
    Queues {
        #[command(flatten)]
        remote: Remote,
    },
    /// List mails, newest first
    List(ListCommand),
    /// Show a mail with its recipient and subject, without its text
    Show(OneCommand),
    /// Make a dead mail due again, or one that waits for another attempt, or all that fit
    Retry(RetryCommand),
    /// Delete a mail, or all that fit
    Drop(DropCommand),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Waiting,
    Dead,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Dead => "dead",
        }
    }
}

/// List them.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    /// The plugin that sent them
    #[arg(long, conflicts_with = "host")]
    plugin: Option<PluginName>,
    /// Only those of the host
    #[arg(long)]
    host: bool,
    /// The state
    #[arg(long)]
    state: Option<State>,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    remote: Remote,
}

/// Reads the number of a mail.
fn number(text: &str) -> Result<i64, &'static str> {
    text.parse::<i64>().ok().filter(|number| *number > 0).ok_or("not the number of a mail; see `wharf mail list`")
}

/// One mail.
#[derive(Debug, Args)]
pub(super) struct OneCommand {
    /// The number, as the list shows it
    #[arg(value_parser = number)]
    number: i64,
    #[command(flatten)]
    remote: Remote,
}

/// One mail, or all that fit.
#[derive(Debug, Args)]
struct Which {
    /// The number, as the list shows it
    #[arg(value_parser = number)]
    #[arg(conflicts_with_all = ["plugin", "host", "all"])]
    number: Option<i64>,
    /// All of this plugin
    #[arg(long, conflicts_with_all = ["host", "all"])]
    plugin: Option<PluginName>,
    /// All of the host
    #[arg(long, conflicts_with = "all")]
    host: bool,
    /// All of the host and of all plugins
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Make a mail due again, or all that fit.
#[derive(Debug, Args)]
pub(super) struct RetryCommand {
    #[command(flatten)]
    which: Which,
    /// The state of those that are made due [default: dead]
    #[arg(long, conflicts_with = "number")]
    state: Option<State>,
}

/// Delete a mail, or all that fit.
#[derive(Debug, Args)]
pub(super) struct DropCommand {
    #[command(flatten)]
    which: Which,
    /// The state of those that are deleted [default: dead]
    #[arg(long, conflicts_with = "number")]
    state: Option<State>,
    /// Do not ask before many are deleted
    #[arg(long)]
    yes: bool,
}

impl MailCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Queues { remote } => {
                show_response(&Api::open(&remote)?.get("/api/v1/mail-queues")?, terminal, queues);
                Ok(())
            }
            Self::List(list) => list.run(terminal),
            Self::Show(one) => {
                let mail = Api::open(&one.remote)?.get(&format!("{MAILS}{}", one.number))?;
                show_response(&mail, terminal, show);
                Ok(())
            }
            Self::Retry(retry) => retry.run(terminal),
            Self::Drop(drop) => drop.run(terminal),
        }
    }
}

/// Returns the plugin of a mail, or the word for the host.
fn source(mail: &Value) -> String {
    let plugin = text(mail, "plugin");
    if plugin.is_empty() { HOST.to_owned() } else { plugin }
}

fn queues(response: &Value, terminal: &Terminal) {
    let row = |count: &Value| {
        let [state, mails, bytes] = ["state", "mails", "bytes"].map(|name| text(count, name));
        [source(count), state, mails, bytes, to_the_second(&text(count, "oldest_at"))]
    };
    let rows: Vec<_> = members(response, "data").map(row).collect();
    if rows.is_empty() {
        terminal.line("No mail waits or was given up");
        return;
    }
    terminal.table(["SOURCE", "STATE", "MAILS", "BYTES", "OLDEST (UTC)"], &rows);
}

impl ListCommand {
    /// Returns the path of the page.
    fn path(&self) -> String {
        let query = self.page.query(&[
            ("plugin", self.plugin.as_ref().map(PluginName::as_str)),
            ("host", self.host.then_some("true")),
            ("state", self.state.map(State::word)),
        ]);
        format!("{MAILS}?{query}")
    }

    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let page = Api::open(&self.remote)?.get(&self.path())?;
        show_response(&page, terminal, list);
        Ok(())
    }
}

fn list(page: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(page, "data").map(row).collect();
    terminal.table(["NUMBER", "SOURCE", "KIND", "STATE", "ATTEMPTS", "QUEUED (UTC)", "NEXT (UTC)", "REASON"], &rows);
    hint_at_next(page, terminal);
    if rows.iter().any(|[_, _, _, state, ..]| state == "dead") {
        terminal.hint("`wharf mail show NUMBER` shows one with its recipient, and `retry` sends it again");
    }
}

fn row(mail: &Value) -> [String; 8] {
    let [created, next] = ["created_at", "next_at"].map(|name| to_the_second(&text(mail, name)));
    let state = text(mail, "state");
    let next = if state == "waiting" { next } else { String::new() };
    let [number, kind, attempts] = ["seq", "kind", "attempts"].map(|name| text(mail, name));
    [number, source(mail), kind, state, attempts, created, next, shortened(text(mail, "reason"))]
}

fn show(mail: &Value, terminal: &Terminal) {
    let row = |name: &str, value: String| show_member(name, &value, terminal);
    let title = format!("{} {} of {}", text(mail, "seq"), text(mail, "kind"), source(mail));
    terminal.line(terminal.bold(&title));
    row("state", text(mail, "state"));
    row("reason", text(mail, "reason"));
    row("attempts", text(mail, "attempts"));
    let to = mail.get("to").filter(|to| !to.is_null());
    row("to", to.map(|to| printable(&to.to_string())).unwrap_or_default());
    row("subject", text(mail, "subject"));
    for file in members(mail, "attachments") {
        let [name, kind, bytes] = ["name", "content_type", "bytes"].map(|name| text(file, name));
        row("file", format!("{name} ({kind}, {bytes} bytes)"));
    }
    row("key", text(mail, "dedup_key"));
    row("id", text(mail, "mail_id"));
    row("queued", to_the_second(&text(mail, "created_at")));
    if text(mail, "state") == "waiting" {
        row("next", to_the_second(&text(mail, "next_at")));
    }
    row("ended", to_the_second(&text(mail, "ended_at")));
    row("request", text(mail, "request_id"));
}

/// Prints the result of a change of many.
fn changed(response: &Value, done: &str, terminal: &Terminal) {
    let number = text(response, "changed");
    let mails = if number == "1" { "mail" } else { "mails" };
    terminal.line(format!("{done} {number} {mails}"));
}

impl Which {
    /// Refuses a command that names no mail.
    fn check(&self, verb: &str) -> Result<(), Failure> {
        if self.number.is_some() || self.plugin.is_some() || self.host || self.all {
            return Ok(());
        }
        let forms = ["NUMBER", "--plugin NAME", "--host", "--all"].map(|form| format!("wharf mail {verb} {form}"));
        Err(unnamed("mail", &forms))
    }

    /// Returns the filter of the API.
    fn filter(&self, state: State) -> Value {
        json!({ "plugin": self.plugin, "host": self.host, "all": self.all, "state": state.word() })
    }

    /// Returns the source that the filter describes, for a question.
    fn described(&self) -> String {
        match &self.plugin {
            Some(plugin) => plugin.to_string(),
            None if self.host => "the host".to_owned(),
            None => "the host and all plugins".to_owned(),
        }
    }
}

impl RetryCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { which, state } = self;
        which.check("retry")?;
        let api = Api::open(&which.remote)?;
        if let Some(number) = which.number {
            show_response(&api.post(&format!("{MAILS}{number}/retry"))?, terminal, show_message);
            return Ok(());
        }
        let response = api.post_json(&format!("{MAILS}bulk/retry"), &which.filter(state.unwrap_or(State::Dead)))?;
        show_response(&response, terminal, |response, terminal| changed(response, "Retried", terminal));
        Ok(())
    }
}

impl DropCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { which, state, yes } = self;
        which.check("drop")?;
        let api = Api::open(&which.remote)?;
        if let Some(number) = which.number {
            show_response(&api.delete(&format!("{MAILS}{number}"))?, terminal, show_message);
            return Ok(());
        }
        let state = state.unwrap_or(State::Dead);
        if !yes {
            confirm_drop(&format!("all {} mails of {}", state.word(), which.described()), &api, terminal)?;
        }
        let response = api.post_json(&format!("{MAILS}bulk/drop"), &which.filter(state))?;
        show_response(&response, terminal, |response, terminal| changed(response, "Dropped", terminal));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_source_and_the_beginning_of_the_reason() {
        let mail = json!({ "seq": 7, "plugin": null, "kind": "recovery", "state": "dead", "attempts": 3,
            "created_at": "2026-11-30T08:00:00.5Z", "next_at": "2026-11-30T08:01:00Z", "reason": "x".repeat(100) });
        let [number, source, kind, state, attempts, created, next, reason] = row(&mail);
        assert_eq!([number, source, kind, state, attempts], ["7", "(host)", "recovery", "dead", "3"]);
        assert_eq!([created.as_str(), next.as_str()], ["2026-11-30 08:00:00", ""]);
        assert!(reason.ends_with('…') && reason.chars().count() < 100, "{reason}");
        let [_, source, .., next, _] =
            row(&json!({ "plugin": "items", "state": "waiting", "next_at": "2026-11-30T08:01:00Z" }));
        assert_eq!([source.as_str(), next.as_str()], ["items", "2026-11-30 08:01:00"]);
    }

    #[test]
    fn a_list_is_asked_for_with_its_filters() {
        let list = ListCommand {
            plugin: None,
            host: true,
            state: Some(State::Dead),
            page: PageOptions { oldest: true, after: Some(7), limit: 5 },
            remote: Remote { url: String::new() },
        };
        assert_eq!(list.path(), "/api/v1/mails/?limit=5&order=oldest&host=true&state=dead&cursor=7");
    }
}
