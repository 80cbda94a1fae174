//! The rollout of a canary. Owns its stages: it begins with a deploy, is judged while it runs, and ends by promotion,
//! by an operator's abort, or by the host's own abort when it is certainly worse. Acts on the comparisons that `canary`
//! makes; never compares.

use std::sync::Arc;

use serde_json::json;

use super::canary::{Canary, Comparison, StoredCanary};
use super::refusal::{plugin_not_found, state_conflict};
use super::registry::Registry;
use super::release::Release;
use crate::db::audit::Outcome;
use crate::db::plugin as table;
use crate::error::Result;
use crate::id::PluginName;
use crate::initiator::Initiator;
use crate::route::Template;

/// The reason of the host for ending a quarantined canary.
const QUARANTINED: &str = "Too many of its calls failed and it was quarantined";

/// Checks that a release can be a canary next to the live one.
///
/// # Errors
/// 409: there is no live release, or it has another mount.
pub(super) fn check_canary(plugin: &PluginName, live: Option<&Arc<Release>>, mount: &Template) -> Result<()> {
    let Some(live) = live else {
        return Err(state_conflict(format!(
            "'{plugin}' is not served, so a release cannot be compared with a live one"
        )));
    };
    if live.record.mount != *mount {
        let text = format!("A trial has the mount of the live release, which is {}", live.record.mount);
        return Err(state_conflict(text));
    }
    Ok(())
}

impl Registry {
    /// Returns the live release of a plugin and its canary.
    fn live_and_canary(&self, plugin: &PluginName) -> Result<(Arc<Release>, Arc<Canary>)> {
        let generation = self.generation();
        let live = generation.plugins.current(plugin).ok_or_else(|| plugin_not_found(plugin))?;
        let canary = generation.plugins.canaries.get(plugin);
        let canary = canary.ok_or_else(|| state_conflict(format!("No release of '{plugin}' is on trial")))?;
        Ok((Arc::clone(live), Arc::clone(canary)))
    }

    /// Compares the canary of a plugin with the live release.
    ///
    /// # Errors
    /// There is no such plugin (404), or it has no canary (409).
    pub fn compare(&self, plugin: &PluginName) -> Result<(Arc<Canary>, Comparison)> {
        let (live, canary) = self.live_and_canary(plugin)?;
        let comparison = canary.compare(&live);
        Ok((canary, comparison))
    }

    /// Makes the canary the live release.
    ///
    /// # Errors
    /// As [`Registry::compare`].
    pub async fn promote(&self, plugin: &PluginName, by: &Initiator) -> Result<Arc<Release>> {
        let _changing = self.live.lock().await;
        self.promote_locked(plugin, by).await
    }

