//! A release: one immutable upload with its record as it is stored, and the parts that its calls need: its machine code,
//! linked and admitted to its grants, and its routes. A deploy prepares these parts. After a start, the first request
//! prepares them, so that a start costs little for each plugin. They are dropped when nobody used them for [`IDLE`], and
//! prepared again by the next request. A call keeps those that it began with. Nothing else of a release changes after it
//! was created.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use serde_json::Value;
use tokio::sync::Mutex;

use super::artifact::{Artifact, Digest, SUBSCRIBER, WORKER, invalid, printable};
use super::breaker::Breaker;
use super::bulkhead::Bulkhead;
use super::call_stats::CallStats;
use super::declaration::{CachePolicy, Declaration};
use super::engine::PluginEngine;
use super::http_role::HttpRole;
use super::interface::{subscriber, worker};
use super::limits::{CallLimits, LimitOverrides};
use super::pause::PauseSwitch;
use super::running_calls::RunningCalls;
use super::schema_compatibility::MigrationStep;
use crate::cache::PluginCache;
use crate::capability::log::PluginLog;
use crate::capability::{Admitted, Capabilities, Grants, Guest, Revocations, Usage};
use crate::clock::Timestamp;
use crate::db::release::StoredRelease;
use crate::error::{Error, Result, code};
use crate::id::{PluginName, UserId};
use crate::route::{Access, Operation, RouteTable, Template};

/// After this time without a use, the parts of a release are dropped.
const IDLE: Duration = Duration::from_secs(3_600);

/// An upload of a plugin that is live or once was.
pub struct Release {
    /// Its record, as stored.
    pub record: Record,
    /// Bytes of the component.
    pub size: usize,
    /// Interfaces that it imports.
    pub imports: Vec<String>,
    /// The mount in its record, as a text.
    mount: Box<str>,
    /// Its cached responses.
    pub cache: Arc<PluginCache>,
    pub(super) parts: ArcSwapOption<Prepared>,
    /// The minute of the last use of its parts; 0 if none was noticed.
    last_use: AtomicU64,
    /// When the last preparation failed. Held during a preparation.
    pub(super) preparation_failed: Mutex<Option<Instant>>,
    /// Which of its grants were revoked since it was loaded.
    pub(super) revocations: Arc<Revocations>,
    /// The log of its plugin.
    pub log: Arc<PluginLog>,
    /// The bulkhead of its plugin.
    pub bulkhead: Arc<Bulkhead>,
    /// The pause switch of its plugin.
    pub pause: Arc<PauseSwitch>,
    /// The limits of its calls.
    pub limits: CallLimits,
    /// Its call statistics.
    pub stats: Arc<CallStats>,
    /// Its resource usage and limit hits.
    pub usage: Arc<Usage>,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// The calls of it that run.
    pub(super) calls: RunningCalls,
}

/// The parts of a release that its calls need.
pub struct Prepared {
    /// Its routes, in the order of the declaration.
    pub routes: Vec<ReleaseRoute>,
    /// Finds a route by its index.
    pub table: RouteTable<usize>,
    /// Handles requests.
    pub(super) handle: HttpRole,
    /// Receives events, if it has this role.
    pub(super) subscriber: Option<subscriber::RolePre<Guest>>,
    /// Runs jobs, if it has this role.
    pub(super) worker: Option<worker::RolePre<Guest>>,
    pub(super) admitted: Admitted,
}

impl Prepared {
    /// Combines the parts.
    ///
    /// # Errors
    /// Two of the routes match the same requests.
    pub(super) fn new(linked: LinkedComponent, admitted: Admitted, routes: Vec<ReleaseRoute>) -> Result<Self> {
        let LinkedComponent { handle, subscriber, worker } = linked;
        Ok(Self { table: route_table(&routes)?, routes, handle, subscriber, worker, admitted })
    }
}

