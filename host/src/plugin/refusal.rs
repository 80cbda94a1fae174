//! The refusals that several operations on plugins share. Owns their codes and texts; decides nothing else.

use super::release::Record;
use crate::db::plugin::StoredPlugin;
use crate::error::{Error, Result, code};
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
