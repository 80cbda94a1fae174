//! The only way in: from an uploaded file to the release that is served, or to the reason why not.
//!
//! digest and signatures → compile → roles and imports → declaration → grants → link → routes and conflicts → admission → migrations → record →
//! swap. Nothing is changed before the migrations, and the release that was live stays live until the swap.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::artifact::{Digest, check_grants, invalid, told};
use super::generation::{Generation, Served};
use super::registry::Registry;
use super::release::{Linked, Parts, Record, Release, compile_routes};
use super::signature::{Signature, Vouched};
use crate::capability::sql::Sql;
use crate::capability::{Candidate, Capability as _, Grants};
use crate::db::audit::{self, Outcome};
use crate::db::plugin as table;
use crate::db::plugin_data::{Migration, MigrationError};
use crate::error::{Error, Kind, Result, code};
use crate::id::{PluginName, UserId};
use crate::route::Template;

/// A file with what its operator says of it.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The component.
    pub component: Bytes,
    /// Its name here; none: the one it declares.
    pub name: Option<PluginName>,
    /// Where; none: where it is or was, else `/api/v1/<name>`.
    pub mount: Option<Template>,
    /// What it may use beside what its live release may.
    pub grants: Grants,
    /// Signatures of it beside those inside.
    pub signatures: Vec<Signature>,
    /// The digest it must have; none: any.
    pub digest: Option<Digest>,
    /// Its settings; none: those of its live release.
    pub settings: Option<Value>,
    /// Who deploys; none: the host itself, at start.
    pub actor: Option<UserId>,
    /// The request that deploys.
    pub request_id: Arc<str>,
}

/// What a deploy came to.
#[derive(Clone)]
pub struct Deployed {
    /// The live release.
    pub release: Arc<Release>,
    /// The trusted keys that vouch for the file.
    pub signed_by: Vec<String>,
    /// What the operator may want to know.
    pub notes: Vec<String>,
    /// The release that was live before.
    pub replaced: Option<i64>,
    /// The same file with the same grants, mount and settings was live already; nothing was done.
    pub unchanged: bool,
}

fn migration_refused(error: MigrationError) -> Error {
    match error {
        MigrationError::Host(error) => error,
        MigrationError::Database(error) => {
            let kind = Kind::Unavailable(Duration::from_secs(5));
            Error::new(kind, code::DATABASE_UNAVAILABLE, "The plugin's database cannot be reached now")
                .with_source(error)
        }
        error => Error::new(Kind::Invalid(Vec::new()), code::MIGRATION_FAILED, told(&error.to_string())),
    }
}

impl Registry {
    /// Deploys a file. One deploy runs at a time; others wait.
    ///
    /// # Errors
    /// Why the file is refused. Whatever was live still is.
    pub async fn deploy(&self, upload: Upload) -> Result<Deployed> {
        let _turn = self.changing.lock().await;
        let (actor, request_id) = (upload.actor, Arc::clone(&upload.request_id));
        let asked = upload.name.clone();
        let outcome = self.try_deploy(upload).await;
        let (plugin, how, detail) = match &outcome {
            Ok(deployed) if deployed.unchanged => return outcome,
            Ok(deployed) => {
                let record = &deployed.release.record;
                let grants: Vec<&str> = record.grants.names().collect();
                let detail = json!({ "release": record.number, "digest": record.digest, "grants": grants,
                    "replaced": deployed.replaced, "signed_by": deployed.signed_by });
                (Some(record.plugin.clone()), Outcome::Success, detail)
            }
            Err(error) => (asked, Outcome::Failure, json!({ "code": error.code(), "reason": error.public() })),
        };
        self.audit("plugin.deploy", plugin, actor, &request_id, how, detail).await;
        outcome
    }

