//! `wharf plugin`: build and sign a component, and deploy, look at and remove plugins through the operator API.

mod build;
mod keygen;
mod sign;
mod verify;
mod view;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use self::build::Build;
use self::keygen::Keygen;
use self::sign::Sign;
use self::verify::Verify;
use self::view::text;
use super::Remote;
use super::api::Api;
use super::failure::Failure;
use super::terminal::Terminal;
use crate::id::PluginName;
use crate::plugin::artifact::Digest;

/// Where the operator API keeps plugins.
const PLUGINS: &str = "/api/v1/plugins/";

/// Build, deploy and look at plugins.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// Build a Rust plugin into target/plugins/NAME.wasm
    Build(Build),
    /// Make a pair of keys to sign with
    Keygen(Keygen),
    /// Sign a component
    Sign(Sign),
    /// Check who signed a component, without a host
    Verify(Verify),
    /// Deploy a component; the release before it serves until the new one is ready
    Deploy(Deploy),
    /// List what is deployed
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one plugin: release, grants, permissions, routes
    Show {
        /// The plugin
        name: PluginName,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take a plugin down; its data stays unless said otherwise
    Remove(Remove),
}

/// Deploy a component.
#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// The component
    file: PathBuf,
    /// The plugin's name here [default: the name that the component declares]
    #[arg(long)]
    name: Option<PluginName>,
    /// Where its routes begin [default: where they were, else /api/v1/NAME]
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
    /// Capabilities it may use
    #[arg(long, value_name = "CAPABILITY,…", value_delimiter = ',')]
    grant: Vec<String>,
    /// Its settings, a JSON file
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A signature of `wharf plugin sign --detached`
    #[arg(long, value_name = "FILE.sig")]
    signature: Option<PathBuf>,
    /// The digest that the file must have; any other file is refused
    #[arg(long, value_name = "SHA256")]
    digest: Option<Digest>,
    #[command(flatten)]
    remote: Remote,
}

/// Take a plugin down.
#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The plugin
    name: PluginName,
    /// Delete its data too; this cannot be undone
    #[arg(long)]
    delete_data: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Plugin {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Build(build) => build.run(terminal),
            Self::Keygen(keygen) => keygen.run(terminal),
            Self::Sign(sign) => sign.run(terminal),
            Self::Verify(verify) => verify.run(terminal),
            Self::Deploy(deploy) => deploy.run(terminal),
            Self::List { remote } => list(&Api::open(&remote)?, terminal),
            Self::Show { name, remote } => show(&Api::open(&remote)?, &name, terminal),
            Self::Remove(remove) => remove.run(terminal),
        }
    }
}

impl Deploy {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let path = self.file.as_path();
        let (file, length) = open_component(path)?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(name) = &self.name {
            query.append_pair("name", name.as_str());
        }
        if let Some(mount) = &self.mount {
            query.append_pair("mount", mount);
        }
        for grant in self.grant.iter().map(|grant| grant.trim()).filter(|grant| !grant.is_empty()) {
            query.append_pair("grant", grant);
        }
        if let Some(file) = &self.settings {
            query.append_pair("settings", &read_settings(file)?);
        }
        if let Some(file) = &self.signature {
            for signature in sign::read_signatures(file)? {
                query.append_pair("signature", &signature.to_string());
            }
        }
        if let Some(digest) = &self.digest {
            query.append_pair("digest", digest.as_str());
        }

        let api = Api::open(&self.remote)?;
        let bar = terminal.progress(length);
        let answer = api.upload(&format!("{PLUGINS}?{}", query.finish()), bar.wrap_read(file), length);
        bar.finish_and_clear();
        let answer = answer?;
        if terminal.is_json() {
            terminal.json(&answer);
        } else {
            view::deployed(&answer, api.url(), terminal);
        }
        Ok(())
    }
}

/// The file and its length, if it can be a component at all: a wrong file is better found here than after its upload.
fn open_component(path: &Path) -> Result<(File, u64), Failure> {
    let unreadable = |error| Failure::usage(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let refused = |reason: &str| {
        Failure::usage(format!("{} {reason}", path.display())).next("Build one with `wharf plugin build DIR`.")
    };
    if !metadata.is_file() {
        return Err(refused("is not a file"));
    }
    let mut head = [0; 8];
    match file.read_exact(&mut head) {
        // `\0asm`, then the version: 1 for a module, 13 and the layer 1 for a component.
        Ok(()) if head.starts_with(b"\0asm\x01\0\0\0") => {
            return Err(refused("is a WebAssembly module, not a component; build it for wasm32-wasip2"));
        }
        Ok(()) if head.starts_with(b"\0asm") => {}
        Ok(()) | Err(_) => return Err(refused("is not WebAssembly")),
    }
    let file = File::open(path).map_err(unreadable)?;
    Ok((file, metadata.len()))
}

/// The whole of a component.
fn read_component(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    open_component(path)?
        .0
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok(bytes)
}

fn read_settings(path: &Path) -> Result<String, Failure> {
    let failure = |reason: String| Failure::usage(format!("settings {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failure(error.to_string()))?;
    // Written compactly: it travels in the URL.
    let value: Value = serde_json::from_str(&text).map_err(|error| failure(format!("not JSON: {error}")))?;
    Ok(value.to_string())
}

fn list(api: &Api, terminal: &Terminal) -> Result<(), Failure> {
    let answer = api.get(PLUGINS)?;
    if terminal.is_json() {
        terminal.json(&answer);
    } else {
        view::list(&answer, terminal);
    }
    Ok(())
}

fn show(api: &Api, name: &PluginName, terminal: &Terminal) -> Result<(), Failure> {
    let plugin = api.get(&format!("{PLUGINS}{name}"))?;
    if terminal.is_json() {
        terminal.json(&plugin);
    } else {
        view::plugin(&plugin, terminal);
    }
    Ok(())
}

impl Remove {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { name, delete_data, yes, remote } = self;
        let api = Api::open(&remote)?;
        if !yes {
            let what = if delete_data { "and ALL ITS DATA" } else { "(its data stays)" };
            let question = format!("This removes {name} {what} from {}. Type its name to go on", api.url());
            let typed =
                terminal.ask(&question).map_err(|failure| failure.next("Add --yes to go on without a question."))?;
            if typed != name.as_str() {
                return Err(Failure::new("nothing was removed"));
            }
        }
        let answer = api.delete(&format!("{PLUGINS}{name}?delete_data={delete_data}"))?;
        if terminal.is_json() {
            terminal.json(&answer);
        } else {
            terminal.line(text(&answer, "message"));
        }
        Ok(())
    }
}
