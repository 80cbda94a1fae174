//! Changes of tasks by operators: of one task, or of all that fit a filter. Owns the SQL of these.
//!
//! Running tasks belong to their processes, so only a job is stopped while it runs: its process learns of it when it renews
//! the lease. Changes keep the order of lanes. A retried delivery gets its old place back: later ones of its lane wait for
//! it, and it waits for earlier ones, and for a later one that already runs. A change of many tasks is made in batches.
//! Each batch is a transaction with its audit entry. No task is changed twice, even if a retried one dies meanwhile.
//!
//! The statements on lanes repeat the condition of the index of lanes: SQLite uses it for nothing else.

use std::collections::{BTreeSet, HashSet};

use serde_json::json;

use super::{Filter, push_filter, task_not_found};
use crate::clock::Timestamp;
use crate::db::audit::{Entry, append};
use crate::db::intake::{EVENT_LOCK, KEEP_CANCELLED, lane_lock};
use crate::db::row::row;
use crate::db::task::UNBLOCK;
use crate::db::{Db, is_duplicate, on};
use crate::error::{Error, Result, code};
use crate::id::PluginName;
use crate::initiator::Initiator;

/// Blocks the tasks of a lane that do not run.
const BLOCK: &str = "UPDATE tasks SET state = 'blocked' WHERE plugin = $1 AND lane = $2 \
    AND state IN ('ready', 'blocked', 'running') AND state NOT IN ('blocked', 'running')";

/// The most tasks that one transaction changes.
const BATCH: i64 = 200;

/// How often a batch is tried if jobs with the deduplication keys of its jobs are added meanwhile.
const ATTEMPTS: u8 = 3;

/// A change by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A dead task waits again, with all its attempts. The reason of its latest failure stays.
    Retry,
    /// A task that is dead or waits is deleted.
    Drop,
    /// A job that waits or runs is stopped. Its status stays for a while.
    Cancel,
}

impl Change {
    /// Returns the action of the audit entry.
    fn action(self) -> &'static str {
        match self {
            Self::Retry => "task.retry",
            Self::Drop => "task.drop",
            Self::Cancel => "task.cancel",
        }
    }

    /// Returns the verb of the command.
    fn verb(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
            Self::Cancel => "cancel",
        }
    }

    /// Returns the states in which a task can be changed so.
    fn states(self) -> &'static [&'static str] {
        match self {
            Self::Retry => &["dead"],
            Self::Drop => &["dead", "ready", "blocked"],
            Self::Cancel => &["ready", "running"],
        }
    }

    /// Returns whether the oldest tasks of many come first. Retried ones must not overtake each other. With dropped ones it
    /// is the other way round: each lets a later one start, which is not to be dropped too.
    fn is_forward(self) -> bool {
        self == Self::Retry
    }

    /// Returns the rule about these states, for people.
    fn rule(self) -> &'static str {
        match self {
            Self::Retry => "only dead tasks are retried",
            Self::Drop => "only dead, ready and blocked tasks are dropped",
            Self::Cancel => "only ready and running jobs are cancelled",
        }
    }
}

row! {
    /// A task that may be changed.
    #[derive(Debug)]
    struct Candidate {
        seq: i64,
        plugin: PluginName,
        kind: String,
        name: String,
        state: String,
        lane: Option<String>,
        dedup_key: Option<String>,
    }
}

impl Candidate {
    /// Returns the task for a sentence that begins with it.
    fn title(&self) -> String {
        let Self { seq, plugin, name, .. } = self;
        if self.kind == "job" {
            format!("Job {name} of {plugin} ({seq})")
        } else {
            format!("Delivery of {name} to {plugin} ({seq})")
        }
    }

    /// Returns a command for this task.
    fn command(&self, verb: &str) -> String {
        let group = if self.kind == "job" { "jobs" } else { "events" };
        format!("`wharf {group} {verb} {}`", self.seq)
    }

    /// Returns a command that its state allows, with its effect.
    fn next_step(&self) -> String {
        let (verb, effect) = match (self.kind.as_str(), self.state.as_str()) {
            (_, "ready" | "blocked" | "dead") => ("drop", "deletes it"),
            ("job", "running") => ("cancel", "stops it"),
            _ => ("show", "shows it"),
        };
        format!("{} {effect}", self.command(verb))
    }
}

