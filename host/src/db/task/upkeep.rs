//! The upkeep of tasks: gives back those whose process died, frees lanes that wait for nothing, and deletes what is not
//! kept any more. Each transaction is short, however much there is to do, so that nothing else waits for it.

use std::time::Duration;

use super::{UNBLOCK, UNBLOCK_NEXT};
use crate::clock::Timestamp;
use crate::db::intake::{EVENT_LOCK, lane_lock};
use crate::db::row::row;
use crate::db::{Db, on};
use crate::error::Result;
use crate::id::PluginName;

/// An attempt that ended with its process does not count as a failure. After this number of them, the task is dead.
const MAX_INTERRUPTIONS: i64 = 10;

/// The wait of an interrupted task for each earlier interruption. A process that keeps ending, such as for lack of memory,
/// takes all tasks with it that run. Most are not the reason, so they should not run each time.
const INTERRUPTION_WAIT: Duration = Duration::from_secs(1);

/// The reason of a task that is dead because of [`MAX_INTERRUPTIONS`].
const INTERRUPTED: &str = "each of its attempts was interrupted: the host ended, or could not reach its database";

/// The most rows that one transaction changes.
const BATCH: i64 = 1_000;

/// The result of [`recover`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// How many tasks are ready again.
    pub given_back: u64,
    /// The plugin of each task that is dead because it was interrupted too often.
    pub dead: Vec<PluginName>,
}

row! {
    /// A task that was interrupted too often.
    #[derive(Debug)]
    struct Exhausted {
        seq: i64,
        plugin: PluginName,
        lane: Option<String>,
    }
}

row! {
    /// The deliveries of one plugin that keep their order.
    #[derive(Debug)]
    struct Lane {
        plugin: PluginName,
        lane: String,
        /// The state of the first one that has not ended.
        head: Option<String>,
    }
}

/// Gives back the tasks whose leases ended, and those of earlier processes of the node. Their attempts do not count, but
/// after a number of interruptions a task is dead. One that was interrupted before waits.
///
/// # Errors
/// The database fails.
pub async fn recover(db: &Db, now: Timestamp, node: Option<&str>) -> Result<Recovered> {
    const END_LEASES: &str = "UPDATE tasks SET due_at = $1 WHERE state = 'running' AND due_at > $1 \
        AND substr(owner, 1, length($2)) = $2";
    const GIVE_BACK: &str = "UPDATE tasks SET state = 'ready', owner = NULL, due_at = $1 + interruptions * $3, \
        attempts = attempts - 1, interruptions = interruptions + 1 \
        WHERE state = 'running' AND due_at <= $1 AND interruptions < $2";
    const EXHAUSTED: &str = "SELECT seq, plugin, lane FROM tasks \
        WHERE state = 'running' AND due_at <= $1 AND interruptions >= $2 ORDER BY due_at LIMIT $3";
    if let Some(node) = node {
        let prefix = format!("{node}/");
        on!(db, pool => sqlx::query(END_LEASES).bind(now).bind(prefix.as_str()).execute(pool).await.map(drop))?;
    }
    let wait = i64::try_from(INTERRUPTION_WAIT.as_micros()).unwrap_or(i64::MAX);
    let given_back = on!(db, pool => {
        let recover = sqlx::query(GIVE_BACK).bind(now).bind(MAX_INTERRUPTIONS).bind(wait);
        recover.execute(pool).await.map(|done| done.rows_affected())
    })?;
    let exhausted = on!(db, pool => {
        let exhausted = sqlx::query_as::<_, Exhausted>(EXHAUSTED).bind(now).bind(MAX_INTERRUPTIONS).bind(BATCH);
        exhausted.fetch_all(pool).await
    })?;
    let mut dead = Vec::new();
    for task in exhausted {
        if bury(db, &task, now).await? {
            dead.push(task.plugin);
        }
    }
    Ok(Recovered { given_back, dead })
}

