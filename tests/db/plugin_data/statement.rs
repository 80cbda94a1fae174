//! One statement: values, parameters, limits, cancellation, constraints.

use std::time::Instant;

use super::*;

on_both!(
    values_round_trip,
    booleans_come_back_from_boolean_columns,
    parameters_are_numbered_by_their_names,
    parameters_must_match,
    one_statement_at_a_time,
    execute_counts,
    writing_ctes_run,
    the_caps_hold,
    a_capped_returning_changes_nothing,
    statements_have_a_deadline,
    a_dropped_call_is_interrupted,
    batches_are_one_transaction,
    constraints_are_named,
    many_at_once,
    connections_are_bounded,
    values_that_neither_database_takes,
    the_schema_may_change_under_prepared_statements,
);

const TYPES: &str = "CREATE TABLE v (id bigint PRIMARY KEY, b boolean, i bigint, r double precision, t text, x bytea)";

async fn values_round_trip(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let rows = [
        vec![
            int(1),
            Value::Boolean(true),
            int(i64::MAX),
            Value::Real(-0.5),
            text("ünïcödé 🦀 '\"$1"),
            Value::Blob(vec![0, 255, 7]),
        ],
        vec![int(2), Value::Boolean(false), int(i64::MIN), Value::Real(f64::MAX), text(""), Value::Blob(vec![])],
        vec![int(3), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null],
    ];
    for row in &rows {
        let insert = with("INSERT INTO v (id, b, i, r, t, x) VALUES ($1, $2, $3, $4, $5, $6)", row.clone());
        assert_eq!(database.execute(insert).await, Ok(1));
    }
    let read = database.query(sql("SELECT id, b, i, r, t, x FROM v ORDER BY id")).await.unwrap();
    assert_eq!(read.columns, ["id", "b", "i", "r", "t", "x"]);
    assert_eq!(read.values, rows);
    let none = database.query(sql("SELECT id FROM v WHERE id > 100")).await.unwrap();
    assert_eq!(none, Rows { columns: vec!["id".to_owned()], values: vec![] });
}

async fn booleans_come_back_from_boolean_columns(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let insert = with("INSERT INTO v (id, b) VALUES ($1, $2) RETURNING b", [int(1), Value::Boolean(true)]);
    assert_eq!(one(&database.query(insert).await.unwrap()), &Value::Boolean(true));
    for text in ["SELECT b FROM v", "SELECT b AS done FROM v", "SELECT b FROM (SELECT * FROM v) AS s"] {
        assert_eq!(one(&database.query(sql(text)).await.unwrap()), &Value::Boolean(true), "{text}");
    }
    let found = database.query(with("SELECT id FROM v WHERE b = $1", [Value::Boolean(true)])).await.unwrap();
    assert_eq!(one(&found), &int(1));
}

async fn parameters_are_numbered_by_their_names(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let insert = with("INSERT INTO v (t, id, i) VALUES ($2, $1, $1)", [int(7), text("seven")]);
    database.execute(insert).await.unwrap();
    let rows = database.query(sql("SELECT id, i, t FROM v")).await.unwrap();
    assert_eq!(rows.values, [[int(7), int(7), text("seven")]]);
}

async fn parameters_must_match(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    for (text, values) in [
        ("SELECT id FROM v WHERE id = $1", 0),
        ("SELECT id FROM v WHERE id = $1", 2),
        ("SELECT id FROM v", 1),
        ("SELECT id FROM v WHERE id = $2", 2),
        ("SELECT id FROM v WHERE id = ?", 1),
        ("SELECT id FROM v WHERE id = :id", 1),
    ] {
        is_invalid(database.query(with(text, vec![int(1); values])).await, text);
    }
}

async fn one_statement_at_a_time(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    for text in ["SELECT 1; SELECT 2", "SELECT 1; DROP TABLE v", "BEGIN; SELECT 1", "", ";", "SELECT 1;;"] {
        is_invalid(database.query(sql(text)).await, text);
        is_invalid(database.execute(sql(text)).await, text);
        is_invalid(database.batch(vec![sql("SELECT 1"), sql(text)]).await, text);
    }
    assert_eq!(one(&database.query(sql("SELECT 1 AS a; -- the end")).await.unwrap()), &int(1));
    is_invalid(database.query(sql("SELECT nonsense FROM nowhere")).await, "unknown table");
    is_invalid(database.query(sql("SELECT FROM WHERE")).await, "syntax");
    let many = format!("SELECT 1{}", "; SELECT 1".repeat(50_000));
    is_invalid(database.query(sql(&many)).await, "a great many");
    let long = format!("SELECT '{}'", "x".repeat(2 * 1024 * 1024));
    assert!(matches!(database.query(sql(&long)).await, Err(DataError::Limit(_))));
}

