//! `wharf plugin`: build, check and sign a component, and deploy, look at, operate and remove plugins through the operator
//! API.

mod build;
mod capabilities;
mod check;
mod deploy;
mod diff;
mod keygen;
mod limits;
mod operate;
mod remove;
mod sign;
mod verify;
mod view;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::Value;

use self::build::Build;
use self::check::Check;
use self::deploy::Deploy;
use self::keygen::Keygen;
use self::limits::Limits;
use self::operate::{Grant, History, Revoke, Rollback};
use self::remove::Remove;
use self::sign::Sign;
use self::verify::Verify;
use super::Remote;
use super::api::Api;
use super::failure::Failure;
use super::terminal::Terminal;
use crate::id::PluginName;

/// Where the operator API keeps plugins.
const PLUGINS: &str = "/api/v1/plugins/";

/// Build, deploy and look at plugins.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// Build a Rust plugin into target/plugins/NAME.wasm
    Build(Build),
    /// Say what a file is and whether it can be deployed, without a host
    Check(Check),
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
    Show(Named),
    /// List the releases of a plugin that are kept
    Releases(Named),
    /// Tell what differs between two releases
    Diff(diff::Between),
    /// Tell what operators and the host did with a plugin
    History(History),
    /// Serve an earlier release again; its tables stay as they are now
    Rollback(Rollback),
    /// Compare the release on trial with the live one
    Canary(Named),
    /// Make the release on trial the live one
    Promote(Named),
    /// End the trial; the live release gets everybody again
    Abort(Named),
    /// Answer 503 on the plugin's routes until it is resumed
    Pause(Named),
    /// Serve a paused plugin again
    Resume(Named),
    /// Show what bounds a plugin and how near it is, or change what bounds its calls
    Limits(Limits),
    /// Take a capability back, at once; a release that needs it is not served any more
    Revoke(Revoke),
    /// Give a capability again that was taken back, or change what bounds one
    Grant(Grant),
    /// Take a plugin down, and keep its data or delete them
    Remove(Remove),
}

/// One plugin of a host.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The plugin
    name: PluginName,
    #[command(flatten)]
    remote: Remote,
}

impl Plugin {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::Build(build) => build.run(terminal),
            Self::Check(check) => check.run(terminal),
            Self::Keygen(keygen) => keygen.run(terminal),
            Self::Sign(sign) => sign.run(terminal),
            Self::Verify(verify) => verify.run(terminal),
            Self::Deploy(deploy) => deploy.run(terminal),
            Self::List { remote } => list(&Api::open(&remote)?, terminal),
            Self::Show(named) => show(&named, terminal),
            Self::Releases(named) => operate::releases(&named, terminal),
            Self::Diff(between) => between.run(terminal),
            Self::History(history) => history.run(terminal),
            Self::Rollback(rollback) => rollback.run(terminal),
            Self::Canary(named) => operate::canary(&named, terminal),
            Self::Promote(named) => operate::promote(&named, terminal),
            Self::Abort(named) => operate::abort(&named, terminal),
            Self::Pause(named) => operate::pause(&named, terminal),
            Self::Resume(named) => operate::resume(&named, terminal),
            Self::Limits(limits) => limits.run(terminal),
            Self::Revoke(revoke) => revoke.run(terminal),
            Self::Grant(grant) => grant.run(terminal),
            Self::Remove(remove) => remove.run(terminal),
        }
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

/// An answer for programs as it came, for people as `view` shows it.
fn tell(answer: &Value, terminal: &Terminal, view: impl FnOnce(&Value, &Terminal)) {
    if terminal.is_json() {
        terminal.json(answer);
    } else {
        view(answer, terminal);
    }
}

fn list(api: &Api, terminal: &Terminal) -> Result<(), Failure> {
    tell(&api.get(PLUGINS)?, terminal, view::list);
    Ok(())
}

fn show(named: &Named, terminal: &Terminal) -> Result<(), Failure> {
    let api = Api::open(&named.remote)?;
    let plugin = api.get(&format!("{PLUGINS}{}", named.name))?;
    let people = operate::people(plugin.get("release"), &api);
    tell(&plugin, terminal, |plugin, terminal| view::plugin(plugin, &people, terminal));
    Ok(())
}
