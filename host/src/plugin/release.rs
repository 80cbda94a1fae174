//! A release: one immutable upload, compiled, linked and admitted, with its routes ready to be served.

use std::sync::Arc;

use serde_json::Value;

use super::artifact::{Artifact, Digest};
use super::declaration::{CachePolicy, Declaration};
use super::engine::PluginEngine;
use super::instance::Bulkhead;
use super::interface::handle;
use crate::cache::PluginCache;
use crate::capability::log::PluginLog;
use crate::capability::{Admitted, Capabilities, Grants, Guest};
use crate::clock::Timestamp;
use crate::error::Result;
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
    pub(super) log: Arc<PluginLog>,
    pub(super) bulkhead: Arc<Bulkhead>,
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
    /// When it was deployed.
    pub created_at: Timestamp,
    /// By whom; none: by the host at start.
    pub created_by: Option<UserId>,
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
        }
    }
}

/// What all releases of one plugin share.
pub(super) struct Parts {
    pub(super) cache: Arc<PluginCache>,
    pub(super) log: Arc<PluginLog>,
    pub(super) bulkhead: Arc<Bulkhead>,
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
            })
        })
        .collect()
}