async fn execute_counts(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    assert_eq!(database.execute(sql("INSERT INTO v (id) VALUES (1), (2), (3)")).await, Ok(3));
    assert_eq!(database.execute(sql("UPDATE v SET i = 1 WHERE id > 1")).await, Ok(2));
    assert_eq!(database.execute(sql("SELECT id FROM v")).await, Ok(0));
    assert_eq!(database.execute(sql("DELETE FROM v WHERE id = 100")).await, Ok(0));
    assert_eq!(database.execute(sql("DELETE FROM v RETURNING id")).await, Ok(3));
    let rows = database.query(sql("INSERT INTO v (id) VALUES (9) RETURNING id AS made")).await.unwrap();
    assert_eq!((rows.columns, rows.values), (vec!["made".to_owned()], vec![vec![int(9)]]));
}

async fn writing_ctes_run(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    for id in 1..=3 {
        let insert = with("WITH n(id) AS (SELECT CAST($1 AS bigint)) INSERT INTO v (id) SELECT id FROM n", [int(id)]);
        assert_eq!(database.execute(insert).await, Ok(1));
    }
    assert_eq!(count(&database, "v").await, 3);
    let reading = "WITH n AS (SELECT id FROM v) SELECT max(id) FROM n";
    assert_eq!(one(&database.query(sql(reading)).await.unwrap()), &int(3));
}

async fn the_caps_hold(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let numbers = |to: usize| {
        sql(&format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {to}) SELECT i FROM n"))
    };
    assert_eq!(database.query(numbers(ROWS)).await.unwrap().values.len(), ROWS);
    assert_eq!(database.query(numbers(ROWS + 1)).await, Err(DataError::Limit(format!("rows: {ROWS}"))));
    let insert = with("INSERT INTO v (id, x) VALUES ($1, $2)", [int(1), Value::Blob(vec![1; BYTES - 8])]);
    assert_eq!(database.execute(insert).await, Ok(1));
    let too_much = with("INSERT INTO v (id, x) VALUES ($1, $2)", [int(2), Value::Blob(vec![1; BYTES])]);
    assert_eq!(database.execute(too_much).await, Err(DataError::Limit(format!("bytes: {BYTES}"))));
    assert_eq!(database.query(sql("SELECT x FROM v")).await.unwrap().values.len(), 1);
    let twice = database.query(sql("SELECT x FROM v UNION ALL SELECT x FROM v")).await;
    assert_eq!(twice, Err(DataError::Limit(format!("bytes: {BYTES}"))));
    // The connections are as good as before.
    for _ in 0..5 {
        assert_eq!(count(&database, "v").await, 1);
    }
    let all = vec![numbers(ROWS / 2), numbers(ROWS / 2), numbers(1)];
    assert_eq!(database.batch(all).await, Err(DataError::Limit(format!("rows: {ROWS}"))));
}

async fn a_capped_returning_changes_nothing(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= {ROWS}) \
         INSERT INTO v (id) SELECT i FROM n RETURNING id"
    );
    assert_eq!(database.query(sql(&insert)).await, Err(DataError::Limit(format!("rows: {ROWS}"))));
    assert_eq!(count(&database, "v").await, 0);
}

async fn statements_have_a_deadline(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let begun = Instant::now();
    let result = database.query(sql(ENDLESS)).await;
    let time = TIME.as_millis();
    assert_eq!(result, Err(DataError::Limit(format!("statement time: {time} ms"))));
    assert!(begun.elapsed() < TIME * 2, "{:?}", begun.elapsed());
    assert_eq!(count(&database, "v").await, 0);
    let writing = format!("INSERT INTO v (id) {ENDLESS}");
    assert!(matches!(database.execute(sql(&writing)).await, Err(DataError::Limit(_))));
    assert_eq!(database.execute(sql("INSERT INTO v (id) VALUES (1)")).await, Ok(1));
}

async fn a_dropped_call_is_interrupted(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    for text in [ENDLESS.to_owned(), format!("INSERT INTO v (id) {ENDLESS}")] {
        // As many as there are connections, so that none is left unless they come back.
        let calls = (0..CONNECTIONS).map(|_| database.query(sql(&text)));
        let all = futures_join(calls);
        assert!(tokio::time::timeout(Duration::from_millis(300), all).await.is_err());
        let begun = Instant::now();
        assert_eq!(database.execute(sql("DELETE FROM v")).await, Ok(0));
        assert_eq!(count(&database, "v").await, 0);
        assert!(begun.elapsed() < TIME / 2, "{:?}", begun.elapsed());
        if fixture.is_postgres() {
            let mut running = fixture.running("RECURSIVE").await;
            for _ in 0..20 {
                if running == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                running = fixture.running("RECURSIVE").await;
            }
            assert_eq!(running, 0);
        }
    }
}

/// Drives all at once.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn batches_are_one_transaction(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let answers = database
        .batch(vec![
            with("INSERT INTO v (id, t) VALUES ($1, $2)", [int(1), text("one")]),
            sql("SELECT t FROM v"),
            sql("UPDATE v SET t = 'two' RETURNING t"),
        ])
        .await
        .unwrap();
    assert!(answers[0].values.is_empty() && answers[0].columns.is_empty());
    assert_eq!((one(&answers[1]), one(&answers[2])), (&text("one"), &text("two")));
    let failing = vec![sql("INSERT INTO v (id) VALUES (2)"), sql("INSERT INTO v (id) VALUES (1)")];
    assert!(matches!(database.batch(failing).await, Err(DataError::Constraint(_))));
    assert_eq!(count(&database, "v").await, 1);
    assert_eq!(database.batch(vec![]).await, Ok(vec![]));
    assert!(matches!(database.batch(vec![sql("SELECT 1"); 1_001]).await, Err(DataError::Limit(_))));
    let reads = database.batch(vec![sql("SELECT 1 AS a"), sql("SELECT t FROM v")]).await.unwrap();
    assert_eq!(reads.len(), 2);
}

