//! Tasks: deliveries of events and jobs, from their start to their end. Owns the SQL that claims and ends them; the intake
//! (`db::intake`) adds them, `upkeep` takes care of those whose process died, and `operator` has the changes by operators.
//!
//! A claimed task has an owner, a process, and a lease, which the owner renews. Every statement about the end of an attempt
//! names its claim, so an attempt that lost its lease changes nothing, even if the same process claimed the task again. Of
//! the deliveries of one plugin in one lane, only the first one is not blocked; its end makes the next one ready, in the
//! same transaction and under the lock of the lane.
//!
//! The conditions on `state` repeat those of the partial indexes word by word: SQLite uses such an index for nothing else.

pub mod operator;
pub mod status;
mod upkeep;

use super::intake::lane_lock;
use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{EventId, JobId, PluginName, UserId};

pub use self::upkeep::{Recovered, delete_of_plugin, prune, recover, trim, unblock_lanes};

/// Makes the first task of a lane ready that has not ended, if it is blocked. Only for a lane whose one task that was not
/// blocked has just ended: the statement does not look for another one, because a lane can be long. (PostgreSQL could read
/// the whole index of blocked tasks for `state = 'blocked'`.)
const UNBLOCK_NEXT: &str = "UPDATE tasks SET state = 'ready' WHERE seq = \
    (SELECT MIN(b.seq) FROM tasks b WHERE b.plugin = $1 AND b.lane = $2 AND b.state IN ('ready', 'blocked', 'running')) \
    AND state NOT IN ('ready', 'running')";

/// Makes the first task of a lane ready, unless another one is ready or runs.
const UNBLOCK: &str = "UPDATE tasks SET state = 'ready' WHERE seq = (SELECT MIN(b.seq) FROM tasks b \
        WHERE b.plugin = $1 AND b.lane = $2 AND b.state IN ('ready', 'blocked', 'running')) \
    AND NOT EXISTS (SELECT 1 FROM tasks a WHERE a.plugin = $1 AND a.lane = $2 \
        AND a.state IN ('ready', 'blocked', 'running') AND a.state <> 'blocked')";

row! {
    /// A queue with a ready task.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ReadyQueue {
        /// `PLUGIN/NAME/PRIORITY`.
        pub queue: String,
        /// When the first task of it is due.
        pub due_at: Timestamp,
    }
}

row! {
    /// A claim of a task. The next claim of the task, by whichever process, is another one.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Claim {
        /// The number of the task.
        pub seq: i64,
        /// How often it has been claimed.
        pub claims: i64,
    }
}

row! {
    /// A claimed task.
    #[derive(Debug, Clone)]
    pub struct ClaimedTask {
        /// The number.
        pub seq: i64,
        /// The id of a job; `None` for a delivery.
        pub id: Option<JobId>,
        /// The plugin that runs it.
        pub plugin: PluginName,
        /// The topic or the job.
        pub name: String,
        /// The event of a delivery.
        pub event_seq: Option<i64>,
        /// The payload of a job.
        pub payload: Option<String>,
        /// The lane of a delivery.
        pub lane: Option<String>,
        /// The time of the schedule that caused it.
        pub scheduled_at: Option<Timestamp>,
        /// The number of attempts, this one included.
        pub attempts: i64,
        /// The number of claims, this one included.
        pub claims: i64,
        /// How many events and jobs caused each other before it.
        pub depth: i64,
        /// The request that caused it.
        pub request_id: Option<String>,
        /// When it was added.
        pub created_at: Timestamp,
    }
}

impl ClaimedTask {
    /// Returns its claim.
    pub fn claim(&self) -> Claim {
        Claim { seq: self.seq, claims: self.claims }
    }
}

