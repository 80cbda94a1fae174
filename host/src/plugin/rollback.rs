//! Rollbacks, by an operator or by the host: serve a release again that was live before. A rollback changes code and
//! never data. The release is loaded before the change lock is taken, so that no other change waits for a compilation.

use std::sync::Arc;

use serde_json::{Value, json};

use super::generation::MountedRoutes;
use super::initiator::Initiator;
use super::refusal::{check_grants_kept, check_revoked, plugin_changed};
use super::registry::Registry;
use super::release::{Record, Release};
use super::schema_compatibility;
use crate::db::audit::Outcome;
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::release as releases;
use crate::error::{Error, Result, code};
use crate::id::PluginName;

impl Registry {
    /// Serves an earlier release again; `None` means the one that the live one replaced. Its tables stay as they are
    /// now. A running deploy of the plugin ends with `plugin_changed`.
    ///
    /// # Errors
    /// There is no such release (404), it is already live, it needs a revoked grant, or its routes or migrations
    /// conflict with the present state. The live release stays live.
    pub async fn roll_back(&self, plugin: &PluginName, to: Option<i64>, by: &Initiator) -> Result<Arc<Release>> {
        // The release before the live one is another one after a change, so the live one must stay the same.
        let from = if to.is_none() { Some(self.present(plugin).await?.live_release) } else { None };
        self.roll_back_from(plugin, from, to, by, json!({})).await
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
        check_live(plugin, &stored, from)?;
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
        check_live(plugin, &stored, from)?;
        // It may have been collected meanwhile.
        self.stored_release(plugin, number).await?;
        self.check_rollback(&stored, &record)?;
        check_grants_kept(&release)?;
        self.live.check_routes(MountedRoutes::of(&release))?;
        // A way back stays as it was. A way forward, or to a release that was never live, can be undone.
        let goes_back = releases::leads_back(&self.db, plugin, before, number).await?;
        table::set_live(&self.db, plugin, number, (!goes_back).then_some(before), self.clock.now()).await?;
        self.live.serve(Arc::clone(&release))?;
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

    /// Checks that a release can become the live one in the present state of its plugin.
    fn check_rollback(&self, stored: &StoredPlugin, record: &Record) -> Result<()> {
        let (plugin, number) = (&record.plugin, record.number);
        let served = self.generation().plugins.current(plugin).map(|release| release.record.number);
        if served == Some(number) {
            let text = format!("Release {number} of '{plugin}' is already the live one");
            return Err(Error::conflict(code::RELEASE_LIVE, text));
        }
        check_revoked(stored, record)?;
        schema_compatibility::check_back(&record.migrations, &stored.steps()?)?;
        match self.turns.migrating(plugin) {
            Some(steps) => schema_compatibility::check_back(&record.migrations, &steps),
            None => Ok(()),
        }
    }
}

/// Checks that a release is still the live one.
fn check_live(plugin: &PluginName, stored: &StoredPlugin, expected: Option<i64>) -> Result<()> {
    match expected {
        Some(number) if number != stored.live_release => {
            Err(plugin_changed(plugin, &format!("release {} is live now", stored.live_release)))
        }
        _ => Ok(()),
    }
}
