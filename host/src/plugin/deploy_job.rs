//! Deploy jobs: the record of one deploy with its present stage, the durations of its stages and its outcome. The
//! record is written before each stage begins, so that after a crash it shows the stage that was reached. A heartbeat
//! renews it meanwhile, because a stage may last long: other nodes take a silent deploy for interrupted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::artifact::Digest;
use crate::clock::{Clock, Timestamp};
use crate::db::Db;
use crate::db::deploy::{self as table, StoredDeploy};
use crate::error::{Error, Kind, Result, code};
use crate::id::{PluginName, UserId};

/// The stages of a deploy, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Checks the size, the pinned digest and the signatures.
    Check,
    /// Compiles to machine code.
    Compile,
    /// Asks the component for its declaration, and checks its grants and settings.
    Describe,
    /// Checks its routes and migrations against the live plugins, links it and admits it to its grants.
    Conflicts,
    /// Applies its migrations.
    Migrate,
    /// Calls it before any client does.
    Smoke,
    /// Records the release and serves it.
    Swap,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 7] =
        [Self::Check, Self::Compile, Self::Describe, Self::Conflicts, Self::Migrate, Self::Smoke, Self::Swap];

    /// Returns the name of the stage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Compile => "compile",
            Self::Describe => "describe",
            Self::Conflicts => "conflicts",
            Self::Migrate => "migrate",
            Self::Smoke => "smoke",
            Self::Swap => "swap",
        }
    }
}

/// A completed stage.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CompletedStage {
    /// The stage.
    pub stage: Stage,
    /// Its duration in microseconds.
    pub micros: u64,
}

/// A hook that is called when a stage begins; tests stop the process there.
pub type AtStage = fn(Stage);

/// A running deploy.
pub(super) struct Job {
    db: Db,
    clock: Clock,
    row: StoredDeploy,
    stage: Stage,
    completed: Vec<CompletedStage>,
    began: Instant,
    at_stage: Option<AtStage>,
    _heartbeat: AbortOnDropHandle<()>,
}

/// The begin of a deploy.
pub(super) enum Begun {
    /// It runs now.
    New(Box<Job>),
    /// A deploy of this id succeeded earlier.
    Earlier(Box<StoredDeploy>),
}

/// The identity of a deploy.
pub(super) struct JobSpec<'a> {
    pub(super) id: &'a str,
    pub(super) digest: &'a Digest,
    pub(super) actor: Option<UserId>,
    pub(super) request_id: &'a Arc<str>,
    pub(super) node: &'a str,
}

impl Job {
    /// Begins a deploy, or begins one again that did not succeed. One that succeeded does not run again: what it deployed
    /// may have been rolled back, paused or removed since.
    ///
    /// # Errors
    /// 409: the id belongs to a running deploy or to one of another file.
    pub(super) async fn begin(db: &Db, clock: &Clock, spec: JobSpec<'_>, at_stage: Option<AtStage>) -> Result<Begun> {
        let now = clock.now();
        let stage = Stage::Check;
        let row = StoredDeploy {
            id: spec.id.to_owned(),
            plugin: None,
            digest: spec.digest.to_string(),
            state: "running".to_owned(),
            stage: stage.as_str().to_owned(),
            stages: "[]".to_owned(),
            release: None,
            code: None,
            reason: None,
            made_data: false,
            actor: spec.actor,
            request_id: spec.request_id.to_string(),
            node: spec.node.to_owned(),
            started_at: now,
            changed_at: now,
        };
        match table::find(db, &row.id).await? {
            None => table::insert(db, &row).await?,
            Some(earlier) if earlier.digest != row.digest => {
                return Err(conflict("A deploy of another file already has this id"));
            }
            Some(earlier) if earlier.state == "succeeded" => return Ok(Begun::Earlier(Box::new(earlier))),
            // Of several concurrent repetitions, one begins.
            Some(_) if !table::restart(db, &row).await? => {
                return Err(conflict("The deploy with this id is running"));
            }
            Some(_) => {}
        }
        let beating = beat(db.clone(), clock.clone(), (row.id.clone(), row.node.clone()), HEARTBEAT);
        let job = Self {
            db: db.clone(),
            clock: clock.clone(),
            row,
            stage,
            completed: Vec::new(),
            began: Instant::now(),
            at_stage,
            _heartbeat: AbortOnDropHandle::new(tokio::spawn(beating)),
        };
        job.call_hook();
        Ok(Begun::New(Box::new(job)))
    }

    /// Completes the present stage and begins the next one.
    pub(super) async fn enter(&mut self, stage: Stage) -> Result<()> {
        self.complete_stage();
        self.stage = stage;
        stage.as_str().clone_into(&mut self.row.stage);
        self.write().await?;
        self.call_hook();
        Ok(())
    }

    /// Begins the stage `swap`, which records a release of this number. After a crash, the release shows whether the
    /// deploy had succeeded.
    pub(super) async fn enter_swap(&mut self, release: i64) -> Result<()> {
        self.row.release = Some(release);
        self.enter(Stage::Swap).await
    }

