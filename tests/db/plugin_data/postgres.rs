//! Features that only PostgreSQL has.

use std::time::Duration;

use wharf::clock::Random;
use wharf::config::Secret;
use wharf::db::Db;
use wharf::db::plugin_data::{DataError, LimitKind, PluginData, Value};

use super::fixture::{Fixture, migration, name, query, scalar, text};
use crate::support::Backend;
use crate::support::polling::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_converted_to_the_type_of_the_column() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let tables = "CREATE TABLE t (i2 smallint, i4 integer, f4 real, f8 double precision, n numeric, b boolean, c char(3), a text[])";
    fixture.data.migrate(&name("t"), &[migration("1", tables)]).await.unwrap();
    let database = fixture.open("t").await;
    let (int, real) = (Value::Integer, Value::Real);
    for (column, value, back) in [
        ("i2", int(-32_768), int(-32_768)),
        ("f4", int(3), real(3.0)),
        ("f8", int(1 << 53), real(9_007_199_254_740_992.0)),
        ("n", int(-70_000), text("-70000")),
        ("n", real(0.1), text("0.1")),
        ("n", real(1e21), text("1000000000000000000000")),
        ("n", text("12345678901234567890.098765432109876500"), text("12345678901234567890.098765432109876500")),
        ("b", int(1), Value::Boolean(true)),
        ("c", text("ab"), text("ab ")),
        ("n", Value::Null, Value::Null),
    ] {
        let insert = format!("INSERT INTO t ({column}) VALUES ($1) RETURNING {column}");
        let rows = query(&database, &insert, std::slice::from_ref(&value)).await.unwrap();
        assert_eq!(rows.values, [[back]], "{column} {value:?}");
    }
    for (column, value) in [
        ("b", int(2)),
        ("c", int(5)),
        ("f4", real(1e300)),
        ("f8", int((1 << 53) + 1)),
        ("i4", real(1.0)),
        ("n", real(f64::INFINITY)),
        ("n", text("1e999999999")),
        ("a", text("{a}")),
    ] {
        let error =
            query(&database, &format!("UPDATE t SET {column} = $1"), std::slice::from_ref(&value)).await.unwrap_err();
        assert!(matches!(&error, DataError::Invalid(text) if text.contains("$1")), "{column} {value:?}: {error:?}");
    }
    let error = query(&database, "SELECT a FROM t", &[]).await.unwrap_err();
    assert_eq!(error, DataError::Invalid("column a is of type text[]; cast column a to text".to_owned()));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_database_session_is_replaced() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |config| config.plugins.sql_connections = 1).await else {
        return;
    };
    let database = fixture.tables("shop").await;
    assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
    let ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                 WHERE application_name = 'wharf-plugin' AND datname = current_database()";
    sqlx::query(ended).execute(&mut fixture.superuser().await).await.unwrap();
    // The statement may have run, so the host does not repeat it.
    assert_eq!(query(&database, "SELECT 1", &[]).await, Err(DataError::Unavailable));
    assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_statement_ends_on_the_server() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let database = fixture.tables("shop").await;
    let sleeping = query(&database, "SELECT pg_sleep(20)", &[]);
    assert!(tokio::time::timeout(Duration::from_millis(500), sleeping).await.is_err());
    fixture.until_running("pg_sleep(20)", false).await;
    fixture.stop().await;
}

