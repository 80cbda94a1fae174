//! The operator's changes to an existing plugin: pause and resume, new limits, revoking and restoring a grant, removal.
//!
//! Each change is recorded in the database before it is served, so that a restart finds the same state. The change lock
//! is held for that only. No change but a deploy waits for a deploy, not even for one of the same plugin: a running
//! deploy of the plugin is interrupted, and finds the change before it would overwrite it.

use std::sync::Arc;

use serde_json::json;

use super::canary::StoredCanary;
use super::generation::{Absence, Absent, MountedRoutes};
use super::limits::LimitOverrides;
use super::refusal::{check_grants_kept, plugin_changed, plugin_not_found, revoked_needs, state_conflict};
use super::registry::Registry;
use super::release::{Record, Release};
use super::upload::{Deployed, Upload};
use crate::capability::Grants;
use crate::db::audit::Outcome;
use crate::db::email::plugin_mail;
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::release as releases;
use crate::db::task;
use crate::error::{Error, Result, code};
use crate::id::PluginName;
use crate::initiator::Initiator;

impl Registry {
    /// Responds 503 on the plugin's routes until it is resumed. Ends the calls in flight at once, on all its releases;
    /// their open transactions are rolled back.
    ///
    /// # Errors
    /// There is no such plugin (404), or it is not served or already paused (409).
    pub async fn pause(&self, plugin: &PluginName, by: &Initiator) -> Result<Arc<Release>> {
        let _changing = self.live.lock().await;
        let stored = self.present(plugin).await?;
        // Both are asked, so that a pause holds whose response, or that of the resumption before it, the database lost.
        if stored.paused && self.generation().plugins.paused.contains_key(plugin) {
            return Err(state_conflict(format!("'{plugin}' is already paused")));
        }
        let release = self.current_or_recorded(&stored).await?;
        self.record_paused(plugin, true).await?;
        self.live.serve(Arc::clone(&release), true);
        release.pause.pause();
        self.turns.interrupt(plugin);
        tracing::info!(%plugin, "paused");
        let detail = json!({ "release": release.record.number });
        self.audit("plugin.pause", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(release)
    }

    /// Serves a paused plugin again.
    ///
    /// # Errors
    /// It is not paused or not served (409), or does not exist (404).
    pub async fn resume(&self, plugin: &PluginName, by: &Initiator) -> Result<Arc<Release>> {
        let _changing = self.live.lock().await;
        let stored = self.present(plugin).await?;
        let is_paused = self.generation().plugins.paused.contains_key(plugin);
        if !stored.paused && !is_paused {
            return Err(state_conflict(format!("'{plugin}' is not paused")));
        }
        let release = self.current_or_recorded(&stored).await?;
        self.record_paused(plugin, false).await?;
        // Calls in flight on a release that is live already go on.
        if self.generation().plugins.live.get(plugin).is_none() {
            self.live.serve(Arc::clone(&release), false);
        }
        tracing::info!(%plugin, "resumed");
        let detail = json!({ "release": release.record.number });
        self.audit("plugin.resume", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(release)
    }

    /// Returns the release of a plugin that is live or paused. If the plugin is recorded and not known otherwise, because
    /// the response of the database to its first deploy was lost, it is the recorded release: the next start serves it.
    ///
    /// # Errors
    /// 409: the plugin is not served.
    async fn current_or_recorded(&self, stored: &StoredPlugin) -> Result<Arc<Release>> {
        let (plugin, generation) = (&stored.name, self.generation());
        if let Some(release) = generation.plugins.current(plugin) {
            return Ok(Arc::clone(release));
        }
        let reason = match generation.plugins.absent.get(plugin).map(|absent| absent.reason) {
            Some(Absence::Revoked) => "a grant that it needs is revoked",
            Some(Absence::Broken) => "its release cannot be loaded",
            Some(Absence::Conflict) => "its mount belongs to another plugin or to the host",
            _ => {
                let release = self.unprepared(&self.stored_release(plugin, stored.live_release).await?)?;
                self.live.check_routes(MountedRoutes::of(&release))?;
                return Ok(Arc::new(release));
            }
        };
        Err(state_conflict(format!("'{plugin}' is not served, because {reason}")))
    }

    /// Records whether a plugin is paused. The database may commit and lose the connection before it responds: that is no
    /// failure.
    async fn record_paused(&self, plugin: &PluginName, paused: bool) -> Result<()> {
        let Err(error) = table::set_paused(&self.db, plugin, paused).await else { return Ok(()) };
        match table::find(&self.db, plugin).await {
            Ok(Some(stored)) if stored.paused == paused => Ok(()),
            _ => Err(error),
        }
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

    /// Revokes a grant at once: a release that needs it is no longer served, a canary that needs it ends, and calls in
    /// flight can no longer use the capability. Repeated, it closes the resources of the capability again.
    ///
    /// # Errors
    /// There is no such plugin, or it does not have this grant. If only the resources of the capability could not be
    /// closed, the grant is revoked all the same, and the operation can be repeated until they are.
    pub async fn revoke(&self, plugin: &PluginName, capability: &str, by: &Initiator) -> Result<()> {
        let _changing = self.live.lock().await;
        let stored = self.present(plugin).await?;
        let mut revoked = stored.revoked()?;
        let generation = self.generation();
        let needs = |release: &Arc<Release>| release.record.grants.contains(capability);
        let current = generation.plugins.current(plugin);
        let canary = generation.plugins.canaries.get(plugin).map(|canary| &canary.release);
        // Judged by the record and by the releases that are served, so that the operation can be repeated after the
        // response of the database was lost.
        let is_recorded = revoked.iter().any(|name| name == capability);
        let is_used = current.into_iter().chain(canary).any(needs);
        if !is_recorded {
            if !is_used && !self.recorded_needs(&stored, capability).await? {
                let text = format!("'{plugin}' does not have the grant '{capability}'");
                return Err(Error::not_found(code::GRANT_MISSING, text));
            }
            revoked.push(capability.to_owned());
            self.record_revoked(plugin, &revoked, true).await?;
        }
        self.live.capabilities().forbid(plugin, capability);
        if current.is_some_and(needs) {
            let mount = stored.mount.parse().map_err(Error::internal)?;
            self.live.swap(|plugins| {
                plugins.forget(plugin);
                plugins.absent.insert(plugin.clone(), Absent { mount, reason: Absence::Revoked });
            });
        } else if !is_recorded || canary.is_some_and(needs) {
            self.live.swap(|plugins| {
                plugins.canaries.remove(plugin);
            });
        }
        self.turns.interrupt(plugin);
        tracing::info!(%plugin, capability, "grant revoked");
        let detail = json!({ "capability": capability });
        self.audit("plugin.revoke", Some(plugin.clone()), by, Outcome::Success, detail).await;
        let closed = self.live.capabilities().close(plugin, capability).await;
        closed.inspect_err(|error| stay_open(plugin, error))
    }

    /// Restores a revoked grant, and serves the live release again if it needs no other revoked grant.
    ///
    /// # Errors
    /// There is no such plugin, the grant was not revoked, the plugin was changed while its release was loaded, or
    /// another plugin has its mount now.
    pub async fn grant(&self, plugin: &PluginName, capability: &str, by: &Initiator) -> Result<()> {
        let before = self.present(plugin).await?;
        let revoked = before.revoked()?;
        let live = self.stored_release(plugin, before.live_release).await?;
        let absent = self.generation().plugins.absent.get(plugin).map(|absent| absent.reason);
        // It was recorded, but the response of the database was lost before the release was served again.
        let record = Record::from_stored(&live)?;
        let is_unserved = absent == Some(Absence::Revoked)
            && record.grants.contains(capability)
            && revoked_needs(&record, &revoked).is_empty();
        if !is_unserved && !revoked.iter().any(|name| name == capability) {
            return Err(state_conflict(format!(
                "'{capability}' was not revoked from '{plugin}'; a new grant comes with a deploy that needs it"
            )));
        }
        let revoked: Vec<String> = revoked.into_iter().filter(|name| name != capability).collect();
        let served_again = absent.is_some() && revoked_needs(&record, &revoked).is_empty();
        // Loaded before the lock, because it may have to be compiled.
        let release = if served_again { Some(Arc::new(self.load(&live).await?)) } else { None };

        let _changing = self.live.lock().await;
        let stored = self.present(plugin).await?;
        if let Some(change) = stored.change_since(&before) {
            return Err(plugin_changed(plugin, change));
        }
        if let Some(release) = &release {
            check_grants_kept(release)?;
            // Another plugin may have taken its mount while it was not served.
            self.live.check_routes(MountedRoutes::of(release))?;
        }
        self.live.capabilities().reopen(plugin, capability).await?;
        if let Err(error) = self.record_revoked(plugin, &revoked, false).await {
            self.close_revoked_again(plugin).await;
            return Err(error);
        }
        if let Some(release) = release {
            self.live.swap(|plugins| {
                plugins.forget(plugin);
                let state = if stored.paused { &mut plugins.paused } else { &mut plugins.live };
                state.insert(plugin.clone(), release);
            });
        }
        self.turns.interrupt(plugin);
        tracing::info!(%plugin, capability, "grant restored");
        let detail = json!({ "capability": capability });
        self.audit("plugin.grant", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }

    /// Returns whether the recorded live release of a plugin or its recorded canary needs a capability. Both can differ
    /// from the releases that are served, if the response of the database to a deploy was lost.
    async fn recorded_needs(&self, stored: &StoredPlugin, capability: &str) -> Result<bool> {
        let canary = stored.canary.as_deref().and_then(|text| serde_json::from_str::<StoredCanary>(text).ok());
        for number in [Some(stored.live_release), canary.map(|canary| canary.release)].into_iter().flatten() {
            if let Some(release) = releases::find(&self.db, &stored.name, number).await?
                && Record::from_stored(&release)?.grants.contains(capability)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records the revoked grants. The database may commit and lose the connection before it responds: that is no
    /// failure.
    async fn record_revoked(&self, plugin: &PluginName, revoked: &[String], ends_canary: bool) -> Result<()> {
        let Err(error) = table::set_revoked(&self.db, plugin, revoked, ends_canary).await else { return Ok(()) };
        match table::find(&self.db, plugin).await {
            Ok(Some(stored)) if stored.revoked()? == revoked => Ok(()),
            _ => Err(error),
        }
    }

    /// Closes the resources of the revoked capabilities of a plugin as it is recorded now, after a change that had
    /// reopened them and failed. The caller holds the change lock.
    pub(super) async fn close_revoked_again(&self, plugin: &PluginName) {
        match table::find(&self.db, plugin).await {
            Ok(Some(stored)) => self.close_revoked(&stored).await,
            Ok(None) => {}
            Err(error) => stay_open(plugin, &error),
        }
    }

    /// Closes the resources of the revoked capabilities of a plugin. A failure is logged: nothing that needs them is
    /// served.
    pub(super) async fn close_revoked(&self, stored: &StoredPlugin) {
        let closed = async {
            for capability in stored.revoked()? {
                self.live.capabilities().close(&stored.name, &capability).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = closed.await {
            stay_open(&stored.name, &error);
        }
    }

    /// Stops serving a plugin. Its releases stay recorded, and its schedules are deleted. Its data, its tasks and its mails
    /// are kept unless `delete_data` is set; the deletion waits for a running deploy of the plugin, which is interrupted, and
    /// ends its calls in flight.
    ///
    /// # Errors
    /// There is no such plugin (404), its data cannot be deleted, or it was deployed again before that (409).
    pub async fn remove(&self, plugin: &PluginName, delete_data: bool, by: &Initiator) -> Result<()> {
        self.stop_serving(plugin, delete_data, by).await?;
        if delete_data {
            let _turn = self.turns.begin(plugin).await;
            let stored = table::find(&self.db, plugin).await?;
            if stored.is_some_and(|stored| stored.state == "live") {
                return Err(plugin_changed(plugin, "it was deployed again before its data was deleted"));
            }
            // Neither a call nor the relay may store a message after the deletion: a later plugin of this name would get it.
            self.live.end_calls(plugin).await;
            let _moving = self.outbox_turns.begin(plugin).await;
            self.data.delete(plugin).await?;
            task::delete_of_plugin(&self.db, plugin).await?;
            plugin_mail::delete_of_plugin(&self.db, plugin).await?;
            table::set_schema(&self.db, plugin, "[]").await?;
        }
        Ok(())
    }

    async fn stop_serving(&self, plugin: &PluginName, delete_data: bool, by: &Initiator) -> Result<()> {
        let _changing = self.live.lock().await;
        let current = self.generation();
        // It is recorded and not served if the response of the database to its deploy was lost.
        let recorded = table::find(&self.db, plugin).await?.filter(|stored| stored.state == "live");
        let mount = match (current.plugins.current(plugin), current.plugins.absent.get(plugin), recorded) {
            (Some(release), _, _) => release.record.mount.clone(),
            (None, Some(absent), recorded)
                if delete_data || recorded.is_some() || absent.reason != Absence::Removed =>
            {
                absent.mount.clone()
            }
            (None, None, Some(stored)) => stored.mount.parse().map_err(Error::internal)?,
            _ => return Err(plugin_not_found(plugin)),
        };
        let before = current.plugins.current(plugin).map(|release| release.record.number);
        table::mark_removed(&self.db, plugin).await?;
        let absent = Absent { mount, reason: Absence::Removed };
        self.live.swap(|plugins| {
            plugins.forget(plugin);
            plugins.absent.insert(plugin.clone(), absent);
        });
        self.pauses.plugin(plugin).resume();
        self.turns.interrupt(plugin);
        self.caches.remove(plugin);
        tracing::info!(%plugin, delete_data, "removed");
        let detail = json!({ "before": before, "delete_data": delete_data });
        self.audit("plugin.remove", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }
}

fn stay_open(plugin: &PluginName, error: &Error) {
    tracing::error!(%plugin, error = error.report(), "the resources of a revoked grant stay open");
}