/// Makes a task a dead letter whose lease has ended, and frees its lane. Returns whether this process did.
async fn bury(db: &Db, task: &Exhausted, now: Timestamp) -> Result<bool> {
    const BURY: &str = "UPDATE tasks SET state = 'dead', owner = NULL, attempts = attempts - 1, \
        interruptions = interruptions + 1, reason = $3, ended_at = $2 \
        WHERE seq = $1 AND state = 'running' AND due_at <= $2";
    Ok(on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        // Before the row is locked, in the order of the end of a task.
        if let Some(lane) = &task.lane {
            tx.take_lock(lane_lock(lane)).await?;
        }
        let bury = sqlx::query(BURY).bind(task.seq).bind(now).bind(INTERRUPTED);
        let is_dead = bury.execute(&mut *tx).await?.rows_affected() == 1;
        if let Some(lane) = task.lane.as_deref().filter(|_| is_dead) {
            sqlx::query(UNBLOCK_NEXT).bind(task.plugin.clone()).bind(lane).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        is_dead
    }))
}

/// Makes the next task of each lane ready in which all are blocked, such as after tasks were deleted. Returns how many.
///
/// # Errors
/// The database fails.
pub async fn unblock_lanes(db: &Db) -> Result<u64> {
    // The next lanes behind one, each with the state of its first task. A long lane costs one batch at most.
    const LANES: &str = "SELECT l.plugin AS plugin, l.lane AS lane, \
            (SELECT a.state FROM tasks a WHERE a.plugin = l.plugin AND a.lane = l.lane \
            AND a.state IN ('ready', 'blocked', 'running') ORDER BY a.seq LIMIT 1) AS head \
        FROM (SELECT DISTINCT piece.plugin, piece.lane FROM (SELECT plugin, lane FROM tasks \
            WHERE state = 'blocked' AND (plugin, lane) > ($1, $2) ORDER BY plugin, lane LIMIT $3) AS piece) AS l \
        ORDER BY l.plugin, l.lane";
    let mut unblocked = 0;
    let (mut plugin, mut lane) = (String::new(), String::new());
    loop {
        let lanes = on!(db, pool => {
            let lanes = sqlx::query_as::<_, Lane>(LANES).bind(plugin.as_str()).bind(lane.as_str()).bind(BATCH);
            lanes.fetch_all(pool).await
        })?;
        let Some(last) = lanes.last() else { return Ok(unblocked) };
        (plugin, lane) = (last.plugin.to_string(), last.lane.clone());
        for stuck in lanes.iter().filter(|lane| lane.head.as_deref() == Some("blocked")) {
            unblocked += unblock(db, stuck).await?;
        }
    }
}

/// Makes the first task of a lane ready if all are blocked. An operator can have put a task in front of one that runs.
async fn unblock(db: &Db, Lane { plugin, lane, .. }: &Lane) -> Result<u64> {
    Ok(on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        tx.take_lock(lane_lock(lane)).await?;
        let unblock = sqlx::query(UNBLOCK).bind(plugin.clone()).bind(lane.as_str());
        let changed = unblock.execute(&mut *tx).await?.rows_affected();
        if changed > 0 {
            tx.stores_messages();
        }
        tx.commit().await?;
        changed
    }))
}

/// Deletes ended jobs that are not kept any more, and events that are older than `events_for` and that no task needs.
/// Returns how many of both.
///
/// # Errors
/// The database fails.
pub async fn prune(db: &Db, now: Timestamp, events_for: Duration) -> Result<(u64, usize)> {
    const TASKS: &str = "DELETE FROM tasks WHERE seq IN \
        (SELECT seq FROM tasks WHERE keep_until IS NOT NULL AND keep_until <= $1 ORDER BY keep_until LIMIT $2)";
    // The end of the next piece of the index of ages. The events that a task needs stay, and are not looked at again.
    const PIECE: &str = "SELECT MAX(piece.published_at) AS piece_end FROM (SELECT published_at FROM events \
        WHERE published_at > $1 AND published_at <= $2 ORDER BY published_at LIMIT $3) AS piece";
    const EVENTS: &str = "DELETE FROM events WHERE published_at > $1 AND published_at <= $2 \
        AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.event_seq = events.seq) RETURNING seq";
    // A client that resumes its stream before the horizon may have missed an event.
    const HORIZON: &str = "UPDATE event_horizon SET seq = $1 WHERE seq < $1";
    let mut tasks = 0;
    loop {
        let deleted = on!(db, pool => {
            sqlx::query(TASKS).bind(now).bind(BATCH).execute(pool).await.map(|done| done.rows_affected())
        })?;
        tasks += deleted;
        if deleted == 0 {
            break;
        }
    }
    let (mut after, until, mut events) = (Timestamp(i64::MIN), now.minus(events_for), 0);
    loop {
        let piece: Option<Timestamp> = on!(db, pool => {
            sqlx::query_scalar(PIECE).bind(after).bind(until).bind(BATCH).fetch_one(pool).await
        })?;
        let Some(piece) = piece else { break };
        on!(db, pool, begin => {
            let mut tx = pool.begin_with(begin).await?;
            let deleted: Vec<i64> = sqlx::query_scalar(EVENTS).bind(after).bind(piece).fetch_all(&mut *tx).await?;
            if let Some(newest) = deleted.iter().max() {
                sqlx::query(HORIZON).bind(*newest).execute(&mut *tx).await?;
            }
            tx.commit().await?;
            events += deleted.len();
        });
        after = piece;
    }
    Ok((tasks, events))
}

