//! The set of plugins: restored at start, changed by deploys and removals, read by every request.
//!
//! Readers take the current [`Generation`] without a lock and keep it as long as they need; writers build the next one
//! beside it and swap. What is in flight on an old release ends there.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use super::answer::Answer;
use super::artifact::{Digest, check_grants};
use super::bulkhead::Bulkhead;
use super::compile::{Compile, Compiler};
use super::deploy::By;
use super::deploy::job::{self, AtStage};
use super::drain::Drains;
use super::engine::PluginEngine;
use super::generation::{Absence, Absent, Generation, Plugins};
use super::instance::{Request, Sandbox};
use super::release::{Linked, Record, Release, compile_routes};
use super::tally::CallOutcome;
use crate::auth::Caller;
use crate::cache::Caches;
use crate::capability::log::PluginLogs;
use crate::capability::{Boot, Candidate, Capabilities};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::db::Db;
use crate::db::audit::Outcome;
use crate::db::deploy::{self as deploys, StoredDeploy};
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::plugin_data::PluginData;
use crate::db::release::{self as releases, StoredRelease};
use crate::error::{Error, Result, code};
use crate::id::PluginName;
use crate::route::Template;

/// Every plugin of this host.
pub struct Registry {
    pub(super) engine: PluginEngine,
    pub(super) sandbox: Sandbox,
    pub(super) capabilities: Capabilities,
    pub(super) limits: config::Plugins,
    pub(super) clock: Clock,
    pub(super) db: Db,
    pub(super) data: Arc<PluginData>,
    pub(super) caches: Caches,
    pub(super) logs: PluginLogs,
    pub(super) host_routes: Vec<(String, Template)>,
    /// This node, by a name that outlives its process.
    pub(super) node: Arc<str>,
    pub(super) at_stage: Option<AtStage>,
    pub(super) compiler: Compiler,
    /// Deploys that came to an end since the start: those that succeeded, and those that failed.
    pub(super) deploys: [AtomicU64; 2],
    /// Held by whoever changes the set.
    pub(super) changing: tokio::sync::Mutex<()>,
    generation: ArcSwap<Generation>,
    /// Deploys that may still be taken back by the host itself.
    pub(super) probation: Mutex<HashMap<PluginName, Probation>>,
    /// Tells the supervisor of a release whose breaker opened.
    pub(super) tripped: mpsc::UnboundedSender<Tripped>,
    pub(super) trips: Mutex<Option<mpsc::UnboundedReceiver<Tripped>>>,
    bulkheads: Mutex<HashMap<PluginName, Arc<Bulkhead>>>,
    pub(super) drains: Drains,
}

impl Registry {
    /// Opens the capabilities and brings back every plugin that was live. A release that cannot be loaded is logged and
    /// answers 503; it does not keep the host from starting.
    ///
    /// # Errors
    /// The engine, a capability or the database cannot be had.
    pub async fn open(
        boot: &Boot,
        compile: Compile,
        host_routes: Vec<(String, Template)>,
        at_stage: Option<AtStage>,
    ) -> Result<Self> {
        let limits = boot.config.plugins.clone();
        let engine = PluginEngine::new(&limits)?;
        let compiler = Compiler::open(&engine, boot, compile)?;
        let empty = Generation::build(0, &host_routes, Plugins::default())?;
        let (tripped, trips) = mpsc::unbounded_channel();
        let registry = Self {
            sandbox: Sandbox::new(engine.clone(), boot.clock.clone(), &limits, boot.logs.clone())?,
            engine,
            capabilities: Capabilities::open(boot).await?,
            limits,
            clock: boot.clock.clone(),
            db: boot.db.clone(),
            data: Arc::clone(&boot.data),
            caches: boot.cache.clone(),
            logs: boot.logs.clone(),
            host_routes,
            node: Arc::clone(&boot.node),
            at_stage,
            compiler,
            deploys: Default::default(),
            changing: tokio::sync::Mutex::default(),
            generation: ArcSwap::from_pointee(empty),
            probation: Mutex::default(),
            tripped,
            trips: Mutex::new(Some(trips)),
            bulkheads: Mutex::default(),
            drains: Drains::default(),
        };
        registry.tell_interrupted().await?;
        registry.restore().await?;
        Ok(registry)
    }