/// Sends a signal to the backend that runs the plugin's statement.
#[cfg(target_os = "linux")]
async fn signal_backend(fixture: &Fixture, signal: &str) {
    let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'wharf-plugin' AND datname = current_database() \
               AND state = 'active' AND query LIKE '%pg_sleep%'";
    let pid: i32 = sqlx::query_scalar(pid).fetch_one(&mut fixture.superuser().await).await.unwrap();
    let sent = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A stopped process stands for a function that looks for no signal.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_no_signal_ends_keeps_its_connection() {
    let short = |config: &mut wharf::config::Config| {
        config.plugins.sql_connections = 1;
        config.plugins.sql_time = Duration::from_secs(5);
    };
    let Some(fixture) = Fixture::new(Backend::Postgres, short).await else { return };
    let database = fixture.tables("shop").await;
    let (sleeping, ()) = tokio::join!(query(&database, "SELECT pg_sleep(60)", &[]), async {
        fixture.until_running("pg_sleep(60)", true).await;
        signal_backend(&fixture, "-STOP").await;
    });
    let next = query(&database, "SELECT 1", &[]).await;
    signal_backend(&fixture, "-CONT").await;
    assert!(matches!(sleeping, Err(DataError::Limit(LimitKind::Time, _))), "{sleeping:?}");
    assert!(matches!(next, Err(DataError::Limit(LimitKind::Connections, _))), "{next:?}");
    until("the connection to return", async || query(&database, "SELECT 1", &[]).await.ok()).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_of_a_plugin_does_not_get_a_meaning_from_its_name() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let types = "CREATE TYPE citext AS (a int); CREATE TYPE \"INT4\" AS (a text); CREATE TYPE \"TEXT\" AS (a int)";
    fixture.data.migrate(&name("t"), &[migration("1", types)]).await.unwrap();
    let database = fixture.open("t").await;
    for (declared, value) in [("citext", text("x")), ("\"INT4\"", Value::Integer(1)), ("\"TEXT\"", text("x"))] {
        let parameter = query(&database, &format!("SELECT (CAST($1 AS {declared})).a"), &[value]).await;
        assert!(
            matches!(&parameter, Err(DataError::Invalid(text)) if text.contains("$1")),
            "{declared}: {parameter:?}"
        );
        let column = query(&database, &format!("SELECT CAST(ROW(1) AS {declared}) AS c"), &[]).await;
        assert!(matches!(&column, Err(DataError::Invalid(text)) if text.contains("cast column")), "{column:?}");
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_has_a_limited_number_of_tables_and_views() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let views =
        |count: usize| (0..count).map(|number| format!("CREATE VIEW v{number} AS SELECT 1;")).collect::<String>();
    let refused = fixture.data.migrate(&name("t"), &[migration("1", &views(500))]).await.unwrap_err().to_string();
    assert!(refused.contains("the maximum is 500"), "{refused}");
    // The record of the host counts too.
    let list = [migration("1", &views(490))];
    fixture.data.migrate(&name("t"), &list).await.unwrap();
    fixture.data.migrate(&name("t"), &list).await.unwrap();
    fixture.stop().await;
}

/// Restores the default of PostgreSQL before 15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_on_the_public_schema_is_revoked() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let Db::Postgres(pool) = &fixture.db else { unreachable!() };
    sqlx::query("GRANT CREATE ON SCHEMA public TO PUBLIC").execute(pool).await.unwrap();
    fixture.tables("shop").await;
    let list = [migration("1", "CREATE TABLE public.evil (id int)")];
    assert!(fixture.data.migrate(&name("evil"), &list).await.is_err());
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_database_privilege_is_named() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let postgres = fixture.postgres.as_ref().unwrap();
    // Roles belong to the cluster, which other tests use at the same time.
    let poor = format!("poor_{}", postgres.url.rsplit('/').next().unwrap());
    let sql = format!(
        "CREATE ROLE {poor} LOGIN PASSWORD 'poor'; GRANT ALL ON SCHEMA wharf TO {poor}; \
         GRANT ALL ON ALL TABLES IN SCHEMA wharf TO {poor}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut fixture.superuser().await).await.unwrap();
    let url = postgres.url.replace("wharf_host:wharf", &format!("{poor}:poor"));
    let pool = sqlx::postgres::PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::query("SET search_path = wharf").execute(connection).await.map(drop) })
        })
        .connect(&url)
        .await
        .unwrap();
    let mut config = fixture.config.clone();
    config.database.url = Some(Secret::new(&url));
    let db = Db::Postgres(pool.into());
    let data = PluginData::open(&db, &config, Random::System).unwrap();
    let error = data.plugin(&name("shop")).await.err().unwrap();
    assert!(error.report().contains("needs CREATEROLE and CREATE on the database"), "{}", error.report());
    db.close().await;
    fixture.stop().await;
}

/// Returns the memory of the plugins' backends that no other process shares.
async fn backend_kib(fixture: &Fixture) -> u64 {
    let pids =
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'wharf-plugin' AND datname = current_database()";
    let pids: Vec<i32> = sqlx::query_scalar(pids).fetch_all(&mut fixture.superuser().await).await.unwrap();
    let kib = |pid: i32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    pids.into_iter().map(kib).sum()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_does_not_keep_large_statements() {
    let one_connection = |config: &mut wharf::config::Config| config.plugins.sql_connections = 1;
    let Some(fixture) = Fixture::new(Backend::Postgres, one_connection).await else { return };
    let database = fixture.tables("shop").await;
    let run = async |from: usize, to: usize| {
        for count in from..to {
            let list = vec!["1"; 20_000 + count].join(",");
            query(&database, &format!("SELECT 1 WHERE 1 IN ({list})"), &[]).await.unwrap();
            // Statements that are prepared and then refused.
            let no_type = query(&database, &format!("SELECT '(1,2)'::point WHERE 1 IN ({list})"), &[]).await;
            let no_number = query(&database, &format!("SELECT $1::int4 WHERE 1 IN ({list})"), &[text("a")]).await;
            assert!(no_type.is_err() && no_number.is_err(), "{no_type:?} {no_number:?}");
        }
    };
    run(0, 5).await;
    let few = backend_kib(&fixture).await;
    run(5, 50).await;
    let many = backend_kib(&fixture).await;
    assert!(many < 2 * few, "{few} KiB after 5 statements, {many} KiB after 50");
    fixture.stop().await;
}
