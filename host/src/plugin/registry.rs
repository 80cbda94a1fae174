//! The set of plugins: restored at start, changed by deploys and removals, read by every request.
//!
//! Readers take the current [`Generation`] without a lock and keep it as long as they need; writers build the next one
//! beside it and swap. What is in flight on an old release ends there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::json;

use super::answer::Answer;
use super::artifact::{Artifact, Digest, check_grants};
use super::compile::{Compile, Compiler};
use super::engine::PluginEngine;
use super::generation::{Absence, Absent, Generation};
use super::instance::{Bulkhead, Request, Sandbox};
use super::release::{Linked, Record, Release, compile_routes};
use crate::auth::Caller;
use crate::cache::Caches;
use crate::capability::log::PluginLogs;
use crate::capability::{Boot, Candidate, Capabilities};
use crate::clock::Clock;
use crate::config;
use crate::db::Db;
use crate::db::audit::Outcome;
use crate::db::plugin::{self as table, StoredRelease};
use crate::db::plugin_data::PluginData;
use crate::error::{Error, Result, code};
use crate::id::{PluginName, UserId};
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
    compiler: Compiler,
    /// Held by whoever changes the set.
    pub(super) changing: tokio::sync::Mutex<()>,
    generation: ArcSwap<Generation>,
    bulkheads: Mutex<HashMap<PluginName, Arc<Bulkhead>>>,
}

impl Registry {
    /// Opens the capabilities and brings back every plugin that was live. A release that cannot be loaded is logged and
    /// answers 503; it does not keep the host from starting.
    ///
    /// # Errors
    /// The engine, a capability or the database cannot be had.
    pub async fn open(boot: &Boot, compile: Compile, host_routes: Vec<(String, Template)>) -> Result<Self> {
        let limits = boot.config.plugins.clone();
        let engine = PluginEngine::new(&limits)?;
        let compiler = Compiler::open(&engine, boot, compile)?;
        let logs = PluginLogs::new(boot.clock.clone(), limits.log_rate);
        let empty = Generation::build(0, &host_routes, BTreeMap::new(), BTreeMap::new())?;
        let registry = Self {
            sandbox: Sandbox::new(engine.clone(), boot.clock.clone(), limits.clone(), logs.clone()),
            engine,
            capabilities: Capabilities::open(boot).await?,
            limits,
            clock: boot.clock.clone(),
            db: boot.db.clone(),
            data: Arc::clone(&boot.data),
            caches: boot.cache.clone(),
            logs,
            host_routes,
            compiler,
            changing: tokio::sync::Mutex::default(),
            generation: ArcSwap::from_pointee(empty),
            bulkheads: Mutex::default(),
        };
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
    pub async fn call(&self, release: &Release, request: Request<'_>, caller: Option<Arc<Caller>>) -> Result<Answer> {
        self.sandbox.call(release, request, caller).await
    }

    /// Stops serving a plugin. Its data stays unless `delete_data`; its releases stay recorded.
    ///
    /// # Errors
    /// There is no such plugin (404), or its data cannot be deleted.
    pub async fn remove(
        &self,
        plugin: &PluginName,
        delete_data: bool,
        actor: Option<UserId>,
        request_id: &str,
    ) -> Result<()> {
        let _turn = self.changing.lock().await;
        let current = self.generation();
        let mount = match (current.releases.get(plugin), current.absent.get(plugin)) {
            (Some(release), _) => release.record.mount.clone(),
            (None, Some(absent)) if delete_data || absent.reason == Absence::Broken => absent.mount.clone(),
            _ => return Err(not_found(plugin)),
        };
        table::mark_removed(&self.db, plugin).await?;
        let mut releases = current.releases.clone();
        releases.remove(plugin);
        let mut absent = current.absent.clone();
        absent.insert(plugin.clone(), Absent { mount, reason: Absence::Removed });
        self.swap(releases, absent)?;
        self.caches.remove(plugin);
        if delete_data {
            self.data.delete(plugin).await?;
        }
        tracing::info!(%plugin, delete_data, "removed");
        let detail = json!({ "delete_data": delete_data });
        self.audit("plugin.remove", Some(plugin.clone()), actor, request_id, Outcome::Success, detail).await;
        Ok(())
    }

    /// The compiled component of a file.
    pub(super) async fn compile(&self, component: Bytes) -> Result<Artifact> {
        self.compiler.artifact(component).await
    }

    /// Makes a release the live one of its plugin.
    pub(super) fn serve(&self, release: Arc<Release>) -> Result<()> {
        let current = self.generation();
        let mut releases = current.releases.clone();
        let mut absent = current.absent.clone();
        absent.remove(&release.record.plugin);
        releases.insert(release.record.plugin.clone(), release);
        self.swap(releases, absent)
    }

    pub(super) fn bulkhead(&self, plugin: &PluginName) -> Arc<Bulkhead> {
        let mut bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        let bulkhead = bulkheads
            .entry(plugin.clone())
            .or_insert_with(|| Arc::new(Bulkhead::new(self.limits.concurrency, self.limits.queue_time)));
        Arc::clone(bulkhead)
    }

    fn swap(&self, releases: BTreeMap<PluginName, Arc<Release>>, absent: BTreeMap<PluginName, Absent>) -> Result<()> {
        let number = self.generation().number + 1;
        let next = Generation::build(number, &self.host_routes, releases, absent)?;
        self.generation.store(Arc::new(next));
        Ok(())
    }

    async fn restore(&self) -> Result<()> {
        for stored in table::list(&self.db).await? {
            let plugin = stored.plugin.clone();
            let reason = if stored.state == "removed" {
                Absence::Removed
            } else {
                match self.load(&stored).await.and_then(|release| self.serve(Arc::new(release))) {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(%plugin, release = stored.number, error = error.report(), "a release cannot be loaded; its routes answer 503");
                        Absence::Broken
                    }
                }
            };
            let current = self.generation();
            let mut absent = current.absent.clone();
            absent.insert(plugin, Absent { mount: stored.mount.parse().map_err(Error::internal)?, reason });
            self.swap(current.releases.clone(), absent)?;
        }
        Ok(())
    }

