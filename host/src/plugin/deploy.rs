//! The only way in: from an uploaded file to the release that is served, or to the reason why not.
//!
//! check (size, pinned digest, signatures) → compile → describe (roles, imports, grants) → conflicts (routes, link,
//! admission) → migrate → smoke → swap, each a recorded stage of a [`job`]. Nothing is changed before the migrations, and
//! the release that was live stays live until the swap.

pub mod job;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::job::{Job, Order, Passed, Stage};
use super::artifact::{Digest, check_grants, check_size, told};
use super::breaker::Breaker;
use super::canary::{Canary, Plan};
use super::generation::{Generation, Served};
use super::inspection::Examined;
use super::limits::Limits;
use super::registry::Registry;
use super::release::{Linked, Parts, Record, Release, compile_routes};
use super::schema;
use super::signature::{Signature, Vouched};
use super::switch::state;
use super::trial::check_trial;
use crate::capability::sql::Sql;
use crate::capability::{Candidate, Capability as _, Grants};
use crate::db::audit::{self, Outcome};
use crate::db::plugin::{self as table, StoredPlugin};
use crate::db::plugin_data::{Migration, MigrationError};
use crate::db::release::{self as releases, Around, Place};
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
    /// What bounds its calls beside what bounds those of its live release.
    pub limits: Limits,
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
    /// Names this deploy, so that it can be asked for and repeated; none: the request's id.
    pub id: Option<String>,
    /// Try it beside the live release rather than in its place.
    pub canary: Option<Plan>,
    /// The live release whose own file this is, from the host's tables: nobody need vouch for it again, and it must be the
    /// live one still when its turn comes.
    pub again: Option<i64>,
}

impl Upload {
    /// A file about which nothing is said: everything stays as its live release has it.
    pub fn new(component: Bytes, by: &By) -> Self {
        Self {
            component,
            name: None,
            mount: None,
            grants: Grants::default(),
            limits: Limits::default(),
            signatures: Vec::new(),
            digest: None,
            settings: None,
            actor: by.actor,
            request_id: Arc::clone(&by.request_id),
            id: None,
            canary: None,
            again: None,
        }
    }
}

/// Who changes something, and by which request.
#[derive(Debug, Clone)]
pub struct By {
    /// The account; none: the host itself.
    pub actor: Option<UserId>,
    /// The request.
    pub request_id: Arc<str>,
}

impl By {
    /// The host itself, for a reason that its history names.
    pub fn host() -> Self {
        Self { actor: None, request_id: "host".into() }
    }
}

/// What a deploy came to.
#[derive(Clone)]
pub struct Deployed {
    /// The live release.
    pub release: Arc<Release>,
    /// What the operator may want to know.
    pub notes: Vec<String>,
    /// The release that was live before.
    pub replaced: Option<i64>,
    /// The same file with the same grants, mount and settings was live already; nothing was done.
    pub unchanged: bool,
    /// It is on trial beside the live release.
    pub on_trial: bool,
    /// What was done and how long it took.
    pub stages: Vec<Passed>,
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
    /// Deploys a file. What only looks at the file runs beside everything else, however long it takes; from then on
    /// one change of what is served is made at a time.
    ///
    /// # Errors
    /// Why the file is refused. Whatever was live still is.
    pub async fn deploy(&self, upload: Upload) -> Result<Deployed> {
        let (actor, request_id) = (upload.actor, Arc::clone(&upload.request_id));
        let asked = upload.name.clone();
        let digest = Digest::aside(upload.component.clone()).await?;
        let id = upload.id.clone().unwrap_or_else(|| request_id.to_string());
        let order = Order { id: &id, digest: &digest, actor, request_id: &request_id, node: &self.node };
        let mut job = Job::begin(&self.db, &self.clock, order, self.at_stage).await?;
        // Boxed: its state is larger than anything else that the caller's own task holds.
        let outcome = Box::pin(self.try_deploy(upload, &digest, &mut job)).await;
        let stage = job.stage();
        let [succeeded, failed] = &self.deploys;
        if outcome.is_ok() { succeeded } else { failed }.fetch_add(1, Ordering::Relaxed);
        let outcome = match outcome {
            Ok(mut deployed) => {
                deployed.stages = job.succeed(deployed.release.record.number).await?;
                Ok(deployed)
            }
            Err(error) => {
                if let Some(plugin) = job.made_data() {
                    let _turn = self.changing.lock().await;
                    self.forget_data(&plugin).await;
                }
                job.fail(&error).await;
                Err(error)
            }
        };
        let (plugin, how, detail) = match &outcome {
            Ok(deployed) if deployed.unchanged => return outcome,
            Ok(deployed) => {
                let record = &deployed.release.record;
                let detail = json!({ "deploy": id, "before": deployed.replaced, "after": record.number,
                    "digest": record.digest, "grants": record.grants.to_texts(), "limits": record.limits.to_texts(),
                    "canary": deployed.on_trial, "signed_by": record.signed_by });
                (Some(record.plugin.clone()), Outcome::Success, detail)
            }
            Err(error) => {
                let detail = json!({ "deploy": id, "digest": digest, "stage": stage, "code": error.code(),
                    "reason": error.public() });
                (asked, Outcome::Failure, detail)
            }
        };
        let by = By { actor, request_id };
        self.audit("plugin.deploy", plugin, &by, how, detail).await;
        if let Ok(deployed) = &outcome {
            let _turn = self.changing.lock().await;
            self.collect_releases(&deployed.release.record.plugin).await;
        }
        outcome
    }

