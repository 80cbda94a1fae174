//! The start of a host: opens the registry, settles the deploys that the last end of this node interrupted, and restores
//! every plugin that was live, paused or on trial. Reads the records of all plugins at once, and prepares no
//! release: see `preparation`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::sync::mpsc;

use super::artifact::Digest;
use super::canary::{Canary, StoredCanary};
use super::compile::{Compile, Compiler};
use super::deploy_job::{self, AtStage};
use super::engine::PluginEngine;
use super::generation::{Absence, Absent};
use super::live_set::LiveSet;
use super::probation::Probations;
use super::refusal::{check_revoked, plugin_not_found, release_not_found, revoked_needs};
use super::registry::Registry;
use super::release::{Record, Release};
use super::sandbox::Sandbox;
use super::upload::{Deployed, Upload};
use crate::capability::{Boot, Capabilities};
use crate::db::audit::Outcome;
use crate::db::deploy::{self as deploys, StoredDeploy};
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::release::{self as releases, StoredRelease};
use crate::error::{Error, Kind, Result, code};
use crate::id::PluginName;
use crate::initiator::Initiator;
use crate::route::Template;

impl Registry {
    /// Opens the capabilities and restores every plugin that was live. A release that cannot be restored is logged and its
    /// routes respond 503; it does not keep the host from starting.
    ///
    /// # Errors
    /// The engine, a capability or the database is not available.
    pub async fn open(
        boot: &Boot,
        compile: Compile,
        host_routes: Vec<(String, Template)>,
        at_stage: Option<AtStage>,
    ) -> Result<Self> {
        let limits = boot.config.plugins.clone();
        let engine = PluginEngine::new(&limits)?;
        let compiler = Compiler::open(&engine, boot, compile)?;
        let sandbox = Sandbox::new(engine.clone(), boot.clock.clone(), &limits, boot.logs.clone())?;
        let capabilities = Capabilities::open(boot).await?;
        let (tripped, trips) = mpsc::unbounded_channel();
        let registry = Self {
            live: LiveSet::new(sandbox, capabilities, limits.clone(), &host_routes),
            engine,
            compiler,
            limits,
            clock: boot.clock.clone(),
            random: boot.random.clone(),
            db: boot.db.clone(),
            data: Arc::clone(&boot.data),
            caches: boot.cache.clone(),
            logs: boot.logs.clone(),
            node: Arc::clone(&boot.node),
            at_stage,
            deploys: Default::default(),
            turns: Default::default(),
            outbox_turns: Default::default(),
            pauses: Default::default(),
            probations: Probations::default(),
            tripped,
            trips: Mutex::new(Some(trips)),
            run_id: format!("{}/{}", boot.node, boot.random.uuid()?).into(),
            task_counts: Default::default(),
            holds: Default::default(),
            synced_schedules: Default::default(),
            minute: Default::default(),
        };
        match registry.settle_interrupted_deploys().await {
            // The host serves what it can read; the next start settles them.
            Err(error) if *error.code() == code::STORAGE_FULL => {
                tracing::warn!(error = error.report(), "interrupted deploys were not recorded");
            }
            settled => settled?,
        }
        registry.restore().await?;
        Ok(registry)
    }

    /// Deploys a file at the start. It gives way to changes by operators. If a dependency is not available, such as space
    /// on the disk, and the file is served with these grants already, it counts as unchanged.
    ///
    /// # Errors
    /// As [`Registry::deploy`].
    pub async fn deploy_at_start(&self, upload: Upload) -> Result<Deployed> {
        let (component, grants) = (upload.component.clone(), upload.grants.to_texts());
        let error = match self.deploy(upload).await {
            Err(error) if matches!(error.kind(), Kind::Unavailable(_)) => error,
            outcome => return outcome,
        };
        let digest = Digest::compute(component).await?;
        let is_served = |release: &Release| {
            let has = release.record.grants.to_texts();
            release.record.digest == digest && grants.iter().all(|grant| has.contains(grant))
        };
        let generation = self.generation();
        let Some((release, _)) = generation.plugins.loaded().find(|(release, _)| is_served(release)) else {
            return Err(error);
        };
        let plugin = &release.record.plugin;
        tracing::warn!(%plugin, error = error.report(), "a component was not deployed again; it is served already");
        Ok(Deployed::unchanged(Arc::clone(release)))
    }

    /// Records the deploys that the last end of this node interrupted.
    async fn settle_interrupted_deploys(&self) -> Result<()> {
        for deploy in deploy_job::find_interrupted(&self.db, &self.node, self.clock.now()).await? {
            if self.had_succeeded(&deploy).await? {
                continue;
            }
            if let Some(plugin) = deploy.plugin.as_ref().filter(|_| deploy.made_data) {
                self.remove_unreleased_data(plugin).await;
            }
            let by = Initiator { actor: deploy.actor, ..Initiator::without_request(&deploy.request_id) };
            let detail = json!({ "deploy": deploy.id, "digest": deploy.digest, "stage": deploy.stage,
                "code": "interrupted", "reason": "The host ended while it ran; it can be repeated" });
            self.audit("plugin.deploy", deploy.plugin, &by, Outcome::Failure, detail).await;
        }
        Ok(())
    }

