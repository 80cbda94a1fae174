//! The operations on a deployed plugin: releases, history, rollback, canary, pause, grants. Each sends one request and
//! prints the outcome in one sentence.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::view::{self, show_response, text};
use crate::cli::api::{Api, PLUGINS, Remote};
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::id::PluginName;

/// One plugin of a host.
#[derive(Debug, Args)]
pub(in crate::cli) struct NamedPlugin {
    /// The plugin
    pub(super) name: PluginName,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Show the operations on a plugin.
#[derive(Debug, Args)]
pub(crate) struct HistoryCommand {
    /// The plugin
    name: PluginName,
    /// The number of entries to show, latest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

/// Serve an earlier release again.
#[derive(Debug, Args)]
pub(crate) struct RollbackCommand {
    /// The plugin
    name: PluginName,
    /// The release [default: the one before the live one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    #[command(flatten)]
    remote: Remote,
}

/// Grant a revoked capability again, or change the limits of a grant.
#[derive(Debug, Args)]
pub(crate) struct GrantCommand {
    /// The plugin
    name: PluginName,
    /// The capability (sql), or new limits of its grant (sql.rows=500; sql.rows=default)
    #[arg(required = true, value_name = "CAPABILITY[.PARAMETER=VALUE]")]
    grants: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Revoke a grant.
#[derive(Debug, Args)]
pub(crate) struct RevokeCommand {
    /// The plugin
    name: PluginName,
    /// The capability, such as sql
    capability: String,
    #[command(flatten)]
    remote: Remote,
}

/// Lists the releases. Adds to the host's list which release is live, which is the canary, and the email addresses.
pub(super) fn releases(named: &NamedPlugin, terminal: &Terminal) -> Result<(), Failure> {
    let api = Api::open(&named.remote)?;
    let mut response = api.get(&format!("{PLUGINS}{}/releases", named.name))?;
    // A removed plugin is not found, while its releases still exist.
    let plugin = api.get(&format!("{PLUGINS}{}", named.name)).unwrap_or_default();
    let number = |pointer: &str| plugin.pointer(pointer).cloned().unwrap_or_default();
    if let Some(response) = response.as_object_mut() {
        response.insert("live".to_owned(), number("/release/number"));
        response.insert("on_trial".to_owned(), number("/canary/release"));
    }
    if terminal.is_json() {
        terminal.json(&response);
    } else {
        let email_addresses = email_addresses(view::members(&response, "data"), &api);
        view::history::releases(&response, &email_addresses, terminal);
    }
    Ok(())
}

/// Returns the email addresses of the accounts that deployed the releases. A deleted account has none.
pub(super) fn email_addresses<'v>(releases: impl IntoIterator<Item = &'v Value>, api: &Api) -> Map<String, Value> {
    let mut email_addresses = Map::new();
    for release in releases {
        let id = text(release, "created_by");
        if id.is_empty() || email_addresses.contains_key(&id) {
            continue;
        }
        let user = api.get(&format!("/api/v1/users/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC)));
        let email = user.map(|user| text(&user, "email")).unwrap_or_default();
        email_addresses.insert(id, json!(email));
    }
    email_addresses
}

impl HistoryCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, limit, remote } = self;
        let response = Api::open(&remote)?.get(&format!("{PLUGINS}{name}/history?limit={limit}"))?;
        show_response(&response, terminal, view::history::history);
        Ok(())
    }
}

impl RollbackCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, to, remote } = self;
        let query = to.map(|number| format!("?release={number}")).unwrap_or_default();
        let response = Api::open(&remote)?.post(&format!("{PLUGINS}{name}/rollback{query}"))?;
        show_response(&response, terminal, |plugin, terminal| view::state(plugin, "Rolled back", terminal));
        Ok(())
    }
}

/// Sends a `POST` whose response is the plugin's new state.
fn post(named: &NamedPlugin, what: &str, done: &str, terminal: &Terminal) -> Result<(), Failure> {
    let response = Api::open(&named.remote)?.post(&format!("{PLUGINS}{}/{what}", named.name))?;
    show_response(&response, terminal, |plugin, terminal| view::state(plugin, done, terminal));
    Ok(())
}

pub(super) fn pause(named: &NamedPlugin, terminal: &Terminal) -> Result<(), Failure> {
    post(named, "pause", "Paused", terminal)?;
    terminal.hint(format!("Its routes respond with 503; `wharf plugin resume {}` serves it again", named.name));
    Ok(())
}

pub(super) fn resume(named: &NamedPlugin, terminal: &Terminal) -> Result<(), Failure> {
    post(named, "resume", "Resumed", terminal)
}

pub(super) fn promote(named: &NamedPlugin, terminal: &Terminal) -> Result<(), Failure> {
    post(named, "promote", "Promoted", terminal)
}

pub(super) fn canary(named: &NamedPlugin, terminal: &Terminal) -> Result<(), Failure> {
    let response = Api::open(&named.remote)?.get(&format!("{PLUGINS}{}/canary", named.name))?;
    show_response(&response, terminal, |canary, terminal| view::canary::canary(&named.name, canary, terminal));
    Ok(())
}

pub(super) fn abort(named: &NamedPlugin, terminal: &Terminal) -> Result<(), Failure> {
    let response = Api::open(&named.remote)?.post(&format!("{PLUGINS}{}/abort", named.name))?;
    show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
    Ok(())
}

/// Returns the path of a grant in the operator API.
fn grant_path(name: &PluginName, capability: &str) -> String {
    format!("{PLUGINS}{name}/grants/{}", utf8_percent_encode(capability, NON_ALPHANUMERIC))
}

impl GrantCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, grants, remote } = self;
        let mut capabilities = grants.iter().map(|grant| grant.split(['.', '=']).next().unwrap_or_default());
        let capability = capabilities.next().unwrap_or_default();
        if capabilities.any(|other| other != capability) {
            return Err(Failure::usage("change one capability at a time: each change creates a release"));
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        for parameter in grants.iter().filter_map(|grant| grant.split_once('.')).map(|(_, parameter)| parameter) {
            query.append_pair("parameter", parameter);
        }
        let response = Api::open(&remote)?.put(&format!("{}?{}", grant_path(&name, capability), query.finish()))?;
        show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
        Ok(())
    }
}

impl RevokeCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let response = Api::open(&self.remote)?.delete(&grant_path(&self.name, &self.capability))?;
        show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
        terminal.hint(format!("`wharf plugin grant {} {}` grants it again", self.name, self.capability));
        Ok(())
    }
}
