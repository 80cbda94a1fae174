//! Values and their round trip through the database.

use wharf::db::plugin_data::{DataError, Value};

use super::fixture::{Fixture, execute, migration, name, on_both, query, sql, text};
use crate::support::Backend;

on_both! {
    every_kind_of_value_round_trips,
    a_parameter_may_be_used_twice_and_in_any_order,
    a_value_that_no_database_can_store_is_rejected,
    a_wrong_number_of_parameters_is_invalid,
    several_statements_in_one_text_are_rejected_and_none_runs,
    after_an_invalid_statement_the_next_one_works,
    the_number_of_changed_rows_is_returned,
    constraints_are_named_as_declared,
}

async fn every_kind_of_value_round_trips(fixture: &Fixture) {
    let tables = "CREATE TABLE kinds (id BIGINT PRIMARY KEY, flag BOOLEAN, whole BIGINT, part DOUBLE PRECISION, \
                  words TEXT, bytes BYTEA)";
    fixture.data.migrate(&name("kinds"), &[migration("1", tables)]).await.unwrap();
    let database = fixture.open("kinds").await;
    let cases = [
        [
            Value::Boolean(true),
            Value::Integer(i64::MAX),
            Value::Real(f64::MAX),
            text("Käse ☃ 'x' $1; --"),
            Value::Blob(vec![0, 255]),
        ],
        [Value::Boolean(false), Value::Integer(i64::MIN), Value::Real(-1.5), text(""), Value::Blob(Vec::new())],
        [Value::Null, Value::Null, Value::Null, Value::Null, Value::Null],
        [
            Value::Boolean(true),
            Value::Integer(0),
            Value::Real(f64::INFINITY),
            text("\u{1}\u{10ffff}\n"),
            Value::Blob(b"text".to_vec()),
        ],
    ];
    for (id, values) in (0..).zip(&cases) {
        let mut params = vec![Value::Integer(id)];
        params.extend_from_slice(values);
        let sql = "INSERT INTO kinds (id, flag, whole, part, words, bytes) VALUES ($1, $2, $3, $4, $5, $6) \
                   RETURNING flag, whole, part, words, bytes";
        assert_eq!(query(&database, sql, &params).await.unwrap().values, std::slice::from_ref(values));
    }
    let rows = query(&database, "SELECT flag, whole, part, words, bytes FROM kinds ORDER BY id", &[]).await.unwrap();
    assert_eq!(rows.columns, ["flag", "whole", "part", "words", "bytes"]);
    assert_eq!(rows.values, cases);
}

async fn a_parameter_may_be_used_twice_and_in_any_order(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let sql = "SELECT CAST($2 AS TEXT), CAST($1 AS TEXT), CAST($2 AS TEXT)";
    let rows = query(&database, sql, &[text("one"), text("two")]).await.unwrap();
    assert_eq!(rows.values, [[text("two"), text("one"), text("two")]]);
    let rows = query(&database, "SELECT n FROM counter WHERE id = $1 OR id = $1", &[text("a")]).await.unwrap();
    assert_eq!(rows.values, [[Value::Integer(0)]]);
}

async fn a_value_that_no_database_can_store_is_rejected(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for value in [Value::Real(f64::NAN), text("a\0b")] {
        let error = query(&database, "SELECT n FROM counter WHERE id = $1", &[value]).await.unwrap_err();
        assert!(matches!(&error, DataError::Invalid(text) if text.contains("$1")), "{error:?}");
    }
}

async fn a_wrong_number_of_parameters_is_invalid(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for (sql, count) in [
        ("SELECT n FROM counter WHERE id = $1", 0),
        ("SELECT n FROM counter WHERE id = $1", 2),
        ("SELECT n FROM counter WHERE id = $2", 2),
        ("SELECT n FROM counter", 1),
        ("SELECT n FROM counter WHERE id = '$1'", 1),
    ] {
        let params = vec![text("a"); count];
        let error = query(&database, sql, &params).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{sql}: {error:?}");
    }
}

async fn several_statements_in_one_text_are_rejected_and_none_runs(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for sql in [
        "UPDATE counter SET n = 1; UPDATE counter SET n = 2",
        "UPDATE counter SET n = 1;;",
        "SELECT 1; UPDATE counter SET n = 1",
        "UPDATE counter SET n = 1 /* ; */ ; -- \n UPDATE counter SET n = 2",
    ] {
        let error = execute(&database, sql, &[]).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{sql}: {error:?}");
    }
    let rows = query(&database, "SELECT sum(n) = 0 AS untouched FROM counter;", &[]).await.unwrap();
    assert!(matches!(rows.values[0][0], Value::Boolean(true) | Value::Integer(1)));
}

async fn after_an_invalid_statement_the_next_one_works(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for sql in
        ["SELECT FROM WHERE", "SELECT * FROM nothing", "SELECT nothing FROM item", "INSERT INTO item", "SELECT 'a"]
    {
        let error = query(&database, sql, &[]).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{sql}: {error:?}");
        assert!(query(&database, "SELECT id FROM item", &[]).await.unwrap().values.is_empty());
    }
}

async fn the_number_of_changed_rows_is_returned(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for (sql, expected) in [
        ("INSERT INTO owner (id) VALUES (1), (2), (3)", 3),
        ("UPDATE owner SET id = id + 10 WHERE id < 3", 2),
        ("SELECT id FROM owner", 0),
        ("DELETE FROM owner WHERE id = 99", 0),
        ("WITH big AS (SELECT id FROM owner WHERE id > 5) DELETE FROM owner WHERE id IN (SELECT id FROM big)", 2),
        ("DELETE FROM owner RETURNING id", 1),
        ("SELECT id FROM owner", 0),
    ] {
        assert_eq!(execute(&database, sql, &[]).await, Ok(expected), "{sql}");
    }
}

