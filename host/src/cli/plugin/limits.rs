//! `wharf plugin limits`: shows a plugin's limits, current usage and hit counts, or changes the limits of its calls.

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::Value;

use super::view::{members, show_response, text};
use crate::cli::api::{Api, PLUGINS, Remote};
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::id::PluginName;

/// Show or change the limits of a plugin.
#[derive(Debug, Args)]
pub(crate) struct LimitsCommand {
    /// The plugin
    name: PluginName,
    /// New limits of its calls (memory=128MiB; memory=default). Without any, the limits are shown
    #[arg(value_name = "LIMIT=VALUE")]
    limits: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

impl LimitsCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, limits, remote } = self;
        let api = Api::open(&remote)?;
        let path = format!("{PLUGINS}{name}/limits");
        if limits.is_empty() {
            let response = api.get(&path)?;
            show_response(&response, terminal, show);
            if !terminal.is_json() {
                terminal.hint(format!("`wharf plugin limits {name} memory=128MiB` changes a limit of its calls"));
                terminal.hint(format!("`wharf plugin grant {name} sql.rows=500` changes a limit of a grant"));
            }
            return Ok(());
        }
        // A limit of a grant has a dot in its name, and another command changes it.
        if let Some(grant) = limits.iter().find(|limit| limit.split('=').next().is_some_and(|name| name.contains('.')))
        {
            let failure = Failure::usage(format!("'{grant}' is a limit of a grant, not of the plugin's calls"));
            return Err(failure.next(format!("`wharf plugin grant {name} {grant}` changes it")));
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        for limit in &limits {
            query.append_pair("limit", limit);
        }
        let response = api.put(&format!("{path}?{}", query.finish()))?;
        show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
        Ok(())
    }
}

/// Limits whose usage is in bytes.
const SIZES: &[&str] = &["memory", "cache.bytes", "sql.disk"];

fn show(response: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(response, "data")
        .map(|limit| {
            let own = limit.get("own").and_then(Value::as_bool).unwrap_or_default();
            let set = if own { "plugin" } else { "host" };
            let or_none =
                |name: &str| Some(text(limit, name)).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
            let (name, value) = (text(limit, "name"), or_none("value"));
            let usage = |member: &str| match limit.get(member).and_then(Value::as_u64) {
                Some(bytes) if SIZES.contains(&name.as_str()) => BinaryBytes(bytes).to_string(),
                _ => or_none(member),
            };
            let (now, peak) = (usage("current"), usage("peak"));
            [name, value, set.to_owned(), now, peak, or_none("met")]
        })
        .collect();
    terminal.table(["LIMIT", "VALUE", "SET FOR", "NOW", "PEAK", "HITS"], &rows);
}
