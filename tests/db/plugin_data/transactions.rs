//! Transactions, batches and isolation between concurrent callers.

use std::time::Duration;

use wharf::db::plugin_data::{DataError, PluginDatabase, Statement, Value};

use super::fixture::{Fixture, add, count, execute, hasty, name, on_both, query, scalar, sql, text};
use crate::support::Backend;
use crate::support::patience::PATIENCE;

on_both! {
    a_committed_transaction_is_durable,
    a_transaction_rolled_back_or_dropped_leaves_nothing,
    a_transaction_without_statements_ends,
    an_open_transaction_is_invisible_to_others,
    after_its_first_error_a_transaction_can_only_be_rolled_back,
    a_batch_is_all_or_nothing,
    a_write_that_waits_too_long_for_another_is_a_conflict,
    concurrent_increments_are_all_counted,
    concurrent_transactions_lose_no_update,
    transactions_in_opposite_orders_complete,
    concurrent_readers_see_whole_transactions,
}

async fn a_committed_transaction_is_durable(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let mut transaction = database.begin().await.unwrap();
    add(&mut transaction, 1).await.unwrap();
    let seen = transaction.query(sql("SELECT count(*) FROM item")).await.unwrap();
    assert_eq!(seen.values, [[Value::Integer(1)]]);
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(1));
    fixture.data.close().await;
    assert_eq!(count(&*fixture.open("shop").await).await, Value::Integer(1), "after reopening");
}

async fn a_transaction_rolled_back_or_dropped_leaves_nothing(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for by_dropping in [true, false, true, false] {
        let mut transaction = database.begin().await.unwrap();
        add(&mut transaction, 1).await.unwrap();
        if by_dropping {
            drop(transaction);
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(count(&database).await, Value::Integer(0));
    }
}

async fn a_transaction_without_statements_ends(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for commits in [true, false] {
        let transaction = database.begin().await.unwrap();
        let ended = if commits { transaction.commit().await } else { transaction.rollback().await };
        assert_eq!(ended, Ok(()));
    }
    assert_eq!(execute(&database, "UPDATE counter SET n = 1", &[]).await, Ok(2));
}

async fn an_open_transaction_is_invisible_to_others(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let mut transaction = database.begin().await.unwrap();
    add(&mut transaction, 1).await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(0));
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(1));
}

async fn after_its_first_error_a_transaction_can_only_be_rolled_back(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for wrong in ["SELECT nothing", "BEGIN", "INSERT INTO counter (id, n) VALUES ('a', 1)"] {
        let mut transaction = database.begin().await.unwrap();
        add(&mut transaction, 1).await.unwrap();
        transaction.execute(sql(wrong)).await.unwrap_err();
        let error = transaction.query(sql("SELECT 1")).await.unwrap_err();
        assert!(matches!(&error, DataError::Invalid(text) if text.contains("rolled back")), "{error:?}");
        assert!(transaction.commit().await.is_err(), "{wrong}");
        assert_eq!(count(&database).await, Value::Integer(0), "{wrong}");
    }
    let mut transaction = database.begin().await.unwrap();
    transaction.execute(sql("SELECT nothing")).await.unwrap_err();
    transaction.rollback().await.unwrap();
}

async fn a_batch_is_all_or_nothing(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let insert = |id| Statement::new("INSERT INTO owner (id) VALUES ($1) RETURNING id", [Value::Integer(id)]);
    let results = database.batch(vec![insert(1), sql("SELECT count(*) FROM owner"), insert(2)]).await.unwrap();
    let values: Vec<_> = results.iter().map(|rows| rows.values[0][0].clone()).collect();
    assert_eq!(values, [Value::Integer(1), Value::Integer(1), Value::Integer(2)]);
    for last in [insert(1), sql("SELECT nothing"), sql("COMMIT"), sql("SELECT $1")] {
        database.batch(vec![insert(3), last]).await.unwrap_err();
        assert_eq!(scalar(&database, "SELECT count(*) FROM owner").await, Value::Integer(2));
    }
    assert_eq!(database.batch(Vec::new()).await, Ok(Vec::new()));
}

async fn a_write_that_waits_too_long_for_another_is_a_conflict(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    const UPDATE: &str = "UPDATE counter SET n = n + 1 WHERE id = 'a'";
    let mut transaction = database.begin().await.unwrap();
    transaction.execute(sql(UPDATE)).await.unwrap();
    let hasty = hasty(&database, Duration::from_secs(3));
    assert_eq!(execute(&hasty, UPDATE, &[]).await, Err(DataError::Conflict));
    transaction.commit().await.unwrap();
    assert_eq!(execute(&database, UPDATE, &[]).await, Ok(1));
    assert_eq!(scalar(&database, "SELECT n FROM counter WHERE id = 'a'").await, Value::Integer(2));
}