    /// What is served now.
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Answers a request in a fresh instance of a release.
    ///
    /// # Errors
    /// See [`Sandbox::call`].
    pub async fn call(
        &self,
        release: &Release,
        request: Request<'_>,
        caller: Option<Arc<Caller>>,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Answer> {
        let refused = |error: &Error| release.tally.count(CallOutcome::of_error(error));
        let pass = release.breaker.admit().inspect_err(refused)?;
        let begun = release.tally.begin();
        let called = self.sandbox.call(release, request, caller, ready).await;
        begun.ended();
        let (answer, took) = called.inspect_err(refused)?;
        let outcome = CallOutcome::of(&answer);
        release.tally.record(took, outcome);
        if pass.done(outcome.is_fault()) {
            let record = &release.record;
            tracing::warn!(plugin = %record.plugin, release = record.number, "quarantined: it failed too often");
            // Nobody listens when the host stops.
            let _ = self.tripped.send(Tripped { plugin: record.plugin.clone(), release: record.number });
        }
        answer
    }

    /// Stops serving a plugin. Its data stays unless `delete_data`; its releases stay recorded.
    ///
    /// # Errors
    /// There is no such plugin (404), or its data cannot be deleted.
    pub async fn remove(&self, plugin: &PluginName, delete_data: bool, by: &By) -> Result<()> {
        let _turn = self.changing.lock().await;
        let current = self.generation();
        let mount = match (current.plugins.current(plugin), current.plugins.absent.get(plugin)) {
            (Some(release), _) => release.record.mount.clone(),
            (None, Some(absent)) if delete_data || absent.reason != Absence::Removed => absent.mount.clone(),
            _ => return Err(not_found(plugin)),
        };
        let before = current.plugins.current(plugin).map(|release| release.record.number);
        table::mark_removed(&self.db, plugin).await?;
        let absent = Absent { mount, reason: Absence::Removed };
        self.swap(|plugins| {
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

    /// Makes a release the one that its plugin serves, or would serve if it were not paused. A trial ends.
    pub(super) fn serve(&self, release: Arc<Release>) -> Result<()> {
        let plugin = release.record.plugin.clone();
        self.swap(|plugins| {
            let paused = plugins.paused.contains_key(&plugin);
            plugins.forget(&plugin);
            let place = if paused { &mut plugins.paused } else { &mut plugins.live };
            place.insert(plugin, release);
        })
    }

    pub(super) fn bulkhead(&self, plugin: &PluginName) -> Arc<Bulkhead> {
        let mut bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        let bulkhead = bulkheads.entry(plugin.clone()).or_insert_with(|| {
            Arc::new(Bulkhead::new(self.limits.concurrency, self.limits.queue_time, self.sandbox.share()))
        });
        Arc::clone(bulkhead)
    }

    /// Calls of all plugins that run now, and that wait for one of the places that are kept for nobody.
    pub fn calls(&self) -> (usize, usize) {
        let bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.sandbox.all();
        (all.running(bulkheads.values().map(|bulkhead| &**bulkhead)), all.waiting())
    }

    /// Keeps places for the plugins that are served now.
    fn divide_places(&self, served: &Plugins) {
        let bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        let served = bulkheads.iter().map(|(plugin, bulkhead)| (&**bulkhead, served.live.contains_key(plugin)));
        self.sandbox.all().divide(served);
    }

    /// Builds the next generation beside the current one and swaps. What is gone with it may finish its calls.
    pub(super) fn swap(&self, change: impl FnOnce(&mut Plugins)) -> Result<()> {
        let current = self.generation();
        let mut plugins = current.plugins.clone();
        change(&mut plugins);
        let next = Arc::new(Generation::build(current.number + 1, &self.host_routes, plugins)?);
        for release in next.plugins.live.values() {
            let plugin = &release.record.plugin;
            if !current.plugins.live.get(plugin).is_some_and(|served| Arc::ptr_eq(served, release)) {
                self.capabilities.serve(plugin, &release.admitted);
                release.bulkhead.resize(release.limits.concurrency, release.limits.queue_time);
            }
        }
        self.divide_places(&next.plugins);
        self.generation.store(Arc::clone(&next));
        for release in current.plugins.releases() {
            if !next.plugins.releases().any(|kept| Arc::ptr_eq(kept, release)) {
                self.drains.begin(release, self.limits.drain_time);
            }
        }
        Ok(())
    }

    /// Records the deploys that the last end of this node cut off.
    async fn tell_interrupted(&self) -> Result<()> {
        for deploy in job::find_interrupted(&self.db, &self.node, self.clock.now()).await? {
            if self.was_recorded(&deploy).await? {
                continue;
            }
            if let Some(plugin) = deploy.plugin.as_ref().filter(|_| deploy.made_data) {
                self.forget_data(plugin).await;
            }
            let by = By { actor: deploy.actor, request_id: deploy.request_id.into() };
            let detail = json!({ "deploy": deploy.id, "digest": deploy.digest, "stage": deploy.stage,
                "code": "interrupted", "reason": "The host ended while it ran; it can be repeated" });
            self.audit("plugin.deploy", deploy.plugin, &by, Outcome::Failure, detail).await;
        }
        Ok(())
    }

    /// Whether a deploy had made its release the live one before it was cut off; then it succeeded.
    async fn was_recorded(&self, deploy: &StoredDeploy) -> Result<bool> {
        let Some(plugin) = &deploy.plugin else { return Ok(false) };
        let Some(stored) = table::find(&self.db, plugin).await? else { return Ok(false) };
        let live = releases::find(&self.db, plugin, stored.live_release).await?;
        // A release that was live before has another moment, even when it is of the same file.
        let recorded = live.filter(|live| live.digest == deploy.digest && live.created_at >= deploy.started_at);
        let Some(live) = recorded else { return Ok(false) };
        let succeeded = StoredDeploy { state: "succeeded".to_owned(), release: Some(live.number), ..deploy.clone() };
        deploys::update(&self.db, &succeeded).await?;
        Ok(true)
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
                        "a release cannot be loaded; its routes answer 503"
                    );
                    Absence::Broken
                }
            };
            let absent = Absent { mount: stored.mount.parse().map_err(Error::internal)?, reason };
            self.swap(|plugins| {
                plugins.absent.insert(plugin, absent);
            })?;
        }
        Ok(())
    }

