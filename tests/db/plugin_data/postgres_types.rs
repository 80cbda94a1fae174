//! Types that only PostgreSQL has: text goes in, text comes out.

use super::*;

const TYPES: &str = "CREATE TYPE mood AS ENUM ('fine', 'tired'); CREATE DOMAIN short AS varchar(5);
    CREATE TABLE t (
    u uuid, tz timestamptz, ts timestamp, d date, ti time, n numeric, n2 numeric(10, 2), j json, jb jsonb, v varchar(20), c char(3),
    m mood, s short, i2 smallint, i4 integer, f4 real, b boolean, a text[])";

async fn round_trip(database: &PluginDatabase, column: &str, value: Value) -> Result<Value, DataError> {
    let insert = with(&format!("INSERT INTO t ({column}) VALUES ($1) RETURNING {column}"), [value]);
    database.query(insert).await.map(|rows| one(&rows).clone())
}

#[tokio::test]
async fn text_fills_them_and_comes_back() {
    let Some(fixture) = Fixture::postgres().await else { return };
    let database = fixture.plugin(TYPES).await;
    for (column, value, back) in [
        ("u", "550E8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000"),
        ("tz", "2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00.000000Z"),
        ("tz", "1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500000Z"),
        ("ts", "2026-01-31T12:00:00.25", "2026-01-31T12:00:00.250000"),
        ("d", "2026-01-31", "2026-01-31"),
        ("ti", "23:59:59", "23:59:59.000000"),
        ("n", "12345678901234567890.098765432109876500", "12345678901234567890.098765432109876500"),
        ("n", "-0.00001", "-0.00001"),
        ("n2", "1.5", "1.50"),
        ("j", "{\"a\":  [1, 2]}", "{\"a\":  [1, 2]}"),
        ("jb", "{\"b\": 1, \"a\": [1, 2.0, \"x: y, \\\"z\\\"\"]}", "{\"a\":[1,2.0,\"x: y, \\\"z\\\"\"],\"b\":1}"),
        ("v", "héllo", "héllo"),
        ("c", "ab", "ab "),
        ("m", "tired", "tired"),
        ("s", "abc", "abc"),
    ] {
        assert_eq!(round_trip(&database, column, text(value)).await, Ok(text(back)), "{column} {value}");
        assert_eq!(round_trip(&database, column, Value::Null).await, Ok(Value::Null), "{column}");
    }
    for (column, value, back) in [
        ("i2", int(-32768), int(-32768)),
        ("i4", int(i64::from(i32::MAX)), int(i64::from(i32::MAX))),
        ("f4", Value::Real(0.5), Value::Real(0.5)),
        ("f4", int(3), Value::Real(3.0)),
        ("n", int(-70_000), text("-70000")),
        ("n", Value::Real(0.1), text("0.1")),
        ("n", Value::Real(1e21), text("1000000000000000000000")),
        ("b", int(1), Value::Boolean(true)),
    ] {
        assert_eq!(round_trip(&database, column, value.clone()).await, Ok(back), "{column} {value:?}");
    }
}

#[tokio::test]
async fn what_does_not_fit_names_its_parameter() {
    let Some(fixture) = Fixture::postgres().await else { return };
    let database = fixture.plugin(TYPES).await;
    for (column, value) in [
        ("u", text("not a uuid")),
        ("tz", text("yesterday")),
        ("d", text("2026-02-30")),
        ("n", text("12,5")),
        ("i2", int(40_000)),
        ("i4", int(i64::MAX)),
        ("b", int(2)),
        ("v", int(5)),
        ("i4", text("5")),
        ("jb", int(1)),
        ("f4", Value::Real(1e300)),
        ("i4", Value::Real(1.0)),
        ("a", text("{a}")),
        ("u", Value::Blob(vec![0; 16])),
    ] {
        let Err(DataError::Invalid(message)) = round_trip(&database, column, value.clone()).await else {
            panic!("{column} {value:?}")
        };
        assert!(message.contains("$1") || message.contains("cast column a to text"), "{message}");
    }
    // What the server itself refuses.
    for (column, value) in [("jb", "{"), ("m", "happy"), ("v", "a text that is longer than twenty")] {
        is_invalid(round_trip(&database, column, text(value)).await, column);
    }
    let unsupported = database.query(sql("SELECT a FROM t")).await;
    assert_eq!(unsupported, Err(DataError::Invalid("column a is of type text[]; cast column a to text".to_owned())));
    assert!(database.query(sql("SELECT CAST(a AS text) FROM t")).await.is_ok());
}

#[tokio::test]
async fn sleeping_is_bounded_and_ended() {
    let Some(fixture) = Fixture::postgres().await else { return };
    let database = fixture.plugin(TYPES).await;
    assert!(matches!(database.query(sql("SELECT pg_sleep(30)")).await, Err(DataError::Limit(_))));
    let dropped = tokio::time::timeout(Duration::from_millis(200), database.query(sql("SELECT pg_sleep(30)"))).await;
    assert!(dropped.is_err());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fixture.running("pg_sleep(30)").await, 0);
}

#[tokio::test]
async fn a_restarted_connection_is_noticed() {
    let Some(fixture) = Fixture::postgres().await else { return };
    use sqlx::Connection;
    let database = fixture.plugin(TYPES).await;
    assert_eq!(count(&database, "t").await, 0);
    let mut superuser = sqlx::PgConnection::connect(&fixture.postgres.as_ref().unwrap().superuser_url).await.unwrap();
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'wharf-plugin' AND datname = current_database()";
    sqlx::query(ended).execute(&mut superuser).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let first = database.query(sql("SELECT 1 AS a")).await;
    assert!(matches!(first, Err(DataError::Unavailable) | Ok(_)), "{first:?}");
    assert_eq!(one(&database.query(sql("SELECT 1 AS a")).await.unwrap()), &int(1));
}
