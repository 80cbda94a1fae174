//! `wharf plugin deploy`: uploads a component, shows the stage of its deploy, and asks for missing grants.

mod stages;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::component_file::open_component;
use super::{capabilities, sign, view};
use crate::cli::api::{Api, PLUGINS, Remote};
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::clock::Random;
use crate::id::PluginName;
use crate::plugin::artifact::Digest;

/// Deploy a component.
#[derive(Debug, Args)]
pub(crate) struct DeployCommand {
    /// The component
    file: PathBuf,
    /// The plugin's name on this host [default: the name that the component declares]
    #[arg(long)]
    name: Option<PluginName>,
    /// The path below which its routes are mounted [default: the live release's, else /api/v1/NAME]
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
    /// Capabilities to grant, and limits of the grants, such as sql,sql.rows=500
    #[arg(long, value_name = "CAPABILITY[.PARAMETER=VALUE],…", value_delimiter = ',')]
    grant: Vec<String>,
    /// Limits of its calls, such as memory=128MiB,deadline=2s
    #[arg(long, value_name = "LIMIT=VALUE,…", value_delimiter = ',')]
    limit: Vec<String>,
    /// Its settings, a JSON file
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A file with signatures, from `wharf plugin sign --detached`
    #[arg(long, value_name = "FILE.sig")]
    signature: Option<PathBuf>,
    /// The digest of the expected file; the host refuses any other
    #[arg(long, value_name = "SHA256")]
    digest: Option<Digest>,
    /// Deploy it as a canary next to the live release: for a share of callers (10%), for growing shares (5%,25%,100%),
    /// or only for requests of superusers with `X-Wharf-Canary: always` (header)
    #[arg(long, value_name = "SHARE,…|header")]
    canary: Option<String>,
    /// The minimum time of each of several shares, such as 10m
    #[arg(long, value_name = "TIME", requires = "canary")]
    hold: Option<String>,
    /// The number of canary calls before the releases are compared
    #[arg(long, value_name = "CALLS", requires = "canary")]
    minimum: Option<u64>,
    /// Do not ask for missing grants; a component that lacks one is refused
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

impl DeployCommand {
    pub(super) fn run(mut self, terminal: &Terminal) -> Result<(), Failure> {
        // An error in the file is reported before a missing login.
        open_component(&self.file)?;
        let settings = self.settings.as_deref().map(read_settings).transpose()?;
        let api = Api::open(&self.remote)?;
        let response = match self.upload(&api, settings.as_deref(), terminal) {
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
            terminal.json(&response);
        } else {
            view::deployed(&response, api.url(), terminal);
        }
        Ok(())
    }

    fn upload(&self, api: &Api, settings: Option<&str>, terminal: &Terminal) -> Result<Value, Failure> {
        let (file, length) = open_component(&self.file)?;
        let id = Random::System.uuid().map_err(|error| Failure::host(&error))?.to_string();
        let path = format!("{PLUGINS}?{}", self.query(&id)?);
        let bar = terminal.progress(length);
        let body = bar.wrap_read(file);
        let outcome = stages::follow(api, &id, &bar, terminal, || api.upload(&path, body, length, settings));
        bar.finish_and_clear();
        outcome.map_err(|refusal| stages::locate(capabilities::explain(refusal), api, &id))
    }

    fn query(&self, id: &str) -> Result<String, Failure> {
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
    // A typing error is reported before the upload. The text is not repeated, because it can hold secrets.
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| failure(format!("not JSON, at line {}, column {}", error.line(), error.column())))?;
    Ok(value.to_string())
}
