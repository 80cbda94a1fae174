//! What is recorded of plugins beside what is served: kept releases, history, deploys. Only reads.

use super::registry::{Registry, not_found, release_not_found};
use super::release::Record;
use crate::db::audit::{self, StoredEntry};
use crate::db::deploy::{self as deploys, StoredDeploy};
use crate::db::release::{self as releases, StoredRelease};
use crate::error::{Error, Result, code};
use crate::id::PluginName;

fn read(stored: &StoredRelease) -> Result<(Record, usize)> {
    Ok((Record::from_stored(stored)?, usize::try_from(stored.size).unwrap_or_default()))
}

impl Registry {
    /// Every kept release of a plugin with the size of its component, newest first.
    ///
    /// # Errors
    /// There never was such a plugin.
    pub async fn releases(&self, plugin: &PluginName) -> Result<Vec<(Record, usize)>> {
        let stored = releases::list(&self.db, plugin).await?;
        if stored.is_empty() {
            return Err(not_found(plugin));
        }
        stored.iter().map(read).collect()
    }

    /// A release that is served or kept, with the size of its component.
    ///
    /// # Errors
    /// There is none of this number.
    pub async fn release(&self, plugin: &PluginName, number: i64) -> Result<(Record, usize)> {
        let stored = releases::find(&self.db, plugin, number).await?;
        read(&stored.ok_or_else(|| release_not_found(plugin, number))?)
    }

    /// The release that a plugin serves, or would serve, with the size of its component.
    ///
    /// # Errors
    /// It was removed or never there.
    pub async fn live_record(&self, plugin: &PluginName) -> Result<(Record, usize)> {
        let stored = self.present(plugin).await?;
        self.release(plugin, stored.live_release).await
    }

    /// The capabilities that were taken back from a plugin.
    ///
    /// # Errors
    /// It was removed or never there.
    pub async fn revoked(&self, plugin: &PluginName) -> Result<Vec<String>> {
        self.present(plugin).await?.revoked()
    }

    /// What was done with a plugin, newest first, and how many entries there are.
    ///
    /// # Errors
    /// There never was such a plugin.
    pub async fn history(&self, plugin: &PluginName, skip: i64, limit: i64) -> Result<(Vec<StoredEntry>, i64)> {
        let (entries, count) = audit::history(&self.db, plugin, skip, limit).await?;
        if count == 0 { Err(not_found(plugin)) } else { Ok((entries, count)) }
    }

    /// A deploy by its id.
    ///
    /// # Errors
    /// There is none, or none any more.
    pub async fn deploy_of(&self, id: &str) -> Result<StoredDeploy> {
        let found = deploys::find(&self.db, id).await?;
        found.ok_or_else(|| Error::not_found(code::DEPLOY_NOT_FOUND, "There is no deploy of this id"))
    }
}