async fn concurrent_increments_are_all_counted(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let writers = (0..8).map(|_| async {
        for _ in 0..20 {
            assert_eq!(execute(&database, "UPDATE counter SET n = n + 1 WHERE id = $1", &[text("a")]).await, Ok(1));
        }
    });
    futures_util::future::join_all(writers).await;
    assert_eq!(scalar(&database, "SELECT n FROM counter WHERE id = 'a'").await, Value::Integer(160));
}

/// Reads a counter and writes it back incremented, as a naive plugin would.
async fn read_and_write(database: &PluginDatabase, ids: &[&str]) -> Result<(), DataError> {
    let mut transaction = database.begin().await?;
    for id in ids {
        let rows = transaction.query(Statement::new("SELECT n FROM counter WHERE id = $1", [text(id)])).await?;
        let Value::Integer(n) = rows.values[0][0] else { panic!("{rows:?}") };
        let update = "UPDATE counter SET n = $1 WHERE id = $2";
        transaction.execute(Statement::new(update, [Value::Integer(n + 1), text(id)])).await?;
    }
    transaction.commit().await
}

/// Retries on a conflict, and on no other error.
async fn retry_on_conflict(database: &PluginDatabase, ids: &[&str]) {
    loop {
        match read_and_write(database, ids).await {
            Ok(()) => return,
            Err(DataError::Conflict) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn concurrent_transactions_lose_no_update(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let writers = (0..4).map(|_| async {
        for _ in 0..10 {
            retry_on_conflict(&database, &["a"]).await;
        }
    });
    futures_util::future::join_all(writers).await;
    assert_eq!(scalar(&database, "SELECT n FROM counter WHERE id = 'a'").await, Value::Integer(40));
}

async fn transactions_in_opposite_orders_complete(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let writers = (0..4).map(|writer| {
        let ids = if writer % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
        let database = &database;
        async move {
            for _ in 0..5 {
                retry_on_conflict(database, &ids).await;
            }
        }
    });
    futures_util::future::join_all(writers).await;
    let rows = query(&database, "SELECT n FROM counter ORDER BY id", &[]).await.unwrap();
    assert_eq!(rows.values, [[Value::Integer(20)], [Value::Integer(20)]]);
}

async fn concurrent_readers_see_whole_transactions(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let writer = async {
        for _ in 0..30 {
            let add = |id| Statement::new("UPDATE counter SET n = n + 1 WHERE id = $1", [text(id)]);
            database.batch(vec![add("a"), add("b")]).await.unwrap();
        }
    };
    let reader = || async {
        for _ in 0..30 {
            let rows = query(&database, "SELECT max(n) - min(n) FROM counter", &[]).await.unwrap();
            assert_eq!(rows.values, [[Value::Integer(0)]]);
        }
    };
    tokio::join!(writer, reader(), reader());
}

/// The transaction has run nothing yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_a_transaction_excludes_other_writers_from_its_beginning_on() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let database = fixture.tables("shop").await;
    let mut transaction = database.begin().await.unwrap();
    let hasty = hasty(&database, Duration::from_millis(500));
    assert_eq!(hasty.begin().await.err(), Some(DataError::Conflict));
    assert_eq!(execute(&hasty, "UPDATE counter SET n = 1", &[]).await, Err(DataError::Conflict));
    add(&mut transaction, 1).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(1));
    fixture.stop().await;
}

/// Another process writes in the same file. The lock of the file is taken with the first statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_the_first_statement_waits_for_the_writer_of_another_process() {
    // SQLite waits as long as the setting says. The statements have more time.
    let fixture =
        Fixture::new(Backend::Sqlite, |config| config.plugins.sql_time = Duration::from_secs(1)).await.unwrap();
    let own = fixture.tables("shop").await;
    let (database, other) = (hasty(&own, PATIENCE), fixture.another_node());
    let other_database = hasty(&other.plugin(&name("shop")).await.unwrap(), PATIENCE);
    let mut writing = other_database.begin().await.unwrap();
    add(&mut writing, 1).await.unwrap();
    let mut transaction = database.begin().await.unwrap();
    assert_eq!(add(&mut transaction, 2).await, Err(DataError::Conflict));
    assert!(matches!(add(&mut transaction, 2).await, Err(DataError::Invalid(_))), "it has failed");
    transaction.rollback().await.unwrap();
    writing.commit().await.unwrap();
    let mut transaction = database.begin().await.unwrap();
    add(&mut transaction, 2).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(2));
    other.close().await;
    fixture.stop().await;
}
