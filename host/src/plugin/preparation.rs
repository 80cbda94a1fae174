//! The preparation of a release: loads its machine code, links it, compiles its routes and admits it to its grants. A deploy
//! does this in its stages. After a start, the first request to a plugin does it, so that ten thousand plugins start as
//! fast as their records are read, and plugins that nobody calls take little memory. Plugins whose machine code is not
//! in the code cache are compiled in the background instead, one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::artifact::{Digest, check_grants};
use super::compiled_schemas::CompiledSchemas;
use super::generation::{Absence, Absent};
use super::registry::Registry;
use super::release::{LinkedComponent, Prepared, Release};
use crate::capability::Candidate;
use crate::error::{Error, Kind, Result, code};
use crate::id::PluginName;

/// `Retry-After` of a plugin that cannot be prepared now.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Registry {
    /// Prepares a served release, unless it is prepared. Of concurrent calls, one does the work. A release that cannot be
    /// prepared is logged, and is no longer served; a dependency that is not available may be tried again.
    ///
    /// # Errors
    /// 503: it cannot be prepared.
    pub async fn prepare_release(&self, release: &Arc<Release>) -> Result<()> {
        let mut is_new = false;
        let parts = release.parts.get_or_try_init(|| async {
            is_new = true;
            self.prepare_parts(release).await
        });
        match parts.await {
            Ok(_) if is_new => self.live.prepared(release),
            Ok(_) => {}
            Err(error) => return Err(self.not_prepared(release, error)),
        }
        Ok(())
    }

    /// Compiles the live plugins whose machine code is not in the code cache, for example after an upgrade of the engine.
    pub async fn compile_missing(&self, stopping: &CancellationToken) {
        // Names only: a release that is replaced meanwhile must not be kept.
        let plugins: Vec<PluginName> = self.generation().plugins.live.keys().cloned().collect();
        for plugin in plugins {
            let Some(release) = self.generation().plugins.live.get(&plugin).cloned() else { continue };
            if release.prepared().is_some() || self.compiler.is_cached(&release.record.digest).await {
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
        let artifact = match self.compiler.cached(&record.digest, release.size).await? {
            Some(artifact) => artifact,
            None => {
                let component = self.component(record).await?;
                if Digest::compute(component.clone()).await? != record.digest {
                    return Err(Error::internal("its component no longer has its digest"));
                }
                self.compiler.artifact(&record.digest, component).await?
            }
        };
        check_grants(&artifact.needs()?, &record.grants)?;
        let linked = LinkedComponent::new(&self.engine, &artifact, &record.grants)?;
        let candidate = Candidate { plugin: &record.plugin, release: record.number, settings: &record.settings };
        let revocations = Arc::clone(&release.revocations);
        let admitted = self.live.capabilities().admit_tracked(&candidate, &record.grants, revocations).await;
        let admitted = admitted.map_err(|error| match error.kind() {
            // A resource such as the plugin's database, which may work again: not the fault of the release.
            Kind::Internal => {
                let kind = Kind::Unavailable(RETRY_AFTER);
                Error::new(kind, code::PLUGIN_UNAVAILABLE, "The plugin is not available").with_source(error)
            }
            _ => error,
        })?;
        let (declaration, schemas) = CompiledSchemas::of(record.declaration.clone()).await?;
        Prepared::new(linked, admitted, schemas.routes(&declaration, &record.mount))
    }

    /// Logs that a release cannot be prepared, and stops serving it unless a dependency was the reason.
    fn not_prepared(&self, release: &Arc<Release>, error: Error) -> Error {
        let (plugin, number) = (&release.record.plugin, release.record.number);
        if matches!(error.kind(), Kind::Unavailable(_)) {
            tracing::warn!(%plugin, release = number, error = error.report(), "a release cannot be loaded now");
            return error;
        }
        let mut is_live = false;
        let swapped = self.live.swap(|plugins| {
            is_live = plugins.live.get(plugin).is_some_and(|live| Arc::ptr_eq(live, release));
            if is_live {
                let absent = Absent { mount: release.record.mount.clone(), reason: Absence::Broken };
                plugins.forget(plugin);
                plugins.absent.insert(plugin.clone(), absent);
            }
        });
        if is_live {
            let error = error.report();
            tracing::error!(%plugin, release = number, error, "a release cannot be loaded; its routes respond 503");
        }
        let refusal =
            Error::new(Kind::Unavailable(RETRY_AFTER), code::PLUGIN_UNAVAILABLE, "The plugin is not available");
        swapped.err().unwrap_or_else(|| refusal.with_internal(error.report()))
    }
}