/// Deletes the oldest ended tasks of each plugin beyond `most` of a state. Returns the plugins that lost dead letters, and how
/// many.
///
/// # Errors
/// The database fails.
pub async fn trim(db: &Db, most: i64) -> Result<Vec<(PluginName, u64)>> {
    // One look into the index for each plugin.
    const PLUGINS: &str = "WITH RECURSIVE found (plugin) AS ( \
            SELECT MIN(plugin) FROM tasks \
            UNION ALL \
            SELECT (SELECT MIN(t.plugin) FROM tasks t WHERE t.plugin > found.plugin) \
            FROM found WHERE found.plugin IS NOT NULL) \
        SELECT found.plugin AS plugin FROM found WHERE found.plugin IS NOT NULL";
    let plugins: Vec<PluginName> = on!(db, pool => sqlx::query_scalar(PLUGINS).fetch_all(pool).await)?;
    let mut dead = Vec::new();
    for plugin in plugins {
        for state in ["done", "cancelled"] {
            trim_state(db, &plugin, state, most).await?;
        }
        let deleted = trim_state(db, &plugin, "dead", most).await?;
        if deleted > 0 {
            dead.push((plugin, deleted));
        }
    }
    Ok(dead)
}

async fn trim_state(db: &Db, plugin: &PluginName, state: &'static str, most: i64) -> Result<u64> {
    const NEWEST: &str = "SELECT seq FROM tasks WHERE plugin = $1 AND state = $2 ORDER BY seq DESC LIMIT 1 OFFSET $3";
    // The state is compared again with the row itself, which an operator may retry at this moment.
    const DELETE: &str = "DELETE FROM tasks WHERE state = $2 AND seq IN (SELECT seq FROM tasks \
        WHERE plugin = $1 AND state = $2 AND seq <= $3 ORDER BY seq LIMIT $4)";
    let newest: Option<i64> = on!(db, pool => {
        sqlx::query_scalar(NEWEST).bind(plugin.clone()).bind(state).bind(most).fetch_optional(pool).await
    })?;
    let Some(newest) = newest else { return Ok(0) };
    let mut all = 0;
    loop {
        let deleted = on!(db, pool => {
            let delete = sqlx::query(DELETE).bind(plugin.clone()).bind(state).bind(newest).bind(BATCH);
            delete.execute(pool).await.map(|done| done.rows_affected())
        })?;
        all += deleted;
        if deleted == 0 {
            return Ok(all);
        }
    }
}

/// Deletes all tasks of a plugin that was removed, and whose data is deleted.
///
/// # Errors
/// The database fails.
pub async fn delete_of_plugin(db: &Db, plugin: &PluginName) -> Result<()> {
    const TASKS: &str =
        "DELETE FROM tasks WHERE seq IN (SELECT seq FROM tasks WHERE plugin = $1 ORDER BY state, seq LIMIT $2)";
    on!(db, pool, begin => {
        // A transaction that stores an event now may have found the plugin live. Its deliveries come before the deletion.
        let mut tx = pool.begin_with(begin).await?;
        tx.take_lock(EVENT_LOCK).await?;
        tx.commit().await?;
    });
    loop {
        let deleted = on!(db, pool => {
            let delete = sqlx::query(TASKS).bind(plugin.clone()).bind(BATCH);
            delete.execute(pool).await.map(|done| done.rows_affected())
        })?;
        if deleted == 0 {
            return Ok(());
        }
    }
}
