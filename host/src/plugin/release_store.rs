//! Recorded releases: finds them in the database, loads them from their kept components, and deletes those that the
//! retention policy does not keep. Never changes the live set.

use std::sync::Arc;

use bytes::Bytes;

use super::breaker::Breaker;
use super::refusal::{plugin_not_found, release_not_found};
use super::registry::Registry;
use super::release::{Record, Release, ReleaseResources};
use crate::db::deploy as deploys;
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::release::{self as releases, Retention, StoredRelease};
use crate::error::{Error, Result};
use crate::id::PluginName;

impl Registry {
    /// Finds a plugin that was not removed.
    pub(super) async fn present(&self, plugin: &PluginName) -> Result<StoredPlugin> {
        let stored = table::find(&self.db, plugin).await?;
        stored.filter(|stored| stored.state == "live").ok_or_else(|| plugin_not_found(plugin))
    }

    /// Checks after a failed write that a release is recorded as the live one all the same: the database may commit and
    /// lose the connection before it responds.
    ///
    /// # Errors
    /// The error of the write, if the release is not recorded or the database still fails.
    pub(super) async fn check_recorded(&self, plugin: &PluginName, live: i64, error: Error) -> Result<()> {
        match table::find(&self.db, plugin).await {
            Ok(Some(stored)) if stored.state == "live" && stored.live_release == live => Ok(()),
            _ => Err(error),
        }
    }

    /// Finds a recorded release.
    pub(super) async fn stored_release(&self, plugin: &PluginName, number: i64) -> Result<StoredRelease> {
        releases::find(&self.db, plugin, number).await?.ok_or_else(|| release_not_found(plugin, number))
    }

    /// Reads the component of a recorded release.
    pub(super) async fn component(&self, record: &Record) -> Result<Bytes> {
        let component = releases::component(&self.db, record.digest.as_str()).await?;
        component.map(Bytes::from).ok_or_else(|| Error::internal("its component is not in the database"))
    }

    /// Loads a recorded release from its kept component, and prepares it.
    pub(super) async fn load(&self, stored: &StoredRelease) -> Result<Release> {
        let release = self.unprepared(stored)?;
        let parts = self.prepare_parts(&release).await?;
        release.parts.store(Some(Arc::new(parts)));
        Ok(release)
    }

    /// Loads a recorded release without the parts that its calls need.
    ///
    /// # Errors
    /// Its record is not readable, or not valid for this version.
    pub(super) fn unprepared(&self, stored: &StoredRelease) -> Result<Release> {
        let record = Record::from_stored(stored)?;
        let size = usize::try_from(stored.size).unwrap_or_default();
        let imports = serde_json::from_str(&stored.imports).map_err(Error::internal)?;
        let resources = self.release_resources(&record)?;
        let revocations = self.live.capabilities().track(&record.plugin, &record.grants);
        Ok(Release::unprepared(record, size, imports, revocations, resources))
    }

    /// Creates or finds the resources of a release.
    ///
    /// # Errors
    /// Its stored limits are not valid for this version.
    pub(super) fn release_resources(&self, record: &Record) -> Result<ReleaseResources> {
        let plugin = &record.plugin;
        Ok(ReleaseResources {
            cache: self.caches.plugin(plugin),
            log: self.logs.plugin(plugin),
            bulkhead: self.live.bulkhead(plugin),
            pause: self.pauses.plugin(plugin),
            limits: record.limits.resolve(&self.limits)?,
            usage: Arc::default(),
            breaker: Breaker::new(self.clock.clone(), self.limits.breaker_faults, self.limits.quarantine),
        })
    }

    /// Removes the database that a failed deploy created for a plugin without any release. Otherwise nobody could
    /// remove it, and later deploys would have to keep migrations that were never released.
    pub(super) async fn remove_unreleased_data(&self, plugin: &PluginName) {
        let removed = match table::find(&self.db, plugin).await {
            Ok(None) => self.data.delete(plugin).await,
            // Another deploy succeeded with this database.
            Ok(Some(_)) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::error!(%plugin, error = error.report(), "the database of a failed first deploy was not removed");
        }
    }

    /// Deletes releases and records of deploys that the retention policy does not keep. A failure is logged: it costs
    /// disk space, nothing else.
    pub(super) async fn collect_releases(&self, plugin: &PluginName) {
        let generation = self.generation();
        let plugins = &generation.plugins;
        let mut spared: Vec<i64> = plugins.current(plugin).map(|release| release.record.number).into_iter().collect();
        spared.extend(plugins.canaries.get(plugin).map(|canary| canary.release.record.number));
        if spared.is_empty() {
            // The plugin is not loaded now, but its live release can be loaded later.
            match table::find(&self.db, plugin).await {
                Ok(stored) => spared.extend(stored.map(|stored| stored.live_release)),
                Err(error) => return tracing::error!(error = error.report(), "old releases were not collected"),
            }
        }
        let since = self.clock.now().minus(self.limits.keep_releases_for);
        if let Err(error) = deploys::delete_ended_before(&self.db, since).await {
            tracing::error!(error = error.report(), "records of old deploys were not collected");
        }
        let (newest, bytes) = (self.limits.keep_releases, self.limits.keep_releases_bytes);
        match releases::collect(&self.db, plugin, &Retention { newest, since, bytes, spared: &spared }).await {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(%plugin, releases = ?gone, "old releases were collected"),
            Err(error) => tracing::error!(error = error.report(), "old releases were not collected"),
        }
    }

    /// Removes old machine code from disk, once enough was written. That of releases which are served or were live
    /// before stays. A failure is logged: it costs disk space, nothing else.
    pub(super) async fn trim_code_cache(&self) {
        if !self.compiler.needs_trim() {
            return;
        }
        let trimmed = match releases::digests_to_serve(&self.db).await {
            Ok(digests) => {
                let generation = self.generation();
                let loaded = generation.plugins.releases().map(|release| release.record.digest.to_string());
                self.compiler.trim(loaded.chain(digests).collect()).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = trimmed {
            tracing::error!(error = error.report(), "old machine code was not removed");
        }
    }
}