    async fn promote_locked(&self, plugin: &PluginName, by: &Initiator) -> Result<Arc<Release>> {
        let (live, canary) = self.live_and_canary(plugin)?;
        let comparison = canary.compare(&live);
        let (before, after) = (live.record.number, canary.release.record.number);
        if let Err(error) = table::set_live(&self.db, plugin, after, Some(before), self.cause(by)).await {
            self.check_recorded(plugin, after, error).await?;
        }
        self.live.serve(Arc::clone(&canary.release), false);
        self.turns.interrupt(plugin);
        self.start_probation(plugin, after, Some(before));
        tracing::info!(%plugin, before, after, "promoted");
        let detail = json!({ "before": before, "after": after, "evidence": comparison });
        self.audit("plugin.promote", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(Arc::clone(&canary.release))
    }

    /// Ends the canary; all requests go to the live release again.
    ///
    /// # Errors
    /// As [`Registry::compare`].
    pub async fn abort(&self, plugin: &PluginName, by: &Initiator) -> Result<()> {
        let _changing = self.live.lock().await;
        let reason = "An operator ended the trial";
        if self.generation().plugins.canaries.get(plugin).is_none()
            && let Some(text) = table::find(&self.db, plugin).await?.and_then(|stored| stored.canary)
        {
            // It is recorded and not served, because the response of the database to its deploy was lost. The next start
            // would serve it.
            table::set_canary(&self.db, plugin, None).await?;
            let release = serde_json::from_str(&text).map(|stored: StoredCanary| stored.release).ok();
            tracing::info!(%plugin, release, reason, "trial aborted");
            let detail = json!({ "release": release, "reason": reason });
            self.audit("plugin.abort", Some(plugin.clone()), by, Outcome::Success, detail).await;
            return Ok(());
        }
        self.abort_locked(plugin, by, reason).await
    }

    async fn abort_locked(&self, plugin: &PluginName, by: &Initiator, reason: &str) -> Result<()> {
        let (live, canary) = self.live_and_canary(plugin)?;
        let comparison = canary.compare(&live);
        if self.present(plugin).await?.live_release == canary.release.record.number {
            // A promotion is recorded whose response the database lost.
            table::set_live(&self.db, plugin, live.record.number, None, self.cause(by)).await?;
        } else {
            table::set_canary(&self.db, plugin, None).await?;
        }
        self.live.swap(|plugins| {
            plugins.canaries.remove(plugin);
        });
        let release = canary.release.record.number;
        tracing::info!(%plugin, release, reason, "trial aborted");
        let detail =
            json!({ "release": release, "live": live.record.number, "reason": reason, "evidence": comparison });
        self.audit("plugin.abort", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }

    /// Judges every canary. A failure on one is logged and holds up no other; each is judged again a moment later.
    pub(super) async fn judge_canaries(&self) {
        let canaries: Vec<PluginName> = self.generation().plugins.canaries.keys().cloned().collect();
        for plugin in canaries {
            if let Err(error) = self.judge_canary(&plugin).await {
                tracing::error!(%plugin, error = error.report(), "a canary could not be judged; trying again");
            }
        }
    }

    /// Judges a canary: aborts it if it is worse, and starts its next step once the present one lasted long enough.
    async fn judge_canary(&self, plugin: &PluginName) -> Result<()> {
        let _changing = self.live.lock().await;
        let Ok((live, canary)) = self.live_and_canary(plugin) else { return Ok(()) };
        if canary.ends_by_quarantine() {
            return self.abort_locked(plugin, &Initiator::host(), QUARANTINED).await;
        }
        canary.judge(&live);
        let comparison = canary.compare(&live);
        if let Some(reason) = &comparison.worse {
            return self.abort_locked(plugin, &Initiator::host(), reason).await;
        }
        let now = self.clock.now();
        if canary.plan.steps.len() < 2 || !canary.may_end_step(&live, now) {
            return Ok(());
        }
        if canary.step + 1 == canary.plan.steps.len() {
            return self.promote_locked(plugin, &Initiator::host()).await.map(drop);
        }
        let next = canary.at_step(canary.step + 1, &live, now);
        let (release, percent) = (next.release.record.number, next.share().percent());
        table::set_canary(&self.db, plugin, Some(&next.to_json()?)).await?;
        self.live.swap(|plugins| {
            plugins.canaries.insert(plugin.clone(), Arc::new(next));
        });
        tracing::info!(%plugin, release, percent, "the trial starts its next step");
        let detail = json!({ "release": release, "percent": percent, "evidence": comparison });
        self.audit("plugin.step", Some(plugin.clone()), &Initiator::host(), Outcome::Success, detail).await;
        Ok(())
    }

    /// Aborts a canary whose breaker opened, if it failed for several callers. Returns whether the release was a canary.
    pub(super) async fn abort_tripped(&self, plugin: &PluginName, release: i64) -> Result<bool> {
        let _changing = self.live.lock().await;
        match self.live_and_canary(plugin) {
            Ok((_, canary)) if canary.release.record.number == release => {
                if canary.ends_by_quarantine() {
                    self.abort_locked(plugin, &Initiator::host(), QUARANTINED).await?;
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