    async fn load(&self, stored: &StoredRelease) -> Result<Release> {
        let record = Record::from_stored(stored)?;
        let component = table::component(&self.db, record.digest.as_str())
            .await?
            .ok_or_else(|| Error::internal("its component is not in the database"))?;
        if Digest::of(&component) != record.digest {
            return Err(Error::internal("its component does not have its digest any more"));
        }
        let artifact = self.compile(component.into()).await?;
        check_grants(&artifact.needs()?, &record.grants)?;
        let linked = Linked::new(&self.engine, &artifact, &record.grants)?;
        let candidate = Candidate { plugin: &record.plugin, release: record.number, settings: &record.settings };
        let admitted = self.capabilities.admit(&candidate, &record.grants).await?;
        let routes = compile_routes(&record.declaration, &record.mount)?;
        let parts = self.parts(&record.plugin);
        Ok(Release::new(record, &artifact, linked, admitted, routes, parts))
    }
}

impl Record {
    pub(super) fn to_stored(&self) -> Result<StoredRelease> {
        let json = |value: serde_json::Result<String>| {
            value.map_err(|error| Error::internal("a release does not become JSON").with_source(error))
        };
        Ok(StoredRelease {
            plugin: self.plugin.clone(),
            state: "live".to_owned(),
            number: self.number,
            digest: self.digest.to_string(),
            mount: self.mount.to_string(),
            declaration: json(serde_json::to_string(&self.declaration))?,
            grants: json(serde_json::to_string(&self.grants))?,
            settings: self.settings.to_string(),
            created_at: self.created_at,
            created_by: self.created_by,
        })
    }

    fn from_stored(stored: &StoredRelease) -> Result<Self> {
        let broken = |error: serde_json::Error| Error::internal("its record is not readable").with_source(error);
        Ok(Self {
            plugin: stored.plugin.clone(),
            number: stored.number,
            digest: Digest::stored(stored.digest.clone()),
            mount: stored.mount.parse().map_err(Error::internal)?,
            declaration: serde_json::from_str(&stored.declaration).map_err(broken)?,
            grants: serde_json::from_str(&stored.grants).map_err(broken)?,
            settings: serde_json::from_str(&stored.settings).map_err(broken)?,
            created_at: stored.created_at,
            created_by: stored.created_by,
        })
    }
}

/// 404: no such plugin.
pub fn not_found(plugin: &PluginName) -> Error {
    Error::not_found(code::PLUGIN_NOT_FOUND, format!("There is no plugin '{plugin}'"))
}
