//! The statements on tasks and events find what they need by indexes, however many tasks there are. The test runs what a
//! host runs, on tables with many rows, and asks the database for the plan of each statement that it saw.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;
use wharf::clock::Timestamp;
use wharf::db::task::{self, TaskEnd, operator, status};
use wharf::db::{Db, event_stream};
use wharf::id::JobId;
use wharf::message::Message;

use super::tasks::{DELIVERIES, JOBS, OWNER, add_plugin, event, job, open, plugin, store};
use crate::support::{postgres, secret_watch, statement_log};

/// The tables of a busy host: 10 000 events with a delivery each, half of them in 250 lanes, and 50 000 jobs of 50 plugins,
/// most of which have ended. The head of one lane is missing. `id` is the expression of an id with the digit `{}`.
fn rows(id: &str, payload: &str) -> String {
    let [of_event, of_job] = ["1", "2"].map(|digit| id.replace("{}", digit));
    let [events, jobs] = [10_000, 50_000]
        .map(|count| format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"));
    format!(
        "INSERT INTO events (id, topic, source, ordering_key, payload, depth, published_at) {events} \
            SELECT {of_event}, 'items.created', 'items', 'key', '{{}}', 0, i FROM n; \
        INSERT INTO tasks (plugin, kind, queue, name, event_seq, lane, state, due_at, first_due_at, depth, created_at) \
            {events} SELECT 'mailer', 'delivery', '{DELIVERIES}', 'items.created', i, \
            CASE WHEN i % 2 = 0 THEN 'items/' || (i % 500) END, \
            CASE WHEN i % 2 = 1 OR i <= 500 THEN 'ready' ELSE 'blocked' END, i, i, 0, i FROM n; \
        INSERT INTO tasks (id, plugin, kind, queue, name, payload, state, interruptions, due_at, first_due_at, owner, \
            depth, created_at, keep_until) \
            {jobs} SELECT {of_job}, 'p' || (i % 50), 'job', 'p' || (i % 50) || '/send/1', 'send', {payload}, \
            CASE WHEN i > 10000 THEN 'done' WHEN i % 100 = 50 THEN 'running' WHEN i % 20 = 1 THEN 'dead' \
            WHEN i % 20 < 8 THEN 'ready' ELSE 'done' END, i % 11, i, i, \
            CASE WHEN i % 100 = 50 AND i <= 10000 THEN '{OWNER}' END, \
            0, i, CASE WHEN i > 10000 OR i % 100 <> 50 AND i % 20 >= 8 THEN i END FROM n; \
        DELETE FROM tasks WHERE lane = 'items/6' AND state = 'ready'"
    )
}

/// The statements that a connection knows, with the numbers of their parameters.
const PREPARED: &str = "SELECT name, statement, COALESCE(cardinality(parameter_types), 0) FROM pg_prepared_statements";

/// Does everything that a host does with tasks and events, except for the requests of operators.
async fn work(db: &Db) {
    let mailer = plugin("mailer");
    let (now, lease) = (Timestamp(20_000), Timestamp(20_060));
    store(db, "items", &[event(15_001, Some("key")), event(15_002, None)]).await;
    let cancel = Message::Cancel { job: JobId(Uuid::from_u128(2)), at: Timestamp(5) };
    store(db, "mailer", &[job(1, None), job(2, Some("key")), cancel]).await;

    task::ready_queues(db).await.unwrap();
    let deliveries = task::claim(db, DELIVERIES, OWNER, (now, lease), 6).await.unwrap();
    let ends = [
        TaskEnd::Retry { reason: "no".to_owned(), due_at: lease },
        TaskEnd::Delivered,
        TaskEnd::Postponed { due_at: lease },
        TaskEnd::Dead { reason: "no".to_owned() },
    ];
    task::event(db, deliveries[0].event_seq.unwrap()).await.unwrap();
    for (delivery, end) in deliveries.iter().zip(ends) {
        assert!(task::end(db, delivery, &end, now).await.unwrap());
    }
    assert!(deliveries[1].lane.is_some() && deliveries[3].lane.is_some(), "their ends have to free their lanes");
    let jobs = task::claim(db, JOBS, OWNER, (now, lease), 1).await.unwrap();
    status::report_progress(db, jobs[0].claim(), (1, 2)).await.unwrap();
    status::find(db, &mailer, jobs[0].id.unwrap(), now).await.unwrap();
    let success = TaskEnd::Succeeded { output: None, keep_until: now };
    assert!(task::end(db, &jobs[0], &success, now).await.unwrap());

    task::owned(db, OWNER).await.unwrap();
    task::end_lease(db, deliveries[4].claim(), now).await.unwrap();
    let recovered = task::recover(db, now, Some("node")).await.unwrap();
    assert!(recovered.given_back > 0 && !recovered.dead.is_empty(), "{recovered:?}");
    task::renew(db, OWNER, lease).await.unwrap();
    task::give_back(db, OWNER, now).await.unwrap();
    assert_eq!(task::unblock_lanes(db).await.unwrap(), 1);
    let (tasks, events) = task::prune(db, now, Duration::ZERO).await.unwrap();
    assert!(tasks > 1_000 && events > 0, "{tasks} {events}");
    task::delete_of_plugin(db, &plugin("p7")).await.unwrap();
    operator::queues(db).await.unwrap();

    event_stream::kept(db).await.unwrap();
    event_stream::after(db, 100, 10).await.unwrap();
    event_stream::of_topics(db, &["items.created".parse().unwrap()], (100, 200), 10).await.unwrap();
}

/// Returns whether a statement is one of those whose plans matter.
fn is_relevant(sql: &str) -> bool {
    ["tasks", "events"].iter().any(|table| sql.contains(table))
}

#[tokio::test]
async fn statements_on_tasks_use_indexes_on_sqlite() {
    secret_watch::watch_log();
    let (dir, db) = open(None).await;
    add_plugin(&db, "mailer").await;
    db.close().await;
    let file = dir.path().join("wharf.sqlite");
    let mut observer = sqlx::SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    let rows = rows("printf('00000000-0000-4000-800{}-%012d', i)", "printf('%.1000c', 'x')");
    sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut observer).await.unwrap();

    let watched = |number: u64| format!("{}-{number}", statement_log::THREAD);
    let options = SqliteConnectOptions::new().filename(&file).thread_name(watched);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let db = Db::Sqlite(pool.into());
    work(&db).await;
    db.close().await;

    let statements: BTreeSet<String> = statement_log::statements().into_iter().filter(|sql| is_relevant(sql)).collect();
    assert!(statements.len() > 30, "{statements:#?}");
    for sql in statements {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&mut observer).await.unwrap();
        for (.., step) in &plan {
            let mut words = step.split(' ');
            let scanned = (words.next() == Some("SCAN")).then(|| words.next()).flatten();
            if !scanned.is_some_and(|name| ["tasks", "events", "t", "a", "b", "s"].contains(&name)) {
                continue;
            }
            // The tasks that run now are an index of their own, and are few. Counts read the index of all states.
            let is_count = sql.contains("GROUP BY") && step.contains("COVERING INDEX tasks_states");
            assert!(step.contains("INDEX tasks_leases") || is_count, "{sql}: {plan:#?}");
        }
    }
}