    async fn try_deploy(&self, upload: Upload, digest: &Digest, job: &mut Job) -> Result<Deployed> {
        check_size(upload.component.len(), self.limits.upload_bytes)?;
        let live =
            self.generation().plugins.loaded().map(|(release, _)| release.record.digest.clone()).collect::<Vec<_>>();
        let vouched = match upload.again {
            Some(_) => Vouched::default(),
            None => Vouched::check(&self.limits, &upload, digest, &live, self.clock.now()).await?,
        };

        job.enter(Stage::Compile).await?;
        let artifact = self.compiler.artifact(digest, upload.component.clone()).await?;

        job.enter(Stage::Describe).await?;
        let asked = Examined::of(&self.sandbox, &artifact, upload.name, &upload.request_id).await?;
        let Examined { plugin, declaration, migrations, steps, needs } = asked;
        job.of(&plugin);

        let _turn = self.changing.lock().await;
        let generation = self.generation();
        let plugins = &generation.plugins;
        let live = plugins.current(&plugin);
        let stored = table::find(&self.db, &plugin).await?;
        let revoked = stored.as_ref().map(StoredPlugin::revoked).transpose()?.unwrap_or_default();
        let revoked: Vec<String> = revoked.into_iter().filter(|name| !upload.grants.contains(name)).collect();
        let before = match (live, &stored) {
            (Some(release), _) => Some(release.record.clone()),
            // Not served for want of a grant or because it could not be loaded: a deploy goes on from it all the same.
            (None, Some(stored)) if stored.state == "live" => self.record_before(stored).await,
            _ => None,
        };
        if upload.again.is_some() && upload.again != before.as_ref().map(|before| before.number) {
            return Err(state(format!("'{plugin}' was changed by somebody else meanwhile; look at it and try again")));
        }
        let granted = before
            .as_ref()
            .map(|record| record.grants.clone())
            .unwrap_or_default()
            .retaining(|name| !revoked.iter().any(|gone| gone == name))
            .merged(upload.grants);
        let mut notes = vouched.notes;
        notes.extend(check_grants(&needs, &granted)?);
        let grants = granted.retaining(|name| needs.contains(name));
        // The live file again, as with other grants: whoever vouched for it beside the file still does.
        let signed_by = match &before {
            Some(before) if vouched.signed_by.is_empty() && before.digest == artifact.digest => {
                before.signed_by.clone()
            }
            _ => vouched.signed_by,
        };
        let settings = match (upload.settings, &before) {
            (Some(settings), _) => settings,
            (None, Some(before)) => before.settings.clone(),
            (None, None) => Value::Object(Map::new()),
        };
        declaration.check_settings(&settings)?;
        let limits = before.as_ref().map(|before| before.limits.clone()).unwrap_or_default().merged(upload.limits);
        let mount = match (upload.mount, live, plugins.absent.get(&plugin)) {
            (Some(mount), _, _) => mount,
            (None, Some(release), _) => release.record.mount.clone(),
            (None, None, Some(absent)) => absent.mount.clone(),
            (None, None, None) => format!("/api/v1/{plugin}").parse().map_err(Error::internal)?,
        };
        let same = |release: &Release| {
            let record = &release.record;
            record.digest == artifact.digest
                && record.mount == mount
                && record.grants == grants
                && record.settings == settings
                && record.limits == limits
        };
        if let Some(live) = live.filter(|live| same(live)) {
            let release = Arc::clone(live);
            return Ok(Deployed {
                release,
                notes,
                replaced: None,
                unchanged: true,
                on_trial: false,
                stages: Vec::new(),
            });
        }
        if upload.canary.is_some() {
            check_trial(&plugin, plugins.live.get(&plugin), &mount)?;
        }

        if stored.is_none() && grants.contains(Sql::NAME) && !self.data.exists(&plugin).await? {
            job.makes_data();
        }
        job.enter(Stage::Conflicts).await?;
        let linked = Linked::new(&self.engine, &artifact, &grants)?;
        let routes = compile_routes(&declaration, &mount)?;
        let neighbours = plugins.loaded().map(|(release, _)| release).filter(|release| release.record.plugin != plugin);
        let served = neighbours
            .map(|release| Served {
                plugin: &release.record.plugin,
                mount: &release.record.mount,
                routes: &release.routes,
            })
            .chain([Served { plugin: &plugin, mount: &mount, routes: &routes }]);
        Generation::check(&self.host_routes, &served.collect::<Vec<_>>())?;
        let applied = stored.as_ref().map(StoredPlugin::steps).transpose()?.unwrap_or_default();
        schema::check_back(&steps, &applied)?;
        if let Some(live) = live {
            schema::check_forward(&steps, &applied, &live.record.migrations)?;
        }
        let number = releases::next_number(&self.db, &plugin).await?;
        let candidate = Candidate { plugin: &plugin, release: number, settings: &settings };
        let admitted = self.capabilities.admit(&candidate, &grants).await?;

        job.enter(Stage::Migrate).await?;
        let migrations: Vec<Migration> = migrations
            .into_iter()
            .map(|migration| Migration { name: migration.step.name, sql: migration.sql })
            .collect();
        if !migrations.is_empty() {
            self.data.migrate(&plugin, &migrations).await.map_err(migration_refused)?;
        }
        let schema = if steps.len() > applied.len() { &steps } else { &applied };
        let schema = serde_json::to_string(schema).map_err(Error::internal)?;
        table::set_schema(&self.db, &plugin, &schema).await?;

        job.enter(Stage::Smoke).await?;
        let record = Record {
            plugin,
            number,
            digest: artifact.digest.clone(),
            mount,
            declaration,
            grants,
            settings,
            migrations: steps,
            created_at: self.clock.now(),
            created_by: upload.actor,
            signed_by,
            limits,
        };
        let parts = self.parts(&record)?;
        let release = Arc::new(Release::new(record, &artifact, linked, admitted, routes, parts));
        self.sandbox.smoke(&release, &upload.request_id).await?;

        job.enter(Stage::Swap).await?;
        let record = &release.record;
        let stored = record.to_stored(release.size)?;
        let replaced = live.map(|release| release.record.number);
        let revoked = Value::from(revoked).to_string();
        let around = Around { revoked: &revoked, schema: &schema };
        let on_trial = upload.canary.is_some();
        match (upload.canary, live) {
            (Some(plan), Some(live)) => {
                let canary = Canary::new(Arc::clone(&release), plan, live, self.clock.now());
                let text = canary.to_json()?;
                releases::insert(&self.db, &stored, &upload.component, Place::Canary(&text), &around).await?;
                self.swap(|plugins| {
                    plugins.canaries.insert(record.plugin.clone(), Arc::new(canary));
                })?;
            }
            _ => {
                releases::insert(&self.db, &stored, &upload.component, Place::Live, &around).await?;
                self.serve(Arc::clone(&release))?;
                self.watch(record, replaced);
            }
        }
        tracing::info!(
            plugin = %record.plugin, release = record.number, replaced, digest = %record.digest, on_trial,
            signed_by = (!record.signed_by.is_empty()).then(|| record.signed_by.join(", ")), "deployed"
        );
        Ok(Deployed { release, notes, replaced, unchanged: false, on_trial, stages: Vec::new() })
    }