row! {
    /// The event of a delivery.
    #[derive(Debug, Clone)]
    pub struct DeliveredEvent {
        /// The id.
        pub id: EventId,
        /// The ordering key.
        pub ordering_key: Option<String>,
        /// The account whose clients may receive it.
        pub audience: Option<UserId>,
        /// The payload, as JSON.
        pub payload: String,
        /// When it was published.
        pub published_at: Timestamp,
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// The delivery succeeded: it is deleted.
    Delivered,
    /// The job succeeded.
    Succeeded {
        /// Its output.
        output: Option<String>,
        /// When it is deleted.
        keep_until: Timestamp,
    },
    /// It failed and starts again.
    Retry {
        /// Why it failed.
        reason: String,
        /// The earliest start.
        due_at: Timestamp,
    },
    /// It did not run, or its failure was not its own: the attempt does not count.
    Postponed {
        /// The earliest start.
        due_at: Timestamp,
    },
    /// It failed for the last time: it becomes a dead letter.
    Dead {
        /// Why it failed.
        reason: String,
    },
}

impl TaskEnd {
    /// Returns whether the task has ended, so that the next one of its lane can start.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Retry { .. } | Self::Postponed { .. })
    }
}

/// Returns the queues that have a ready task. Their number is that of the plugins' topics and jobs, not that of tasks: each
/// queue is found by one look into the index.
///
/// # Errors
/// The database fails.
pub async fn ready_queues(db: &Db) -> Result<Vec<ReadyQueue>> {
    const SQL: &str = "WITH RECURSIVE found (queue) AS ( \
            SELECT MIN(queue) FROM tasks WHERE state = 'ready' \
            UNION ALL \
            SELECT (SELECT MIN(t.queue) FROM tasks t WHERE t.state = 'ready' AND t.queue > found.queue) \
            FROM found WHERE found.queue IS NOT NULL) \
        SELECT found.queue AS queue, \
            (SELECT MIN(t.due_at) FROM tasks t WHERE t.state = 'ready' AND t.queue = found.queue) AS due_at \
        FROM found WHERE found.queue IS NOT NULL";
    Ok(on!(db, pool => sqlx::query_as::<_, ReadyQueue>(SQL).fetch_all(pool).await)?)
}

/// Claims up to `limit` due tasks of a queue until `lease_until`, in the order in which they are due.
///
/// # Errors
/// The database fails.
pub async fn claim(
    db: &Db,
    queue: &str,
    owner: &str,
    (now, lease_until): (Timestamp, Timestamp),
    limit: usize,
) -> Result<Vec<ClaimedTask>> {
    macro_rules! claim {
        ($due:literal, $lock:literal) => {
            concat!(
                "UPDATE tasks SET state = 'running', owner = $3, due_at = $4, attempts = attempts + 1, \
                 claims = claims + 1 WHERE seq ",
                $due,
                "(SELECT seq FROM tasks WHERE state = 'ready' AND queue = $1 AND due_at <= $2 ORDER BY due_at, seq LIMIT $5",
                $lock,
                ") RETURNING seq, id, plugin, name, event_seq, payload, lane, scheduled_at, attempts, claims, depth, \
                 request_id, created_at"
            )
        };
    }
    // PostgreSQL may repeat the query of an IN, and would then lock and claim more than the limit. An array is built once.
    let sql = db.dialect(claim!("IN ", ""), claim!("= ANY (ARRAY", " FOR UPDATE SKIP LOCKED)"));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut claimed = on!(db, pool => {
        let claim = sqlx::query_as::<_, ClaimedTask>(sql).bind(queue).bind(now).bind(owner).bind(lease_until).bind(limit);
        claim.fetch_all(pool).await
    })?;
    claimed.sort_by_key(|task| task.seq);
    Ok(claimed)
}

/// Returns the event of a delivery.
///
/// # Errors
/// The database fails.
pub async fn event(db: &Db, seq: i64) -> Result<Option<DeliveredEvent>> {
    const SQL: &str = "SELECT id, ordering_key, audience, payload, published_at FROM events WHERE seq = $1";
    Ok(on!(db, pool => sqlx::query_as::<_, DeliveredEvent>(SQL).bind(seq).fetch_optional(pool).await)?)
}

