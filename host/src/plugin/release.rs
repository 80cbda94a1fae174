//! A release: one immutable upload, compiled, linked and admitted, with its routes ready to be served.

use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::artifact::{Artifact, Digest};
use super::breaker::Breaker;
use super::bulkhead::Bulkhead;
use super::declaration::{CachePolicy, Declaration};
use super::engine::PluginEngine;
use super::interface::handle;
use super::limits::{CallLimits, Limits};
use super::schema::Step;
use super::tally::Tally;
use crate::cache::PluginCache;
use crate::capability::log::PluginLog;
use crate::capability::{Admitted, Capabilities, Grants, Guest, Usage};
use crate::clock::Timestamp;
use crate::db::release::StoredRelease;
use crate::error::{Error, Result};
use crate::id::{PluginName, UserId};
use crate::plugin::artifact::{invalid, told};
use crate::route::{Access, Operation, Template};

/// A live or once live upload of a plugin.
pub struct Release {
    /// What it is, as recorded.
    pub record: Record,
    /// Bytes of the component.
    pub size: usize,
    /// Interfaces it imports.
    pub imports: Vec<String>,
    /// Its routes, in the order it declared them.
    pub routes: Vec<ReleaseRoute>,
    /// Where the host keeps its answers.
    pub cache: Arc<PluginCache>,
    pub(super) handle: handle::RolePre<Guest>,
    pub(super) admitted: Admitted,
    /// Its plugin's log.
    pub log: Arc<PluginLog>,
    /// Its plugin's places for calls.
    pub bulkhead: Arc<Bulkhead>,
    /// What its calls are held to.
    pub limits: CallLimits,
    /// What it did.
    pub tally: Arc<Tally>,
    /// What it used.
    pub usage: Arc<Usage>,
    /// Whether it may be called.
    pub breaker: Breaker,
    /// Cancelled when it was replaced and its last calls had their time.
    pub(super) ended: CancellationToken,
}

/// What is recorded of a release.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its plugin.
    pub plugin: PluginName,
    /// Counts up from 1 within the plugin.
    pub number: i64,
    /// Of the component.
    pub digest: Digest,
    /// Where its routes are.
    pub mount: Template,
    /// What it says of itself.
    pub declaration: Declaration,
    /// What it may use.
    pub grants: Grants,
    /// What the operator set for it.
    pub settings: Value,
    /// Its migrations, in order.
    pub migrations: Vec<Step>,
    /// When it was deployed.
    pub created_at: Timestamp,
    /// By whom; none: by the host at start.
    pub created_by: Option<UserId>,
    /// The trusted keys that signed its component then, as they were configured.
    pub signed_by: Vec<String>,
    /// What bounds its calls, where the operator said so.
    pub limits: Limits,
}

impl Record {
    pub(super) fn to_stored(&self, size: usize) -> Result<StoredRelease> {
        let json = |value: serde_json::Result<String>| {
            value.map_err(|error| Error::internal("a release does not become JSON").with_source(error))
        };
        Ok(StoredRelease {
            plugin: self.plugin.clone(),
            number: self.number,
            digest: self.digest.to_string(),
            mount: self.mount.to_string(),
            declaration: json(serde_json::to_string(&self.declaration))?,
            grants: json(serde_json::to_string(&self.grants))?,
            settings: self.settings.to_string(),
            migrations: json(serde_json::to_string(&self.migrations))?,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            created_at: self.created_at,
            created_by: self.created_by,
            signed_by: json(serde_json::to_string(&self.signed_by))?,
            limits: json(serde_json::to_string(&self.limits))?,
        })
    }

    /// What was stored.
    ///
    /// # Errors
    /// The row is not readable, which only another program can have done.
    pub fn from_stored(stored: &StoredRelease) -> Result<Self> {
        let broken = |error: serde_json::Error| Error::internal("its record is not readable").with_source(error);
        Ok(Self {
            plugin: stored.plugin.clone(),
            number: stored.number,
            digest: Digest::stored(stored.digest.clone()),
            mount: stored.mount.parse().map_err(Error::internal)?,
            declaration: serde_json::from_str(&stored.declaration).map_err(broken)?,
            grants: serde_json::from_str(&stored.grants).map_err(broken)?,
            settings: serde_json::from_str(&stored.settings).map_err(broken)?,
            migrations: serde_json::from_str(&stored.migrations).map_err(broken)?,
            created_at: stored.created_at,
            created_by: stored.created_by,
            signed_by: serde_json::from_str(&stored.signed_by).map_err(broken)?,
            limits: serde_json::from_str(&stored.limits).map_err(broken)?,
        })
    }
}

/// One route of a release.
#[derive(Debug)]
pub struct ReleaseRoute {
    /// Upper-case HTTP method.
    pub method: String,
    /// The whole path.
    pub template: Template,
    /// Who may call it.
    pub access: Access,
    /// What it takes.
    pub operation: Operation,
    /// Whether the host keeps its answers.
    pub cache: Option<CachePolicy>,
    /// Called once before the release is served: a GET without parameters that its operation marks with `x-wharf-smoke`.
    pub smoke: bool,
}

/// A component type-checked against what it was granted; the expensive half of a release.
pub(super) struct Linked {
    handle: handle::RolePre<Guest>,
}

impl Linked {
    /// Links a component with what it may use.
    pub(super) fn new(engine: &PluginEngine, artifact: &Artifact, grants: &Grants) -> Result<Self> {
        let refuse = |error: wasmtime::Error| invalid(format!("it does not link: {}", told(&format!("{error:#}"))));
        let mut linker = engine.linker()?;
        Capabilities::link(&mut linker, grants).map_err(refuse)?;
        let instance = linker.instantiate_pre(&artifact.component).map_err(refuse)?;
        Ok(Self { handle: handle::RolePre::new(instance).map_err(refuse)? })
    }
}

impl Release {
    /// Puts a release together.
    pub(super) fn new(
        record: Record,
        artifact: &Artifact,
        linked: Linked,
        admitted: Admitted,
        routes: Vec<ReleaseRoute>,
        parts: Parts,
    ) -> Self {
        Self {
            record,
            size: artifact.size,
            imports: artifact.imports.clone(),
            routes,
            cache: parts.cache,
            handle: linked.handle,
            admitted,
            log: parts.log,
            bulkhead: parts.bulkhead,
            limits: parts.limits,
            tally: Arc::default(),
            usage: parts.usage,
            breaker: parts.breaker,
            ended: CancellationToken::new(),
        }
    }
}

/// What a release gets beside its code: the first three are its plugin's, the others are its own.
pub(super) struct Parts {
    pub(super) cache: Arc<PluginCache>,
    pub(super) log: Arc<PluginLog>,
    pub(super) bulkhead: Arc<Bulkhead>,
    pub(super) limits: CallLimits,
    pub(super) usage: Arc<Usage>,
    pub(super) breaker: Breaker,
}

/// The routes of a declaration below a mount.
pub(super) fn compile_routes(declaration: &Declaration, mount: &Template) -> Result<Vec<ReleaseRoute>> {
    declaration
        .routes
        .iter()
        .map(|route| {
            Ok(ReleaseRoute {
                method: route.method.clone(),
                template: route.path.below(mount),
                access: route.access.clone(),
                operation: route.compile(&declaration.schemas)?,
                cache: route.cache.clone(),
                smoke: route.method == "GET"
                    && route.path.is_literal()
                    && route.operation.get("x-wharf-smoke").and_then(Value::as_bool).unwrap_or_default(),
            })
        })
        .collect()
}