/// Changes one task. If a kind is given, a task of the other kind is not changed. Returns the task for a sentence that begins
/// with it.
///
/// # Errors
/// 404 `task_not_found`; 409 `task_state`: it is of the other kind, its state does not allow the change, or a job with its
/// deduplication key waits or runs.
pub async fn change_one(
    db: &Db,
    change: Change,
    (seq, kind): (i64, Option<&'static str>),
    by: &Initiator,
    at: Timestamp,
) -> Result<String> {
    const SQL: &str = "SELECT seq, plugin, kind, name, state, lane, dedup_key FROM tasks WHERE seq = $1";
    let found = on!(db, pool => sqlx::query_as::<_, Candidate>(SQL).bind(seq).fetch_optional(pool).await)?;
    let task = found.ok_or_else(|| task_not_found(seq))?;
    if kind.is_some_and(|kind| kind != task.kind) {
        let text = format!("Task {seq} is a {}: use {}", task.kind, task.command(change.verb()));
        return Err(Error::conflict(code::TASK_STATE, text));
    }
    let is_of_kind = change != Change::Cancel || task.kind == "job";
    if !is_of_kind || !change.states().contains(&task.state.as_str()) {
        let Candidate { kind, state, .. } = &task;
        let (rule, next) = (change.rule(), task.next_step());
        let text = format!("Task {seq} is a {kind} with the state '{state}'; {rule}. {next}");
        return Err(Error::conflict(code::TASK_STATE, text));
    }
    let detail = json!({ "plugin": task.plugin, "kind": task.kind, "name": task.name, "state": task.state });
    let entry = |_: u64| Entry::of(by, at, change.action(), format!("task:{seq}")).with_detail(detail.clone());
    let has_key = task.dedup_key.is_some();
    let (title, drop, show) = (task.title(), task.command("drop"), task.command("show"));
    match apply(db, change, change.states(), &[task], at, entry).await? {
        Some(1..) => Ok(title),
        _ if change == Change::Retry && has_key => {
            let text = format!(
                "A job with the deduplication key of task {seq} waits or runs already. {drop} deletes this one"
            );
            Err(Error::conflict(code::TASK_STATE, text))
        }
        _ => Err(Error::conflict(code::TASK_STATE, format!("Task {seq} has changed meanwhile. {show} shows it"))),
    }
}

/// Changes all tasks that fit `filter` and have the state. Returns how many were changed. A job stays dead if one with its
/// deduplication key waits or runs.
///
/// # Errors
/// The database fails. Batches that were completed stay so.
pub async fn change_all(
    db: &Db,
    change: Change,
    filter: &Filter,
    state: &'static str,
    by: &Initiator,
    at: Timestamp,
) -> Result<u64> {
    const LAST: &str = "SELECT MAX(seq) FROM tasks";
    let last = on!(db, pool => sqlx::query_scalar::<_, Option<i64>>(LAST).fetch_one(pool).await)?;
    let Some(last) = last else { return Ok(0) };
    let plugins = match &filter.plugin {
        Some(plugin) => vec![plugin.clone()],
        None => plugins(db, state).await?,
    };
    let entry = |tasks: u64| {
        let detail = json!({
            "plugin": filter.plugin, "kind": filter.kind, "name": filter.name, "state": state, "tasks": tasks,
        });
        Entry::of(by, at, change.action(), "tasks").with_detail(detail)
    };
    let mut changed = 0_u64;
    for plugin in plugins {
        let filter = Filter { plugin: Some(plugin), ..filter.clone() };
        let (mut low, mut high) = (0, last.saturating_add(1));
        loop {
            let mut batch = candidates(db, &filter, state, (low, high), change.is_forward()).await?;
            let Some(end) = batch.last() else { break };
            if change.is_forward() {
                low = end.seq;
                keep_one_of_each_key(&mut batch);
            } else {
                high = end.seq;
            }
            for _ in 0..ATTEMPTS {
                if let Some(some) = apply(db, change, &[state], &batch, at, entry).await? {
                    changed = changed.saturating_add(some);
                    break;
                }
            }
        }
    }
    Ok(changed)
}

/// Returns the plugins that have a task with this state.
async fn plugins(db: &Db, state: &'static str) -> Result<Vec<PluginName>> {
    on!(db, pool => {
        let mut query = sqlx::QueryBuilder::new("SELECT DISTINCT t.plugin FROM tasks t WHERE t.state = '");
        query.push(state).push("' ORDER BY t.plugin");
        Ok(query.build_query_scalar::<PluginName>().fetch_all(pool).await?)
    })
}

/// Returns the next tasks of a plugin between two numbers that may be changed.
async fn candidates(
    db: &Db,
    filter: &Filter,
    state: &'static str,
    (low, high): (i64, i64),
    is_forward: bool,
) -> Result<Vec<Candidate>> {
    const SELECT: &str =
        "SELECT t.seq, t.plugin, t.kind, t.name, t.state, t.lane, t.dedup_key FROM tasks t WHERE t.state = '";
    on!(db, pool => {
        let mut query = sqlx::QueryBuilder::new(SELECT);
        query.push(state).push("' AND t.seq > ").push_bind(low).push(" AND t.seq < ").push_bind(high);
        push_filter!(query, filter);
        query.push(match is_forward {
            true => " ORDER BY t.seq LIMIT ",
            false => " ORDER BY t.seq DESC LIMIT ",
        });
        query.push_bind(BATCH);
        Ok(query.build_query_as::<Candidate>().fetch_all(pool).await?)
    })
}

/// Keeps the first of the jobs with one deduplication key. Another one would have been dropped when it was enqueued.
fn keep_one_of_each_key(tasks: &mut Vec<Candidate>) {
    let mut seen = HashSet::new();
    tasks.retain(|task| match &task.dedup_key {
        Some(key) => seen.insert((task.plugin.clone(), task.name.clone(), key.clone())),
        None => true,
    });
}

/// Changes those of the tasks that still have one of the states, and appends the audit entry if there are any. Returns
/// their number, or `None` if a job with the deduplication key of one of them was added at this moment.
async fn apply(
    db: &Db,
    change: Change,
    states: &[&'static str],
    tasks: &[Candidate],
    at: Timestamp,
    entry: impl Fn(u64) -> Entry,
) -> Result<Option<u64>> {
    let lanes: BTreeSet<(&PluginName, &str)> =
        tasks.iter().filter_map(|task| Some((&task.plugin, task.lane.as_deref()?))).collect();
    let locks: BTreeSet<i64> = lanes.iter().map(|(_, lane)| lane_lock(lane)).collect();
    // The intake takes the locks of several lanes and the rows of jobs too, in another order, and under this lock.
    let of_several = (!locks.is_empty() && tasks.len() > 1).then_some(EVENT_LOCK);
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        for number in of_several.iter().chain(&locks) {
            tx.take_lock(*number).await?;
        }
        let mut query = sqlx::QueryBuilder::new("");
        match change {
            Change::Retry => {
                // Blocked until the lane says which one is next.
                query.push(
                    "UPDATE tasks SET state = CASE WHEN lane IS NULL THEN 'ready' ELSE 'blocked' END, attempts = 0, \
                     interruptions = 0, ended_at = NULL, due_at = ",
                );
                query.push_bind(at).push(", first_due_at = ").push_bind(at);
                query.push(
                    " WHERE (dedup_key IS NULL OR NOT EXISTS (SELECT 1 FROM tasks o WHERE o.plugin = tasks.plugin \
                     AND o.name = tasks.name AND o.dedup_key = tasks.dedup_key \
                     AND o.state IN ('ready', 'blocked', 'running')))",
                );
            }
            Change::Drop => {
                query.push("DELETE FROM tasks WHERE 1 = 1");
            }
            Change::Cancel => {
                query.push("UPDATE tasks SET state = 'cancelled', owner = NULL, ended_at = ").push_bind(at);
                query.push(", keep_until = ").push_bind(at.plus(KEEP_CANCELLED)).push(" WHERE kind = 'job'");
            }
        }
        query.push(" AND state IN ('").push(states.join("', '")).push("') AND seq IN (");
        let mut list = query.separated(", ");
        for task in tasks {
            list.push_bind(task.seq);
        }
        query.push(")");
        let changed = match query.build().execute(&mut *tx).await {
            Ok(done) => done.rows_affected(),
            Err(error) if is_duplicate(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if changed > 0 {
            tx.stores_messages();
            for (plugin, lane) in &lanes {
                if change == Change::Retry {
                    sqlx::query(BLOCK).bind((*plugin).clone()).bind(*lane).execute(&mut *tx).await?;
                }
                sqlx::query(UNBLOCK).bind((*plugin).clone()).bind(*lane).execute(&mut *tx).await?;
            }
            append!(&entry(changed)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(Some(changed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_statements_on_lanes_read_the_index_of_lanes() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        for sql in [BLOCK, UNBLOCK] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(explain).bind("items").bind("items/1").fetch_all(pool).await.unwrap();
            let reads = plan.iter().filter(|step| step.3.starts_with("SEARCH") || step.3.starts_with("SCAN"));
            let is_narrow =
                |step: &str| step.contains("tasks_lanes (plugin=? AND lane=?)") || step.contains("PRIMARY KEY");
            assert!(reads.map(|step| step.3.as_str()).all(is_narrow), "{plan:?}");
        }
    }
}
