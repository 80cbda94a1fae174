//! The inspection of a file before a deploy: the same checks in the same order as a deploy, without a database, a data
//! directory or a host. [`ComponentDescription`] is the part that both share; [`Inspection`] is the report for people.
//!
//! Checks that need a host are left out: grants, other plugins' routes, settings, and whether migrations run. The text of
//! migrations is checked.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::artifact::{Artifact, Digest, check_size, invalid, printable};
use super::compile;
use super::compiled_schemas::CompiledSchemas;
use super::declaration::{Declaration, DeclaredMigration, Permission};
use super::declared_messages::{check_sources, grants_to_hear};
use super::deploy_job::Stage;
use super::engine::PluginEngine;
use super::generation::{HostPaths, MountedRoutes, Plugins};
use super::message_report::MessageReport;
use super::refusal::migration_failed;
use super::release::LinkedComponent;
use super::sandbox::Sandbox;
use super::schema_compatibility::{self, MigrationStep};
use crate::capability::events::Events;
use crate::capability::jobs::Jobs;
use crate::capability::log::PluginLogs;
use crate::capability::sql::Sql;
use crate::capability::{Capability as _, Grants};
use crate::clock::Clock;
use crate::config;
use crate::db::plugin_data::{Migration, check_migrations};
use crate::error::{Error, Kind, Result, code};
use crate::id::PluginName;
use crate::permission;
use crate::route::Template;

/// A component's own description with the capabilities that it needs.
pub(super) struct ComponentDescription {
    /// Its name: the operator's choice, else its own.
    pub(super) plugin: PluginName,
    pub(super) declaration: Declaration,
    pub(super) schemas: CompiledSchemas,
    pub(super) migrations: Vec<DeclaredMigration>,
    /// The migrations without their SQL.
    pub(super) steps: Vec<MigrationStep>,
    /// The capabilities that it needs.
    pub(super) needs: BTreeSet<&'static str>,
}

impl ComponentDescription {
    /// Asks a component for its description. Sets `named` as soon as the name is known, also if the component is then
    /// refused.
    ///
    /// # Errors
    /// It is not a plugin, an import is not available on any host, its declaration is not valid, or its name is reserved.
    pub(super) async fn of(
        sandbox: &Sandbox,
        artifact: &Artifact,
        name: Option<PluginName>,
        request_id: &Arc<str>,
        named: &mut Option<PluginName>,
    ) -> Result<Self> {
        named.clone_from(&name);
        artifact.check_roles()?;
        let mut needs = artifact.needs()?;
        let provisional = match &name {
            Some(name) => name.clone(),
            None => "undeclared".parse().map_err(Error::internal)?,
        };
        let (declaration, migrations) = sandbox.describe(artifact, &provisional, request_id, named).await?;
        let (declaration, schemas) = CompiledSchemas::of(declaration).await?;
        let steps: Vec<MigrationStep> = migrations.iter().map(|migration| migration.step.clone()).collect();
        schema_compatibility::check_declared(&steps)?;
        if !migrations.is_empty() {
            // Migrations need the database, even if the code does not import it.
            needs.insert(Sql::NAME);
        }
        // So do subscriptions and jobs.
        if !declaration.messages.subscriptions.is_empty() {
            needs.insert(Events::NAME);
        }
        if !declaration.messages.jobs.is_empty() {
            needs.insert(Jobs::NAME);
        }
        let plugin = match name {
            Some(name) => name,
            None => declaration.name.parse().map_err(|error| {
                invalid(format!("its name '{}' is not valid: {error}", printable(&declaration.name)))
            })?,
        };
        // Its permissions or its topics would have the names of the host's.
        if permission::is_reserved(plugin.as_str()) {
            let text = format!("The name '{plugin}' belongs to the host; deploy the plugin under another name");
            return Err(Error::new(Kind::Invalid(Vec::new()), code::RESERVED_NAME, text));
        }
        check_sources(&declaration.messages, &plugin)?;
        Ok(Self { plugin, declaration, schemas, migrations, steps, needs })
    }
}

/// The report on a file.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Digest of the file.
    pub digest: Digest,
    /// Size in bytes.
    pub size: usize,
    /// Why it cannot be deployed; `None` if nothing in the file is against it.
    pub refused: Option<Refusal>,
    /// Interfaces that it imports.
    pub imports: Vec<String>,
    /// Interfaces that it exports: its roles.
    pub exports: Vec<String>,
    /// Capabilities that it must be granted.
    pub needs: BTreeSet<&'static str>,
    /// Parameters that it must be granted, such as `events.hear=orders.paid`.
    pub needs_parameters: Vec<String>,
    /// Its declaration, if the inspection got that far.
    pub declared: Option<DeclarationReport>,
}

/// Why a file cannot be deployed.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// The stage at which a deploy would fail.
    pub stage: Stage,
    /// The error code, for programs.
    pub code: String,
    /// The error text, for people.
    pub reason: String,
}

