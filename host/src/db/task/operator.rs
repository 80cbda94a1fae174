//! Tasks as operators see them: lists, one task with its payload, and counts. Owns the SQL of these; `change` has that of
//! the operators' changes.
//!
//! States are written into the SQL and not bound: SQLite uses the index of dead tasks only for that very condition.

pub mod change;

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::FromRow as _;

use crate::clock::Timestamp;
use crate::db::row::row;
use crate::db::{Db, on};
use crate::error::{Error, Result, code};
use crate::id::{EventId, JobId, PluginName};

/// The columns of [`Task`], as a literal for `concat!`.
macro_rules! columns {
    () => {
        "t.seq, t.plugin, t.kind, t.name, t.queue, t.state, t.id AS job_id, e.id AS event_id, \
         e.ordering_key AS event_key, t.attempts, t.interruptions, t.due_at, t.reason, t.progress_done, \
         t.progress_total, t.schedule, t.scheduled_at, t.depth, t.request_id, t.created_at, t.ended_at"
    };
}

row! {
    /// A task without its payload.
    #[derive(Debug, Clone, Serialize, JsonSchema)]
    pub struct Task {
        /// The number, in the order in which tasks were added.
        pub seq: i64,
        /// The plugin that runs it.
        pub plugin: PluginName,
        /// `delivery` or `job`.
        pub kind: String,
        /// The topic or the job.
        pub name: String,
        /// `PLUGIN/NAME/PRIORITY`. The priority is 0 (low), 1 (normal) or 2 (high).
        pub queue: String,
        /// `ready`, `blocked` (an earlier delivery with its key has not ended), `running`, `done`, `dead` or `cancelled`.
        pub state: String,
        /// The id of a job.
        pub job_id: Option<JobId>,
        /// The id of the event of a delivery.
        pub event_id: Option<EventId>,
        /// The ordering key of the event.
        pub event_key: Option<String>,
        /// The number of attempts.
        pub attempts: i64,
        /// The number of attempts that ended with their processes, which do not count as attempts.
        pub interruptions: i64,
        /// The earliest start of a ready task, or the end of the lease of a running one.
        pub due_at: Timestamp,
        /// The reason of the latest failure.
        pub reason: Option<String>,
        /// How much of a job is done, as it reported it.
        pub progress_done: Option<i64>,
        /// How much there is to do.
        pub progress_total: Option<i64>,
        /// The schedule that caused the job.
        pub schedule: Option<String>,
        /// The time of the schedule.
        pub scheduled_at: Option<Timestamp>,
        /// How many events and jobs caused each other before it.
        pub depth: i64,
        /// The request that caused it.
        pub request_id: Option<String>,
        /// When it was added.
        pub created_at: Timestamp,
        /// When it ended.
        pub ended_at: Option<Timestamp>,
    }
}

row! {
    /// The rest of a task.
    #[derive(Debug, Clone)]
    pub struct Content {
        /// The payload, as JSON text.
        pub payload: Option<String>,
        /// The output of a job that succeeded.
        pub output: Option<String>,
        /// The process that runs it, as `NODE/RUN`.
        pub owner: Option<String>,
        /// The plugin that published the event; `None`: the host.
        pub source: Option<String>,
    }
}

/// The tasks that a list or a change is about. `None` accepts every task.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The plugin that runs them.
    pub plugin: Option<PluginName>,
    /// `delivery` or `job`.
    pub kind: Option<&'static str>,
    /// The topic or the job.
    pub name: Option<String>,
    /// One job.
    pub job: Option<JobId>,
}

/// Adds the conditions of a filter to a query on `tasks t`.
macro_rules! push_filter {
    ($query:expr, $filter:expr) => {{
        let filter: &Filter = $filter;
        if let Some(plugin) = &filter.plugin {
            $query.push(" AND t.plugin = ").push_bind(plugin.clone());
        }
        if let Some(kind) = filter.kind {
            $query.push(" AND t.kind = ").push_bind(kind);
        }
        if let Some(name) = &filter.name {
            $query.push(" AND t.name = ").push_bind(name.clone());
        }
        if let Some(job) = filter.job {
            $query.push(" AND t.id = ").push_bind(job);
        }
    }};
}
use push_filter;

/// A page of a list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The number of the task to continue behind.
    pub after: Option<i64>,
    /// Whether the oldest tasks come first.
    pub oldest_first: bool,
    /// The most tasks.
    pub limit: i64,
}

/// Returns a page of the tasks that fit `filter` and have the state.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db, filter: &Filter, state: Option<&'static str>, page: Page) -> Result<Vec<Task>> {
    // The inner query reads an index, so that only the tasks of the page are read.
    const SELECT: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM tasks t LEFT JOIN events e ON e.seq = t.event_seq \
         WHERE t.seq IN (SELECT t.seq FROM tasks t WHERE 1 = 1"
    );
    let order = if page.oldest_first { " ORDER BY t.seq" } else { " ORDER BY t.seq DESC" };
    on!(db, pool => {
        let mut query = sqlx::QueryBuilder::new(SELECT);
        push_filter!(query, filter);
        if let Some(state) = state {
            query.push(" AND t.state = '").push(state).push("'");
        }
        if let Some(after) = page.after {
            query.push(if page.oldest_first { " AND t.seq > " } else { " AND t.seq < " }).push_bind(after);
        }
        query.push(order).push(" LIMIT ").push_bind(page.limit).push(")").push(order);
        Ok(query.build_query_as::<Task>().fetch_all(pool).await?)
    })
}

