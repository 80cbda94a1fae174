//! `wharf plugin remove`: removes a plugin. The operator must say whether its data are kept or deleted; there is no
//! default.

use clap::Args;

use super::view::{show_response, text};
use crate::cli::api::{Api, PLUGINS, Remote};
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::id::PluginName;

/// Remove a plugin, and keep or delete its data.
#[derive(Debug, Args)]
pub(crate) struct RemoveCommand {
    /// The plugin
    name: PluginName,
    /// Keep its data; the next deploy of the plugin uses them again
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

impl RemoveCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, keep_data, delete_data, yes, remote } = self;
        let delete_data = match (keep_data, delete_data) {
            (false, false) => ask_whether_to_delete(&name, terminal)?,
            (_, delete) => delete,
        };
        let api = Api::open(&remote)?;
        if !yes {
            let what = if delete_data { "and ALL ITS DATA" } else { "(its data are kept)" };
            let question = format!("This removes {name} {what} from {}. Type its name to confirm", api.url());
            let typed = terminal.ask(&question).map_err(|failure| failure.next("Add --yes to skip the question."))?;
            if typed != name.as_str() {
                return Err(Failure::new("nothing was removed"));
            }
        }
        let response = api.delete(&format!("{PLUGINS}{name}?delete_data={delete_data}"))?;
        show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
        if !delete_data {
            terminal.hint(format!("Its data are kept; `wharf plugin remove {name} --delete-data` deletes them"));
        }
        Ok(())
    }
}

/// Asks whether to delete the data.
fn ask_whether_to_delete(name: &PluginName, terminal: &Terminal) -> Result<bool, Failure> {
    if !terminal.can_ask() {
        let text = format!("choose what happens to the data of {name}: --keep-data or --delete-data");
        return Err(Failure::usage(text));
    }
    match terminal.ask(&format!("Keep or delete the data of {name}? [keep/delete]"))?.to_lowercase().as_str() {
        "keep" => Ok(false),
        "delete" => Ok(true),
        _ => Err(Failure::new("nothing was removed").next("Answer 'keep' or 'delete'.")),
    }
}
