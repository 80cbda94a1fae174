//! Statements that were quick many times. The host runs them in place on SQLite, with the same results.

use std::time::Duration;

use wharf::db::plugin_data::{DataError, LimitKind, PluginDatabase, Statement, Value};

use super::fixture::{Fixture, add, count, execute, hasty, migration, name, on_both, query, scalar, text};
use crate::support::Backend;
use crate::support::patience::PATIENCE;

on_both! {
    transactions_and_messages_are_the_same_after_many_rounds,
    an_error_is_the_same_after_many_rounds,
    a_write_that_becomes_slow_happens_once,
    a_batch_that_becomes_slow_happens_once,
    a_read_that_becomes_slow_ends_at_its_time,
    a_long_value_arrives_after_many_short_ones,
}

/// More than the runs after which a statement runs in place.
const ROUNDS: i64 = 80;

/// Adds as many rows as its parameter says.
const FILL: &str = "INSERT INTO number (n) WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < $1) \
                    SELECT n FROM i";
/// Counts to its parameter.
const COUNT: &str =
    "WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < $1) SELECT count(*) FROM i";
/// Takes some hundred milliseconds, far more than any statement may take in place.
const MANY: i64 = 200_000;

async fn numbers(fixture: &Fixture) -> std::sync::Arc<PluginDatabase> {
    fixture.data.migrate(&name("shop"), &[migration("1", "CREATE TABLE number (n BIGINT)")]).await.unwrap();
    fixture.open("shop").await
}

async fn sum(database: &PluginDatabase) -> Value {
    scalar(database, "SELECT count(*) FROM number").await
}

async fn transactions_and_messages_are_the_same_after_many_rounds(fixture: &Fixture) {
    let (shop, database) = (name("shop"), fixture.tables("shop").await);
    for round in 0..ROUNDS {
        let mut transaction = database.begin().await.unwrap();
        assert_eq!(add(&mut transaction, round).await, Ok(1));
        transaction.append_message(None, format!("added {round}")).await.unwrap();
        assert_eq!(count(&database).await, Value::Integer(round), "it is not committed yet");
        transaction.commit().await.unwrap();
        assert_eq!(count(&database).await, Value::Integer(round + 1));
        for by_dropping in [true, false] {
            let mut transaction = database.begin().await.unwrap();
            add(&mut transaction, -1).await.unwrap();
            transaction.append_message(None, "never".to_owned()).await.unwrap();
            if by_dropping {
                drop(transaction);
            } else {
                transaction.rollback().await.unwrap();
            }
        }
    }
    let messages = fixture.data.outbox(&shop, 1_000).await.unwrap();
    let texts: Vec<String> = messages.into_iter().map(|message| message.text).collect();
    assert_eq!(texts, (0..ROUNDS).map(|round| format!("added {round}")).collect::<Vec<_>>());
    fixture.data.close().await;
    assert_eq!(count(&*fixture.open("shop").await).await, Value::Integer(ROUNDS), "after reopening");
}

async fn an_error_is_the_same_after_many_rounds(fixture: &Fixture) {
    const ADD: &str = "INSERT INTO item (id, owner, title) VALUES ($1, 'o', $2)";
    let database = fixture.tables("shop").await;
    let row = |id: i64| [Value::Integer(id), text(&format!("t{id}"))];
    for round in 0..ROUNDS {
        assert_eq!(execute(&database, ADD, &row(round)).await, Ok(1));
    }
    for _ in 0..2 {
        let refused = execute(&database, ADD, &row(0)).await;
        assert!(matches!(refused, Err(DataError::Constraint(_))), "{refused:?}");
        let mut transaction = database.begin().await.unwrap();
        let refused = add(&mut transaction, 0).await;
        assert!(matches!(refused, Err(DataError::Constraint(_))), "{refused:?}");
        assert!(add(&mut transaction, -1).await.is_err(), "a failed transaction can only be rolled back");
    }
    assert_eq!(count(&database).await, Value::Integer(ROUNDS));
}

async fn a_write_that_becomes_slow_happens_once(fixture: &Fixture) {
    let database = numbers(fixture).await;
    let mut expected = 0;
    for inside in [false, true] {
        for rows in [1].repeat(80).into_iter().chain([MANY, 1]) {
            if inside {
                let mut transaction = database.begin().await.unwrap();
                let added = transaction.execute(Statement::new(FILL, [Value::Integer(rows)])).await;
                assert_eq!(added, Ok(u64::try_from(rows).unwrap()));
                transaction.commit().await.unwrap();
            } else {
                assert_eq!(execute(&database, FILL, &[Value::Integer(rows)]).await.map(i64::try_from), Ok(Ok(rows)));
            }
            expected += rows;
        }
        assert_eq!(sum(&database).await, Value::Integer(expected));
    }
}

