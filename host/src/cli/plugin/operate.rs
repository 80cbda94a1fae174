//! What an operator does with a plugin that is there: its releases and history, back to an earlier one, trial, pause,
//! grants. Each is one request, and one sentence of what came of it.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::super::Remote;
use super::super::api::Api;
use super::super::failure::Failure;
use super::super::terminal::Terminal;
use super::view::{self, text};
use super::{Named, PLUGINS, tell};
use crate::id::PluginName;

/// Tell what was done with a plugin.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// The plugin
    name: PluginName,
    /// The latest so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

/// Serve an earlier release again.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The plugin
    name: PluginName,
    /// The release [default: the one before the live one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    #[command(flatten)]
    remote: Remote,
}

/// Give a grant again that was taken back, or change what bounds one.
#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// The plugin
    name: PluginName,
    /// What to give again (sql), or what bounds it from now on (sql.rows=500; sql.rows=default)
    #[arg(required = true, value_name = "CAPABILITY[.PARAMETER=VALUE]")]
    grants: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Take a grant back.
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The plugin
    name: PluginName,
    /// What it may not use any more, such as sql
    capability: String,
    #[command(flatten)]
    remote: Remote,
}

/// The releases, with what the host's list of them does not say: which is live, which is on trial, who deployed it.
pub(super) fn releases(named: &Named, terminal: &Terminal) -> Result<(), Failure> {
    let api = Api::open(&named.remote)?;
    let mut answer = api.get(&format!("{PLUGINS}{}/releases", named.name))?;
    // Not there once it was removed, while its releases still are.
    let plugin = api.get(&format!("{PLUGINS}{}", named.name)).unwrap_or_default();
    let number = |pointer: &str| plugin.pointer(pointer).cloned().unwrap_or_default();
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("live".to_owned(), number("/release/number"));
        answer.insert("on_trial".to_owned(), number("/canary/release"));
    }
    if terminal.is_json() {
        terminal.json(&answer);
    } else {
        let people = people(view::members(&answer, "data"), &api);
        view::history::releases(&answer, &people, terminal);
    }
    Ok(())
}

/// The addresses of who deployed the releases; whoever is gone has none.
pub(super) fn people<'v>(releases: impl IntoIterator<Item = &'v Value>, api: &Api) -> Map<String, Value> {
    let mut people = Map::new();
    for release in releases {
        let id = text(release, "created_by");
        if id.is_empty() || people.contains_key(&id) {
            continue;
        }
        let user = api.get(&format!("/api/v1/users/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC)));
        let email = user.map(|user| text(&user, "email")).unwrap_or_default();
        people.insert(id, json!(email));
    }
    people
}

impl History {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, limit, remote } = self;
        let answer = Api::open(&remote)?.get(&format!("{PLUGINS}{name}/history?limit={limit}"))?;
        tell(&answer, terminal, view::history::history);
        Ok(())
    }
}

impl Rollback {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, to, remote } = self;
        let query = to.map(|number| format!("?release={number}")).unwrap_or_default();
        let answer = Api::open(&remote)?.post(&format!("{PLUGINS}{name}/rollback{query}"))?;
        tell(&answer, terminal, |plugin, terminal| view::now(plugin, "Rolled back", terminal));
        Ok(())
    }
}

/// A request that answers with the plugin as it is then.
fn post(named: &Named, what: &str, done: &str, terminal: &Terminal) -> Result<(), Failure> {
    let answer = Api::open(&named.remote)?.post(&format!("{PLUGINS}{}/{what}", named.name))?;
    tell(&answer, terminal, |plugin, terminal| view::now(plugin, done, terminal));
    Ok(())
}

pub(super) fn pause(named: &Named, terminal: &Terminal) -> Result<(), Failure> {
    post(named, "pause", "Paused", terminal)?;
    terminal.hint(format!("Its routes answer 503; `wharf plugin resume {}` serves it again", named.name));
    Ok(())
}

pub(super) fn resume(named: &Named, terminal: &Terminal) -> Result<(), Failure> {
    post(named, "resume", "Resumed", terminal)
}

pub(super) fn promote(named: &Named, terminal: &Terminal) -> Result<(), Failure> {
    post(named, "promote", "Promoted", terminal)
}

pub(super) fn canary(named: &Named, terminal: &Terminal) -> Result<(), Failure> {
    let answer = Api::open(&named.remote)?.get(&format!("{PLUGINS}{}/canary", named.name))?;
    tell(&answer, terminal, |trial, terminal| view::trial::trial(&named.name, trial, terminal));
    Ok(())
}

pub(super) fn abort(named: &Named, terminal: &Terminal) -> Result<(), Failure> {
    let answer = Api::open(&named.remote)?.post(&format!("{PLUGINS}{}/abort", named.name))?;
    tell(&answer, terminal, |answer, terminal| terminal.line(text(answer, "message")));
    Ok(())
}

/// Where the host has a grant.
fn grant_path(name: &PluginName, capability: &str) -> String {
    format!("{PLUGINS}{name}/grants/{}", utf8_percent_encode(capability, NON_ALPHANUMERIC))
}

impl Grant {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, grants, remote } = self;
        let mut capabilities = grants.iter().map(|grant| grant.split(['.', '=']).next().unwrap_or_default());
        let capability = capabilities.next().unwrap_or_default();
        if capabilities.any(|other| other != capability) {
            return Err(Failure::usage("one capability at a time: each change is a release of its own"));
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        for parameter in grants.iter().filter_map(|grant| grant.split_once('.')).map(|(_, parameter)| parameter) {
            query.append_pair("parameter", parameter);
        }
        let answer = Api::open(&remote)?.put(&format!("{}?{}", grant_path(&name, capability), query.finish()))?;
        tell(&answer, terminal, |answer, terminal| terminal.line(text(answer, "message")));
        Ok(())
    }
}

impl Revoke {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let answer = Api::open(&self.remote)?.delete(&grant_path(&self.name, &self.capability))?;
        tell(&answer, terminal, |answer, terminal| terminal.line(text(answer, "message")));
        terminal.hint(format!("`wharf plugin grant {} {}` gives it again", self.name, self.capability));
        Ok(())
    }
}
