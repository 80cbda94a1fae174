//! `wharf plugin remove`: what becomes of the data is said, never assumed.

use clap::Args;

use super::super::Remote;
use super::super::api::Api;
use super::super::failure::Failure;
use super::super::terminal::Terminal;
use super::view::text;
use super::{PLUGINS, tell};
use crate::id::PluginName;

/// Take a plugin down.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The plugin
    name: PluginName,
    /// Keep its data; they come back with its next deploy
    #[arg(long, conflicts_with = "delete_data")]
    keep_data: bool,
    /// Delete its data too; this cannot be undone
    #[arg(long)]
    delete_data: bool,
    /// Do not ask for its name
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Remove {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, keep_data, delete_data, yes, remote } = self;
        let delete_data = match (keep_data, delete_data) {
            (false, false) => ask_fate(&name, terminal)?,
            (_, delete) => delete,
        };
        let api = Api::open(&remote)?;
        if !yes {
            let what = if delete_data { "and ALL ITS DATA" } else { "(its data stay)" };
            let question = format!("This removes {name} {what} from {}. Type its name to go on", api.url());
            let typed =
                terminal.ask(&question).map_err(|failure| failure.next("Add --yes to go on without a question."))?;
            if typed != name.as_str() {
                return Err(Failure::new("nothing was removed"));
            }
        }
        let answer = api.delete(&format!("{PLUGINS}{name}?delete_data={delete_data}"))?;
        tell(&answer, terminal, |answer, terminal| terminal.line(text(answer, "message")));
        if !delete_data {
            terminal.hint(format!("Its data stay; `wharf plugin remove {name} --delete-data` deletes them"));
        }
        Ok(())
    }
}

/// Whether to delete the data.
fn ask_fate(name: &PluginName, terminal: &Terminal) -> Result<bool, Failure> {
    if !terminal.can_ask() {
        let text = format!("say what becomes of the data of {name}: --keep-data or --delete-data");
        return Err(Failure::usage(text));
    }
    match terminal.ask(&format!("Keep or delete the data of {name}? [keep/delete]"))?.to_lowercase().as_str() {
        "keep" => Ok(false),
        "delete" => Ok(true),
        _ => Err(Failure::new("nothing was removed").next("Answer 'keep' or 'delete'.")),
    }
}