    /// The record of a release that was live and is not served.
    async fn record_before(&self, stored: &StoredPlugin) -> Option<Record> {
        let release = self.stored_release(&stored.name, stored.live_release).await;
        match release.and_then(|release| Record::from_stored(&release)) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(plugin = %stored.name, error = error.report(), "the release before cannot be gone on from");
                None
            }
        }
    }

    /// Removes the database that the deploy of a plugin made which has no release for all that. Else nobody could remove
    /// it, and what was never released would have to be kept in its migrations.
    pub(super) async fn forget_data(&self, plugin: &PluginName) {
        let forgotten = match table::find(&self.db, plugin).await {
            Ok(None) => self.data.delete(plugin).await,
            // Another deploy came to a good end with it.
            Ok(Some(_)) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::error!(%plugin, error = error.report(), "the database of a plugin without a release was not removed");
        }
    }

    /// What a release of a plugin gets beside its code.
    ///
    /// # Errors
    /// Its limits make no sense to this version.
    pub(super) fn parts(&self, record: &Record) -> Result<Parts> {
        let plugin = &record.plugin;
        Ok(Parts {
            cache: self.caches.plugin(plugin),
            log: self.logs.plugin(plugin),
            bulkhead: self.bulkhead(plugin),
            limits: record.limits.resolve(&self.limits)?,
            usage: Arc::default(),
            breaker: Breaker::new(self.clock.clone(), self.limits.breaker_faults, self.limits.quarantine),
        })
    }

    /// Keeps an audit entry; a failure to keep it is logged, and does not undo what was done.
    pub(super) async fn audit(
        &self,
        action: &str,
        plugin: Option<PluginName>,
        by: &By,
        outcome: Outcome,
        detail: Value,
    ) {
        let object = plugin.as_ref().map_or_else(String::new, ToString::to_string);
        let entry = audit::Entry {
            at: self.clock.now(),
            actor: by.actor,
            plugin,
            action: action.to_owned(),
            object,
            outcome,
            detail,
            request_id: Some(by.request_id.to_string()),
        };
        if let Err(error) = audit::insert(&self.db, &entry).await {
            tracing::error!(action, error = error.report(), "an audit entry was not kept");
        }
    }
}