/// The record of a release.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its plugin.
    pub plugin: PluginName,
    /// Its number, counted from 1 within the plugin.
    pub number: i64,
    /// Digest of the component.
    pub digest: Digest,
    /// The path below which its routes are.
    pub mount: Template,
    /// Its declaration.
    pub declaration: Declaration,
    /// The capabilities that it may use.
    pub grants: Grants,
    /// The operator's settings for it.
    pub settings: Value,
    /// Its migrations, in order.
    pub migrations: Vec<MigrationStep>,
    /// When it was deployed.
    pub created_at: Timestamp,
    /// The account that deployed it; `None` means the host at start.
    pub created_by: Option<UserId>,
    /// The trusted keys that had signed its component, as they were configured at its deploy.
    pub signed_by: Vec<String>,
    /// The limits that the operator set for it.
    pub limits: LimitOverrides,
}

impl Record {
    pub(super) fn to_stored(&self, size: usize, imports: &[String]) -> Result<StoredRelease> {
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
            imports: json(serde_json::to_string(imports))?,
        })
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// The row is not readable, which only another program can have caused.
    pub fn from_stored(stored: &StoredRelease) -> Result<Self> {
        let broken = |error: serde_json::Error| Error::internal("its record is not readable").with_source(error);
        Ok(Self {
            plugin: stored.plugin.clone(),
            number: stored.number,
            digest: Digest::from_stored(stored.digest.clone()),
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
    /// The callers that may call it.
    pub access: Access,
    /// Its operation: parameters, body and responses.
    pub operation: Arc<Operation>,
    /// Whether and how the host caches its responses.
    pub cache: Option<CachedRoute>,
    /// Whether it is called before the release is served: a GET without parameters that its operation marks with
    /// `x-wharf-smoke`.
    pub smoke: bool,
}

/// How the host caches the responses of a route.
#[derive(Debug, Clone)]
pub struct CachedRoute {
    /// As declared.
    pub policy: CachePolicy,
    /// Whether a response is the same for all callers although the guest asks for the caller: its operation has
    /// `"x-wharf-cache": "shared"`.
    pub is_shared: bool,
}

/// A component that is type-checked against its grants: the expensive part of a release.
pub(super) struct LinkedComponent {
    handle: HttpRole,
    subscriber: Option<subscriber::RolePre<Guest>>,
    worker: Option<worker::RolePre<Guest>>,
}

impl LinkedComponent {
    /// Links a component with the capabilities that it was granted.
    pub(super) fn new(engine: &PluginEngine, artifact: &Artifact, grants: &Grants) -> Result<Self> {
        let refuse =
            |error: wasmtime::Error| invalid(format!("it does not link: {}", printable(&format!("{error:#}"))));
        let mut linker = engine.linker()?;
        Capabilities::link(&mut linker, grants).map_err(refuse)?;
        let instance = linker.instantiate_pre(&artifact.component).map_err(refuse)?;
        let plays = |role: &str| artifact.plays(role).then(|| instance.clone());
        let subscriber = plays(SUBSCRIBER).map(subscriber::RolePre::new).transpose().map_err(refuse)?;
        let worker = plays(WORKER).map(worker::RolePre::new).transpose().map_err(refuse)?;
        Ok(Self { handle: HttpRole::new(instance).map_err(refuse)?, subscriber, worker })
    }
}

impl Release {
    /// Returns whether it has a grant that was not revoked.
    pub fn has_grant(&self, capability: &'static str) -> bool {
        self.record.grants.contains(capability) && self.revocations.check(capability).is_ok()
    }

    /// Returns the part of a path below its mount, with a slash in front.
    pub fn below_mount<'p>(&self, path: &'p str) -> &'p str {
        path.strip_prefix(&*self.mount).filter(|rest| !rest.is_empty()).unwrap_or("/")
    }

    /// Creates a release that is prepared.
    ///
    /// # Errors
    /// Two of its routes match the same requests.
    pub(super) fn new(
        record: Record,
        artifact: &Artifact,
        linked: LinkedComponent,
        admitted: Admitted,
        routes: Vec<ReleaseRoute>,
        resources: ReleaseResources,
    ) -> Result<Self> {
        let revocations = Arc::clone(admitted.revocations());
        let parts = ArcSwapOption::new(Some(Arc::new(Prepared::new(linked, admitted, routes)?)));
        let imports = artifact.imports.clone();
        Ok(Self { parts, ..Self::unprepared(record, artifact.size, imports, revocations, resources) })
    }

    /// Creates a release that is not prepared yet.
    pub(super) fn unprepared(
        record: Record,
        size: usize,
        imports: Vec<String>,
        revocations: Arc<Revocations>,
        resources: ReleaseResources,
    ) -> Self {
        let stats = Arc::new(CallStats::new(record.declaration.routes.len()));
        Self {
            mount: record.mount.to_string().into(),
            record,
            size,
            imports,
            cache: resources.cache,
            parts: ArcSwapOption::empty(),
            last_use: AtomicU64::default(),
            preparation_failed: Mutex::default(),
            revocations,
            log: resources.log,
            bulkhead: resources.bulkhead,
            pause: resources.pause,
            limits: resources.limits,
            stats,
            usage: resources.usage,
            breaker: resources.breaker,
            calls: RunningCalls::default(),
        }
    }

    /// Returns the parts that a call needs, if they are prepared.
    pub fn prepared(&self) -> Option<Arc<Prepared>> {
        self.parts.load_full()
    }

    /// Returns whether it is prepared.
    pub fn is_prepared(&self) -> bool {
        self.parts.load().is_some()
    }

    /// Notices a use of its parts in this minute.
    pub(super) fn use_in(&self, minute: u64) {
        // All calls read this, so it is rarely written.
        if self.last_use.load(Ordering::Relaxed) != minute {
            self.last_use.store(minute, Ordering::Relaxed);
        }
    }

    /// Returns whether it has parts whose last noticed use was [`IDLE`] ago. If none was noticed yet, this counts as one: the
    /// time begins now.
    pub(super) fn is_idle(&self, minute: u64) -> bool {
        let last_use = self.last_use.load(Ordering::Relaxed);
        if last_use == 0 {
            self.use_in(minute);
            return false;
        }
        minute.saturating_sub(last_use) >= IDLE.as_secs() / 60 && self.is_prepared()
    }

    /// Takes its parts out if [`is_idle`](Self::is_idle) and no call holds them. A call that holds them counts as a use.
    pub(super) fn take_idle(&self, minute: u64) -> Option<Arc<Prepared>> {
        if !self.is_idle(minute) {
            return None;
        }
        let parts = self.parts.load_full()?;
        // The release has one, and so has this function.
        if Arc::strong_count(&parts) > 2 {
            self.use_in(minute);
            return None;
        }
        self.parts.swap(None)
    }

    /// Waits until nobody prepares the release.
    pub async fn wait_for_preparation(&self) {
        drop(self.preparation_failed.lock().await);
    }

    /// Returns the parts of a release that its deploy has prepared, and that is not served yet.
    ///
    /// # Errors
    /// It is not prepared, which is a defect of the host.
    pub(super) fn parts(&self) -> Result<Arc<Prepared>> {
        self.prepared().ok_or_else(|| Error::internal("a release was called before it was prepared"))
    }
}

/// Builds the table of the routes of one release. The targets are the indexes of the routes.
pub(super) fn route_table(routes: &[ReleaseRoute]) -> Result<RouteTable<usize>> {
    let routes = routes.iter().enumerate();
    let routes = routes.map(|(index, route)| (route.method.clone(), route.template.clone(), index));
    RouteTable::build(routes).map_err(|taken| {
        let text = format!("The route {} {} is already served", taken.method, taken.path);
        Error::conflict(code::ROUTE_CONFLICT, text)
    })
}

/// The resources of a release. It shares the first four with the other releases of its plugin.
pub(super) struct ReleaseResources {
    pub(super) cache: Arc<PluginCache>,
    pub(super) log: Arc<PluginLog>,
    pub(super) bulkhead: Arc<Bulkhead>,
    pub(super) pause: Arc<PauseSwitch>,
    pub(super) limits: CallLimits,
    pub(super) usage: Arc<Usage>,
    pub(super) breaker: Breaker,
}
