//! `wharf plugin limits`: what bounds a plugin, how near it is to that, and how often it was met; or other bounds for its
//! calls.

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::Value;

use super::super::Remote;
use super::super::api::Api;
use super::super::failure::Failure;
use super::super::terminal::Terminal;
use super::view::{members, text};
use super::{PLUGINS, tell};
use crate::id::PluginName;

/// Show or change what bounds a plugin.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// The plugin
    name: PluginName,
    /// Bounds of its calls from now on (memory=128MiB; memory=default); none: show them
    #[arg(value_name = "LIMIT=VALUE")]
    limits: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Limits {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, limits, remote } = self;
        let api = Api::open(&remote)?;
        let path = format!("{PLUGINS}{name}/limits");
        if limits.is_empty() {
            let answer = api.get(&path)?;
            tell(&answer, terminal, show);
            if !terminal.is_json() {
                terminal.hint(format!("`wharf plugin limits {name} memory=128MiB` changes one of its calls"));
                terminal.hint(format!("`wharf plugin grant {name} sql.rows=500` changes one of a grant"));
            }
            return Ok(());
        }
        // What bounds a grant has a dot, and a command of its own.
        if let Some(grant) = limits.iter().find(|limit| limit.split('=').next().is_some_and(|name| name.contains('.')))
        {
            let failure = Failure::usage(format!("'{grant}' bounds a grant, not the plugin's calls"));
            return Err(failure.next(format!("`wharf plugin grant {name} {grant}` changes it")));
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        for limit in &limits {
            query.append_pair("limit", limit);
        }
        let answer = api.put(&format!("{path}?{}", query.finish()))?;
        tell(&answer, terminal, |answer, terminal| terminal.line(text(answer, "message")));
        Ok(())
    }
}

/// Limits of which bytes are taken.
const SIZES: &[&str] = &["memory", "cache.bytes", "sql.disk"];

fn show(answer: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(answer, "data")
        .map(|limit| {
            let own = limit.get("own").and_then(Value::as_bool).unwrap_or_default();
            let set = if own { "plugin" } else { "host" };
            let or_none =
                |name: &str| Some(text(limit, name)).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
            let (name, value) = (text(limit, "name"), or_none("value"));
            let taken = |taken: &str| match limit.get(taken).and_then(Value::as_u64) {
                Some(bytes) if SIZES.contains(&name.as_str()) => BinaryBytes(bytes).to_string(),
                _ => or_none(taken),
            };
            let (now, peak) = (taken("current"), taken("peak"));
            [name, value, set.to_owned(), now, peak, or_none("met")]
        })
        .collect();
    terminal.table(["LIMIT", "VALUE", "SET FOR", "NOW", "PEAK", "MET"], &rows);
}