    /// Sets the plugin, once it is known.
    pub(super) fn set_plugin(&mut self, plugin: &PluginName) {
        self.row.plugin = Some(plugin.clone());
    }

    /// Notes that a later stage creates the database of the plugin.
    pub(super) fn mark_created_data(&mut self) {
        self.row.made_data = true;
    }

    /// Returns whether this deploy created the database of the plugin.
    pub(super) fn created_data(&self) -> bool {
        self.row.made_data
    }

    /// Returns the plugin, if it is known.
    pub(super) fn plugin(&self) -> Option<PluginName> {
        self.row.plugin.clone()
    }

    /// Returns the present stage.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Records the success. Returns the completed stages. A failure to record it is logged: the release is served.
    pub(super) async fn succeed(mut self, release: i64) -> Vec<CompletedStage> {
        self.complete_stage();
        "succeeded".clone_into(&mut self.row.state);
        self.row.release = Some(release);
        if let Err(error) = self.write().await {
            tracing::error!(deploy = self.row.id, error = error.report(), "the success of a deploy was not recorded");
        }
        self.completed
    }

    /// Records the failure.
    pub(super) async fn fail(mut self, error: &Error) {
        self.complete_stage();
        "failed".clone_into(&mut self.row.state);
        self.row.release = None;
        self.row.code = Some(error.code().to_string());
        self.row.reason = Some(error.public().to_owned());
        if let Err(error) = self.write().await {
            tracing::error!(deploy = self.row.id, error = error.report(), "the failure of a deploy was not recorded");
        }
    }

    fn complete_stage(&mut self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.completed.push(CompletedStage { stage: self.stage, micros });
        self.began = Instant::now();
    }

    fn call_hook(&self) {
        if let Some(at_stage) = self.at_stage {
            at_stage(self.stage);
        }
    }

    async fn write(&mut self) -> Result<()> {
        self.row.changed_at = self.clock.now();
        self.row.stages = serde_json::to_string(&self.completed).map_err(Error::internal)?;
        if table::update(&self.db, &self.row, "running").await? {
            return Ok(());
        }
        // This process stood still for so long that another node took the deploy for interrupted.
        Err(conflict("The deploy was interrupted, because its record was not renewed in time"))
    }
}

fn conflict(text: &'static str) -> Error {
    Error::new(Kind::Conflict, code::DEPLOY_CONFLICT, text)
}

/// The interval at which a running deploy renews its record.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// The time without a heartbeat after which a deploy of another node counts as interrupted. Many heartbeats may fail
/// before that, as while the database restarts.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Renews the record of a deploy of this node for ever.
async fn beat(db: Db, clock: Clock, (id, node): (String, String), interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if let Err(error) = table::renew(&db, &id, &node, clock.now()).await {
            tracing::warn!(deploy = id, error = error.report(), "the record of a running deploy was not renewed");
        }
    }
}

/// Finds and logs the deploys that the end of this node, or of another one, interrupted.
///
/// # Errors
/// The database fails.
pub(super) async fn find_interrupted(db: &Db, node: &str, now: Timestamp) -> Result<Vec<StoredDeploy>> {
    let found = table::mark_interrupted(db, node, now.minus(SILENCE), now).await?;
    for deploy in &found {
        let plugin = deploy.plugin.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            deploy = deploy.id,
            plugin,
            digest = deploy.digest,
            stage = deploy.stage,
            "a deploy was interrupted; it can be repeated"
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// The wait of a deploy for its turn, and its compilation, may last longer than [`SILENCE`].
    #[tokio::test]
    async fn a_heartbeat_keeps_a_long_deploy_from_being_taken_for_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(&Config::default().database, directory.path()).await.unwrap();
        let clock = Clock::manual(Timestamp(1_800_000_000_000_000));
        let (digest, request_id) = (Digest::compute(bytes::Bytes::from_static(b"x")).await.unwrap(), "r".into());
        let spec = JobSpec { id: "long", digest: &digest, actor: None, request_id: &request_id, node: "this" };
        let Begun::New(mut job) = Job::begin(&db, &clock, spec, None).await.unwrap() else { panic!("it is new") };
        clock.advance(SILENCE * 2);
        let identity = ("long".to_owned(), "this".to_owned());
        let beating =
            AbortOnDropHandle::new(tokio::spawn(beat(db.clone(), clock.clone(), identity, HEARTBEAT / 60_000)));
        while table::find(&db, "long").await.unwrap().unwrap().changed_at < clock.now() {
            tokio::task::yield_now().await;
        }
        assert!(find_interrupted(&db, "other", clock.now()).await.unwrap().is_empty());
        job.enter(Stage::Compile).await.unwrap();
        drop(beating);
        // A process that stood still for longer lost its deploy, and does not take it back.
        clock.advance(SILENCE * 2);
        assert_eq!(find_interrupted(&db, "other", clock.now()).await.unwrap().len(), 1);
        assert_eq!(*job.enter(Stage::Describe).await.unwrap_err().code(), code::DEPLOY_CONFLICT);
        assert_eq!(table::find(&db, "long").await.unwrap().unwrap().state, "interrupted");
    }
}