    /// Brings back what a plugin served; else why it does not.
    async fn restore_plugin(&self, stored: &StoredPlugin) -> Result<Option<Absence>> {
        if stored.state == "removed" {
            return Ok(Some(Absence::Removed));
        }
        let live = self.stored_release(&stored.name, stored.live_release).await?;
        if !revoked_needs(&Record::from_stored(&live)?, &stored.revoked()?).is_empty() {
            return Ok(Some(Absence::Revoked));
        }
        let release = Arc::new(self.load(&live).await?);
        if stored.paused {
            self.swap(|plugins| {
                plugins.paused.insert(stored.name.clone(), release);
            })?;
            return Ok(None);
        }
        self.serve(release)?;
        if let Some(text) = &stored.canary
            && let Err(error) = self.restore_canary(&stored.name, text).await
        {
            tracing::error!(plugin = %stored.name, error = error.report(), "a trial cannot be resumed; it ended");
            table::set_canary(&self.db, &stored.name, None).await?;
        }
        Ok(None)
    }

    /// A recorded release.
    pub(super) async fn stored_release(&self, plugin: &PluginName, number: i64) -> Result<StoredRelease> {
        releases::find(&self.db, plugin, number).await?.ok_or_else(|| release_not_found(plugin, number))
    }

    /// Loads a recorded release from its kept component.
    pub(super) async fn load(&self, stored: &StoredRelease) -> Result<Release> {
        let record = Record::from_stored(stored)?;
        let component = releases::component(&self.db, record.digest.as_str())
            .await?
            .ok_or_else(|| Error::internal("its component is not in the database"))?;
        let component = Bytes::from(component);
        if Digest::aside(component.clone()).await? != record.digest {
            return Err(Error::internal("its component does not have its digest any more"));
        }
        let artifact = self.compiler.artifact(&record.digest, component).await?;
        check_grants(&artifact.needs()?, &record.grants)?;
        let linked = Linked::new(&self.engine, &artifact, &record.grants)?;
        let candidate = Candidate { plugin: &record.plugin, release: record.number, settings: &record.settings };
        let admitted = self.capabilities.admit(&candidate, &record.grants).await?;
        let routes = compile_routes(&record.declaration, &record.mount)?;
        let parts = self.parts(&record)?;
        Ok(Release::new(record, &artifact, linked, admitted, routes, parts))
    }
}

/// 404: no such plugin.
pub fn not_found(plugin: &PluginName) -> Error {
    Error::not_found(code::PLUGIN_NOT_FOUND, format!("There is no plugin '{plugin}'"))
}

/// 404: no such release.
pub fn release_not_found(plugin: &PluginName, number: i64) -> Error {
    Error::not_found(code::RELEASE_NOT_FOUND, format!("'{plugin}' has no release {number}, or it was collected"))
}

/// Grants of a release that were taken back.
pub(super) fn revoked_needs(record: &Record, revoked: &[String]) -> Vec<String> {
    revoked.iter().filter(|name| record.grants.contains(name)).cloned().collect()
}

/// A deploy that the host takes back by itself when it turns out bad soon.
#[derive(Debug)]
pub(super) struct Probation {
    pub(super) release: i64,
    pub(super) previous: i64,
    pub(super) until: Timestamp,
}

/// A release whose breaker opened.
#[derive(Debug)]
pub(super) struct Tripped {
    pub(super) plugin: PluginName,
    pub(super) release: i64,
}
