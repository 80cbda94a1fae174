//! `wharf session`: lists and ends sessions, those of the account that is signed in or of another account.

use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use super::api::{Api, Remote};
use super::failure::Failure;
use super::plugin::view::{members, show_response, text, to_the_second};
use super::terminal::Terminal;
use super::user;

/// List and end sessions.
#[derive(Debug, Subcommand)]
pub(super) enum SessionCommand {
    /// List the sessions of an account
    List(ListCommand),
    /// End a session, or all of them
    End(EndCommand),
}

/// The account of the sessions.
#[derive(Debug, Args)]
struct Account {
    /// The email address or the id of another account [default: the account that is signed in]
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// List the sessions of an account.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    /// The number of sessions to show, newest first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    account: Account,
}

/// End a session, or all of them.
#[derive(Debug, Args)]
pub(super) struct EndCommand {
    /// The session
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<Uuid>,
    /// End all sessions of the account; of the own account, all but the current one
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    account: Account,
}

impl Account {
    fn path(&self, api: &Api) -> Result<String, Failure> {
        let user = match &self.user {
            Some(user) => user::id_of(api, user)?,
            None => "me".to_owned(),
        };
        Ok(format!("/api/v1/users/{user}/sessions"))
    }
}

impl SessionCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::List(ListCommand { limit, account }) => {
                let api = Api::open(&account.remote)?;
                let path = format!("{}?limit={limit}", account.path(&api)?);
                show_response(&api.get(&path)?, terminal, show);
            }
            Self::End(EndCommand { id, account, .. }) => {
                let api = Api::open(&account.remote)?;
                let id = id.map(|id| format!("/{id}")).unwrap_or_default();
                let response = api.delete(&format!("{}{id}", account.path(&api)?))?;
                show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
            }
        }
        Ok(())
    }
}

fn show(response: &Value, terminal: &Terminal) {
    let row = |session: &Value| {
        let is_current = session.get("is_current").and_then(Value::as_bool).unwrap_or_default();
        let mark = if is_current { "current" } else { "" };
        let times = ["created_at", "last_used_at", "expires_at"].map(|name| to_the_second(&text(session, name)));
        let [created, used, expires] = times;
        [text(session, "id"), mark.to_owned(), created, used, expires, text(session, "user_agent")]
    };
    let rows: Vec<_> = members(response, "data").map(row).collect();
    terminal.table(["ID", "", "SIGNED IN (UTC)", "REFRESHED (UTC)", "EXPIRES (UTC)", "CLIENT"], &rows);
    let count = response.get("count").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
    if let Some(count) = count.filter(|count| *count > rows.len()) {
        terminal.hint(format!("These are the newest {} of {count}; --limit shows more", rows.len()));
    }
}
