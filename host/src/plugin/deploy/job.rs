//! The record of one deploy: what it is at, how long each stage took and what came of it, kept in the database before each
//! stage begins, so that a crash at any moment leaves behind how far it came.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::db::Db;
use crate::db::deploy::{self as table, StoredDeploy};
use crate::error::{Error, Kind, Result, code};
use crate::id::{PluginName, UserId};
use crate::plugin::artifact::Digest;

/// What a deploy does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Is it a component, within the limits?
    Check,
    /// To machine code.
    Compile,
    /// What does it say of itself, what does it need, may it?
    Describe,
    /// Does it fit beside what is served?
    Conflicts,
    /// Its tables.
    Migrate,
    /// One call before anybody else's.
    Smoke,
    /// Recorded, and served from now on.
    Swap,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 7] =
        [Self::Check, Self::Compile, Self::Describe, Self::Conflicts, Self::Migrate, Self::Smoke, Self::Swap];

    /// The word for it.
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

/// A stage that was passed.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Passed {
    /// Which.
    pub stage: Stage,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// Called when a stage begins; tests stop the process there.
pub type AtStage = fn(Stage);

/// One that runs.
pub(super) struct Job {
    db: Db,
    clock: Clock,
    row: StoredDeploy,
    stage: Stage,
    passed: Vec<Passed>,
    began: Instant,
    at_stage: Option<AtStage>,
}

/// Who deploys what.
pub(super) struct Order<'a> {
    pub(super) id: &'a str,
    pub(super) digest: &'a Digest,
    pub(super) actor: Option<UserId>,
    pub(super) request_id: &'a Arc<str>,
    pub(super) node: &'a str,
}

impl Job {
    /// Begins one, or begins one again that did not come to a good end.
    pub(super) async fn begin(db: &Db, clock: &Clock, order: Order<'_>, at_stage: Option<AtStage>) -> Result<Self> {
        let now = clock.now();
        let stage = Stage::Check;
        let row = StoredDeploy {
            id: order.id.to_owned(),
            plugin: None,
            digest: order.digest.to_string(),
            state: "running".to_owned(),
            stage: stage.as_str().to_owned(),
            stages: "[]".to_owned(),
            release: None,
            code: None,
            reason: None,
            made_data: false,
            actor: order.actor,
            request_id: order.request_id.to_string(),
            node: order.node.to_owned(),
            started_at: now,
            changed_at: now,
        };
        match table::find(db, &row.id).await? {
            None => table::insert(db, &row).await?,
            Some(earlier) if earlier.digest != row.digest => {
                return Err(conflict("A deploy of another file has this id already"));
            }
            // Of several that repeat it at once, one does.
            Some(_) if !table::begin_again(db, &row).await? => {
                return Err(conflict("The deploy of this id is running"));
            }
            Some(_) => {}
        }
        let job = Self {
            db: db.clone(),
            clock: clock.clone(),
            row,
            stage,
            passed: Vec::new(),
            began: Instant::now(),
            at_stage,
        };
        job.reached();
        Ok(job)
    }

    /// Ends a stage and begins the next.
    pub(super) async fn enter(&mut self, stage: Stage) -> Result<()> {
        self.pass();
        self.stage = stage;
        stage.as_str().clone_into(&mut self.row.stage);
        self.write().await?;
        self.reached();
        Ok(())
    }

    /// Says whose deploy it is, once that is known.
    pub(super) fn of(&mut self, plugin: &PluginName) {
        self.row.plugin = Some(plugin.clone());
    }

    /// Says that the next stage makes the plugin's database, which nobody had before.
    pub(super) fn makes_data(&mut self) {
        self.row.made_data = true;
    }

    /// The plugin whose database it made.
    pub(super) fn made_data(&self) -> Option<PluginName> {
        self.row.plugin.clone().filter(|_| self.row.made_data)
    }

    /// The stage it is at.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Records a good end.
    pub(super) async fn succeed(mut self, release: i64) -> Result<Vec<Passed>> {
        self.pass();
        "succeeded".clone_into(&mut self.row.state);
        self.row.release = Some(release);
        self.write().await?;
        Ok(self.passed)
    }

    /// Records why it failed.
    pub(super) async fn fail(mut self, error: &Error) {
        self.pass();
        "failed".clone_into(&mut self.row.state);
        self.row.code = Some(error.code().to_string());
        self.row.reason = Some(error.public().to_owned());
        if let Err(error) = self.write().await {
            tracing::error!(deploy = self.row.id, error = error.report(), "the end of a deploy was not recorded");
        }
    }

    fn pass(&mut self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.passed.push(Passed { stage: self.stage, micros });
        self.began = Instant::now();
    }

    fn reached(&self) {
        if let Some(at_stage) = self.at_stage {
            at_stage(self.stage);
        }
    }

    async fn write(&mut self) -> Result<()> {
        self.row.changed_at = self.clock.now();
        self.row.stages = serde_json::to_string(&self.passed).map_err(Error::internal)?;
        table::update(&self.db, &self.row).await
    }
}

fn conflict(text: &'static str) -> Error {
    Error::new(Kind::Conflict, code::DEPLOY_CONFLICT, text)
}

/// How long a node may be silent before its deploys count as interrupted: longer than any stage may take.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Tells of the deploys that the end of this node, or of another, cut off.
///
/// # Errors
/// The database fails.
pub(in crate::plugin) async fn find_interrupted(db: &Db, node: &str, now: Timestamp) -> Result<Vec<StoredDeploy>> {
    let found = table::interrupt(db, node, now.minus(SILENCE), now).await?;
    for deploy in &found {
        let plugin = deploy.plugin.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            deploy = deploy.id,
            plugin,
            digest = deploy.digest,
            stage = deploy.stage,
            "a deploy was interrupted; what was live is live, and it can be repeated"
        );
    }
    Ok(found)
}