    /// Checks whether an interrupted deploy had already recorded its release, as the live one or as a canary, and
    /// records that it succeeded.
    async fn had_succeeded(&self, deploy: &StoredDeploy) -> Result<bool> {
        let (Some(plugin), Some(number)) = (&deploy.plugin, deploy.release) else { return Ok(false) };
        let release = releases::find(&self.db, plugin, number).await?;
        // A release of this number that is older than the deploy, or of another file, is not its own.
        let recorded =
            release.is_some_and(|release| release.digest == deploy.digest && release.created_at >= deploy.started_at);
        let settled = match recorded {
            true => StoredDeploy { state: "succeeded".to_owned(), ..deploy.clone() },
            false => StoredDeploy { release: None, ..deploy.clone() },
        };
        deploys::update(&self.db, &settled, &deploy.state).await?;
        Ok(recorded)
    }

    async fn restore(&self) -> Result<()> {
        let plugins = table::list(&self.db).await?;
        let live = releases::list_live(&self.db).await?;
        let order: HashMap<PluginName, usize> = live.iter().map(|release| release.plugin.clone()).zip(0..).collect();
        let mut live: HashMap<PluginName, StoredRelease> =
            live.into_iter().map(|release| (release.plugin.clone(), release)).collect();
        let (mut restored, mut absent) = (Vec::new(), Vec::new());
        for stored in &plugins {
            if stored.state == "live" {
                // The last end of a node may have come between the record of a revocation and its effects.
                self.close_revoked(stored).await;
            }
            match self.restore_plugin(stored, live.remove(&stored.name)) {
                Ok(Restored::Loaded(release)) => restored.push((Arc::new(*release), stored.paused)),
                Ok(Restored::Absent(reason)) => absent.push((stored.name.clone(), absent_plugin(stored, reason)?)),
                Err(error) => {
                    tracing::error!(
                        plugin = %stored.name, release = stored.live_release, error = error.report(),
                        "a release cannot be loaded; its routes respond 503"
                    );
                    absent.push((stored.name.clone(), absent_plugin(stored, Absence::Broken)?));
                }
            }
        }
        // A plugin that could not be served may have lost its mount to another one, which became live later.
        restored.sort_by_key(|(release, _)| order.get(&release.record.plugin).copied());
        for (plugin, error) in self.live.restore(restored, absent) {
            tracing::error!(
                %plugin, error = error.report(),
                "a plugin is not served, because its paths are taken; deploy it with another mount"
            );
        }
        for stored in &plugins {
            if let Some(text) = &stored.canary
                && let Err(error) = self.restore_trial(&stored.name, text).await
            {
                // Nothing was found out about the trial. A start reads all plugins, or fails.
                if matches!(error.kind(), Kind::Unavailable(_)) {
                    return Err(error);
                }
                tracing::error!(plugin = %stored.name, error = error.report(), "a trial cannot be continued; it ended");
                self.forget_trial(&stored.name).await;
            }
        }
        Ok(())
    }

    /// Restores the live release of a plugin, or returns the reason why it is not to be served.
    fn restore_plugin(&self, stored: &StoredPlugin, live: Option<StoredRelease>) -> Result<Restored> {
        if stored.state == "removed" {
            return Ok(Restored::Absent(Absence::Removed));
        }
        let live = live.ok_or_else(|| release_not_found(&stored.name, stored.live_release))?;
        let release = self.unprepared(&live)?;
        if !revoked_needs(&release.record, &stored.revoked()?).is_empty() {
            return Ok(Restored::Absent(Absence::Revoked));
        }
        Ok(Restored::Loaded(Box::new(release)))
    }

    /// Continues a trial. Its counts start at zero again.
    async fn restore_trial(&self, plugin: &PluginName, text: &str) -> Result<()> {
        let stored: StoredCanary = serde_json::from_str(text).map_err(Error::internal)?;
        let release = self.stored_release(plugin, stored.release).await?;
        let record = Record::from_stored(&release)?;
        check_revoked(&self.present(plugin).await?, &record)?;
        let release = Arc::new(self.unprepared(&release)?);
        let generation = self.generation();
        let live = generation.plugins.live.get(plugin).ok_or_else(|| plugin_not_found(plugin))?;
        let mut canary = Canary::new(release, stored.plan, stored.lot, live, stored.since);
        canary.step = stored.step;
        self.live.swap(|plugins| {
            plugins.canaries.insert(plugin.clone(), Arc::new(canary));
        });
        Ok(())
    }
}

/// A plugin as it is restored.
enum Restored {
    Loaded(Box<Release>),
    Absent(Absence),
}

fn absent_plugin(stored: &StoredPlugin, reason: Absence) -> Result<Absent> {
    Ok(Absent { mount: stored.mount.parse().map_err(Error::internal)?, reason })
}
