//! Limits on rows, bytes, time, connections and disk; cancelled calls.

use std::pin::pin;
use std::time::Duration;

use sqlx::Connection as _;
use wharf::config::Config;
use wharf::db::plugin_data::{DataError, LimitKind, Statement, StatementLimits, Value};

use super::fixture::{
    ENDLESS, Fixture, add, count, execute, hasty, migration, name, on_both, query, scalar, sql, text,
};
use crate::support::Backend;

on_both! {
    a_result_above_the_row_limit_names_the_limit => small_results,
    a_result_above_the_byte_limit_names_the_limit => small_results,
    empty_values_count_towards_the_byte_limit => small_results,
    a_write_whose_result_exceeds_a_limit_is_rolled_back => small_results,
    an_error_stays_short_when_it_quotes_a_long_input,
    a_statement_beyond_its_time_limit_ends_and_leaves_a_clean_connection => two_connections,
    a_statement_beyond_its_time_limit_fails_its_transaction => two_connections,
    a_dropped_call_is_interrupted_and_returns_its_connection => one_connection,
    a_dropped_call_rolls_its_transaction_back => one_connection,
    calls_dropped_at_any_step_lose_no_connection,
    transactions_above_the_connection_limit_are_refused => two_connections,
    a_full_database_stops_growing_and_can_be_read_and_emptied => small_disk,
    a_full_database_takes_no_messages_and_gives_those_that_it_has => small_disk,
}

fn small_results(config: &mut Config) {
    config.plugins.sql_rows = 10;
    config.plugins.sql_bytes = 1_000;
}

fn two_connections(config: &mut Config) {
    config.plugins.sql_connections = 2;
}

fn small_disk(config: &mut Config) {
    config.plugins.sql_disk_bytes = 2 << 20;
}

fn one_connection(config: &mut Config) {
    config.plugins.sql_connections = 1;
}

fn numbers(count: u32) -> String {
    format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) SELECT n FROM n")
}

async fn a_result_above_the_row_limit_names_the_limit(fixture: &Fixture) {
    let database = fixture.open("shop").await;
    assert_eq!(query(&database, &numbers(10), &[]).await.unwrap().values.len(), 10);
    let error = query(&database, &numbers(11), &[]).await.unwrap_err();
    assert_eq!(error, DataError::Limit(LimitKind::Rows, "rows: 10".to_owned()));
    let error = database.batch(vec![sql(&numbers(6)), sql(&numbers(6))]).await.unwrap_err();
    assert_eq!(error, DataError::Limit(LimitKind::Rows, "rows: 10".to_owned()));
    assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
}

async fn a_result_above_the_byte_limit_names_the_limit(fixture: &Fixture) {
    let database = fixture.open("shop").await;
    let long = |length: usize| [text(&"x".repeat(length))];
    assert!(query(&database, "SELECT CAST($1 AS TEXT)", &long(1_000)).await.is_ok());
    let limit = Err(DataError::Limit(LimitKind::Bytes, "bytes: 1000".to_owned()));
    assert_eq!(query(&database, "SELECT CAST($1 AS TEXT)", &long(1_001)).await, limit);
    assert_eq!(query(&database, "SELECT CAST($1 AS TEXT), CAST($1 AS TEXT)", &long(501)).await, limit);
    assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
}

async fn empty_values_count_towards_the_byte_limit(fixture: &Fixture) {
    let database = fixture.open("shop").await;
    let many = format!("SELECT {}", vec!["''"; 500].join(", "));
    assert_eq!(query(&database, &many, &[]).await, Err(DataError::Limit(LimitKind::Bytes, "bytes: 1000".to_owned())));
}

