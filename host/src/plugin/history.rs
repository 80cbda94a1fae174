//! The recorded history of plugins: kept releases, audit entries, deploys. Only reads, and only from the database.

use super::refusal::{plugin_not_found, release_not_found};
use super::registry::Registry;
use super::release::Record;
use crate::db::audit::{self, StoredEntry};
use crate::db::deploy::{self as deploys, StoredDeploy};
use crate::db::plugin as plugins;
use crate::db::release::{self as releases, StoredRelease};
use crate::error::{Error, Result, code};
use crate::id::PluginName;

fn read(stored: &StoredRelease) -> Result<(Record, usize)> {
    Ok((Record::from_stored(stored)?, usize::try_from(stored.size).unwrap_or_default()))
}

impl Registry {
    /// Returns every kept release of a plugin with the size of its component, newest first.
    ///
    /// # Errors
    /// There never was such a plugin.
    pub async fn releases(&self, plugin: &PluginName) -> Result<Vec<(Record, usize)>> {
        let stored = releases::list(&self.db, plugin).await?;
        if stored.is_empty() {
            return Err(plugin_not_found(plugin));
        }
        stored.iter().map(read).collect()
    }

    /// Returns a kept release with the size of its component.
    ///
    /// # Errors
    /// There is no release with this number.
    pub async fn release(&self, plugin: &PluginName, number: i64) -> Result<(Record, usize)> {
        let stored = releases::find(&self.db, plugin, number).await?;
        read(&stored.ok_or_else(|| release_not_found(plugin, number))?)
    }

    /// Returns the release that a plugin serves or would serve, with the size of its component.
    ///
    /// # Errors
    /// The plugin was removed or never existed.
    pub async fn live_record(&self, plugin: &PluginName) -> Result<(Record, usize)> {
        let stored = self.present(plugin).await?;
        self.release(plugin, stored.live_release).await
    }

    /// Returns the revoked capabilities of a plugin.
    ///
    /// # Errors
    /// The plugin was removed or never existed.
    pub async fn revoked(&self, plugin: &PluginName) -> Result<Vec<String>> {
        self.present(plugin).await?.revoked()
    }

    /// Returns a page of the audit entries of a plugin, newest first, and the number of all entries.
    ///
    /// # Errors
    /// There never was such a plugin.
    pub async fn history(&self, plugin: &PluginName, skip: i64, limit: i64) -> Result<(Vec<StoredEntry>, i64)> {
        let (entries, count) = audit::history(&self.db, plugin, skip, limit).await?;
        // The entries of a plugin that nobody changed for long may all be pruned.
        if count == 0 && plugins::find(&self.db, plugin).await?.is_none() {
            return Err(plugin_not_found(plugin));
        }
        Ok((entries, count))
    }

    /// Finds a deploy by its id.
    ///
    /// # Errors
    /// There is no such deploy, or its record was collected.
    pub async fn find_deploy(&self, id: &str) -> Result<StoredDeploy> {
        let found = deploys::find(&self.db, id).await?;
        found.ok_or_else(|| Error::not_found(code::DEPLOY_NOT_FOUND, "There is no deploy of this id"))
    }
}