async fn a_batch_that_becomes_slow_happens_once(fixture: &Fixture) {
    let database = numbers(fixture).await;
    let mut expected = 0;
    for rows in [1].repeat(80).into_iter().chain([MANY, 1]) {
        let batch = [1, rows].map(|rows| Statement::new(FILL, [Value::Integer(rows)]));
        database.batch(batch.into()).await.unwrap();
        expected += 1 + rows;
    }
    assert_eq!(sum(&database).await, Value::Integer(expected));
}

async fn a_read_that_becomes_slow_ends_at_its_time(fixture: &Fixture) {
    let database = hasty(&*numbers(fixture).await, Duration::from_secs(2));
    let counted = async |to: i64| query(&database, COUNT, &[Value::Integer(to)]).await.map(|rows| rows.values);
    for _ in 0..2 {
        for _ in 0..ROUNDS {
            assert_eq!(counted(3).await, Ok(vec![vec![Value::Integer(3)]]));
        }
        let slow = counted(i32::MAX.into()).await;
        assert!(matches!(slow, Err(DataError::Limit(LimitKind::Time, _))), "{slow:?}");
    }
}

async fn a_long_value_arrives_after_many_short_ones(fixture: &Fixture) {
    let tables = [migration("1", "CREATE TABLE note (text TEXT)")];
    fixture.data.migrate(&name("shop"), &tables).await.unwrap();
    let database = fixture.open("shop").await;
    let long = "x".repeat(100_000);
    for value in std::iter::repeat_n("short", 80).chain([long.as_str()]) {
        execute(&database, "DELETE FROM note", &[]).await.unwrap();
        execute(&database, "INSERT INTO note VALUES ($1)", &[text(value)]).await.unwrap();
        let read = query(&database, "SELECT text, text LIKE '%x' FROM note", &[]).await.unwrap();
        assert_eq!(read.values[0][0], text(value));
    }
}

/// Some of these statements end in place, and some run again on a thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_about_the_allowed_length_happens_once() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let database = numbers(&fixture).await;
    let mut expected = 0;
    for rows in (400..1_400).step_by(13) {
        for rows in [1].repeat(33).into_iter().chain([rows]) {
            assert_eq!(execute(&database, FILL, &[Value::Integer(rows)]).await.map(i64::try_from), Ok(Ok(rows)));
            expected += rows;
        }
        assert_eq!(sum(&database).await, Value::Integer(expected), "{rows}");
    }
    fixture.stop().await;
}

/// There is one thread for everything, and the slow statement does not keep it.
#[tokio::test]
async fn a_statement_that_becomes_slow_does_not_delay_others() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let (slow, quick) = (numbers(&fixture).await, fixture.data.plugin(&name("other")).await.unwrap());
    for to in 0..ROUNDS {
        query(&slow, COUNT, &[Value::Integer(to)]).await.unwrap();
        query(&quick, "SELECT 1", &[]).await.unwrap();
    }
    let slow = hasty(&slow, PATIENCE);
    let endless = [Value::Integer(i64::MAX)];
    tokio::select! {
        biased;
        ended = query(&slow, COUNT, &endless) => panic!("{ended:?}"),
        answered = async {
            for _ in 0..ROUNDS {
                query(&quick, "SELECT 1", &[]).await.unwrap();
                tokio::task::yield_now().await;
            }
        } => answered,
    }
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_quick_commits_leave_a_short_log() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    fixture.data.migrate(&name("shop"), &[migration("1", "CREATE TABLE page (bytes BLOB)")]).await.unwrap();
    let database = fixture.open("shop").await;
    // Short enough to run in place, and each on a page of its own.
    for _ in 0..1_500 {
        execute(&database, "INSERT INTO page VALUES ($1)", &[Value::Blob(vec![7; 3 * 1024])]).await.unwrap();
    }
    let log = fixture.dir.path().join("plugins/shop/data.sqlite-wal").metadata().unwrap().len();
    // SQLite's own length is 1,000 pages of 4 KiB; all commits together wrote more than twice that.
    assert!(log < 6 << 20, "{log}");
    fixture.stop().await;
}
