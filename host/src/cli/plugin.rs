//! `wharf plugin`: builds, checks and signs components, and deploys, inspects, operates and removes plugins through the
//! operator API.

mod build;
mod capabilities;
mod check;
mod component_file;
mod deploy;
mod diff;
mod keygen;
mod limits;
mod operations;
mod remove;
mod sign;
mod verify;
pub(in crate::cli) mod view;

use clap::Subcommand;

use self::build::BuildCommand;
use self::check::CheckCommand;
use self::deploy::DeployCommand;
use self::keygen::KeygenCommand;
use self::limits::LimitsCommand;
use self::operations::{GrantCommand, HistoryCommand, NamedPlugin, RevokeCommand, RollbackCommand};
use self::remove::RemoveCommand;
use self::sign::SignCommand;
use self::verify::VerifyCommand;
use super::api::{Api, PLUGINS, Remote};
use super::failure::Failure;
use super::terminal::Terminal;

/// Build, deploy and look at plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Build a Rust plugin into target/plugins/NAME.wasm
    Build(BuildCommand),
    /// Say what a file is and whether it can be deployed, without a host
    Check(CheckCommand),
    /// Create a key pair for signatures
    Keygen(KeygenCommand),
    /// Sign a component
    Sign(SignCommand),
    /// Verify the signatures of a component, without a host
    Verify(VerifyCommand),
    /// Deploy a component; the live release serves until the new one is ready
    Deploy(DeployCommand),
    /// List the deployed plugins
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one plugin: release, grants, permissions, routes
    Show(NamedPlugin),
    /// List the stored releases of a plugin
    Releases(NamedPlugin),
    /// Show the differences between two releases
    Diff(diff::DiffCommand),
    /// Show the operations of operators and the host on a plugin
    History(HistoryCommand),
    /// Serve an earlier release again; the tables keep their present schema and data
    Rollback(RollbackCommand),
    /// Compare the canary with the live release
    Canary(NamedPlugin),
    /// Make the canary the live release
    Promote(NamedPlugin),
    /// End the canary; the live release serves all callers again
    Abort(NamedPlugin),
    /// Respond with 503 on the plugin's routes until it is resumed; end its calls in flight
    Pause(NamedPlugin),
    /// Serve a paused plugin again
    Resume(NamedPlugin),
    /// Show a plugin's limits, current usage and hit counts, or change the limits of its calls
    Limits(LimitsCommand),
    /// Revoke a capability at once, also from calls in flight; a release that needs it is no longer served
    Revoke(RevokeCommand),
    /// Grant a revoked capability again, or change the limits of a grant
    Grant(GrantCommand),
    /// Remove a plugin, and keep or delete its data
    Remove(RemoveCommand),
}

impl PluginCommand {
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
            Self::Releases(named) => operations::releases(&named, terminal),
            Self::Diff(diff) => diff.run(terminal),
            Self::History(history) => history.run(terminal),
            Self::Rollback(rollback) => rollback.run(terminal),
            Self::Canary(named) => operations::canary(&named, terminal),
            Self::Promote(named) => operations::promote(&named, terminal),
            Self::Abort(named) => operations::abort(&named, terminal),
            Self::Pause(named) => operations::pause(&named, terminal),
            Self::Resume(named) => operations::resume(&named, terminal),
            Self::Limits(limits) => limits.run(terminal),
            Self::Revoke(revoke) => revoke.run(terminal),
            Self::Grant(grant) => grant.run(terminal),
            Self::Remove(remove) => remove.run(terminal),
        }
    }
}

fn list(api: &Api, terminal: &Terminal) -> Result<(), Failure> {
    view::show_response(&api.get(PLUGINS)?, terminal, view::list);
    Ok(())
}

fn show(named: &NamedPlugin, terminal: &Terminal) -> Result<(), Failure> {
    let api = Api::open(&named.remote)?;
    let plugin = api.get(&format!("{PLUGINS}{}", named.name))?;
    let email_addresses = operations::email_addresses(plugin.get("release"), &api);
    view::show_response(&plugin, terminal, |plugin, terminal| view::plugin(plugin, &email_addresses, terminal));
    Ok(())
}