#[tokio::test]
async fn statements_on_tasks_use_indexes_on_postgres() {
    let Some(database) = postgres::database().await else { return };
    let (_dir, db) = open(Some(&database)).await;
    add_plugin(&db, "mailer").await;
    db.close().await;
    let mut superuser = postgres::connect(&database).await;
    sqlx::raw_sql("SET search_path = wharf").execute(&mut superuser).await.unwrap();
    let id = "('00000000-0000-4000-800{}-' || lpad(CAST(i AS TEXT), 12, '0'))::uuid";
    sqlx::raw_sql(AssertSqlSafe(rows(id, "repeat('x', 1000)"))).execute(&mut superuser).await.unwrap();
    // Statistics that autovacuum collects half-way would change the plans.
    for table in ["tasks", "events"] {
        let keep = AssertSqlSafe(format!("ALTER TABLE {table} SET (autovacuum_enabled = false)"));
        sqlx::raw_sql(keep).execute(&mut superuser).await.unwrap();
    }
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut superuser).await.unwrap();

    // One connection, which then knows every statement.
    let options: PgConnectOptions = database.url.parse().unwrap();
    let options = options.options([("search_path", "wharf")]);
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let db = Db::Postgres(pool.into());
    work(&db).await;

    let Db::Postgres(pool) = &db else { unreachable!() };
    let prepared: Vec<(String, String, i32)> = sqlx::query_as(PREPARED).fetch_all(pool).await.unwrap();
    let prepared: Vec<_> = prepared.into_iter().filter(|(_, sql, _)| is_relevant(sql)).collect();
    assert!(prepared.len() > 30, "{prepared:#?}");
    // The plan that PostgreSQL makes for any values.
    sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(pool).await.unwrap();
    for (name, sql, parameters) in prepared {
        let values = vec!["NULL"; usize::try_from(parameters).unwrap()].join(", ");
        let values = if values.is_empty() { values } else { format!("({values})") };
        let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE {name}{values}"));
        let plan = sqlx::raw_sql(explain).fetch_all(pool).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let scans = plan.iter().any(|line| line.contains("Seq Scan on tasks") || line.contains("Seq Scan on events"));
        assert!(!scans, "{sql}: {plan:#?}");
    }
    db.close().await;
}
