//! The operator's changes to an existing plugin: rollback, pause and resume, new limits, revoking and restoring a
//! grant, removal. Each change is recorded in the database before it is served, so that a restart finds the same state.

use std::sync::Arc;

use serde_json::{Value, json};

use super::generation::{Absence, Absent, MountedRoutes};
use super::initiator::Initiator;
use super::limits::LimitOverrides;
use super::refusal::{check_revoked, plugin_not_found, revoked_needs, state_conflict};
use super::registry::Registry;
use super::release::{Record, Release};
use super::schema_compatibility;
use super::upload::{Deployed, Upload};
use crate::capability::Grants;
use crate::db::audit::Outcome;
use crate::db::plugin as table;
use crate::db::release as releases;
use crate::error::{Error, Result, code};
use crate::id::PluginName;

impl Registry {
    /// Serves an earlier release again; `None` means the one before the live one. Its tables stay as they are now.
    ///
    /// # Errors
    /// There is no such release (404), it is already live, it needs a revoked grant, or its routes or migrations
    /// conflict with the present state. The live release stays live.
    pub async fn roll_back(&self, plugin: &PluginName, to: Option<i64>, by: &Initiator) -> Result<Arc<Release>> {
        let _changing = self.live.lock().await;
        self.roll_back_locked(plugin, to, by, json!({})).await
    }

