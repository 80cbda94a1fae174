//! Transactions: what lasts, what does not, and who waits.

use std::time::Instant;

use super::*;

on_both!(
    commit_lasts,
    rollback_and_drop_undo,
    an_error_fails_the_transaction,
    a_dropped_statement_fails_the_transaction,
    a_deadline_in_a_transaction_undoes_it,
    readers_do_not_wait,
    lost_updates_are_impossible,
    dropped_outside_the_runtime,
    a_transaction_left_open_blocks_nobody_for_long,
);

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL); INSERT INTO t VALUES (1, 0)";

async fn commit_lasts(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    let mut transaction = database.begin().await.unwrap();
    assert_eq!(transaction.execute(sql("INSERT INTO t VALUES (2, 0)")).await, Ok(1));
    let rows = transaction.query(sql("SELECT count(*) FROM t")).await.unwrap();
    assert_eq!(one(&rows), &int(2));
    let made = transaction.query(sql("INSERT INTO t VALUES (3, 0) RETURNING id")).await.unwrap();
    assert_eq!(one(&made), &int(3));
    assert_eq!(count(&database, "t").await, 1, "not seen yet");
    transaction.commit().await.unwrap();
    assert_eq!(count(&database, "t").await, 3);
}

async fn rollback_and_drop_undo(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    for round in 0..10 {
        let mut transaction = database.begin().await.unwrap();
        transaction.execute(sql("INSERT INTO t VALUES (2, 0)")).await.unwrap();
        if round % 2 == 0 {
            transaction.rollback().await.unwrap();
        } else {
            drop(transaction);
        }
        assert_eq!(count(&database, "t").await, 1);
    }
    assert_eq!(database.execute(sql("INSERT INTO t VALUES (2, 0)")).await, Ok(1));
}

async fn an_error_fails_the_transaction(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    for wrong in ["INSERT INTO t VALUES (1, 0)", "SELECT nonsense", "COMMIT", "SELECT $1"] {
        let mut transaction = database.begin().await.unwrap();
        transaction.execute(sql("INSERT INTO t VALUES (2, 0)")).await.unwrap();
        assert!(transaction.execute(sql(wrong)).await.is_err(), "{wrong}");
        is_invalid(transaction.execute(sql("INSERT INTO t VALUES (3, 0)")).await, "after an error");
        is_invalid(transaction.commit().await, "commit after an error");
        assert_eq!(count(&database, "t").await, 1, "{wrong}");
    }
}

async fn a_dropped_statement_fails_the_transaction(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    let mut transaction = database.begin().await.unwrap();
    transaction.execute(sql("INSERT INTO t VALUES (2, 0)")).await.unwrap();
    let late = tokio::time::timeout(Duration::from_millis(200), transaction.query(sql(ENDLESS))).await;
    assert!(late.is_err());
    is_invalid(transaction.execute(sql("INSERT INTO t VALUES (3, 0)")).await, "after a dropped call");
    is_invalid(transaction.commit().await, "commit");
    let begun = Instant::now();
    assert_eq!(database.execute(sql("INSERT INTO t VALUES (2, 0)")).await, Ok(1));
    assert!(begun.elapsed() < TIME / 2);
    assert_eq!(count(&database, "t").await, 2);
}

async fn a_deadline_in_a_transaction_undoes_it(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    let mut transaction = database.begin().await.unwrap();
    transaction.execute(sql("INSERT INTO t VALUES (2, 0)")).await.unwrap();
    let endless = format!("INSERT INTO t SELECT 5, 1 WHERE ({ENDLESS}) > 0");
    assert!(matches!(transaction.execute(sql(&endless)).await, Err(DataError::Limit(_))));
    is_invalid(transaction.execute(sql("INSERT INTO t VALUES (3, 0)")).await, "after a deadline");
    drop(transaction);
    assert_eq!(count(&database, "t").await, 1);
}

async fn readers_do_not_wait(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    let mut transaction = database.begin().await.unwrap();
    transaction.execute(sql("UPDATE t SET n = 1")).await.unwrap();
    let begun = Instant::now();
    let rows = database.query(sql("SELECT n FROM t")).await.unwrap();
    assert_eq!(one(&rows), &int(0));
    assert!(begun.elapsed() < TIME / 2);
    transaction.commit().await.unwrap();
}

/// Two transactions read, then write what they read plus one: either one waits for the other, or one is a conflict.
async fn lost_updates_are_impossible(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let database = Arc::clone(&database);
        tasks.spawn(async move {
            let mut conflicts = 0;
            for _ in 0..20 {
                loop {
                    match increment(&database).await {
                        Ok(()) => break,
                        Err(DataError::Conflict) => conflicts += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            conflicts
        });
    }
    let conflicts: i32 = tasks.join_all().await.into_iter().sum();
    assert_eq!(one(&database.query(sql("SELECT n FROM t")).await.unwrap()), &int(40));
    if fixture.is_postgres() {
        // Surely a conflict: the second one read before the first committed.
        let (mut one, mut two) = (database.begin().await.unwrap(), database.begin().await.unwrap());
        one.query(sql("SELECT n FROM t")).await.unwrap();
        two.query(sql("SELECT n FROM t")).await.unwrap();
        one.execute(sql("UPDATE t SET n = n + 1")).await.unwrap();
        one.commit().await.unwrap();
        assert_eq!(two.execute(sql("UPDATE t SET n = n + 1")).await, Err(DataError::Conflict));
    } else {
        assert_eq!(conflicts, 0, "writers of a file take turns");
    }
}

async fn increment(database: &PluginDatabase) -> Result<(), DataError> {
    let mut transaction = database.begin().await?;
    let rows = transaction.query(sql("SELECT n FROM t WHERE id = 1")).await?;
    let Value::Integer(n) = one(&rows) else { panic!("{rows:?}") };
    transaction.execute(with("UPDATE t SET n = $1 WHERE id = 1", [int(n + 1)])).await?;
    transaction.commit().await
}

/// As when the process stops while a call holds one.
async fn dropped_outside_the_runtime(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    let mut transaction = database.begin().await.unwrap();
    transaction.execute(sql("INSERT INTO t VALUES (2, 0)")).await.unwrap();
    std::thread::spawn(move || drop(transaction)).join().unwrap();
    assert_eq!(database.execute(sql("INSERT INTO t VALUES (2, 0)")).await, Ok(1));
}

async fn a_transaction_left_open_blocks_nobody_for_long(fixture: &Fixture) {
    let database = fixture.plugin(TABLE).await;
    let mut transaction = database.begin().await.unwrap();
    transaction.execute(sql("UPDATE t SET n = 1")).await.unwrap();
    let begun = Instant::now();
    let other = database.execute(sql("UPDATE t SET n = 2")).await;
    assert_eq!(other, Err(DataError::Conflict));
    assert!(begun.elapsed() < TIME * 2);
    transaction.commit().await.unwrap();
    assert_eq!(database.execute(sql("UPDATE t SET n = 2")).await, Ok(1));
}
