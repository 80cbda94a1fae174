//! The way in for fuzzers (`tests/fuzz`), and in no other build: what the stages of a deploy and the check of an answer ask,
//! each alone and with plain data. Owns nothing, decides nothing, and checks nothing of its own: what must hold is said by
//! the fuzz target. Never runs a guest.

use bytes::Bytes;

use super::Answer;
use super::artifact::{self, Artifact, Digest};
use super::declaration::Declaration;
use super::deploy::{By, Upload};
use super::engine::PluginEngine;
use super::generation::{Generation, Served};
use super::interface::describe::exports::wharf::plugin::{descriptor, http as describe};
use super::interface::handle::exports::wharf::plugin::http;
use super::limits::Limits;
use super::release::{Linked, compile_routes};
use super::schema::{self, Step};
use super::signature::{Signature, Vouched};
use crate::capability::{Capabilities, Grants, Usage};
use crate::clock::Timestamp;
use crate::config;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::route::{Access, Template};

/// What a component answers to `describe` and `routes`, before anything of it is checked.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// The name it would like.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub summary: String,
    /// Names and summaries.
    pub permissions: Vec<(String, String)>,
    /// As JSON text.
    pub settings_schema: Option<String>,
    /// Its routes.
    pub routes: Vec<DeclaredRoute>,
    /// Names, and schemas as JSON text.
    pub schemas: Vec<(String, String)>,
}

/// One route of it.
#[derive(Debug, Clone)]
pub struct DeclaredRoute {
    /// The method.
    pub method: String,
    /// Below the mount.
    pub path: String,
    /// Who may call it.
    pub access: Access,
    /// As JSON text.
    pub operation: String,
    /// The time that answers are kept, whether they differ by caller, and their tags.
    pub cache: Option<(u32, bool, Vec<String>)>,
}

/// How a file begins.
///
/// # Errors
/// Not as a component does.
pub fn header(file: &[u8]) -> Result<()> {
    artifact::check_form(file)
}

/// Who vouches for a file: the trusted keys whose signatures hold, and the notes.
///
/// # Errors
/// As a deploy has it.
pub async fn vouched(
    limits: &config::Plugins,
    file: Bytes,
    beside: Vec<Signature>,
    now: Timestamp,
) -> Result<(Vec<String>, Vec<String>)> {
    let digest = Digest::of(&file);
    let upload = Upload { signatures: beside, ..Upload::new(file, &By::host()) };
    let vouched = Vouched::check(limits, &upload, &digest, &[], now).await?;
    Ok((vouched.signed_by, vouched.notes))
}

/// Compiles components as the child does, but in this process and without its limits; links them as a deploy does.
pub struct Compiler(PluginEngine);

impl Compiler {
    /// One whose pool is as small as can be.
    ///
    /// # Errors
    /// The engine does not start.
    pub fn new() -> Result<Self> {
        let limits = config::Plugins { total_concurrency: 1, ..config::Plugins::default() };
        PluginEngine::new(&limits).map(Self)
    }

    /// What the compiler says of a file, and what a deploy reads from the machine code.
    ///
    /// # Errors
    /// The text of the compiler's own refusal, or the host's.
    pub fn artifact(&self, file: &[u8]) -> std::result::Result<Result<Artifact>, String> {
        let component = wasmtime::component::Component::new(self.0.wasmtime(), file);
        let component = component.map_err(|error| format!("{error:#}"))?;
        Ok(Artifact::new(component, Digest::of(file), file.len()))
    }

    /// Whether a component links with everything that it needs.
    ///
    /// # Errors
    /// It imports what the host does not have in that form, or does not answer requests.
    pub fn link(&self, artifact: &Artifact) -> Result<()> {
        let needs = artifact.needs()?;
        let grants = Grants::read(needs).map_err(Error::internal)?;
        Linked::new(&self.0, artifact, &grants).map(drop)
    }
}

/// The names of all capabilities.
pub fn capabilities() -> Vec<&'static str> {
    Capabilities::OFFERED.iter().map(|offer| offer.name).collect()
}

/// A text that a file brought, as it is told.
pub fn told(text: &str) -> String {
    artifact::told(text)
}

/// The check of what a component says of itself.
///
/// # Errors
/// As a deploy has it.
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
        access: match route.access {
            Access::Public => describe::Access::Public,
            Access::Authenticated => describe::Access::Authenticated,
            Access::Permission(name) => describe::Access::Permission(name),
            Access::Superuser => describe::Access::Superuser,
        },
        operation: route.operation,
        cache: route.cache.map(|(ttl_ms, per_caller, tags)| describe::CachePolicy { ttl_ms, per_caller, tags }),
    };
    let api = describe::Api { routes: declared.routes.into_iter().map(route).collect(), schemas: declared.schemas };
    Declaration::check(descriptor, api)
}

/// The routes of a declaration at a mount, compiled and found to fit together.
///
/// # Errors
/// As a deploy has it.
pub fn routes(declaration: &Declaration, plugin: &PluginName, mount: &Template) -> Result<Vec<(String, Template)>> {
    let routes = compile_routes(declaration, mount)?;
    Generation::check(&[], &[Served { plugin, mount, routes: &routes }])?;
    Ok(routes.into_iter().map(|route| (route.method, route.template)).collect())
}

/// Whether settings fit a declaration.
///
/// # Errors
/// They do not.
pub fn settings(declaration: &Declaration, settings: &serde_json::Value) -> Result<()> {
    declaration.check_settings(settings)
}

/// Whether what a component says of its migrations makes sense, and whether it can come after `applied` while `live` runs.
///
/// # Errors
/// As a deploy has it.
pub fn migrations(steps: &[Step], applied: &[Step], live: &[Step]) -> Result<()> {
    schema::check_declared(steps)?;
    schema::check_back(steps, applied)?;
    schema::check_forward(steps, applied, live)
}

/// The check of a guest's answer.
///
/// # Errors
/// As a call has it.
pub fn answer(status: u16, headers: Vec<(String, String)>, body: Vec<u8>, host: &config::Plugins) -> Result<Answer> {
    let limits = Limits::default().resolve(host)?;
    Answer::check(Ok(http::Response { status, headers, body }), &limits, &Usage::default())
}

/// The check of a guest's problem; each error is kind, place and text.
///
/// # Errors
/// As a call has it.
pub fn problem(
    status: u16,
    code: String,
    detail: String,
    errors: Vec<(String, Vec<String>, String)>,
) -> Result<Answer> {
    let error = |(kind, loc, message)| http::FieldError { kind, loc, message };
    let problem = http::Problem { status, code, detail, errors: errors.into_iter().map(error).collect() };
    let limits = Limits::default().resolve(&config::Plugins::default())?;
    Answer::check(Err(problem), &limits, &Usage::default())
}