    /// Rolls back for a caller that holds the change lock; `detail` goes into the audit log.
    pub(super) async fn roll_back_locked(
        &self,
        plugin: &PluginName,
        to: Option<i64>,
        by: &Initiator,
        mut detail: Value,
    ) -> Result<Arc<Release>> {
        let stored = self.present(plugin).await?;
        let before = stored.live_release;
        let number = match to {
            Some(number) => number,
            None => {
                let earlier = releases::live_before(&self.db, plugin, before).await?;
                earlier.ok_or_else(|| {
                    let text = format!("'{plugin}' has no release before {before} to go back to");
                    Error::not_found(code::RELEASE_NOT_FOUND, text)
                })?
            }
        };
        let served = self.generation().plugins.current(plugin).map(|release| release.record.number);
        if served == Some(number) {
            let text = format!("Release {number} of '{plugin}' is already the live one");
            return Err(Error::conflict(code::RELEASE_LIVE, text));
        }
        let target = self.stored_release(plugin, number).await?;
        let record = Record::from_stored(&target)?;
        check_revoked(&stored, &record)?;
        schema_compatibility::check_back(&record.migrations, &stored.steps()?)?;
        let release = Arc::new(self.load(&target).await?);
        self.live.check_routes(MountedRoutes::of(&release))?;
        table::set_live(&self.db, plugin, number, self.clock.now()).await?;
        self.live.serve(Arc::clone(&release))?;
        self.probations.end(plugin);
        tracing::info!(%plugin, before, after = number, "rolled back");
        if let Some(detail) = detail.as_object_mut() {
            detail.insert("before".to_owned(), before.into());
            detail.insert("after".to_owned(), number.into());
        }
        self.audit("plugin.rollback", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(release)
    }

    /// Responds 503 on the plugin's routes until it is resumed. Calls in flight finish.
    ///
    /// # Errors
    /// It is not served (404), or it is already paused (409).
    pub async fn pause(&self, plugin: &PluginName, by: &Initiator) -> Result<Arc<Release>> {
        let _changing = self.live.lock().await;
        let generation = self.generation();
        if generation.plugins.paused.contains_key(plugin) {
            return Err(state_conflict(format!("'{plugin}' is already paused")));
        }
        let release = generation.plugins.live.get(plugin).ok_or_else(|| plugin_not_found(plugin))?;
        table::set_paused(&self.db, plugin, true).await?;
        table::set_canary(&self.db, plugin, None).await?;
        self.live.swap(|plugins| {
            plugins.forget(plugin);
            plugins.paused.insert(plugin.clone(), Arc::clone(release));
        })?;
        tracing::info!(%plugin, "paused");
        let detail = json!({ "release": release.record.number });
        self.audit("plugin.pause", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(Arc::clone(release))
    }

    /// Serves a paused plugin again.
    ///
    /// # Errors
    /// It is not paused (409), or does not exist (404).
    pub async fn resume(&self, plugin: &PluginName, by: &Initiator) -> Result<Arc<Release>> {
        let _changing = self.live.lock().await;
        let generation = self.generation();
        let Some(release) = generation.plugins.paused.get(plugin) else {
            self.present(plugin).await?;
            return Err(state_conflict(format!("'{plugin}' is not paused")));
        };
        table::set_paused(&self.db, plugin, false).await?;
        self.live.swap(|plugins| {
            plugins.forget(plugin);
            plugins.live.insert(plugin.clone(), Arc::clone(release));
        })?;
        tracing::info!(%plugin, "resumed");
        let detail = json!({ "release": release.record.number });
        self.audit("plugin.resume", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(Arc::clone(release))
    }

    /// Changes the limits of the live release and the parameters of its grants. A release is immutable, so this deploys
    /// another one of the same file, which can be rolled back like any other.
    ///
    /// # Errors
    /// There is no such plugin, its live release does not have a grant, the plugin was changed meanwhile (409), or see
    /// [`Registry::deploy`].
    pub async fn set_limits(
        &self,
        plugin: &PluginName,
        grants: Grants,
        limits: LimitOverrides,
        by: &Initiator,
    ) -> Result<Deployed> {
        let stored = self.present(plugin).await?;
        let live = Record::from_stored(&self.stored_release(plugin, stored.live_release).await?)?;
        if let Some(missing) = grants.names().find(|name| !live.grants.contains(name)) {
            let text = format!("'{plugin}' does not have the grant '{missing}'; it comes with a deploy that needs it");
            return Err(Error::not_found(code::GRANT_MISSING, text));
        }
        let component = self.component(&live).await?;
        let (name, redeploys) = (Some(plugin.clone()), Some(live.number));
        self.deploy(Upload { name, redeploys, grants, limits, ..Upload::new(component, by) }).await
    }

    /// Revokes a grant at once: a release that needs it is no longer served, and a canary that needs it ends.
    ///
    /// # Errors
    /// There is no such plugin, or it does not have this grant.
    pub async fn revoke(&self, plugin: &PluginName, capability: &str, by: &Initiator) -> Result<()> {
        let _changing = self.live.lock().await;
        let stored = self.present(plugin).await?;
        let mut revoked = stored.revoked()?;
        let generation = self.generation();
        let needs = |release: &Arc<Release>| release.record.grants.contains(capability);
        let current = generation.plugins.current(plugin);
        let canary = generation.plugins.canaries.get(plugin).map(|canary| &canary.release);
        if revoked.iter().any(|name| name == capability) || !current.into_iter().chain(canary).any(needs) {
            let text = format!("'{plugin}' does not have the grant '{capability}'");
            return Err(Error::not_found(code::GRANT_MISSING, text));
        }
        revoked.push(capability.to_owned());
        table::set_revoked(&self.db, plugin, &revoked).await?;
        if current.is_some_and(needs) {
            let mount = stored.mount.parse().map_err(Error::internal)?;
            table::set_canary(&self.db, plugin, None).await?;
            self.live.swap(|plugins| {
                plugins.forget(plugin);
                plugins.absent.insert(plugin.clone(), Absent { mount, reason: Absence::Revoked });
            })?;
        } else {
            table::set_canary(&self.db, plugin, None).await?;
            self.live.swap(|plugins| {
                plugins.canaries.remove(plugin);
            })?;
        }
        tracing::info!(%plugin, capability, "grant revoked");
        let detail = json!({ "capability": capability });
        self.audit("plugin.revoke", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }

    /// Restores a revoked grant, and serves the live release again if it needs no other revoked grant.
    ///
    /// # Errors
    /// There is no such plugin, or the grant was not revoked.
    pub async fn grant(&self, plugin: &PluginName, capability: &str, by: &Initiator) -> Result<()> {
        let _changing = self.live.lock().await;
        let stored = self.present(plugin).await?;
        let revoked = stored.revoked()?;
        if !revoked.iter().any(|name| name == capability) {
            return Err(state_conflict(format!(
                "'{capability}' was not revoked from '{plugin}'; a new grant comes with a deploy that needs it"
            )));
        }
        let revoked: Vec<String> = revoked.into_iter().filter(|name| name != capability).collect();
        let live = self.stored_release(plugin, stored.live_release).await?;
        let absent = self.generation().plugins.absent.contains_key(plugin);
        if absent && revoked_needs(&Record::from_stored(&live)?, &revoked).is_empty() {
            let release = Arc::new(self.load(&live).await?);
            table::set_revoked(&self.db, plugin, &revoked).await?;
            self.live.swap(|plugins| {
                plugins.forget(plugin);
                let state = if stored.paused { &mut plugins.paused } else { &mut plugins.live };
                state.insert(plugin.clone(), release);
            })?;
        } else {
            table::set_revoked(&self.db, plugin, &revoked).await?;
        }
        tracing::info!(%plugin, capability, "grant restored");
        let detail = json!({ "capability": capability });
        self.audit("plugin.grant", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }

    /// Stops serving a plugin. Its data is kept unless `delete_data` is set; its releases stay recorded.
    ///
    /// # Errors
    /// There is no such plugin (404), or its data cannot be deleted.
    pub async fn remove(&self, plugin: &PluginName, delete_data: bool, by: &Initiator) -> Result<()> {
        let _changing = self.live.lock().await;
        let current = self.generation();
        let mount = match (current.plugins.current(plugin), current.plugins.absent.get(plugin)) {
            (Some(release), _) => release.record.mount.clone(),
            (None, Some(absent)) if delete_data || absent.reason != Absence::Removed => absent.mount.clone(),
            _ => return Err(plugin_not_found(plugin)),
        };
        let before = current.plugins.current(plugin).map(|release| release.record.number);
        table::mark_removed(&self.db, plugin).await?;
        let absent = Absent { mount, reason: Absence::Removed };
        self.live.swap(|plugins| {
            plugins.forget(plugin);
            plugins.absent.insert(plugin.clone(), absent);
        })?;
        self.caches.remove(plugin);
        if delete_data {
            self.data.delete(plugin).await?;
            table::set_schema(&self.db, plugin, "[]").await?;
        }
        tracing::info!(%plugin, delete_data, "removed");
        let detail = json!({ "before": before, "delete_data": delete_data });
        self.audit("plugin.remove", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }
}
