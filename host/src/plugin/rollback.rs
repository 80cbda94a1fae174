//! Rollbacks, by an operator or by the host: serve a release again that was live before. A rollback changes code and
//! never data. The release is loaded before the change lock is taken, so that no other change waits for a compilation.

use std::sync::Arc;

use serde_json::{Value, json};

use super::artifact::printable;
use super::generation::MountedRoutes;
use super::refusal::{check_grants_kept, check_revoked, plugin_changed, state_conflict};
use super::registry::Registry;
use super::release::{Record, Release};
use super::schema_compatibility;
use crate::db::audit::Outcome;
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::release as releases;
use crate::error::{Error, Result, code};
use crate::id::PluginName;
use crate::initiator::Initiator;

impl Registry {
    /// Serves an earlier release again; `None` means the one that the live one replaced. Its tables stay as they are
    /// now. A running deploy of the plugin ends with `plugin_changed`.
    ///
    /// # Errors
    /// There is no such release (404), it is already live, it needs a revoked grant, its tables were deleted, or its routes
    /// or migrations conflict with the present state. The live release stays live.
    pub async fn roll_back(&self, plugin: &PluginName, to: Option<i64>, by: &Initiator) -> Result<Arc<Release>> {
        if to.is_some() {
            return self.roll_back_from(plugin, None, to, by, json!({})).await;
        }
        let recorded = self.present(plugin).await?.live_release;
        // An earlier rollback was recorded, but the response of the database was lost before it was served. A deploy or
        // a promotion whose response was lost is undone like any other.
        let is_unserved = match self.served(plugin) {
            Some(served) if served != recorded => releases::leads_back(&self.db, plugin, served, recorded).await?,
            _ => false,
        };
        let to = is_unserved.then_some(recorded);
        // The release before the live one is another one after a change, so the live one must stay the same.
        self.roll_back_from(plugin, Some(recorded), to, by, json!({})).await
    }

    /// Rolls back if the release `from` is still live; `detail` goes into the audit log.
    pub(super) async fn roll_back_from(
        &self,
        plugin: &PluginName,
        from: Option<i64>,
        to: Option<i64>,
        by: &Initiator,
        mut detail: Value,
    ) -> Result<Arc<Release>> {
        let stored = self.present(plugin).await?;
        check_live(plugin, &stored, from, to)?;
        let number = match to {
            Some(number) => number,
            None => {
                let before = stored.live_release;
                let earlier = releases::live_before(&self.db, plugin, before).await?;
                earlier.ok_or_else(|| {
                    let text = format!("'{plugin}' has no release before {before} to go back to");
                    Error::not_found(code::RELEASE_NOT_FOUND, text)
                })?
            }
        };
        let target = self.stored_release(plugin, number).await?;
        let record = Record::from_stored(&target)?;
        self.check_rollback(&stored, &record)?;
        let release = Arc::new(self.load(&target).await?);

        let _changing = self.live.lock().await;
        let stored = self.present(plugin).await?;
        let before = stored.live_release;
        check_live(plugin, &stored, from, to)?;
        // It may have been collected meanwhile.
        self.stored_release(plugin, number).await?;
        self.check_rollback(&stored, &record)?;
        check_grants_kept(&release)?;
        self.live.check_routes(MountedRoutes::of(&release))?;
        // A way back stays as it was. A way forward, or to a release that was never live, can be undone.
        let goes_back = releases::leads_back(&self.db, plugin, before, number).await?;
        let replaced = (!goes_back).then_some(before);
        let cause = self.cause(by);
        if let Err(error) = table::set_live(&self.db, plugin, number, replaced, cause).await {
            self.check_recorded(plugin, number, error).await?;
        }
        // The recorded one is the target already if this repeats a rollback whose response was lost.
        let before = self.served(plugin).unwrap_or(before);
        self.live.serve(Arc::clone(&release), stored.paused);
        self.turns.interrupt(plugin);
        self.probations.end(plugin);
        tracing::info!(%plugin, before, after = number, "rolled back");
        if let Some(detail) = detail.as_object_mut() {
            detail.insert("before".to_owned(), before.into());
            detail.insert("after".to_owned(), number.into());
        }
        self.audit("plugin.rollback", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(release)
    }

    /// Returns the number of the release that is live or paused.
    fn served(&self, plugin: &PluginName) -> Option<i64> {
        self.generation().plugins.current(plugin).map(|release| release.record.number)
    }

    /// Checks that a release can become the live one in the present state of its plugin.
    fn check_rollback(&self, stored: &StoredPlugin, record: &Record) -> Result<()> {
        let (plugin, number) = (&record.plugin, record.number);
        if self.served(plugin) == Some(number) && stored.live_release == number {
            let text = format!("Release {number} of '{plugin}' is already the live one");
            return Err(Error::conflict(code::RELEASE_LIVE, text));
        }
        check_revoked(stored, record)?;
        let applied = stored.steps()?;
        if let Some(missing) = schema_compatibility::first_missing(&record.migrations, &applied) {
            return Err(state_conflict(format!(
                "The tables of '{plugin}' do not have the migration '{}' of release {number}, because its data was \
                 deleted since. Deploy the file of the release again",
                printable(missing)
            )));
        }
        schema_compatibility::check_back(&record.migrations, &applied)?;
        match self.turns.migrating(plugin) {
            Some(steps) => schema_compatibility::check_back(&record.migrations, &steps),
            None => Ok(()),
        }
    }
}

/// Checks that the release `from` is still the live one, or that the release `to` is already recorded as the live one.
fn check_live(plugin: &PluginName, stored: &StoredPlugin, from: Option<i64>, to: Option<i64>) -> Result<()> {
    match from {
        Some(number) if number != stored.live_release && to != Some(stored.live_release) => {
            Err(plugin_changed(plugin, &format!("release {} is live now", stored.live_release)))
        }
        _ => Ok(()),
    }
}