async fn an_error_stays_short_when_it_quotes_a_long_input(fixture: &Fixture) {
    let database = fixture.open("shop").await;
    let long = |bytes| "x".repeat(bytes);
    let quoting = match fixture.backend {
        Backend::Sqlite => format!("SELECT * FROM {}", long(50_000)),
        Backend::Postgres => format!("SELECT CAST('{}' AS bigint)", long(900_000)),
    };
    for _ in 0..3 {
        let error = query(&database, &quoting, &[]).await.unwrap_err();
        assert!(matches!(&error, DataError::Invalid(text) if text.contains("xxx") && text.len() < 1_000), "{error:?}");
        assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
    }
}

async fn a_write_whose_result_exceeds_a_limit_is_rolled_back(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let sql = format!("INSERT INTO owner (id) SELECT n FROM ({}) AS source RETURNING id", numbers(11));
    assert_eq!(execute(&database, &sql, &[]).await, Err(DataError::Limit(LimitKind::Rows, "rows: 10".to_owned())));
    assert_eq!(scalar(&database, "SELECT count(*) FROM owner").await, Value::Integer(0));
}

async fn a_statement_beyond_its_time_limit_ends_and_leaves_a_clean_connection(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let limit = DataError::Limit(LimitKind::Time, "statement time: 500 ms".to_owned());
    let hasty = hasty(&database, Duration::from_millis(500));
    for _ in 0..3 {
        // It opens the connection if there is none.
        assert_eq!(count(&database).await, Value::Integer(0));
        assert_eq!(query(&hasty, ENDLESS, &[]).await, Err(limit.clone()));
    }
    assert_eq!(count(&database).await, Value::Integer(0));
    if fixture.backend == Backend::Postgres {
        assert_eq!(query(&hasty, "SELECT pg_sleep(600)", &[]).await, Err(limit));
        fixture.until_running("pg_sleep", false).await;
    }
}

async fn a_statement_beyond_its_time_limit_fails_its_transaction(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let mut transaction = hasty(&database, Duration::from_secs(2)).begin().await.unwrap();
    add(&mut transaction, 1).await.unwrap();
    let error = transaction.query(sql(ENDLESS)).await.unwrap_err();
    assert!(matches!(error, DataError::Limit(..)), "{error:?}");
    assert!(matches!(add(&mut transaction, 2).await, Err(DataError::Invalid(_))));
    assert!(transaction.commit().await.is_err());
    assert_eq!(count(&database).await, Value::Integer(0));
    let mut transaction = database.begin().await.unwrap();
    add(&mut transaction, 3).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(1));
}

/// There is only one connection and no deadline near, so the next call works only if the endless statement was
/// interrupted.
async fn a_dropped_call_is_interrupted_and_returns_its_connection(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for _ in 0..3 {
        tokio::select! {
            biased;
            ended = query(&database, ENDLESS, &[]) => panic!("the endless statement ended: {ended:?}"),
            () = fixture.until_running("endless", true) => {}
        }
        assert_eq!(count(&database).await, Value::Integer(0));
        fixture.until_running("endless", false).await;
    }
}

async fn a_dropped_call_rolls_its_transaction_back(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let mut transaction = database.begin().await.unwrap();
    add(&mut transaction, 1).await.unwrap();
    tokio::select! {
        biased;
        ended = transaction.query(sql(ENDLESS)) => panic!("the endless statement ended: {ended:?}"),
        () = fixture.until_running("endless", true) => {}
    }
    assert!(transaction.commit().await.is_err(), "a statement of the transaction was interrupted");
    assert_eq!(count(&database).await, Value::Integer(0));
}

