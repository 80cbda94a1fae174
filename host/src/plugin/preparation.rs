//! The preparation of a release: loads its machine code, links it, compiles its routes and admits it to its grants. A
//! deploy does this in its stages. After a start, the first request to a plugin does it, so that ten thousand plugins
//! start as fast as their records are read, and plugins that nobody calls take little memory. Plugins whose machine code
//! is not in the code cache are compiled in the background instead, one after the other. A release that nobody used for a
//! while is unloaded: its next request prepares it again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::artifact::{Digest, check_grants};
use super::compiled_schemas::CompiledSchemas;
use super::generation::{Absence, Absent};
use super::registry::Registry;
use super::release::{LinkedComponent, Prepared, Release};
use crate::capability::Candidate;
use crate::db::plugin as table;
use crate::error::{Error, Kind, Result, code};
use crate::id::PluginName;

/// `Retry-After` of a plugin that cannot be prepared now.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Registry {
    /// Prepares a served release, unless it is prepared, and returns its parts for a call. Of concurrent calls, one does the
    /// work, and its outcome counts for all that wait. A release that can never be prepared is logged and no longer served.
    /// One whose preparation may succeed later is tried again by a request, at most once per [`RETRY_AFTER`].
    ///
    /// # Errors
    /// 503: it cannot be prepared.
    pub async fn prepare_release(&self, release: &Arc<Release>) -> Result<Arc<Prepared>> {
        let mut failed = release.preparation_failed.lock().await;
        if let Some(parts) = self.use_prepared(release) {
            return Ok(parts);
        }
        if failed.is_some_and(|at| at.elapsed() < RETRY_AFTER || !self.has_loaded(release)) {
            return Err(unavailable());
        }
        match self.prepare_parts(release).await {
            Ok(parts) => {
                let parts = Arc::new(parts);
                // Only the holder of the lock sets them.
                release.parts.store(Some(Arc::clone(&parts)));
                release.use_in(self.minute.load(Ordering::Relaxed));
                self.live.prepared(release);
                Ok(parts)
            }
            Err(error) => {
                *failed = Some(Instant::now());
                Err(self.not_prepared(release, error).await)
            }
        }
    }

    /// Unloads the releases that nobody used for a while. Looks at most once in a minute. A release stays loaded if its
    /// machine code is not on disk, for example because the disk is full: its next request would wait for the compiler.
    pub(super) fn unload_idle(&self) {
        let minute = self.clock.monotonic().as_secs() / 60;
        if self.minute.swap(minute, Ordering::Relaxed) == minute {
            return;
        }
        let generation = self.generation();
        let idle: Vec<Arc<Release>> =
            generation.plugins.releases().filter(|release| release.is_idle(minute)).cloned().collect();
        if idle.is_empty() {
            return;
        }
        let is_on_disk = self.compiler.disk_check();
        // To look at the disk and to unmap much machine code take a while.
        tokio::task::spawn_blocking(move || {
            let mut unloaded = 0;
            for release in idle {
                if !is_on_disk(&release.record.digest) {
                    release.use_in(minute);
                } else if release.take_idle(minute).is_some() {
                    unloaded += 1;
                }
            }
            if unloaded > 0 {
                tracing::debug!(unloaded, "releases that nobody used for a while were unloaded");
            }
        });
    }

    fn has_loaded(&self, release: &Arc<Release>) -> bool {
        let generation = self.generation();
        generation.plugins.releases_of(&release.record.plugin).any(|loaded| Arc::ptr_eq(loaded, release))
    }

    /// Compiles the live plugins whose machine code is not in the code cache, for example after an upgrade of the engine.
    pub async fn compile_missing(&self, stopping: &CancellationToken) {
        // Names only: a release that is replaced meanwhile must not be kept.
        let plugins: Vec<PluginName> = self.generation().plugins.live.keys().cloned().collect();
        for plugin in plugins {
            let Some(release) = self.generation().plugins.live.get(&plugin).cloned() else { continue };
            if release.is_prepared() || self.compiler.is_cached(&release.record.digest).await {
                continue;
            }
            // The failure is logged. It does not concern the other plugins.
            if stopping.run_until_cancelled(self.prepare_release(&release)).await.is_none() {
                return;
            }
        }
    }

    /// Creates the parts that the calls of a release need.
    pub(super) async fn prepare_parts(&self, release: &Release) -> Result<Prepared> {
        let record = &release.record;
        let cached = self.compiler.cached(&record.digest, release.size).await.map_err(may_pass)?;
        let artifact = match cached {
            Some(artifact) => artifact,
            None => {
                let component = self.component(record).await?;
                if Digest::compute(component.clone()).await? != record.digest {
                    return Err(Error::internal("its component no longer has its digest"));
                }
                self.compiler.artifact(&record.digest, component).await.map_err(may_pass)?
            }
        };
        check_grants(&artifact.needs()?, &record.grants)?;
        let linked = LinkedComponent::new(&self.engine, &artifact, &record.grants)?;
        let candidate = Candidate {
            plugin: &record.plugin,
            release: record.number,
            settings: &record.settings,
            permissions: record.declaration.permission_names(),
            messages: &record.declaration.messages,
        };
        let revocations = Arc::clone(&release.revocations);
        let admitted = self.live.capabilities().admit_tracked(&candidate, &record.grants, revocations).await;
        let admitted = admitted.map_err(may_pass)?;
        let (declaration, schemas) = CompiledSchemas::of(record.declaration.clone()).await?;
        Prepared::new(linked, admitted, schemas.routes(&declaration, &record.mount))
    }

    /// Logs that a release cannot be prepared, and stops serving it unless that may pass.
    async fn not_prepared(&self, release: &Arc<Release>, error: Error) -> Error {
        let (plugin, number) = (&release.record.plugin, release.record.number);
        let report = error.report();
        if matches!(error.kind(), Kind::Unavailable(_)) {
            tracing::warn!(%plugin, release = number, error = report, "a release cannot be loaded now");
            return error;
        }
        let _changing = self.live.lock().await;
        let (mut was_live, mut was_canary) = (false, false);
        self.live.swap(|plugins| {
            was_live = plugins.live.get(plugin).is_some_and(|live| Arc::ptr_eq(live, release));
            was_canary = plugins.canaries.get(plugin).is_some_and(|canary| Arc::ptr_eq(&canary.release, release));
            if was_live {
                let absent = Absent { mount: release.record.mount.clone(), reason: Absence::Broken };
                plugins.forget(plugin);
                plugins.absent.insert(plugin.clone(), absent);
            } else if was_canary {
                plugins.canaries.remove(plugin);
            }
        });
        if was_live {
            tracing::error!(%plugin, release = number, error = report, "a release cannot be loaded; its routes respond 503");
        } else if was_canary {
            tracing::error!(%plugin, release = number, error = report, "a trial cannot be continued; it ended");
            self.forget_trial(plugin).await;
        }
        unavailable().with_internal(report)
    }

    /// Records that a trial ended that cannot be continued. A failure is logged: the next start ends it again.
    pub(super) async fn forget_trial(&self, plugin: &PluginName) {
        if let Err(error) = table::set_canary(&self.db, plugin, None).await {
            tracing::error!(%plugin, error = error.report(), "the end of a trial was not recorded");
        }
    }
}

fn unavailable() -> Error {
    Error::new(Kind::Unavailable(RETRY_AFTER), code::PLUGIN_UNAVAILABLE, "The plugin is not available")
}

/// Returns an error that may pass as 503. The file was accepted before, so the machine is at fault if it cannot be compiled
/// or loaded, or if a resource such as the plugin's database cannot be opened.
fn may_pass(error: Error) -> Error {
    match error.kind() {
        Kind::Internal => unavailable().with_source(error),
        _ if *error.code() == code::COMPILE_LIMIT => unavailable().with_source(error),
        _ => error,
    }
}