    async fn try_deploy(&self, upload: Upload) -> Result<Deployed> {
        let limit = self.limits.upload_bytes;
        if upload.component.len() > limit {
            return Err(Error::new(
                Kind::TooLarge,
                code::BODY_TOO_LARGE,
                format!("The file is larger than {limit} bytes"),
            ));
        }
        let live = self.generation().releases.values().map(|release| release.record.digest.clone()).collect();
        let vouched = Vouched::check(&self.limits, &upload, live, self.clock.now()).await?;
        let artifact = self.compile(upload.component.clone()).await?;
        artifact.check_roles()?;
        let mut needs = artifact.needs()?;
        let provisional = match &upload.name {
            Some(name) => name.clone(),
            None => "undeclared".parse().map_err(Error::internal)?,
        };
        let (declaration, migrations) = self.sandbox.declare(&artifact, &provisional, &upload.request_id).await?;
        if !migrations.is_empty() {
            // Tables are made in a database, whether the code asks for it or not.
            needs.insert(Sql::NAME);
        }
        let plugin = match upload.name {
            Some(name) => name,
            None => declaration
                .name
                .parse()
                .map_err(|error| invalid(format!("its name '{}' cannot be: {error}", told(&declaration.name))))?,
        };

        let generation = self.generation();
        let live = generation.releases.get(&plugin);
        let granted = live.map(|release| release.record.grants.clone()).unwrap_or_default().merged(upload.grants);
        let mut notes = vouched.notes;
        notes.extend(check_grants(&needs, &granted)?);
        let signed_by = vouched.signed_by;
        let grants = granted.retaining(|name| needs.contains(name));
        let settings = match (upload.settings, live) {
            (Some(settings), _) => settings,
            (None, Some(release)) => release.record.settings.clone(),
            (None, None) => Value::Object(Map::new()),
        };
        declaration.check_settings(&settings)?;
        let mount = match (upload.mount, live, generation.absent.get(&plugin)) {
            (Some(mount), _, _) => mount,
            (None, Some(release), _) => release.record.mount.clone(),
            (None, None, Some(absent)) => absent.mount.clone(),
            (None, None, None) => format!("/api/v1/{plugin}").parse().map_err(Error::internal)?,
        };
        if let Some(live) = live
            && live.record.digest == artifact.digest
            && live.record.mount == mount
            && live.record.grants == grants
            && live.record.settings == settings
        {
            return Ok(Deployed { release: Arc::clone(live), signed_by, notes, replaced: None, unchanged: true });
        }
        let linked = Linked::new(&self.engine, &artifact, &grants)?;
        let routes = compile_routes(&declaration, &mount)?;
        let neighbours = generation.releases.iter().filter(|(name, _)| **name != plugin);
        let served = neighbours
            .map(|(name, release)| Served { plugin: name, mount: &release.record.mount, routes: &release.routes })
            .chain([Served { plugin: &plugin, mount: &mount, routes: &routes }]);
        Generation::check(&self.host_routes, &served.collect::<Vec<_>>())?;

        let number = table::next_number(&self.db, &plugin).await?;
        let candidate = Candidate { plugin: &plugin, release: number, settings: &settings };
        let admitted = self.capabilities.admit(&candidate, &grants).await?;
        let migrations: Vec<Migration> = migrations.into_iter().map(|(name, sql)| Migration { name, sql }).collect();
        if !migrations.is_empty() {
            self.data.migrate(&plugin, &migrations).await.map_err(migration_refused)?;
        }
        let record = Record {
            plugin,
            number,
            digest: artifact.digest.clone(),
            mount,
            declaration,
            grants,
            settings,
            created_at: self.clock.now(),
            created_by: upload.actor,
        };
        table::insert(&self.db, &record.to_stored()?, &upload.component).await?;
        let parts = self.parts(&record.plugin);
        let release = Arc::new(Release::new(record, &artifact, linked, admitted, routes, parts));
        let replaced = live.map(|release| release.record.number);
        self.serve(Arc::clone(&release))?;
        tracing::info!(
            plugin = %release.record.plugin, release = release.record.number, replaced, digest = %release.record.digest,
            ?signed_by, "deployed"
        );
        Ok(Deployed { release, signed_by, notes, replaced, unchanged: false })
    }

    /// What all releases of a plugin share.
    pub(super) fn parts(&self, plugin: &PluginName) -> Parts {
        Parts { cache: self.caches.plugin(plugin), log: self.logs.plugin(plugin), bulkhead: self.bulkhead(plugin) }
    }

    /// Keeps an audit entry; a failure to keep it is logged, and does not undo what was done.
    pub(super) async fn audit(
        &self,
        action: &str,
        plugin: Option<PluginName>,
        actor: Option<UserId>,
        request_id: &str,
        outcome: Outcome,
        detail: Value,
    ) {
        let object = plugin.as_ref().map_or_else(String::new, ToString::to_string);
        let entry = audit::Entry {
            at: self.clock.now(),
            actor,
            plugin,
            action: action.to_owned(),
            object,
            outcome,
            detail,
            request_id: Some(request_id.to_owned()),
        };
        if let Err(error) = audit::insert(&self.db, &entry).await {
            tracing::error!(action, error = error.report(), "an audit entry was not kept");
        }
    }
}