/// The declaration of a component in the report.
#[derive(Debug, Serialize)]
pub struct DeclarationReport {
    /// The name that the plugin suggests for itself.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// The purpose of the plugin.
    pub summary: String,
    /// Routes below its mount.
    pub routes: Vec<RouteReport>,
    /// Permissions that it checks.
    pub permissions: Vec<Permission>,
    /// Its migrations, in order.
    pub migrations: Vec<MigrationStep>,
    /// Its events and jobs.
    #[serde(flatten)]
    pub messages: MessageReport,
    /// JSON Schema of its settings; `None` if it takes no settings.
    pub settings_schema: Option<Value>,
    /// Whether it cannot be deployed without settings.
    pub settings_required: bool,
    #[serde(skip)]
    schemas: CompiledSchemas,
}

/// A route in the report.
#[derive(Debug, Serialize)]
pub struct RouteReport {
    /// Upper-case HTTP method.
    pub method: String,
    /// Path below the mount.
    pub path: Template,
    /// The callers that may call it.
    pub access: String,
}

impl Inspection {
    /// Inspects a file within the limits of a host's plugins.
    ///
    /// # Errors
    /// It could not be inspected on this machine. A file that cannot be deployed is not an error: see
    /// [`Inspection::refused`].
    pub async fn of(bytes: Bytes, limits: &config::Plugins) -> Result<Self> {
        let mut inspection = Self {
            digest: Digest::of(&bytes),
            size: bytes.len(),
            refused: None,
            imports: Vec::new(),
            exports: Vec::new(),
            needs: BTreeSet::new(),
            needs_parameters: Vec::new(),
            declared: None,
        };
        let mut stage = Stage::Check;
        match inspection.run_stages(bytes, limits, &mut stage).await {
            Ok(()) => {}
            Err(error) if *error.kind() == Kind::Internal => return Err(error),
            Err(error) => {
                let (code, reason) = (error.code().to_string(), error.public().to_owned());
                inspection.refused = Some(Refusal { stage, code, reason });
            }
        }
        Ok(inspection)
    }

    /// Runs the stages. Stores the findings of each stage, so that a refusal keeps the earlier ones.
    async fn run_stages(&mut self, bytes: Bytes, limits: &config::Plugins, stage: &mut Stage) -> Result<()> {
        check_size(bytes.len(), limits.upload_bytes)?;

        *stage = Stage::Compile;
        // One instance at a time.
        let limits = config::Plugins { total_concurrency: 1, background_concurrency: 1, ..limits.clone() };
        let engine = PluginEngine::new(&limits)?;
        let artifact = compile::once(&engine, &limits, bytes).await?;
        self.imports.clone_from(&artifact.imports);
        self.exports.clone_from(&artifact.exports);
        // The next stage reports an import that is not available.
        self.needs = artifact.needs().unwrap_or_default();

        *stage = Stage::Describe;
        let logs = PluginLogs::new(Clock::System, (&limits).into());
        let sandbox = Sandbox::new(engine.clone(), Clock::System, &limits, logs)?;
        let description = ComponentDescription::of(&sandbox, &artifact, None, &"inspection".into(), &mut None).await?;
        let ComponentDescription { plugin, declaration, schemas, migrations, steps, needs } = description;
        self.needs = needs;
        self.needs_parameters = grants_to_hear(&declaration.messages, &plugin);
        let mount = format!("/api/v1/{plugin}").parse().map_err(Error::internal)?;
        let routes = schemas.routes(&declaration, &mount);
        self.declared = Some(DeclarationReport::new(&declaration, schemas, steps));

        *stage = Stage::Conflicts;
        let grants = Grants::read(self.needs.iter().copied()).map_err(Error::internal)?;
        LinkedComponent::new(&engine, &artifact, &grants)?;
        let alone = MountedRoutes { plugin: &plugin, mount: &mount, routes: &routes };
        Plugins::default().check(&HostPaths::of(&[]), &alone)?;

        *stage = Stage::Migrate;
        let migrations: Vec<Migration> = migrations.iter().map(DeclaredMigration::to_migration).collect();
        check_migrations(&migrations).map_err(migration_failed)
    }
}

impl DeclarationReport {
    fn new(declaration: &Declaration, schemas: CompiledSchemas, migrations: Vec<MigrationStep>) -> Self {
        let route = |route: &super::declaration::DeclaredRoute| RouteReport {
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
            messages: MessageReport::of(&declaration.messages),
            settings_schema: declaration.settings_schema.clone(),
            settings_required: schemas.check_settings(&Value::Object(Map::new())).is_err(),
            schemas,
        }
    }

    /// Checks settings against its schema.
    ///
    /// # Errors
    /// The settings do not match.
    pub fn check_settings(&self, settings: &Value) -> Result<()> {
        self.schemas.check_settings(settings)
    }
}