/// A call may be dropped at any step: all connections still work, and no partial change remains.
async fn calls_dropped_at_any_step_lose_no_connection(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for steps in 0..40 {
        let batch = vec![
            sql("UPDATE counter SET n = n + 1 WHERE id = 'a'"),
            Statement::new("UPDATE counter SET n = n + $1 WHERE id = 'b'", [Value::Integer(1)]),
        ];
        let mut call = pin!(database.batch(batch));
        for _ in 0..steps {
            if futures_util::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let busy = (0..16).map(|_| async { execute(&database, "UPDATE counter SET n = n + 1 WHERE id = 'a'", &[]).await });
    for done in futures_util::future::join_all(busy).await {
        assert_eq!(done, Ok(1));
    }
    let sums = query(&database, "SELECT n FROM counter ORDER BY id", &[]).await.unwrap().values;
    let [Value::Integer(a), Value::Integer(b)] = [sums[0][0].clone(), sums[1][0].clone()] else { panic!("{sums:?}") };
    assert_eq!(a, b + 16);
}

async fn transactions_above_the_connection_limit_are_refused(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let (expected, held) = match fixture.backend {
        // SQLite has one writer.
        Backend::Sqlite => (DataError::Conflict, 1),
        Backend::Postgres => (DataError::Limit(LimitKind::Connections, "connections: 2".to_owned()), 2),
    };
    let mut transactions = Vec::new();
    for _ in 0..held {
        transactions.push(database.begin().await.unwrap());
    }
    assert_eq!(hasty(&database, Duration::from_millis(500)).begin().await.err(), Some(expected));
    drop(transactions);
    database.begin().await.unwrap().rollback().await.unwrap();
}

/// Returns an incompressible text.
fn incompressible_text(seed: i64) -> Value {
    let mut state = seed.unsigned_abs() + 1;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + u8::try_from((state >> 33) % 94).unwrap())
    };
    Value::Text((0..50_000).map(letter).collect())
}

