//! The jobs of a plugin as the plugin sees them: their states, their outputs and their progress.

use super::Claim;
use crate::clock::Timestamp;
use crate::db::row::row;
use crate::db::{Db, on};
use crate::error::{Error, Result};
use crate::id::{JobId, PluginName};

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It has not started, or starts again later.
    Waiting,
    /// An attempt runs.
    Running,
    /// It succeeded.
    Succeeded,
    /// It failed for the last time.
    Failed,
    /// The plugin or an operator ended it.
    Cancelled,
}

/// The status of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The state.
    pub state: JobState,
    /// Attempts that began.
    pub attempts: u32,
    /// The latest report of its progress: done, total.
    pub progress: Option<(u64, u64)>,
    /// The output of a job that succeeded.
    pub output: Option<String>,
    /// The reason of the latest failure.
    pub reason: Option<String>,
}

row! {
    struct StatusRow {
        state: String,
        attempts: i64,
        progress_done: Option<i64>,
        progress_total: Option<i64>,
        output: Option<String>,
        reason: Option<String>,
    }
}

impl TryFrom<StatusRow> for JobStatus {
    type Error = Error;

    fn try_from(row: StatusRow) -> Result<Self> {
        let state = match row.state.as_str() {
            "ready" | "blocked" => JobState::Waiting,
            "running" => JobState::Running,
            "done" => JobState::Succeeded,
            "dead" => JobState::Failed,
            "cancelled" => JobState::Cancelled,
            other => return Err(Error::internal(format!("a task has the state '{other}'"))),
        };
        let number = |stored: i64| u64::try_from(stored).unwrap_or_default();
        let progress = row.progress_done.zip(row.progress_total).map(|(done, total)| (number(done), number(total)));
        let attempts = u32::try_from(row.attempts).unwrap_or_default();
        Ok(Self { state, attempts, progress, output: row.output, reason: row.reason })
    }
}

/// Returns the status of a job of a plugin, if it has one with this id that is still kept: it is deleted some time later.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, plugin: &PluginName, job: JobId, now: Timestamp) -> Result<Option<JobStatus>> {
    const SQL: &str = "SELECT state, attempts, progress_done, progress_total, output, reason FROM tasks \
        WHERE id = $1 AND plugin = $2 AND (keep_until IS NULL OR keep_until > $3)";
    let found = on!(db, pool => {
        let find = sqlx::query_as::<_, StatusRow>(SQL).bind(job).bind(plugin.clone()).bind(now);
        find.fetch_optional(pool).await
    })?;
    found.map(JobStatus::try_from).transpose()
}

/// Returns how many jobs of a plugin wait; not more than `most` are counted.
///
/// # Errors
/// The database fails.
pub async fn count_waiting(db: &Db, plugin: &PluginName, most: u64) -> Result<u64> {
    // Reads an index that has all these columns.
    const SQL: &str = "SELECT COUNT(*) FROM \
        (SELECT seq FROM tasks WHERE plugin = $1 AND state = 'ready' AND kind = 'job' LIMIT $2) AS waiting";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let found: i64 = on!(db, pool => sqlx::query_scalar(SQL).bind(plugin.clone()).bind(most).fetch_one(pool).await)?;
    Ok(u64::try_from(found).unwrap_or_default())
}

/// Stores a report of progress, done and total, with a task that runs. A report of an attempt whose claim was lost has no
/// effect.
///
/// # Errors
/// The database fails.
pub async fn report_progress(db: &Db, Claim { seq, claims }: Claim, (done, total): (u64, u64)) -> Result<()> {
    const SQL: &str = "UPDATE tasks SET progress_done = $3, progress_total = $4 \
        WHERE seq = $1 AND claims = $2 AND state = 'running'";
    let [done, total] = [done, total].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    on!(db, pool => sqlx::query(SQL).bind(seq).bind(claims).bind(done).bind(total).execute(pool).await.map(drop))?;
    Ok(())
}
