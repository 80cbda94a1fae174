//! Trials: a canary begins with a deploy, is judged while it runs, and ends by promotion, by an operator's abort, or by
//! the host's own when it is worse for certain.

use std::sync::Arc;

use serde_json::json;

use super::canary::{Canary, Comparison, Plan, StoredCanary};
use super::deploy::By;
use super::registry::{Registry, not_found};
use super::release::{Record, Release};
use super::switch::{check_revoked, state};
use crate::clock::Timestamp;
use crate::db::audit::Outcome;
use crate::db::plugin as table;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::route::Template;

impl Canary {
    /// A trial that begins now.
    pub(super) fn new(release: Arc<Release>, plan: Plan, live: &Release, now: Timestamp) -> Self {
        Self { release, plan, step: 0, since: now, baseline: live.tally.counts() }
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(&self.stored()).map_err(Error::internal)
    }

    fn at_step(&self, step: usize, now: Timestamp) -> Self {
        Self {
            release: Arc::clone(&self.release),
            plan: self.plan.clone(),
            step,
            since: now,
            baseline: self.baseline.clone(),
        }
    }
}

/// Whether a release can be tried beside the live one.
pub(super) fn check_trial(plugin: &PluginName, live: Option<&Arc<Release>>, mount: &Template) -> Result<()> {
    let Some(live) = live else {
        return Err(state(format!("'{plugin}' is not served, so there is nothing to try a release beside")));
    };
    if live.record.mount != *mount {
        return Err(state(format!("A trial is served where the live release is, at {}", live.record.mount)));
    }
    Ok(())
}

impl Registry {
    /// The trial of a plugin.
    fn trial(&self, plugin: &PluginName) -> Result<(Arc<Release>, Arc<Canary>)> {
        let generation = self.generation();
        let live = generation.plugins.current(plugin).ok_or_else(|| not_found(plugin))?;
        let canary = generation.plugins.canaries.get(plugin);
        let canary = canary.ok_or_else(|| state(format!("No release of '{plugin}' is on trial")))?;
        Ok((Arc::clone(live), Arc::clone(canary)))
    }

    /// The trial of a plugin, and how the two releases compare.
    ///
    /// # Errors
    /// There is no such plugin (404), or nothing is on trial (409).
    pub fn compare(&self, plugin: &PluginName) -> Result<(Arc<Canary>, Comparison)> {
        let (live, canary) = self.trial(plugin)?;
        let comparison = canary.compare(&live);
        Ok((canary, comparison))
    }

    /// Makes the release on trial the live one.
    ///
    /// # Errors
    /// As [`Registry::compare`].
    pub async fn promote(&self, plugin: &PluginName, by: &By) -> Result<Arc<Release>> {
        let _turn = self.changing.lock().await;
        self.promote_in_turn(plugin, by).await
    }

    async fn promote_in_turn(&self, plugin: &PluginName, by: &By) -> Result<Arc<Release>> {
        let (live, canary) = self.trial(plugin)?;
        let comparison = canary.compare(&live);
        let (before, after) = (live.record.number, canary.release.record.number);
        table::set_live(&self.db, plugin, after, self.clock.now()).await?;
        self.serve(Arc::clone(&canary.release))?;
        self.watch(&canary.release.record, Some(before));
        tracing::info!(%plugin, before, after, "promoted");
        let detail = json!({ "before": before, "after": after, "evidence": comparison });
        self.audit("plugin.promote", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(Arc::clone(&canary.release))
    }

    /// Ends the trial; the live release gets everybody again.
    ///
    /// # Errors
    /// As [`Registry::compare`].
    pub async fn abort(&self, plugin: &PluginName, by: &By) -> Result<()> {
        let _turn = self.changing.lock().await;
        self.abort_in_turn(plugin, by, "An operator ended the trial").await
    }

    async fn abort_in_turn(&self, plugin: &PluginName, by: &By, reason: &str) -> Result<()> {
        let (live, canary) = self.trial(plugin)?;
        let comparison = canary.compare(&live);
        table::set_canary(&self.db, plugin, None).await?;
        self.swap(|plugins| {
            plugins.canaries.remove(plugin);
        })?;
        let release = canary.release.record.number;
        tracing::info!(%plugin, release, reason, "trial aborted");
        let detail =
            json!({ "release": release, "live": live.record.number, "reason": reason, "evidence": comparison });
        self.audit("plugin.abort", Some(plugin.clone()), by, Outcome::Success, detail).await;
        Ok(())
    }

    /// Looks at every trial: one that is worse ends, one that has lasted takes its next step.
    pub(super) async fn judge_trials(&self) -> Result<()> {
        let canaries: Vec<PluginName> = self.generation().plugins.canaries.keys().cloned().collect();
        for plugin in canaries {
            let _turn = self.changing.lock().await;
            let Ok((live, canary)) = self.trial(&plugin) else { continue };
            let comparison = canary.compare(&live);
            if let Some(reason) = &comparison.worse {
                self.abort_in_turn(&plugin, &By::host(), reason).await?;
                continue;
            }
            let now = self.clock.now();
            let lasted =
                now >= canary.since.plus(canary.plan.hold) && comparison.candidate.calls >= canary.plan.minimum;
            if canary.plan.steps.len() < 2 || !lasted {
                continue;
            }
            if canary.step + 1 < canary.plan.steps.len() {
                let next = canary.at_step(canary.step + 1, now);
                let (release, percent) = (next.release.record.number, next.share().percent());
                table::set_canary(&self.db, &plugin, Some(&next.to_json()?)).await?;
                self.swap(|plugins| {
                    plugins.canaries.insert(plugin.clone(), Arc::new(next));
                })?;
                tracing::info!(%plugin, release, percent, "the trial takes its next step");
                let detail = json!({ "release": release, "percent": percent, "evidence": comparison });
                self.audit("plugin.step", Some(plugin.clone()), &By::host(), Outcome::Success, detail).await;
            } else {
                self.promote_in_turn(&plugin, &By::host()).await?;
            }
        }
        Ok(())
    }

    /// Ends the trial of a release whose breaker opened.
    pub(super) async fn abort_tripped(&self, plugin: &PluginName, release: i64) -> Result<bool> {
        let _turn = self.changing.lock().await;
        match self.trial(plugin) {
            Ok((_, canary)) if canary.release.record.number == release => {
                self.abort_in_turn(plugin, &By::host(), "It failed too often and was quarantined").await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Goes on with a trial after a restart; the counts begin anew.
    pub(super) async fn restore_canary(&self, plugin: &PluginName, text: &str) -> Result<()> {
        let stored: StoredCanary = serde_json::from_str(text).map_err(Error::internal)?;
        let release = self.stored_release(plugin, stored.release).await?;
        let record = Record::from_stored(&release)?;
        check_revoked(&self.present(plugin).await?, &record)?;
        let release = Arc::new(self.load(&release).await?);
        let generation = self.generation();
        let live = generation.plugins.live.get(plugin).ok_or_else(|| not_found(plugin))?;
        let mut canary = Canary::new(release, stored.plan, live, stored.since);
        canary.step = stored.step;
        self.swap(|plugins| {
            plugins.canaries.insert(plugin.clone(), Arc::new(canary));
        })
    }
}
