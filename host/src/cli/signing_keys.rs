//! `wharf keys`: lists and rotates the keys that sign access tokens. `wharf key` has the API keys.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::api::{Api, Remote};
use super::failure::Failure;
use super::plugin::view::{members, show_response, text, to_the_second};
use super::terminal::Terminal;

const PATH: &str = "/api/v1/signing-keys/";

/// List and rotate the keys that sign access tokens.
#[derive(Debug, Subcommand)]
pub(super) enum SigningKeysCommand {
    /// List the keys and their states
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Create a key that replaces the others after an overlap
    Rotate(RotateCommand),
}

/// Create a key that replaces the others.
#[derive(Debug, Args)]
pub(super) struct RotateCommand {
    /// Delete the older keys at once, because one of them is known to others; every access token becomes invalid
    #[arg(long)]
    revoke_old: bool,
    /// Do not ask before --revoke-old
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

impl SigningKeysCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::List { remote } => {
                show_response(&Api::open(&remote)?.get(PATH)?, terminal, show);
                Ok(())
            }
            Self::Rotate(rotate) => rotate.run(terminal),
        }
    }
}

impl RotateCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { revoke_old, yes, remote } = self;
        let api = Api::open(&remote)?;
        if revoke_old && !yes {
            let question = format!("This makes every access token of {} invalid. Type 'revoke' to confirm", api.url());
            let typed = terminal.ask(&question).map_err(|failure| failure.next("Add --yes to skip the question."))?;
            if typed != "revoke" {
                return Err(Failure::new("nothing was rotated"));
            }
        }
        let response = api.post(&format!("{PATH}rotate?revoke_old={revoke_old}"))?;
        show_response(&response, terminal, show);
        if revoke_old {
            terminal.hint("Clients refresh their tokens by themselves; `wharf login` signs in again");
        }
        Ok(())
    }
}

fn show(response: &Value, terminal: &Terminal) {
    let row = |key: &Value| {
        let expires = to_the_second(&text(key, "expires_at"));
        let expires = if expires.is_empty() { "-".to_owned() } else { expires };
        let [created, signs] = ["created_at", "signs_from"].map(|name| to_the_second(&text(key, name)));
        [text(key, "kid"), text(key, "state"), created, signs, expires]
    };
    let rows: Vec<_> = members(response, "data").map(row).collect();
    terminal.table(["KEY", "STATE", "CREATED (UTC)", "SIGNS FROM (UTC)", "VERIFIES UNTIL (UTC)"], &rows);
}
