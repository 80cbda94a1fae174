//! Differences between the two databases that the host hides from plugins.

use wharf::db::plugin_data::{DataError, LimitKind, Statement, Value};

use super::fixture::{Fixture, add, count, execute, migration, name, on_both, query, scalar, sql, text};
use crate::support::patience::PATIENCE;

on_both! {
    booleans_come_back_from_boolean_columns,
    ctes_that_write_use_the_writing_connection,
    a_batch_shares_one_row_limit_and_has_a_maximum_length => |config: &mut wharf::config::Config| config.plugins.sql_rows = 10,
    a_transaction_dropped_outside_the_runtime_is_rolled_back,
    described_columns_follow_another_nodes_migration,
    a_violated_constraint_is_reported_by_name,
    a_very_long_list_of_statements_or_parameters_is_rejected_quickly,
}

const FLAGS: &str = "CREATE TABLE flag (id BIGINT PRIMARY KEY, b BOOLEAN)";

async fn booleans_come_back_from_boolean_columns(fixture: &Fixture) {
    fixture.data.migrate(&name("flags"), &[migration("1", FLAGS)]).await.unwrap();
    let database = fixture.open("flags").await;
    let insert = "INSERT INTO flag (id, b) VALUES ($1, $2) RETURNING b";
    let rows = query(&database, insert, &[Value::Integer(1), Value::Boolean(true)]).await.unwrap();
    assert_eq!(rows.values, [[Value::Boolean(true)]]);
    for sql in ["SELECT b FROM flag", "SELECT b AS done FROM flag", "SELECT b FROM (SELECT * FROM flag) AS f"] {
        assert_eq!(scalar(&database, sql).await, Value::Boolean(true), "{sql}");
    }
    let rows = query(&database, "SELECT id FROM flag WHERE b = $1", &[Value::Boolean(true)]).await.unwrap();
    assert_eq!(rows.values, [[Value::Integer(1)]]);
}

async fn ctes_that_write_use_the_writing_connection(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let insert = "WITH n (id) AS (SELECT CAST($1 AS BIGINT)) INSERT INTO owner (id) SELECT id FROM n";
    for id in 1..=3 {
        assert_eq!(execute(&database, insert, &[Value::Integer(id)]).await, Ok(1));
    }
    let reading = "WITH n AS (SELECT id FROM owner) SELECT max(id) FROM n";
    assert_eq!(scalar(&database, reading).await, Value::Integer(3));
}

async fn a_batch_shares_one_row_limit_and_has_a_maximum_length(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let five = "VALUES (1), (2), (3), (4), (5)";
    assert_eq!(database.batch(vec![sql(five), sql(five)]).await.unwrap().len(), 2);
    let result = database.batch(vec![sql(five), sql(five), sql("SELECT 1")]).await;
    assert_eq!(result, Err(DataError::Limit(LimitKind::Rows, "rows: 10".to_owned())));
    assert_eq!(database.batch(vec![]).await, Ok(vec![]));
    let long = vec![sql("SELECT 1"); 1_001];
    assert!(matches!(database.batch(long).await, Err(DataError::Limit(..))));
}

/// As at a process exit while a call holds a transaction.
async fn a_transaction_dropped_outside_the_runtime_is_rolled_back(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let mut transaction = database.begin().await.unwrap();
    add(&mut transaction, 1).await.unwrap();
    std::thread::spawn(move || drop(transaction)).join().unwrap();
    let mut transaction = database.begin().await.unwrap();
    assert_eq!(add(&mut transaction, 1).await, Ok(1));
    transaction.rollback().await.unwrap();
    assert_eq!(count(&database).await, Value::Integer(0));
}

async fn described_columns_follow_another_nodes_migration(fixture: &Fixture) {
    let first = migration("1", FLAGS);
    fixture.data.migrate(&name("flags"), std::slice::from_ref(&first)).await.unwrap();
    let database = fixture.open("flags").await;
    execute(&database, "INSERT INTO flag (id) VALUES (1)", &[]).await.unwrap();
    for _ in 0..4 {
        assert_eq!(query(&database, "SELECT * FROM flag", &[]).await.unwrap().columns, ["id", "b"]);
    }
    let second = migration("2", "ALTER TABLE flag ADD COLUMN more BOOLEAN DEFAULT true");
    let node = fixture.another_node();
    node.migrate(&name("flags"), &[first, second]).await.unwrap();
    for _ in 0..4 {
        let rows = query(&database, "SELECT * FROM flag", &[]).await.unwrap();
        assert_eq!(rows.columns, ["id", "b", "more"]);
        assert_eq!(rows.values, [[Value::Integer(1), Value::Null, Value::Boolean(true)]]);
    }
    node.close().await;
}

async fn a_violated_constraint_is_reported_by_name(fixture: &Fixture) {
    let tables = "CREATE TABLE owner (id BIGINT CONSTRAINT owner_key PRIMARY KEY);
        CREATE TABLE item (code TEXT CONSTRAINT item_code_key UNIQUE, owner BIGINT, title TEXT,
                           CONSTRAINT item_owner_title_key UNIQUE (owner, title));
        CREATE TABLE word (w TEXT);
        CREATE UNIQUE INDEX word_lower ON word (lower(w));
        INSERT INTO owner VALUES (1); INSERT INTO item VALUES ('a', 1, 't'); INSERT INTO word VALUES ('a')";
    fixture.data.migrate(&name("named"), &[migration("1", tables)]).await.unwrap();
    let database = fixture.open("named").await;
    for (sql, constraint) in [
        ("INSERT INTO owner VALUES (1)", "owner_key"),
        ("INSERT INTO item VALUES ('a', 2, 't')", "item_code_key"),
        ("INSERT INTO item VALUES ('b', 1, 't')", "item_owner_title_key"),
        ("INSERT INTO word VALUES ('A')", "word_lower"),
    ] {
        assert_eq!(execute(&database, sql, &[]).await, Err(DataError::Constraint(constraint.to_owned())), "{sql}");
    }
}

async fn a_very_long_list_of_statements_or_parameters_is_rejected_quickly(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let many = format!("SELECT 1{}", "; SELECT 1".repeat(50_000));
    let parameters: String = (1..=65_000).map(|number| format!("${number}, ")).collect();
    for text in [many, format!("SELECT {parameters} 1")] {
        let refused = tokio::time::timeout(PATIENCE, query(&database, &text, &[])).await;
        assert!(matches!(refused, Ok(Err(DataError::Invalid(_)))));
    }
    let long = Statement::new(format!("SELECT '{}'", "x".repeat(2 * 1024 * 1024)), [text("x")]);
    assert!(matches!(database.query(long).await, Err(DataError::Limit(..))));
}