async fn constraints_are_named(fixture: &Fixture) {
    let database = fixture
        .plugin(
            "CREATE TABLE owner (id bigint CONSTRAINT owner_key PRIMARY KEY);
             CREATE TABLE item (
                 id bigint PRIMARY KEY,
                 owner bigint CONSTRAINT item_owner REFERENCES owner (id),
                 title text NOT NULL,
                 code text CONSTRAINT item_code_key UNIQUE,
                 price bigint CONSTRAINT item_price_positive CHECK (price > 0),
                 CONSTRAINT item_owner_title_key UNIQUE (owner, title)
             );
             CREATE TABLE word (w text);
             CREATE UNIQUE INDEX word_lower ON word (lower(w));
             INSERT INTO word VALUES ('a');
             CREATE UNIQUE INDEX item_price_code ON item (price, code);
             INSERT INTO owner VALUES (1);
             INSERT INTO item VALUES (1, 1, 'a', 'c', 5);",
        )
        .await;
    let foreign = if fixture.is_postgres() { "item_owner" } else { "foreign key" };
    let primary = if fixture.is_postgres() { "item_pkey" } else { "item.id" };
    for (text, constraint) in [
        ("INSERT INTO owner VALUES (1)", "owner_key"),
        ("INSERT INTO item VALUES (1, 1, 'b', 'd', 5)", primary),
        ("INSERT INTO item VALUES (2, 9, 'b', 'd', 5)", foreign),
        ("INSERT INTO item VALUES (2, 1, NULL, 'd', 5)", "item.title"),
        ("INSERT INTO item VALUES (2, 1, 'b', 'c', 6)", "item_code_key"),
        ("INSERT INTO item VALUES (2, 1, 'b', 'd', 0)", "item_price_positive"),
        ("INSERT INTO item VALUES (2, 1, 'a', 'd', 6)", "item_owner_title_key"),
        ("INSERT INTO word VALUES ('A')", "word_lower"),
        ("UPDATE item SET price = -1", "item_price_positive"),
        ("DELETE FROM owner", foreign),
    ] {
        assert_eq!(database.execute(sql(text)).await, Err(DataError::Constraint(constraint.to_owned())), "{text}");
    }
}

async fn many_at_once(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    let mut tasks = tokio::task::JoinSet::new();
    for id in 0..60 {
        let database = Arc::clone(&database);
        tasks.spawn(async move {
            database.execute(with("INSERT INTO v (id) VALUES ($1)", [int(id)])).await.unwrap();
            database.query(with("SELECT id FROM v WHERE id = $1", [int(id)])).await.unwrap()
        });
    }
    while let Some(rows) = tasks.join_next().await {
        assert_eq!(rows.unwrap().values.len(), 1);
    }
    assert_eq!(count(&database, "v").await, 60);
}

async fn connections_are_bounded(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    // On SQLite one connection of the three writes.
    let readers = if fixture.is_postgres() { CONNECTIONS } else { CONNECTIONS - 1 };
    let waiting = |text: &'static str| {
        let database = Arc::clone(&database);
        tokio::spawn(async move { database.query(sql(text)).await })
    };
    let endless: Vec<_> = (0..readers).map(|_| waiting(ENDLESS)).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = tokio::time::timeout(Duration::from_millis(200), database.query(sql("SELECT 1"))).await;
    assert!(late.is_err(), "it waits");
    for task in endless {
        task.abort();
    }
    assert_eq!(one(&database.query(sql("SELECT 1 AS a")).await.unwrap()), &int(1));
}

async fn values_that_neither_database_takes(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    for value in [Value::Real(f64::NAN), text("a\0b")] {
        is_invalid(database.query(with("SELECT id FROM v WHERE t = $1", [value])).await, "value");
    }
    is_invalid(database.query(sql("SELECT 'a\0b'")).await, "text");
}

async fn the_schema_may_change_under_prepared_statements(fixture: &Fixture) {
    let database = fixture.plugin(TYPES).await;
    database.execute(sql("INSERT INTO v (id) VALUES (1)")).await.unwrap();
    let all = || database.query(sql("SELECT * FROM v"));
    for _ in 0..4 {
        assert_eq!(all().await.unwrap().columns.len(), 6);
    }
    let more = [migration("0001", TYPES), migration("0002", "ALTER TABLE v ADD COLUMN more boolean DEFAULT true")];
    fixture.node().migrate(&name("items"), &more).await.unwrap();
    for _ in 0..4 {
        let rows = all().await.unwrap();
        assert_eq!((rows.columns.len(), rows.values[0].len()), (7, 7));
        assert_eq!(rows.values[0][6], Value::Boolean(true));
    }
}
