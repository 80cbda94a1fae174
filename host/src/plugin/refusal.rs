//! The refusals that several operations on plugins share. Owns their codes and texts; decides nothing else.

use std::time::Duration;

use super::artifact::printable;
use super::release::{Record, Release};
use crate::db::plugin::StoredPlugin;
use crate::db::plugin_data::MigrationError;
use crate::error::{Code, Error, Kind, Result, code};
use crate::id::PluginName;

/// Returns 404: there is no such plugin.
pub fn plugin_not_found(plugin: &PluginName) -> Error {
    Error::not_found(code::PLUGIN_NOT_FOUND, format!("There is no plugin '{plugin}'"))
}

/// Returns 404: there is no such release.
pub(super) fn release_not_found(plugin: &PluginName, number: i64) -> Error {
    Error::not_found(code::RELEASE_NOT_FOUND, format!("'{plugin}' has no release {number}, or it was collected"))
}

/// Returns 409: the plugin's state does not allow the operation.
pub(super) fn state_conflict(text: String) -> Error {
    Error::conflict(code::PLUGIN_STATE, text)
}

/// Returns 409: the plugin was changed while the operation ran. Nothing of the operation is served.
pub(super) fn plugin_changed(plugin: &PluginName, change: &str) -> Error {
    let text = format!("'{plugin}' was changed meanwhile: {change}. Look at it, and try again if you still want this");
    Error::conflict(code::PLUGIN_CHANGED, text)
}

/// Returns 503: an operator paused the plugin.
pub(super) fn plugin_paused() -> Error {
    unavailable(code::PLUGIN_PAUSED)
}

/// Returns 503: an operator revoked a grant of the release.
pub(super) fn plugin_revoked() -> Error {
    unavailable(code::PLUGIN_REVOKED)
}

/// `Retry-After` of a plugin that an operator stopped.
const STOPPED_RETRY_AFTER: Duration = Duration::from_secs(30);

fn unavailable(code: Code) -> Error {
    Error::new(Kind::Unavailable(STOPPED_RETRY_AFTER), code, "The plugin is not available")
}

impl StoredPlugin {
    /// Returns how the plugin was changed since it was read the first time. A pause that ended is no change: a deploy
    /// of a paused plugin may well continue.
    pub(super) fn change_since(&self, before: &Self) -> Option<&'static str> {
        match self {
            now if now.state != before.state => Some("it was removed"),
            now if now.live_release != before.live_release => Some("another release became the live one"),
            now if now.paused && !before.paused => Some("it was paused"),
            now if now.revoked != before.revoked => Some("a grant was revoked or restored"),
            _ => None,
        }
    }
}

/// Checks that no grant of a release was revoked since the release was loaded. Such a release is never served, even
/// after the grant was restored.
///
/// # Errors
/// 409 `plugin_changed`.
pub(super) fn check_grants_kept(release: &Release) -> Result<()> {
    if release.revocations.any() {
        return Err(plugin_changed(&release.record.plugin, "a grant was revoked"));
    }
    Ok(())
}

/// Checks that a release needs no revoked grant.
///
/// # Errors
/// 403 with the names of the revoked grants that it needs.
pub(super) fn check_revoked(stored: &StoredPlugin, record: &Record) -> Result<()> {
    let missing = revoked_needs(record, &stored.revoked()?);
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("Release {} needs revoked grants: {}", record.number, missing.join(", "));
    Err(Error::forbidden(code::GRANT_MISSING, text))
}

/// Returns the grants of a release that are revoked.
pub(super) fn revoked_needs(record: &Record, revoked: &[String]) -> Vec<String> {
    revoked.iter().filter(|name| record.grants.contains(name)).cloned().collect()
}

/// Returns the error of migrations that were not applied.
pub(super) fn migration_failed(error: MigrationError) -> Error {
    match error {
        MigrationError::Host(error) => error,
        MigrationError::Database(error) | MigrationError::Unclear(error) => {
            let kind = Kind::Unavailable(Duration::from_secs(5));
            Error::new(kind, code::DATABASE_UNAVAILABLE, "The plugin's database cannot be reached now")
                .with_source(error)
        }
        error => Error::new(Kind::Invalid(Vec::new()), code::MIGRATION_FAILED, printable(&error.to_string())),
    }
}
