//! The JSON of plugins and releases in the operator API.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PluginName, UserId};
use crate::plugin::Release;
use crate::plugin::canary::{Canary, Comparison};
use crate::plugin::declaration::Permission;
use crate::plugin::generation::{Absence, Plugins};
use crate::plugin::message_report::MessageReport;
use crate::plugin::release::Record;
use crate::plugin::schema_compatibility::MigrationStep;

/// The state of a plugin.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It serves requests.
    Live,
    /// The circuit breaker is open after too many failures. Calls are refused, except for single attempts.
    Quarantined,
    /// It responds with 503 until it is resumed.
    Paused,
    /// A grant that it needs was revoked.
    Revoked,
    /// Its release could not be loaded.
    Broken,
    /// At the start, its mount belonged to the host or to another plugin. It can be deployed with another mount.
    Conflict,
}

/// A plugin with the release that it serves, or would serve.
#[derive(Serialize, JsonSchema)]
pub(super) struct PluginPublic {
    name: PluginName,
    mount: String,
    summary: String,
    state: State,
    release: ReleasePublic,
    /// The canary.
    canary: Option<CanaryPublic>,
    /// Capabilities and their parameters, in the form that a deploy accepts.
    grants: Vec<String>,
    imports: Vec<String>,
    permissions: Vec<Permission>,
    routes: Vec<RoutePublic>,
    #[serde(flatten)]
    messages: MessageReport,
}

/// A plugin with its details.
#[derive(Serialize, JsonSchema)]
pub(super) struct PluginDetail {
    #[serde(flatten)]
    pub(super) plugin: PluginPublic,
    /// Revoked capabilities. A release that needs one of them is not served.
    pub(super) revoked: Vec<String>,
}

/// A release.
#[derive(Serialize, JsonSchema)]
pub(super) struct ReleasePublic {
    number: i64,
    version: String,
    digest: String,
    /// The size of the component in bytes.
    size: usize,
    created_at: Timestamp,
    created_by: Option<UserId>,
    /// The trusted keys that signed it when it was deployed.
    signed_by: Vec<String>,
}

/// A canary.
#[derive(Serialize, JsonSchema)]
pub(super) struct CanaryPublic {
    release: i64,
    /// The current share of callers.
    percent: f64,
    /// The shares of its steps. 0 means only requests of superusers with
    /// `X-Wharf-Canary: always`.
    steps: Vec<f64>,
    /// The index of the current step.
    step: usize,
    /// When the current step began.
    since: Timestamp,
    /// The minimum duration of each of several steps in milliseconds.
    hold_ms: u64,
    /// The number of calls before it is judged.
    minimum: u64,
}

/// A canary with its comparison with the live release.
#[derive(Serialize, JsonSchema)]
pub(super) struct TrialPublic {
    #[serde(flatten)]
    canary: CanaryPublic,
    comparison: Comparison,
}

/// A route of a plugin.
#[derive(Serialize, JsonSchema)]
pub(super) struct RoutePublic {
    method: String,
    path: String,
    access: String,
    operation_id: Option<String>,
}

/// A release with its details.
#[derive(Serialize, JsonSchema)]
pub(super) struct ReleaseDetail {
    plugin: PluginName,
    #[serde(flatten)]
    release: ReleasePublic,
    mount: String,
    summary: String,
    /// Capabilities and their parameters, in the form that a deploy accepts.
    grants: Vec<String>,
    permissions: Vec<Permission>,
    migrations: Vec<MigrationStep>,
    settings: Value,
    /// The limits that are set for this plugin, in the form that a deploy accepts.
    limits: Vec<String>,
    routes: Vec<RoutePublic>,
    #[serde(flatten)]
    messages: MessageReport,
}

impl ReleasePublic {
    pub(super) fn of(record: &Record, size: usize) -> Self {
        Self {
            number: record.number,
            version: record.declaration.version.clone(),
            digest: record.digest.to_string(),
            size,
            created_at: record.created_at,
            created_by: record.created_by,
            signed_by: record.signed_by.clone(),
        }
    }
}

impl CanaryPublic {
    fn of(canary: &Canary) -> Self {
        Self {
            release: canary.release.record.number,
            percent: canary.share().percent(),
            steps: canary.plan.steps.iter().map(|share| share.percent()).collect(),
            step: canary.step,
            since: canary.since,
            hold_ms: u64::try_from(canary.plan.hold.as_millis()).unwrap_or(u64::MAX),
            minimum: canary.plan.minimum,
        }
    }
}

impl TrialPublic {
    pub(super) fn of(canary: &Canary, comparison: Comparison) -> Self {
        Self { canary: CanaryPublic::of(canary), comparison }
    }
}

fn routes(record: &Record) -> Vec<RoutePublic> {
    let routes = record.declaration.routes.iter();
    routes
        .map(|route| RoutePublic {
            method: route.method.clone(),
            path: route.path.below(&record.mount).to_string(),
            access: route.access.to_string(),
            operation_id: route.operation.operation_id(),
        })
        .collect()
}

impl ReleaseDetail {
    pub(super) fn of(record: &Record, size: usize) -> Self {
        Self {
            plugin: record.plugin.clone(),
            release: ReleasePublic::of(record, size),
            mount: record.mount.to_string(),
            summary: record.declaration.summary.clone(),
            grants: record.grants.to_texts(),
            permissions: record.declaration.permissions.clone(),
            migrations: record.migrations.clone(),
            settings: record.settings.clone(),
            limits: record.limits.to_texts(),
            routes: routes(record),
            messages: MessageReport::of(&record.declaration.messages),
        }
    }
}

impl PluginPublic {
    fn new(record: &Record, size: usize, imports: &[String], state: State, canary: Option<&Canary>) -> Self {
        Self {
            name: record.plugin.clone(),
            mount: record.mount.to_string(),
            summary: record.declaration.summary.clone(),
            state,
            release: ReleasePublic::of(record, size),
            canary: canary.map(CanaryPublic::of),
            grants: record.grants.to_texts(),
            imports: imports.to_vec(),
            permissions: record.declaration.permissions.clone(),
            routes: routes(record),
            messages: MessageReport::of(&record.declaration.messages),
        }
    }

    pub(super) fn name(&self) -> &PluginName {
        &self.name
    }

    /// Describes the plugin of a loaded release.
    pub(super) fn of(release: &Release, plugins: &Plugins) -> Self {
        let name = &release.record.plugin;
        let state = if plugins.paused.contains_key(name) {
            State::Paused
        } else if release.breaker.is_open() {
            State::Quarantined
        } else {
            State::Live
        };
        let canary = plugins.canaries.get(name).map(AsRef::as_ref);
        Self::new(&release.record, release.size, &release.imports, state, canary)
    }

    /// Describes a known plugin that is not loaded. `None` means that it was removed.
    pub(super) fn absent(record: &Record, size: usize, reason: Absence) -> Result<Option<Self>> {
        let state = match reason {
            Absence::Removed => return Ok(None),
            Absence::Revoked => State::Revoked,
            Absence::Conflict => State::Conflict,
            Absence::Broken | Absence::Paused => State::Broken,
        };
        Ok(Some(Self::new(record, size, &[], state, None)))
    }
}
