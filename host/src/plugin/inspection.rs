//! What a file is, seen before it is deployed: the same questions in the same order as a deploy, without a database, a data
//! directory or a host. [`Examined`] is the part that both ask; [`Inspection`] is what a person reads.
//!
//! What only a host knows is not judged here: grants, other plugins' routes, settings, and whether migrations run.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::artifact::{Artifact, Digest, check_size, invalid, told};
use super::compile;
use super::declaration::{Declaration, Permission};
use super::deploy::job::Stage;
use super::engine::PluginEngine;
use super::generation::{Generation, Served};
use super::instance::{DeclaredMigration, Sandbox};
use super::release::{Linked, compile_routes};
use super::schema::{self, Step};
use crate::capability::log::PluginLogs;
use crate::capability::sql::Sql;
use crate::capability::{Capability as _, Grants};
use crate::clock::Clock;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::id::PluginName;
use crate::route::Template;

/// What a component says of itself, and what it needs.
pub(super) struct Examined {
    /// Its name: the operator's choice, else its own.
    pub(super) plugin: PluginName,
    pub(super) declaration: Declaration,
    pub(super) migrations: Vec<DeclaredMigration>,
    /// What the migrations say of themselves.
    pub(super) steps: Vec<Step>,
    /// Capabilities.
    pub(super) needs: BTreeSet<&'static str>,
}

impl Examined {
    /// Asks a component.
    ///
    /// # Errors
    /// It is no plugin, imports what nobody offers, or declares what cannot be.
    pub(super) async fn of(
        sandbox: &Sandbox,
        artifact: &Artifact,
        name: Option<PluginName>,
        request_id: &Arc<str>,
    ) -> Result<Self> {
        artifact.check_roles()?;
        let mut needs = artifact.needs()?;
        let provisional = match &name {
            Some(name) => name.clone(),
            None => "undeclared".parse().map_err(Error::internal)?,
        };
        let (declaration, migrations) = sandbox.declare(artifact, &provisional, request_id).await?;
        let steps: Vec<Step> = migrations.iter().map(|migration| migration.step.clone()).collect();
        schema::check_declared(&steps)?;
        if !migrations.is_empty() {
            // Tables are made in a database, whether the code asks for it or not.
            needs.insert(Sql::NAME);
        }
        let plugin = match name {
            Some(name) => name,
            None => declaration
                .name
                .parse()
                .map_err(|error| invalid(format!("its name '{}' cannot be: {error}", told(&declaration.name))))?,
        };
        Ok(Self { plugin, declaration, migrations, steps, needs })
    }
}

/// A file with everything that could be found out about it.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Of the file.
    pub digest: Digest,
    /// Bytes.
    pub size: usize,
    /// Why it cannot be deployed; none: nothing in the file is against it.
    pub refused: Option<Refusal>,
    /// Interfaces it imports.
    pub imports: Vec<String>,
    /// Interfaces it exports: the roles it plays.
    pub exports: Vec<String>,
    /// Capabilities it must be granted.
    pub needs: BTreeSet<&'static str>,
    /// What it says of itself, once it was asked.
    pub declared: Option<Declared>,
}

/// Why a file cannot be deployed.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// The stage at which a deploy would end.
    pub stage: Stage,
    /// For programs.
    pub code: String,
    /// For people.
    pub reason: String,
}

/// What a component says of itself.
#[derive(Debug, Serialize)]
pub struct Declared {
    /// The name it would like.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// What it is for.
    pub summary: String,
    /// Routes below its mount.
    pub routes: Vec<DeclaredRoute>,
    /// Permissions it checks.
    pub permissions: Vec<Permission>,
    /// Its migrations, in order.
    pub migrations: Vec<Step>,
    /// JSON Schema of its settings; none: it takes none.
    pub settings_schema: Option<Value>,
    /// It cannot be deployed without settings.
    pub settings_required: bool,
    #[serde(skip)]
    declaration: Declaration,
}

/// A route as a person reads it.
#[derive(Debug, Serialize)]
pub struct DeclaredRoute {
    /// Upper-case HTTP method.
    pub method: String,
    /// Below the mount.
    pub path: Template,
    /// Who may call it.
    pub access: String,
}

impl Inspection {
    /// Inspects a file within the limits of a host's plugins.
    ///
    /// # Errors
    /// It could not be inspected here. That it cannot be deployed is no error but [`Inspection::refused`].
    pub async fn of(bytes: Bytes, limits: &config::Plugins) -> Result<Self> {
        let mut inspection = Self {
            digest: Digest::of(&bytes),
            size: bytes.len(),
            refused: None,
            imports: Vec::new(),
            exports: Vec::new(),
            needs: BTreeSet::new(),
            declared: None,
        };
        let mut stage = Stage::Check;
        match inspection.pass_stages(bytes, limits, &mut stage).await {
            Ok(()) => {}
            Err(error) if *error.kind() == Kind::Internal => return Err(error),
            Err(error) => {
                let (code, reason) = (error.code().to_string(), error.public().to_owned());
                inspection.refused = Some(Refusal { stage, code, reason });
            }
        }
        Ok(inspection)
    }

    /// Keeps what each stage finds, so that a refusal leaves what was known by then.
    async fn pass_stages(&mut self, bytes: Bytes, limits: &config::Plugins, stage: &mut Stage) -> Result<()> {
        check_size(bytes.len(), limits.upload_bytes)?;

        *stage = Stage::Compile;
        // One instance at a time.
        let limits = config::Plugins { total_concurrency: 1, ..limits.clone() };
        let engine = PluginEngine::new(&limits)?;
        let artifact = compile::once(&engine, &limits, bytes).await?;
        self.imports.clone_from(&artifact.imports);
        self.exports.clone_from(&artifact.exports);
        // What cannot be offered is told by the stage that follows.
        self.needs = artifact.needs().unwrap_or_default();

        *stage = Stage::Describe;
        let logs = PluginLogs::new(Clock::System, (&limits).into());
        let sandbox = Sandbox::new(engine.clone(), Clock::System, &limits, logs)?;
        let examined = Examined::of(&sandbox, &artifact, None, &"inspection".into()).await?;
        let Examined { plugin, declaration, steps, needs, .. } = examined;
        self.needs = needs;
        let declared = self.declared.insert(Declared::new(declaration, steps));

        *stage = Stage::Conflicts;
        let grants = Grants::read(self.needs.iter().copied()).map_err(Error::internal)?;
        Linked::new(&engine, &artifact, &grants)?;
        let mount = format!("/api/v1/{plugin}").parse().map_err(Error::internal)?;
        let routes = compile_routes(&declared.declaration, &mount)?;
        Generation::check(&[], &[Served { plugin: &plugin, mount: &mount, routes: &routes }])
    }
}

impl Declared {
    fn new(declaration: Declaration, migrations: Vec<Step>) -> Self {
        let route = |route: &super::declaration::DeclaredRoute| DeclaredRoute {
            method: route.method.clone(),
            path: route.path.clone(),
            access: route.access.to_string(),
        };
        Self {
            name: declaration.name.clone(),
            version: declaration.version.clone(),
            summary: declaration.summary.clone(),
            routes: declaration.routes.iter().map(route).collect(),
            permissions: declaration.permissions.clone(),
            migrations,
            settings_schema: declaration.settings_schema.clone(),
            settings_required: declaration.check_settings(&Value::Object(Map::new())).is_err(),
            declaration,
        }
    }

    /// Whether it takes these settings.
    ///
    /// # Errors
    /// What does not fit its schema.
    pub fn check_settings(&self, settings: &Value) -> Result<()> {
        self.declaration.check_settings(settings)
    }
}
