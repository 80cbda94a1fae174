//! What an operator does with a plugin that is there: back to an earlier release, paused and resumed, a grant taken back or
//! given again. Every change is recorded before it is served, so that a restart finds the same.

use std::sync::{Arc, PoisonError};

use serde_json::json;

use super::deploy::{By, Deployed, Upload};
use super::generation::{Absence, Absent, Generation, Served};
use super::limits::Limits;
use super::registry::{Probation, Registry, not_found, revoked_needs};
use super::release::{Record, Release};
use super::schema;
use crate::capability::Grants;
use crate::db::audit::Outcome;
use crate::db::deploy as deploys;
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::release as releases;
use crate::error::{Error, Result, code};
use crate::id::PluginName;

impl Registry {
    /// Serves an earlier release again; none: the one before the live one. Its tables stay as they are now.
    ///
    /// # Errors
    /// There is no such release (404), it is live already, a grant it needs was taken back, or it cannot be served beside
    /// the others. Whatever was live still is.
    pub async fn roll_back(&self, plugin: &PluginName, to: Option<i64>, by: &By) -> Result<Arc<Release>> {
        let _turn = self.changing.lock().await;
        self.roll_back_in_turn(plugin, to, by, json!({})).await
    }

    /// The same for whoever has the turn; `detail` goes into the history.
    pub(super) async fn roll_back_in_turn(
        &self,
        plugin: &PluginName,
        to: Option<i64>,
        by: &By,
        mut detail: serde_json::Value,
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
        let generation = self.generation();
        let served = generation.plugins.current(plugin).map(|release| release.record.number);
        if served == Some(number) {
            let text = format!("Release {number} of '{plugin}' is the live one already");
            return Err(Error::conflict(code::RELEASE_LIVE, text));
        }
        let target = self.stored_release(plugin, number).await?;
        let record = Record::from_stored(&target)?;
        check_revoked(&stored, &record)?;
        schema::check_back(&record.migrations, &stored.steps()?)?;
        let release = Arc::new(self.load(&target).await?);
        let neighbours = generation.plugins.loaded().map(|(release, _)| release);
        let beside = neighbours.filter(|other| other.record.plugin != *plugin).chain([&release]).map(|release| {
            Served { plugin: &release.record.plugin, mount: &release.record.mount, routes: &release.routes }
        });
        Generation::check(&self.host_routes, &beside.collect::<Vec<_>>())?;
        table::set_live(&self.db, plugin, number, self.clock.now()).await?;
        self.serve(Arc::clone(&release))?;
        self.probation.lock().unwrap_or_else(PoisonError::into_inner).remove(plugin);
        tracing::info!(%plugin, before, after = number, "rolled back");
        if let Some(detail) = detail.as_object_mut() {
            detail.insert("before".to_owned(), before.into());
            detail.insert("after".to_owned(), number.into());
        }
        self.audit("plugin.rollback", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(release)
    }

    /// Answers 503 on the plugin's routes until it is resumed; what is in flight finishes.
    ///
    /// # Errors
    /// It is not served (404, or 409 when it is paused already).
    pub async fn pause(&self, plugin: &PluginName, by: &By) -> Result<Arc<Release>> {
        let _turn = self.changing.lock().await;
        let generation = self.generation();
        if generation.plugins.paused.contains_key(plugin) {
            return Err(state(format!("'{plugin}' is paused already")));
        }
        let release = generation.plugins.live.get(plugin).ok_or_else(|| not_found(plugin))?;
        table::set_paused(&self.db, plugin, true).await?;
        table::set_canary(&self.db, plugin, None).await?;
        self.swap(|plugins| {
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
    /// It is not paused (409), or not there (404).
    pub async fn resume(&self, plugin: &PluginName, by: &By) -> Result<Arc<Release>> {
        let _turn = self.changing.lock().await;
        let generation = self.generation();
        let Some(release) = generation.plugins.paused.get(plugin) else {
            self.present(plugin).await?;
            return Err(state(format!("'{plugin}' is not paused")));
        };
        table::set_paused(&self.db, plugin, false).await?;
        self.swap(|plugins| {
            plugins.forget(plugin);
            plugins.live.insert(plugin.clone(), Arc::clone(release));
        })?;
        tracing::info!(%plugin, "resumed");
        let detail = json!({ "release": release.record.number });
        self.audit("plugin.resume", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(Arc::clone(release))
    }

    /// Takes a grant back, at once: a release that needs it is not served any more, a trial of one ends.
    ///
    /// # Errors
    /// There is no such plugin, or it was not granted this.
    pub async fn revoke(&self, plugin: &PluginName, capability: &str, by: &By) -> Result<()> {
        let _turn = self.changing.lock().await;
        let stored = self.present(plugin).await?;
        let mut revoked = stored.revoked()?;
        let generation = self.generation();
        let needs = |release: &Arc<Release>| release.record.grants.contains(capability);
        let current = generation.plugins.current(plugin);
        let candidate = generation.plugins.canaries.get(plugin).map(|canary| &canary.release);
        if revoked.iter().any(|name| name == capability) || !current.into_iter().chain(candidate).any(needs) {
            let text = format!("'{plugin}' does not have the grant '{capability}'");
            return Err(Error::not_found(code::GRANT_MISSING, text));
        }
        revoked.push(capability.to_owned());
        table::set_revoked(&self.db, plugin, &revoked).await?;
        if current.is_some_and(needs) {
            let mount = stored.mount.parse().map_err(Error::internal)?;
            table::set_canary(&self.db, plugin, None).await?;
            self.swap(|plugins| {
                plugins.forget(plugin);
                plugins.absent.insert(plugin.clone(), Absent { mount, reason: Absence::Revoked });
            })?;
        } else {
            table::set_canary(&self.db, plugin, None).await?;
            self.swap(|plugins| {
                plugins.canaries.remove(plugin);
            })?;
        }
        tracing::info!(%plugin, capability, "grant taken back");
        let detail = json!({ "capability": capability });
        self.audit("plugin.revoke", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }

    /// Changes what bounds the calls and the grants of the live release. A release is what it is, so this makes another one
    /// of the same file, which can be rolled back like any.
    ///
    /// # Errors
    /// There is no such plugin, its live release does not have a grant, somebody else changed it meanwhile (409), or as
    /// [`Registry::deploy`].
    pub async fn bound(&self, plugin: &PluginName, grants: Grants, limits: Limits, by: &By) -> Result<Deployed> {
        let stored = self.present(plugin).await?;
        let live = Record::from_stored(&self.stored_release(plugin, stored.live_release).await?)?;
        if let Some(missing) = grants.names().find(|name| !live.grants.contains(name)) {
            let text = format!("'{plugin}' does not have the grant '{missing}'; it comes with a deploy that needs it");
            return Err(Error::not_found(code::GRANT_MISSING, text));
        }
        let component = releases::component(&self.db, live.digest.as_str())
            .await?
            .ok_or_else(|| Error::internal("its component is not in the database"))?;
        let (name, again) = (Some(plugin.clone()), Some(live.number));
        self.deploy(Upload { name, again, grants, limits, ..Upload::new(component.into(), by) }).await
    }

    /// Gives a grant again that was taken back, and serves the live release again if nothing else is missing.
    ///
    /// # Errors
    /// There is no such plugin, or nothing was taken back.
    pub async fn grant(&self, plugin: &PluginName, capability: &str, by: &By) -> Result<()> {
        let _turn = self.changing.lock().await;
        let stored = self.present(plugin).await?;
        let revoked = stored.revoked()?;
        if !revoked.iter().any(|name| name == capability) {
            return Err(state(format!(
                "'{capability}' was not taken back from '{plugin}'; a new grant comes with a deploy that needs it"
            )));
        }
        let revoked: Vec<String> = revoked.into_iter().filter(|name| name != capability).collect();
        let live = self.stored_release(plugin, stored.live_release).await?;
        let waits = self.generation().plugins.absent.contains_key(plugin);
        if waits && revoked_needs(&Record::from_stored(&live)?, &revoked).is_empty() {
            let release = Arc::new(self.load(&live).await?);
            table::set_revoked(&self.db, plugin, &revoked).await?;
            self.swap(|plugins| {
                plugins.forget(plugin);
                let place = if stored.paused { &mut plugins.paused } else { &mut plugins.live };
                place.insert(plugin.clone(), release);
            })?;
        } else {
            table::set_revoked(&self.db, plugin, &revoked).await?;
        }
        tracing::info!(%plugin, capability, "grant given again");
        let detail = json!({ "capability": capability });
        self.audit("plugin.grant", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }

    /// A plugin that was not removed.
    pub(super) async fn present(&self, plugin: &PluginName) -> Result<StoredPlugin> {
        let stored = table::find(&self.db, plugin).await?;
        stored.filter(|stored| stored.state == "live").ok_or_else(|| not_found(plugin))
    }

    /// Remembers for a while which release to go back to if this one turns out bad.
    pub(super) fn watch(&self, record: &Record, previous: Option<i64>) {
        let mut probation = self.probation.lock().unwrap_or_else(PoisonError::into_inner);
        match previous {
            Some(previous) => {
                let until = self.clock.now().plus(self.limits.probation);
                probation.insert(record.plugin.clone(), Probation { release: record.number, previous, until });
            }
            None => {
                probation.remove(&record.plugin);
            }
        }
    }

    /// Lets go of releases that the policy does not keep. A failure is logged: it costs room, nothing else.
    pub(super) async fn collect_releases(&self, plugin: &PluginName) {
        let generation = self.generation();
        let plugins = &generation.plugins;
        let mut spared: Vec<i64> = plugins.current(plugin).map(|release| release.record.number).into_iter().collect();
        spared.extend(plugins.canaries.get(plugin).map(|canary| canary.release.record.number));
        spared.extend(
            self.probation.lock().unwrap_or_else(PoisonError::into_inner).get(plugin).map(|trial| trial.previous),
        );
        if spared.is_empty() {
            // Not served now, but to be brought back.
            match table::find(&self.db, plugin).await {
                Ok(stored) => spared.extend(stored.map(|stored| stored.live_release)),
                Err(error) => return tracing::error!(error = error.report(), "old releases were not collected"),
            }
        }
        let since = self.clock.now().minus(self.limits.keep_releases_for);
        if let Err(error) = deploys::forget(&self.db, since).await {
            tracing::error!(error = error.report(), "records of old deploys were not collected");
        }
        match releases::collect(&self.db, plugin, self.limits.keep_releases, since, &spared).await {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(%plugin, releases = ?gone, "old releases were collected"),
            Err(error) => tracing::error!(error = error.report(), "old releases were not collected"),
        }
    }
}

/// 409: the plugin's state does not allow it.
pub(super) fn state(text: String) -> Error {
    Error::conflict(code::PLUGIN_STATE, text)
}

/// Whether a release needs nothing that was taken back.
pub(super) fn check_revoked(stored: &StoredPlugin, record: &Record) -> Result<()> {
    let missing = revoked_needs(record, &stored.revoked()?);
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("Release {} needs what was taken back: {}", record.number, missing.join(", "));
    Err(Error::forbidden(code::GRANT_MISSING, text))
}