/// Ends an attempt of a claimed task. Returns whether the claim still held.
///
/// # Errors
/// The database fails.
pub async fn end(db: &Db, task: &ClaimedTask, end: &TaskEnd, now: Timestamp) -> Result<bool> {
    const DELETE: &str = "DELETE FROM tasks WHERE seq = $1 AND claims = $2 AND state = 'running'";
    const SUCCEED: &str = "UPDATE tasks SET state = 'done', owner = NULL, output = $3, ended_at = $4, keep_until = $5 \
        WHERE seq = $1 AND claims = $2 AND state = 'running'";
    const RETRY: &str = "UPDATE tasks SET state = 'ready', owner = NULL, reason = $3, due_at = $4 \
        WHERE seq = $1 AND claims = $2 AND state = 'running'";
    const POSTPONE: &str = "UPDATE tasks SET state = 'ready', owner = NULL, due_at = $3, attempts = attempts - 1 \
        WHERE seq = $1 AND claims = $2 AND state = 'running'";
    const BURY: &str = "UPDATE tasks SET state = 'dead', owner = NULL, reason = $3, ended_at = $4 \
        WHERE seq = $1 AND claims = $2 AND state = 'running'";
    let Claim { seq, claims } = task.claim();
    Ok(on!(db, pool, begin => {
        let query = match end {
            TaskEnd::Delivered => sqlx::query(DELETE).bind(seq).bind(claims),
            TaskEnd::Succeeded { output, keep_until } => {
                sqlx::query(SUCCEED).bind(seq).bind(claims).bind(output.as_deref()).bind(now).bind(*keep_until)
            }
            TaskEnd::Retry { reason, due_at } => {
                sqlx::query(RETRY).bind(seq).bind(claims).bind(reason.as_str()).bind(*due_at)
            }
            TaskEnd::Postponed { due_at } => sqlx::query(POSTPONE).bind(seq).bind(claims).bind(*due_at),
            TaskEnd::Dead { reason } => sqlx::query(BURY).bind(seq).bind(claims).bind(reason.as_str()).bind(now),
        };
        match task.lane.as_deref().filter(|_| end.is_final()) {
            // One statement needs no transaction of its own.
            None => query.execute(pool).await?.rows_affected() == 1,
            Some(lane) => {
                let mut tx = pool.begin_with(begin).await?;
                tx.take_lock(lane_lock(lane)).await?;
                let is_ours = query.execute(&mut *tx).await?.rows_affected() == 1;
                if is_ours {
                    sqlx::query(UNBLOCK_NEXT).bind(task.plugin.clone()).bind(lane).execute(&mut *tx).await?;
                }
                tx.commit().await?;
                is_ours
            }
        }
    }))
}

/// Renews all leases of a process. Returns its claims; one that is missing was cancelled or lost.
///
/// # Errors
/// The database fails.
pub async fn renew(db: &Db, owner: &str, lease_until: Timestamp) -> Result<Vec<Claim>> {
    const SQL: &str = "UPDATE tasks SET due_at = $2 WHERE state = 'running' AND owner = $1 RETURNING seq, claims";
    Ok(on!(db, pool => sqlx::query_as::<_, Claim>(SQL).bind(owner).bind(lease_until).fetch_all(pool).await)?)
}

/// Returns the claims of a process.
///
/// # Errors
/// The database fails.
pub async fn owned(db: &Db, owner: &str) -> Result<Vec<Claim>> {
    const SQL: &str = "SELECT seq, claims FROM tasks WHERE state = 'running' AND owner = $1";
    Ok(on!(db, pool => sqlx::query_as::<_, Claim>(SQL).bind(owner).fetch_all(pool).await)?)
}

/// Ends the lease of a task that its process does not run: the response to its claim was lost, or its attempt broke off.
/// The next [`recover`] gives it back.
///
/// # Errors
/// The database fails.
pub async fn end_lease(db: &Db, Claim { seq, claims }: Claim, now: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE tasks SET due_at = $3 WHERE seq = $1 AND claims = $2 AND state = 'running'";
    on!(db, pool => sqlx::query(SQL).bind(seq).bind(claims).bind(now).execute(pool).await.map(drop))?;
    Ok(())
}

/// Gives back all tasks of a process that stops. Their attempts do not count. Returns how many.
///
/// # Errors
/// The database fails.
pub async fn give_back(db: &Db, owner: &str, now: Timestamp) -> Result<u64> {
    const SQL: &str = "UPDATE tasks SET state = 'ready', owner = NULL, due_at = $2, attempts = attempts - 1 \
        WHERE state = 'running' AND owner = $1";
    let given_back = on!(db, pool => {
        sqlx::query(SQL).bind(owner).bind(now).execute(pool).await.map(|done| done.rows_affected())
    })?;
    Ok(given_back)
}
