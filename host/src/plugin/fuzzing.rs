//! The entry points for fuzzers (`tests/fuzz`), in no other build: the checks of a deploy's stages and of a response,
//! each alone and with plain data. Owns nothing and checks nothing itself: the fuzz targets state the properties. Never
//! runs a guest.

use bytes::Bytes;
use wharf_schedule_time::ScheduleTime;

use super::PluginResponse;
use super::artifact::{self, Artifact, Digest};
use super::compiled_schemas::CompiledSchemas;
use super::declaration::Declaration;
use super::declared_messages::DeclaredRoles;
use super::engine::PluginEngine;
use super::generation::{HostPaths, MountedRoutes, Plugins};
use super::interface::describe::exports::wharf::plugin::{descriptor, http as describe};
use super::interface::handle::exports::wharf::plugin::http;
use super::interface::subscriber::exports::wharf::events::subscriber;
use super::interface::topics::exports::wharf::events::topics;
use super::interface::worker::exports::wharf::jobs::worker;
use super::limits::LimitOverrides;
use super::release::LinkedComponent;
use super::schema_compatibility::{self, MigrationStep};
use super::signature::{Signature, VerifiedSignatures};
use crate::capability::{Capabilities, Grants, Usage};
use crate::clock::Timestamp;
use crate::config;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::route::Template;

pub use super::interface::describe::exports::wharf::plugin::http::Access as DeclaredAccess;

/// The results of `describe`, `routes` and the roles about events and jobs before they are checked.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// The name that the plugin suggests for itself.
    pub name: String,
    /// Version.
    pub version: String,
    /// The purpose of the plugin.
    pub summary: String,
    /// Permissions: names and summaries.
    pub permissions: Vec<(String, String)>,
    /// Settings schema as JSON text.
    pub settings_schema: Option<String>,
    /// Routes.
    pub routes: Vec<DeclaredRoute>,
    /// Schemas: names and JSON texts.
    pub schemas: Vec<(String, String)>,
    /// Topics: names, access levels and schemas as JSON text.
    pub topics: Vec<(String, Option<DeclaredAccess>, String)>,
    /// Subscriptions: topics, numbers of retries and backoffs in milliseconds.
    pub subscriptions: Vec<(String, u32, u32)>,
    /// Jobs: names, deadlines in milliseconds, numbers that run at once, and schemas as JSON text.
    pub jobs: Vec<(String, u32, u32, Option<String>)>,
    /// Schedules.
    pub schedules: Vec<DeclaredSchedule>,
}

/// A schedule before it is checked.
#[derive(Debug, Clone)]
pub struct DeclaredSchedule {
    /// Name.
    pub name: String,
    /// Cron expression.
    pub cron: String,
    /// Time zone.
    pub time_zone: String,
    /// Job.
    pub job: String,
    /// Payload as JSON text.
    pub payload: String,
}

/// A route before it is checked.
#[derive(Debug, Clone)]
pub struct DeclaredRoute {
    /// Method.
    pub method: String,
    /// Path below the mount.
    pub path: String,
    /// The callers that may call it.
    pub access: DeclaredAccess,
    /// Operation as JSON text.
    pub operation: String,
    /// Cache policy: time to live in milliseconds, whether responses differ by caller, and tags.
    pub cache: Option<(u32, bool, Vec<String>)>,
}

/// Checks the header and the structure of a file.
///
/// # Errors
/// It is not a component.
pub fn header(file: &[u8]) -> Result<()> {
    artifact::check_structure(file)
}

/// Checks the signatures of a file. Returns the trusted keys that signed it, and notes.
///
/// # Errors
/// As at a deploy.
pub async fn signatures(
    limits: &config::Plugins,
    file: Bytes,
    detached: Vec<Signature>,
    now: Timestamp,
) -> Result<(Vec<String>, Vec<String>)> {
    let verified = VerifiedSignatures::check(limits, file, detached, false, now).await?;
    Ok((verified.signed_by, verified.notes))
}

/// Compiles components as the child process does, but in this process and without its limits; links them as a deploy
/// does.
pub struct Compiler(PluginEngine);

impl Compiler {
    /// Creates a compiler with the smallest possible instance pool.
    ///
    /// # Errors
    /// The engine does not start.
    pub fn new() -> Result<Self> {
        let limits = config::Plugins { total_concurrency: 1, background_concurrency: 1, ..config::Plugins::default() };
        PluginEngine::new(&limits).map(Self)
    }

    /// Compiles a file and reads its imports and exports.
    ///
    /// # Errors
    /// The text of the compiler's error, or the host's refusal.
    pub fn artifact(&self, file: &[u8]) -> std::result::Result<Result<Artifact>, String> {
        let component = wasmtime::component::Component::new(self.0.wasmtime(), file);
        let component = component.map_err(|error| format!("{error:#}"))?;
        Ok(Artifact::new(component, Digest::of(file), file.len()))
    }

    /// Links a component with all capabilities that it needs.
    ///
    /// # Errors
    /// An import has other types than the host offers, or the component does not export `handle`.
    pub fn link(&self, artifact: &Artifact) -> Result<()> {
        let needs = artifact.needs()?;
        let grants = Grants::read(needs).map_err(Error::internal)?;
        LinkedComponent::new(&self.0, artifact, &grants).map(drop)
    }
}