async fn a_full_database_stops_growing_and_can_be_read_and_emptied(fixture: &Fixture) {
    let pile = migration("0001_pile", "CREATE TABLE pile (id BIGINT PRIMARY KEY, noise TEXT NOT NULL)");
    fixture.data.migrate(&name("shop"), std::slice::from_ref(&pile)).await.unwrap();
    let database = fixture.open("shop").await;
    let insert = |id: i64| {
        Statement::new("INSERT INTO pile (id, noise) VALUES ($1, $2)", [Value::Integer(id), incompressible_text(id)])
    };
    let full = DataError::Limit(LimitKind::Disk, "disk: 2097152 bytes".to_owned());
    let mut stored = 0;
    let refused = loop {
        match database.execute(insert(stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 200, "the limit is never reached");
        // The size on PostgreSQL is measured at intervals.
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(refused, full);
    assert!((20..80).contains(&stored), "{stored}");
    assert!(fixture.data.disk(&name("shop")).unwrap() > 1 << 20);

    let counted = "WITH counted AS (SELECT count(*) FROM pile) SELECT * FROM counted";
    assert_eq!(scalar(&database, counted).await, Value::Integer(stored));
    let renewed = "WITH one AS (SELECT 1) UPDATE pile SET noise = noise || noise";
    assert_eq!(execute(&database, renewed, &[]).await, Err(full.clone()));
    assert_eq!(database.batch(vec![insert(1_000), insert(1_001)]).await, Err(full.clone()));
    let mut transaction = database.begin().await.unwrap();
    let deleted = transaction.execute(Statement::new("DELETE FROM pile WHERE id = $1", [Value::Integer(0)])).await;
    assert_eq!(deleted, Ok(1));
    // SQLite reuses freed pages at once, PostgreSQL later.
    let mut inserted = transaction.execute(insert(1_000)).await;
    if fixture.backend == Backend::Sqlite {
        assert_eq!(inserted, Ok(1));
        inserted = transaction.execute(Statement::new(renewed, [])).await;
    }
    assert_eq!(inserted, Err(full));
    assert!(transaction.commit().await.is_err());
    assert_eq!(scalar(&database, counted).await, Value::Integer(stored));

    let roomy = database.with_limits(StatementLimits { disk: 20 << 20, ..database.limits().clone() });
    assert_eq!(roomy.execute(insert(1_000)).await, Ok(1));
    // An operator's migrations are not limited by it.
    let more = migration(
        "0002_more",
        "CREATE TABLE more AS SELECT id + 0 AS id, noise FROM pile; INSERT INTO more SELECT * FROM more",
    );
    fixture.data.migrate(&name("shop"), &[pile, more]).await.unwrap();
    assert_eq!(execute(&database, "DELETE FROM pile", &[]).await, Ok(u64::try_from(stored).unwrap() + 1));
}

async fn a_full_database_takes_no_messages_and_gives_those_that_it_has(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.tables("shop").await);
    let message = |seed: i64| match incompressible_text(seed) {
        Value::Text(text) => text,
        other => panic!("{other:?}"),
    };
    let full = DataError::Limit(LimitKind::Disk, "disk: 2097152 bytes".to_owned());
    let mut stored = 0;
    let refused = loop {
        match database.append_message(None, message(stored)).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 200, "the limit is never reached");
        // The size on PostgreSQL is measured at intervals.
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(refused, full);
    assert!((20..80).contains(&stored), "{stored}");
    let mut transaction = database.begin().await.unwrap();
    let counted = "UPDATE counter SET n = 1 WHERE id = 'a'";
    if fixture.backend == Backend::Sqlite {
        // It needs no more space. PostgreSQL refuses every write to a full database.
        assert_eq!(transaction.execute(sql(counted)).await, Ok(1));
    }
    let appended = transaction.append_message(None, message(1_000)).await;
    let committed = transaction.commit().await;
    // On SQLite the commit writes the message.
    match fixture.backend {
        Backend::Sqlite => assert_eq!((appended, committed), (Ok(()), Err(full))),
        Backend::Postgres => assert!(appended == Err(full) && committed.is_err(), "{committed:?}"),
    }
    assert_eq!(scalar(&database, "SELECT n FROM counter WHERE id = 'a'").await, Value::Integer(0));
    let messages = fixture.data.outbox(&shop, 1_000).await.unwrap();
    assert_eq!(i64::try_from(messages.len()).unwrap(), stored);
    let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
    fixture.data.forget(&shop, &ids).await.unwrap();
    assert_eq!(fixture.data.outbox(&shop, 1_000).await, Ok(Vec::new()));
    // PostgreSQL reuses the space later.
    if fixture.backend == Backend::Sqlite {
        assert_eq!(database.append_message(None, message(1_000)).await, Ok(()));
    }
}

/// SQLite restarts its write-ahead log only when no reader needs the old part; this reader always does.
#[tokio::test]
async fn a_write_ahead_log_that_cannot_restart_is_limited_too() {
    let fixture = Fixture::new(Backend::Sqlite, small_disk).await.unwrap();
    let pile = migration("0001_pile", "CREATE TABLE pile (noise TEXT NOT NULL); INSERT INTO pile VALUES ('')");
    fixture.data.migrate(&name("shop"), &[pile]).await.unwrap();
    let database = fixture.open("shop").await;
    let file = fixture.dir.path().join("plugins/shop/data.sqlite");
    let mut reader = sqlx::SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT * FROM pile").fetch_all(&mut *reading).await.unwrap();
    let renew = "UPDATE pile SET noise = hex(randomblob(500000))";
    let mut renewed = 0;
    let refused = loop {
        match execute(&database, renew, &[]).await {
            Ok(_) => renewed += 1,
            Err(error) => break error,
        }
        assert!(renewed < 200, "the limit is never reached");
    };
    assert_eq!(refused, DataError::Limit(LimitKind::Disk, "disk: 2097152 bytes".to_owned()));
    assert!(renewed > 50, "{renewed}");
    let before = fixture.data.disk(&name("shop")).unwrap();
    reading.rollback().await.unwrap();
    assert_eq!(execute(&database, renew, &[]).await, Ok(1));
    assert!(fixture.data.disk(&name("shop")).unwrap() < before / 4);
    fixture.stop().await;
}