/// Returns a task with its payload.
///
/// # Errors
/// 404 `task_not_found`.
pub async fn find(db: &Db, seq: i64) -> Result<(Task, Content)> {
    const SQL: &str = concat!(
        "SELECT ",
        columns!(),
        ", COALESCE(t.payload, e.payload) AS payload, t.output, t.owner, e.source \
         FROM tasks t LEFT JOIN events e ON e.seq = t.event_seq WHERE t.seq = $1"
    );
    let found = on!(db, pool => {
        let row = sqlx::query(SQL).bind(seq).fetch_optional(pool).await?;
        row.map(|row| Ok::<_, sqlx::Error>((Task::from_row(&row)?, Content::from_row(&row)?))).transpose()?
    });
    found.ok_or_else(|| task_not_found(seq))
}

fn task_not_found(seq: i64) -> Error {
    Error::not_found(code::TASK_NOT_FOUND, format!("There is no task {seq}, or it was deleted after it had ended"))
}

/// The tasks of one queue that have not ended well.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Queue {
    /// `PLUGIN/NAME/PRIORITY`. The priority is 0 (low), 1 (normal) or 2 (high).
    pub queue: String,
    /// The plugin that runs them.
    pub plugin: PluginName,
    /// `delivery` or `job`.
    pub kind: String,
    /// Those that may start, now or at the time for which they were enqueued or postponed.
    pub ready: i64,
    /// Deliveries that wait for an earlier one with their key.
    pub blocked: i64,
    /// Those that run.
    pub running: i64,
    /// The dead letters.
    pub dead: i64,
    /// The time since which the oldest of those that have not ended could have run. A failure or a pause of the plugin does
    /// not change it.
    pub oldest_due_at: Option<Timestamp>,
}

impl Queue {
    /// Returns how long the oldest task has been due; `None` if none is.
    pub fn oldest(&self, now: Timestamp) -> Option<Duration> {
        self.oldest_due_at.filter(|due| *due <= now).map(|due| now.since(due))
    }
}

row! {
    struct Count {
        queue: String,
        plugin: PluginName,
        kind: String,
        state: String,
        tasks: i64,
        oldest_due_at: Timestamp,
    }
}

const COUNTS: &str = "SELECT t.queue, t.plugin, t.kind, t.state, COUNT(*) AS tasks, MIN(t.first_due_at) AS oldest_due_at \
    FROM tasks t WHERE t.state IN ('ready', 'blocked', 'running', 'dead') GROUP BY t.queue, t.plugin, t.kind, t.state";

/// Returns the queues that have tasks, in the order of their names. Reads one index, once.
///
/// # Errors
/// The database fails.
pub async fn queues(db: &Db) -> Result<Vec<Queue>> {
    let counts = on!(db, pool => sqlx::query_as::<_, Count>(COUNTS).fetch_all(pool).await)?;
    let mut queues = BTreeMap::<String, Queue>::new();
    for Count { queue: name, plugin, kind, state, tasks, oldest_due_at } in counts {
        let queue = queues.entry(name).or_insert_with_key(|name| Queue {
            queue: name.clone(),
            plugin,
            kind,
            ready: 0,
            blocked: 0,
            running: 0,
            dead: 0,
            oldest_due_at: None,
        });
        let count = match state.as_str() {
            "ready" => &mut queue.ready,
            "blocked" => &mut queue.blocked,
            "running" => &mut queue.running,
            _ => &mut queue.dead,
        };
        *count = tasks;
        if state != "dead" {
            queue.oldest_due_at = Some(queue.oldest_due_at.map_or(oldest_due_at, |oldest| oldest.min(oldest_due_at)));
        }
    }
    Ok(queues.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_and_counts_read_indexes() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        let page = |state: &str, order: &str| {
            format!("SELECT t.seq FROM tasks t WHERE 1 = 1 AND {state} ORDER BY t.seq {order} LIMIT 50")
        };
        for (sql, index) in [
            (COUNTS.to_owned(), "COVERING INDEX tasks_states"),
            (page("t.state = 'dead'", "DESC"), "INDEX tasks_dead"),
            (page("t.plugin = 'a' AND t.state = 'dead'", ""), "INDEX tasks_states (plugin=? AND state=?)"),
            (page("t.plugin = 'a'", "DESC"), "COVERING INDEX tasks_states (plugin=?)"),
            (page("t.id = x'00'", "DESC"), "INDEX sqlite_autoindex_tasks_1 (id=?)"),
        ] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(pool).await.unwrap();
            assert!(plan.iter().any(|step| step.3.contains(index)), "{sql}: {plan:?}");
        }
    }

    #[test]
    fn a_task_is_overdue_since_it_could_first_have_run() {
        let queue = |due: Option<i64>| Queue {
            queue: "items/reindex/1".to_owned(),
            plugin: "items".parse().unwrap(),
            kind: "job".to_owned(),
            ready: 1,
            blocked: 0,
            running: 0,
            dead: 0,
            oldest_due_at: due.map(Timestamp),
        };
        let age = |due| queue(due).oldest(Timestamp(5_000_000));
        assert_eq!([age(Some(2_000_000)), age(Some(9_000_000)), age(None)], [Some(Duration::from_secs(3)), None, None]);
    }
}