/// Returns the names of all capabilities.
pub fn capabilities() -> Vec<&'static str> {
    Capabilities::OFFERED.iter().map(|offer| offer.name).collect()
}

/// Returns a text from a file in a form that is safe to show.
pub fn printable(text: &str) -> String {
    artifact::printable(text)
}

/// Checks a declaration.
///
/// # Errors
/// As at a deploy.
pub fn declaration(declared: Declared) -> Result<Declaration> {
    let permissions = declared.permissions.into_iter();
    let descriptor = descriptor::PluginDescriptor {
        name: declared.name,
        version: declared.version,
        summary: declared.summary,
        permissions: permissions.map(|(name, summary)| descriptor::Permission { name, summary }).collect(),
        settings_schema: declared.settings_schema,
    };
    let route = |route: DeclaredRoute| describe::Route {
        method: route.method,
        path: route.path,
        access: route.access,
        operation: route.operation,
        cache: route.cache.map(|(ttl_ms, per_caller, tags)| describe::CachePolicy { ttl_ms, per_caller, tags }),
    };
    let api = describe::Api { routes: declared.routes.into_iter().map(route).collect(), schemas: declared.schemas };
    let access = |access| match access {
        DeclaredAccess::Public => topics::Access::Public,
        DeclaredAccess::Authenticated => topics::Access::Authenticated,
        DeclaredAccess::Permission(name) => topics::Access::Permission(name),
        DeclaredAccess::Superuser => topics::Access::Superuser,
    };
    let topic = |(name, clients, schema): (String, Option<DeclaredAccess>, String)| topics::Topic {
        name,
        summary: String::new(),
        schema,
        access: clients.map(access),
    };
    let subscription = |(topic, retries, backoff_ms)| subscriber::Subscription { topic, retries, backoff_ms };
    let job = |(name, deadline_ms, concurrency, schema)| worker::Job {
        name,
        schema,
        retries: 0,
        backoff_ms: 1,
        deadline_ms,
        concurrency,
        keep_ms: 0,
    };
    let schedule = |DeclaredSchedule { name, cron, time_zone, job, payload }| worker::Schedule {
        name,
        cron,
        time_zone,
        missed: worker::Missed::Skip,
        job,
        payload,
    };
    let roles = DeclaredRoles {
        topics: declared.topics.into_iter().map(topic).collect(),
        subscriptions: declared.subscriptions.into_iter().map(subscription).collect(),
        jobs: declared.jobs.into_iter().map(job).collect(),
        schedules: declared.schedules.into_iter().map(schedule).collect(),
    };
    Declaration::check(descriptor, api, roles)
}

/// Returns the first times of a schedule after a moment.
///
/// # Errors
/// As at a deploy, as text.
pub fn schedule_times(
    cron: &str,
    zone: &str,
    after: Timestamp,
    count: usize,
) -> std::result::Result<Vec<Timestamp>, String> {
    let time = ScheduleTime::parse(cron, zone).map_err(|error| error.to_string())?;
    let times = std::iter::successors(time.next_after(after.0), |at| time.next_after(*at));
    Ok(times.take(count).map(Timestamp).collect())
}

/// Compiles the routes of a declaration at a mount and checks them for conflicts.
///
/// # Errors
/// As at a deploy.
pub fn routes(declaration: &Declaration, plugin: &PluginName, mount: &Template) -> Result<Vec<(String, Template)>> {
    let routes = CompiledSchemas::compile(declaration)?.routes(declaration, mount);
    Plugins::default().check(&HostPaths::of(&[]), &MountedRoutes { plugin, mount, routes: &routes })?;
    Ok(routes.into_iter().map(|route| (route.method, route.template)).collect())
}

/// Checks settings against a declaration.
///
/// # Errors
/// They do not match.
pub fn settings(declaration: &Declaration, settings: &serde_json::Value) -> Result<()> {
    CompiledSchemas::compile(declaration)?.check_settings(settings)
}

/// Checks declared migrations, and whether they can follow `applied` while `live` runs.
///
/// # Errors
/// As at a deploy.
pub fn migrations(steps: &[MigrationStep], applied: &[MigrationStep], live: &[MigrationStep]) -> Result<()> {
    schema_compatibility::check_declared(steps)?;
    schema_compatibility::check_back(steps, applied)?;
    schema_compatibility::check_forward(steps, applied, live)
}

/// Checks a guest's response.
///
/// # Errors
/// As at a call.
pub fn response(
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    host: &config::Plugins,
) -> Result<PluginResponse> {
    let limits = LimitOverrides::default().resolve(host)?;
    PluginResponse::check(Ok(http::Response { status, headers, body }), &limits, &Usage::default(), false)
}

/// Checks a guest's problem; each error is kind, location and text.
///
/// # Errors
/// As at a call.
pub fn problem(
    status: u16,
    code: String,
    detail: String,
    errors: Vec<(String, Vec<String>, String)>,
) -> Result<PluginResponse> {
    let error = |(kind, loc, message)| http::FieldError { kind, loc, message };
    let problem = http::Problem { status, code, detail, errors: errors.into_iter().map(error).collect() };
    let limits = LimitOverrides::default().resolve(&config::Plugins::default())?;
    PluginResponse::check(Err(problem), &limits, &Usage::default(), false)
}
