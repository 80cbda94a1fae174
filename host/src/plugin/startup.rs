//! The start of a host: opens the registry, settles the deploys that the last end of this node interrupted, and loads
//! every plugin that was live, paused or on trial.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::sync::mpsc;

use super::canary::{Canary, StoredCanary};
use super::compile::{Compile, Compiler};
use super::deploy_job::{self, AtStage};
use super::engine::PluginEngine;
use super::generation::{Absence, Absent};
use super::initiator::Initiator;
use super::live_set::LiveSet;
use super::probation::Probations;
use super::refusal::{check_revoked, plugin_not_found, revoked_needs};
use super::registry::Registry;
use super::release::Record;
use super::sandbox::Sandbox;
use crate::capability::{Boot, Capabilities};
use crate::db::audit::Outcome;
use crate::db::deploy::{self as deploys, StoredDeploy};
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::release as releases;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::route::Template;

impl Registry {
    /// Opens the capabilities and loads every plugin that was live. A release that cannot be loaded is logged and its
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
            live: LiveSet::new(sandbox, capabilities, limits.clone(), host_routes)?,
            engine,
            compiler,
            limits,
            clock: boot.clock.clone(),
            db: boot.db.clone(),
            data: Arc::clone(&boot.data),
            caches: boot.cache.clone(),
            logs: boot.logs.clone(),
            node: Arc::clone(&boot.node),
            at_stage,
            deploys: Default::default(),
            turns: Default::default(),
            pauses: Default::default(),
            probations: Probations::default(),
            tripped,
            trips: Mutex::new(Some(trips)),
        };
        registry.settle_interrupted_deploys().await?;
        registry.restore().await?;
        Ok(registry)
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
            let by = Initiator { actor: deploy.actor, request_id: deploy.request_id.into() };
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
        for stored in table::list(&self.db).await? {
            let plugin = stored.name.clone();
            let reason = match self.restore_plugin(&stored).await {
                Ok(None) => continue,
                Ok(Some(reason)) => reason,
                Err(error) => {
                    tracing::error!(
                        %plugin, release = stored.live_release, error = error.report(),
                        "a release cannot be loaded; its routes respond 503"
                    );
                    Absence::Broken
                }
            };
            let absent = Absent { mount: stored.mount.parse().map_err(Error::internal)?, reason };
            self.live.swap(|plugins| {
                plugins.absent.insert(plugin, absent);
            })?;
        }
        Ok(())
    }

    /// Loads the release of a plugin and its trial. Returns a reason if the plugin is not to be loaded.
    async fn restore_plugin(&self, stored: &StoredPlugin) -> Result<Option<Absence>> {
        if stored.state == "removed" {
            return Ok(Some(Absence::Removed));
        }
        let live = self.stored_release(&stored.name, stored.live_release).await?;
        // The last end of a node may have come between the record of a revocation and its effects.
        self.close_revoked(stored).await;
        if !revoked_needs(&Record::from_stored(&live)?, &stored.revoked()?).is_empty() {
            return Ok(Some(Absence::Revoked));
        }
        let release = Arc::new(self.load(&live).await?);
        if stored.paused {
            self.live.swap(|plugins| {
                plugins.paused.insert(stored.name.clone(), release);
            })?;
            return Ok(None);
        }
        self.live.serve(release)?;
        if let Some(text) = &stored.canary
            && let Err(error) = self.restore_trial(&stored.name, text).await
        {
            tracing::error!(plugin = %stored.name, error = error.report(), "a trial cannot be continued; it ended");
            table::set_canary(&self.db, &stored.name, None).await?;
        }
        Ok(None)
    }

    /// Continues a trial. Its counts start at zero again.
    async fn restore_trial(&self, plugin: &PluginName, text: &str) -> Result<()> {
        let stored: StoredCanary = serde_json::from_str(text).map_err(Error::internal)?;
        let release = self.stored_release(plugin, stored.release).await?;
        let record = Record::from_stored(&release)?;
        check_revoked(&self.present(plugin).await?, &record)?;
        let release = Arc::new(self.load(&release).await?);
        let generation = self.generation();
        let live = generation.plugins.live.get(plugin).ok_or_else(|| plugin_not_found(plugin))?;
        let mut canary = Canary::new(release, stored.plan, live, stored.since);
        canary.step = stored.step;
        self.live.swap(|plugins| {
            plugins.canaries.insert(plugin.clone(), Arc::new(canary));
        })
    }
}
