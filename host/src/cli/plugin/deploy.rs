//! `wharf plugin deploy`: sends a component, shows how far its deploy has come, and asks for grants that are missing.

mod stages;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::super::Remote;
use super::super::api::Api;
use super::super::failure::Failure;
use super::super::terminal::Terminal;
use super::{PLUGINS, capabilities, open_component, sign, view};
use crate::clock::Random;
use crate::id::PluginName;
use crate::plugin::artifact::Digest;

/// Deploy a component.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The component
    file: PathBuf,
    /// The plugin's name here [default: the name that the component declares]
    #[arg(long)]
    name: Option<PluginName>,
    /// Where its routes begin [default: where they were, else /api/v1/NAME]
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
    /// Capabilities it may use, and what bounds them: sql,sql.rows=500
    #[arg(long, value_name = "CAPABILITY[.PARAMETER=VALUE],…", value_delimiter = ',')]
    grant: Vec<String>,
    /// What bounds its calls, such as memory=128MiB,deadline=2s
    #[arg(long, value_name = "LIMIT=VALUE,…", value_delimiter = ',')]
    limit: Vec<String>,
    /// Its settings, a JSON file
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A signature of `wharf plugin sign --detached`
    #[arg(long, value_name = "FILE.sig")]
    signature: Option<PathBuf>,
    /// The digest that the file must have; any other file is refused
    #[arg(long, value_name = "SHA256")]
    digest: Option<Digest>,
    /// Try it beside the live release: for a share of callers (10%), for growing shares (5%,25%,100%), or only for
    /// requests with `X-Wharf-Canary: always` (header)
    #[arg(long, value_name = "SHARE,…|header")]
    canary: Option<String>,
    /// How long each of several shares lasts at least, such as 10m
    #[arg(long, value_name = "TIME", requires = "canary")]
    hold: Option<String>,
    /// Calls of the release on trial before it is judged
    #[arg(long, value_name = "CALLS", requires = "canary")]
    minimum: Option<u64>,
    /// Do not ask; a component that lacks a grant is refused
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Deploy {
    pub(super) fn run(mut self, terminal: &Terminal) -> Result<(), Failure> {
        // A wrong file is told before a missing login.
        open_component(&self.file)?;
        let settings = self.settings.as_deref().map(read_settings).transpose()?;
        let api = Api::open(&self.remote)?;
        let answer = match self.upload(&api, settings.as_deref(), terminal) {
            Err(refusal) if !self.yes && terminal.can_ask() => {
                let missing = capabilities::missing(&refusal);
                if missing.is_empty() {
                    return Err(refusal);
                }
                if !capabilities::ask(&missing, terminal)? {
                    return Err(Failure::new("nothing was deployed"));
                }
                self.grant.extend(missing);
                self.upload(&api, settings.as_deref(), terminal)?
            }
            outcome => outcome?,
        };
        if terminal.is_json() {
            terminal.json(&answer);
        } else {
            view::deployed(&answer, api.url(), terminal);
        }
        Ok(())
    }

    fn upload(&self, api: &Api, settings: Option<&str>, terminal: &Terminal) -> Result<Value, Failure> {
        let (file, length) = open_component(&self.file)?;
        let id = Random::System.uuid().map_err(|error| Failure::host(&error))?.to_string();
        let path = format!("{PLUGINS}?{}", self.query(&id, settings)?);
        let bar = terminal.progress(length);
        let body = bar.wrap_read(file);
        let outcome = stages::follow(api, &id, &bar, terminal, || api.upload(&path, body, length));
        bar.finish_and_clear();
        outcome.map_err(|refusal| stages::locate(capabilities::explain(refusal), api, &id))
    }

    fn query(&self, id: &str, settings: Option<&str>) -> Result<String, Failure> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("id", id);
        if let Some(name) = &self.name {
            query.append_pair("name", name.as_str());
        }
        for grant in self.grant.iter().map(|grant| grant.trim()).filter(|grant| !grant.is_empty()) {
            query.append_pair("grant", grant);
        }
        for limit in &self.limit {
            query.append_pair("limit", limit);
        }
        if let Some(file) = &self.signature {
            for signature in sign::read_signatures(file)? {
                query.append_pair("signature", &signature.to_string());
            }
        }
        let minimum = self.minimum.map(|minimum| minimum.to_string());
        let given = [
            ("digest", self.digest.as_ref().map(Digest::as_str)),
            ("mount", self.mount.as_deref()),
            ("settings", settings),
            ("canary", self.canary.as_deref()),
            ("hold", self.hold.as_deref()),
            ("minimum", minimum.as_deref()),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        Ok(query.finish())
    }
}

fn read_settings(path: &Path) -> Result<String, Failure> {
    let failure = |reason: String| Failure::usage(format!("settings {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failure(error.to_string()))?;
    // Written compactly: it travels in the URL.
    let value: Value = serde_json::from_str(&text).map_err(|error| failure(format!("not JSON: {error}")))?;
    Ok(value.to_string())
}