async fn constraints_are_named_as_declared(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    execute(&database, "INSERT INTO item (id, owner, title) VALUES (1, 'a', 'one')", &[]).await.unwrap();
    let on = |sqlite: &'static str, postgres: &'static str| match fixture.backend {
        Backend::Sqlite => sqlite,
        Backend::Postgres => postgres,
    };
    for (sql, constraint) in [
        ("INSERT INTO item (id, owner, title) VALUES (2, 'b', 'one')", "item_title_index"),
        ("INSERT INTO item (id, owner, title, price) VALUES (2, 'b', 'two', -1)", "item_price_check"),
        ("INSERT INTO item (id, owner, title) VALUES (1, 'b', 'two')", on("item.id", "item_pkey")),
        ("INSERT INTO item (id, title) VALUES (2, 'two')", "item.owner"),
        (
            "INSERT INTO item (id, owner, title, parent) VALUES (2, 'b', 'two', 9)",
            on("foreign key", "item_parent_fkey"),
        ),
    ] {
        let error = execute(&database, sql, &[]).await.unwrap_err();
        assert_eq!(error, DataError::Constraint(constraint.to_owned()), "{sql}");
    }
    let tables = "CREATE TABLE pair (a TEXT, b TEXT, CONSTRAINT pair_a_b_key UNIQUE (a, b))";
    fixture.data.migrate(&name("pairs"), &[migration("1", tables)]).await.unwrap();
    let pairs = fixture.open("pairs").await;
    let sql = "INSERT INTO pair VALUES ('a', 'b')";
    execute(&pairs, sql, &[]).await.unwrap();
    assert_eq!(execute(&pairs, sql, &[]).await, Err(DataError::Constraint("pair_a_b_key".to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_converted_to_the_richer_types_of_postgres_and_back() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let tables = "CREATE TYPE mood AS ENUM ('sad', 'glad');
        CREATE DOMAIN code AS varchar(5) CHECK (VALUE <> '');
        CREATE TABLE rich (id uuid, at timestamptz, local timestamp, day date, hour time, amount numeric(20, 4), \
                           data jsonb, raw json, mood mood, code code, small smallint, whole integer, single real)";
    fixture.data.migrate(&name("rich"), &[migration("1", tables)]).await.unwrap();
    let database = fixture.open("rich").await;
    let sql_insert = "INSERT INTO rich VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING *";
    let params = [
        text("0190A0E2-0000-7000-8000-00000000000F"),
        text("2026-01-31T12:00:00+02:00"),
        text("2026-01-31 12:00:00.25"),
        text("2026-01-31"),
        text("23:59:59"),
        text("12345678901234.5"),
        text(r#"{"b": 1, "a": [1.50, "x y"]}"#),
        text(r#"{"b": 1}"#),
        text("glad"),
        text("abc"),
        Value::Integer(-5),
        Value::Integer(7),
        Value::Real(0.5),
    ];
    let rows = query(&database, sql_insert, &params).await.unwrap();
    let expected = [
        text("0190a0e2-0000-7000-8000-00000000000f"),
        text("2026-01-31T10:00:00.000000Z"),
        text("2026-01-31T12:00:00.250000"),
        text("2026-01-31"),
        text("23:59:59.000000"),
        text("12345678901234.5000"),
        text(r#"{"a":[1.50,"x y"],"b":1}"#),
        text(r#"{"b": 1}"#),
        text("glad"),
        text("abc"),
        Value::Integer(-5),
        Value::Integer(7),
        Value::Real(0.5),
    ];
    assert_eq!(rows.values, [expected]);
    for (column, value) in [
        ("id", text("not a uuid")),
        ("at", text("yesterday")),
        ("at", text("2026-02-30T00:00:00Z")),
        ("day", text("2026-13-01")),
        ("amount", text("1,5")),
        ("small", Value::Integer(40_000)),
        ("whole", Value::Integer(i64::MAX)),
        ("whole", text("7")),
        ("data", Value::Blob(vec![1])),
    ] {
        let error = execute(&database, &format!("UPDATE rich SET {column} = $1"), std::slice::from_ref(&value))
            .await
            .unwrap_err();
        assert!(matches!(&error, DataError::Invalid(text) if text.contains("$1")), "{column} {value:?}: {error:?}");
    }
    for (column, value) in [("data", "{"), ("mood", "angry"), ("code", "abcdefg")] {
        let error = execute(&database, &format!("UPDATE rich SET {column} = $1"), &[text(value)]).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{column}: {error:?}");
    }
    let error = execute(&database, "UPDATE rich SET code = $1", &[text("")]).await.unwrap_err();
    assert_eq!(error, DataError::Constraint("code_check".to_owned()));
    let rows = database.query(sql("SELECT count(*) FROM rich WHERE data @> '{\"b\": 1}'")).await.unwrap();
    assert_eq!(rows.values, [[Value::Integer(1)]]);
    let error = database.query(sql("SELECT ARRAY[1] AS many")).await.unwrap_err();
    assert!(matches!(&error, DataError::Invalid(text) if text.contains("many")), "{error:?}");
    let rows = database.query(sql("SELECT 'infinity'::timestamptz, 'NaN'::numeric, 1e-20::numeric")).await.unwrap();
    assert_eq!(rows.values, [[text("infinity"), text("NaN"), text("0.00000000000000000001")]]);
    fixture.stop().await;
}
