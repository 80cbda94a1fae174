//! SQLite runs within the host's process: the memory, stack and time that a plugin's statement takes are limited.

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{Connection as _, SqliteConnection};
use wharf::config::Config;
use wharf::db::plugin_data::{DataError, LimitKind, PluginDatabase, Value};

use super::fixture::{ENDLESS, Fixture, execute, hasty, migration, name, query, scalar, sql, text};
use crate::support::Backend;
use crate::support::own_process::is_alone;

async fn fixture(change: impl FnOnce(&mut Config)) -> Fixture {
    Fixture::new(Backend::Sqlite, change).await.unwrap()
}

fn is_limit(error: &DataError, bound: LimitKind) -> bool {
    matches!(error, DataError::Limit(met, _) if *met == bound)
}

async fn assert_invalid(database: &PluginDatabase, sql: &str) {
    let shown = sql.get(..100).unwrap_or(sql);
    let error = query(database, sql, &[]).await.expect_err(shown);
    assert!(matches!(error, DataError::Invalid(_)), "{shown}: {error:?}");
}

/// Returns nested arrays in JSONB, the binary JSON format of SQLite.
fn nested_blob(levels: usize) -> Vec<u8> {
    // Written backwards from the innermost array, because each array begins with its size.
    let mut backwards = vec![0x0b];
    for _ in 0..levels {
        let size = u32::try_from(backwards.len()).unwrap().to_be_bytes();
        backwards.extend(size.iter().rev());
        backwards.push(0xeb);
    }
    backwards.reverse();
    backwards
}

/// SQLite recurses as deep as the path or the blob says; a stack overflow would end the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_json_exhausts_the_stack() {
    let fixture = fixture(|_| ()).await;
    let database = fixture.tables("shop").await;
    let path = "'$' || replace(hex(zeroblob(200000)), '00', '.a')";
    for function in ["json_set", "json_insert", "jsonb_set", "JSONB_INSERT", "json_replace"] {
        assert_invalid(&database, &format!("SELECT {function}('{{}}', {path}, 1)")).await;
    }
    for question in [
        "json($1)",
        "json_extract($1, '$')",
        "$1 -> '$'",
        "$1 ->> 0",
        "json_type($1)",
        "json_array($1)",
        "json_quote($1)",
        "json_pretty($1)",
        "json_group_array($1)",
        "json_patch('[]', $1)",
        "(SELECT max(value) FROM json_each($1))",
        "(SELECT count(*) FROM json_tree($1))",
    ] {
        let blob = [Value::Blob(nested_blob(200_000))];
        let error = query(&database, &format!("SELECT {question}"), &blob).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{question}: {error:?}");
    }
    let migrations = [migration("1", "CREATE TABLE j (a TEXT, b TEXT AS (json_set(a, '$.a', 1)))")];
    assert!(fixture.data.migrate(&name("other"), &migrations).await.is_err());
    assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
    fixture.stop().await;
}

/// The nesting depth of parsed SQL is limited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_exhausts_the_stack() {
    let fixture = fixture(|_| ()).await;
    let database = fixture.tables("shop").await;
    let nested = |begin: &str, end: &str| format!("{}SELECT 1{}", begin.repeat(20_000), end.repeat(20_000));
    assert_invalid(&database, &nested("SELECT * FROM (", ")")).await;
    assert_invalid(&database, &nested("SELECT * FROM (", "")).await;
    assert_invalid(&database, &nested("WITH a AS (", ") SELECT * FROM a")).await;
    assert_invalid(&database, &nested("SELECT 1 UNION ALL SELECT * FROM (", ")")).await;
    let chain = |count: u32| {
        let tables: Vec<String> = (1..count).map(|n| format!("a{n} AS (SELECT * FROM a{})", n - 1)).collect();
        format!("WITH a0 AS (SELECT 1 AS x), {} SELECT * FROM a{}", tables.join(", "), count - 1)
    };
    assert!(query(&database, &chain(50), &[]).await.is_ok());
    assert_invalid(&database, &chain(6_000)).await;
    // Many statements that nest in each other, rather than one text.
    let views: Vec<String> = (1..5_000).map(|n| format!("CREATE VIEW v{n} AS SELECT * FROM v{};", n - 1)).collect();
    let views = format!("CREATE VIEW v0 AS SELECT 1 AS x; {}", views.concat());
    fixture.data.migrate(&name("views"), &[migration("1", &views)]).await.unwrap();
    let database = fixture.open("views").await;
    assert_invalid(&database, "SELECT * FROM v4999").await;
    assert_eq!(scalar(&database, "SELECT x FROM v20").await, Value::Integer(1));
    let tables: String = (0..1_001).map(|n| format!("CREATE TABLE t{n} (a INT);")).collect();
    let trigger = |n| format!("CREATE TRIGGER g{n} AFTER INSERT ON t{n} BEGIN INSERT INTO t{} VALUES (1); END;", n + 1);
    let triggers = tables + &(0..1_000).map(trigger).collect::<String>();
    fixture.data.migrate(&name("triggers"), &[migration("1", &triggers)]).await.unwrap();
    assert_invalid(&*fixture.open("triggers").await, "INSERT INTO t0 VALUES (1)").await;
    fixture.stop().await;
}

/// These functions run in quadratic time within one instruction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_functions_are_refused_and_others_behave_as_in_sqlite() {
    let fixture = fixture(|_| ()).await;
    let database = fixture.open("shop").await;
    let (long, half) = ("hex(zeroblob(4000000))", "hex(zeroblob(2000000))");
    for slow in [
        format!("instr({long}, {half} || '1')"),
        format!("replace({long}, {half} || '1', '')"),
        format!("trim({long}, {half} || '1')"),
        format!("ltrim({long}, {half} || '1')"),
        format!("rtrim({long}, {half} || '1')"),
        format!("unhex({long}, {half} || '1')"),
    ] {
        assert_invalid(&database, &format!("SELECT {slow}")).await;
    }
    for (expression, expected) in [
        ("instr('äbc', 'c')", Value::Integer(3)),
        ("instr(x'0102', x'02')", Value::Integer(2)),
        ("instr(12.5, '.')", Value::Integer(3)),
        ("instr(NULL, 'a')", Value::Null),
        ("replace(1.5, '.', ',')", text("1,5")),
        ("replace('aXbX', 'X', '--')", text("a--b--")),
        ("trim('xyaxy', 'xy')", text("a")),
        ("trim('  a ')", text("a")),
        ("ltrim('xxa', 'x') || rtrim('axx', 'x')", text("aa")),
        ("hex(unhex('01 02', ' '))", text("0102")),
        ("unhex('0g')", Value::Null),
        ("'{\"a\":[1,2]}' -> 'a'", text("[1,2]")),
        ("'{\"a\":[1,2]}' ->> '$.a[1]'", Value::Integer(2)),
        ("json_extract('{\"a\":1.5}', '$.a')", Value::Real(1.5)),
        ("json_extract('[1,2]', '$[0]', '$[1]')", text("[1,2]")),
        ("json_array_length('[1,2]')", Value::Integer(2)),
        ("json_valid('{')", Value::Integer(0)),
        ("json(' [ 1 ] ')", text("[1]")),
        ("json_type('{\"a\":null}', '$.a')", text("null")),
        ("length(replace(hex(zeroblob(2000000)), '00', 'a'))", Value::Integer(2_000_000)),
    ] {
        assert_eq!(scalar(&database, &format!("SELECT {expression}")).await, expected, "{expression}");
    }
    assert_invalid(&database, "SELECT json('{')").await;
    let error = query(&database, "SELECT replace(hex(zeroblob(100000)), '0', '01234567890123456789')", &[]).await;
    assert!(error.is_ok());
    let error = query(&database, "SELECT length(replace(hex(zeroblob(1000000)), '0', '0123456789'))", &[]).await;
    assert!(is_limit(&error.unwrap_err(), LimitKind::Bytes));
    // The replaced functions may be used where SQLite requires deterministic ones.
    let table = "CREATE TABLE t (a TEXT CHECK (json_valid(a)), b TEXT AS (replace(a, '1', '2')) STORED);
        CREATE INDEX i ON t (instr(a, '1'), a ->> 0); INSERT INTO t (a) VALUES ('[1]')";
    fixture.data.migrate(&name("kept"), &[migration("1", table)]).await.unwrap();
    let kept = fixture.open("kept").await;
    assert_eq!(scalar(&kept, "SELECT b FROM t WHERE instr(a, '1') = 2 AND a ->> 0 = 1").await, text("[2]"));
    assert!(execute(&kept, "INSERT INTO t (a) VALUES ('[')", &[]).await.is_err());
    fixture.stop().await;
}

/// SQLite checks no deadline in a sequence of instructions without a jump.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_long_expression_ends_at_its_time_limit() {
    // With only one connection, the next statement works only after this one has ended.
    let fixture = fixture(|config| config.plugins.sql_connections = 1).await;
    let database = fixture.open("shop").await;
    let hasty = hasty(&database, Duration::from_millis(500));
    let column = vec!["length(upper(lower(upper(lower(hex(randomblob(32000)))))))"; 400].join("+");
    let error = query(&hasty, &format!("SELECT {}", vec![column; 40].join(",")), &[]).await.unwrap_err();
    assert!(is_limit(&error, LimitKind::Time), "{error:?}");
    assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
    let tables: Vec<String> =
        (1..40).map(|n| format!("a{n} AS (SELECT 1 FROM a{0} AS p, a{0} AS q UNION SELECT 2)", n - 1)).collect();
    let doubling = format!("WITH a0 AS (SELECT 1), {} SELECT count(*) FROM a39", tables.join(", "));
    let error = query(&hasty, &doubling, &[]).await.unwrap_err();
    assert!(matches!(error, DataError::Limit(..)), "{error:?}");
    assert_eq!(scalar(&database, "SELECT 1").await, Value::Integer(1));
    fixture.stop().await;
}

/// Returns a statement with large values in one row that then never ends.
fn wide(columns: usize, bytes: usize) -> String {
    let columns: Vec<String> = (0..columns).map(|n| format!("hex(zeroblob({}))", bytes / 2 - n)).collect();
    format!("SELECT {}, ({ENDLESS})", columns.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_cannot_exceed_the_memory_of_its_statement() {
    let fixture = fixture(|_| ()).await;
    let database = fixture.tables("shop").await;
    let error = query(&database, &wide(40, 8_000_000), &[]).await.unwrap_err();
    assert!(is_limit(&error, LimitKind::Bytes), "{error:?}");
    // Afterwards the statement has ended and the connection is unchanged.
    assert_eq!(execute(&database, "UPDATE counter SET n = 1", &[]).await, Ok(2));
    let mut transaction = database.begin().await.unwrap();
    assert!(transaction.query(sql(&wide(40, 8_000_000))).await.is_err());
    drop(transaction);
    assert_eq!(scalar(&database, "SELECT sum(n) FROM counter").await, Value::Integer(2));
    fixture.stop().await;
}

/// However much memory plugins hold, the host's own database and small statements of other plugins still work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_that_fill_memory_do_not_affect_others() {
    // Statements of other tests would be refused meanwhile.
    const TEST: &str = "db::plugin_data::sqlite_resource_limits::plugins_that_fill_memory_do_not_affect_others";
    if !is_alone(TEST).await {
        return;
    }
    let fixture = fixture(|config| config.plugins.sql_bytes = 32 << 20).await;
    let plugins = ["a", "b", "c", "d", "e", "f"];
    let neighbour = fixture.tables("neighbour").await;
    let databases = join_all(plugins.iter().map(|plugin| fixture.open(plugin))).await;
    let databases: Vec<_> = databases.iter().map(|database| hasty(database, Duration::from_secs(3))).collect();
    let text = wide(2, 32_000_000);
    let filling = join_all(databases.iter().map(|database| query(database, &text, &[])));
    let others = async {
        for n in 0..200 {
            fixture.db.ping().await.unwrap();
            assert_eq!(execute(&neighbour, "UPDATE counter SET n = $1", &[Value::Integer(n)]).await, Ok(2));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (ended, ()) = tokio::join!(filling, others);
    let refused = ended.iter().filter(|ended| is_limit(ended.as_ref().unwrap_err(), LimitKind::Bytes)).count();
    assert!(refused > 0, "no statement hit the shared memory limit: {ended:?}");
    fixture.stop().await;
}

/// SQLite rolls the statement back before the host can check the size of the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_statement_that_fills_the_database_hits_its_limit() {
    let fixture = fixture(|config| config.plugins.sql_disk_bytes = 2 << 20).await;
    let list = [migration("1", "CREATE TABLE t (a BLOB)")];
    fixture.data.migrate(&name("shop"), &list).await.unwrap();
    let database = fixture.open("shop").await;
    execute(&database, "INSERT INTO t VALUES (zeroblob(1300000))", &[]).await.unwrap();
    let error = execute(&database, "INSERT INTO t SELECT * FROM t", &[]).await.unwrap_err();
    assert_eq!(error, DataError::Limit(LimitKind::Disk, "disk: 2097152 bytes".to_owned()));
    fixture.stop().await;
}

const CHANGE: &str = "UPDATE counter SET n = n + 1";

/// Changes the counters in a transaction, after some statements that read.
async fn change_after(database: &PluginDatabase, reads: usize) -> Result<(), DataError> {
    let mut transaction = database.begin().await.unwrap();
    for _ in 0..reads {
        transaction.query(sql("SELECT n FROM counter")).await.unwrap();
    }
    transaction.execute(sql(CHANGE)).await?;
    transaction.commit().await
}

/// Changes the database in each way that a plugin has, and calls `before` before each.
async fn changes(database: &PluginDatabase, before: impl Fn()) -> [(&'static str, Result<(), DataError>); 5] {
    before();
    let batch = database.batch(vec![sql(CHANGE), sql(CHANGE)]).await.map(drop);
    before();
    let statement = execute(database, CHANGE, &[]).await.map(drop);
    before();
    let first = change_after(database, 0).await;
    before();
    let later = change_after(database, 2).await;
    before();
    let message = database.append_message(None, "message".to_owned()).await;
    [("batch", batch), ("statement", statement), ("first", first), ("later", later), ("message", message)]
}

/// SQLite begins the log anew when no reader is active, but does not shorten it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_too_long_prevents_changes_only_while_a_reader_needs_it() {
    let fixture = fixture(|config| config.plugins.sql_disk_bytes = 2 << 20).await;
    let database = fixture.tables("shop").await;
    let file = fixture.dir.path().join("plugins/shop/data.sqlite");
    let log = file.with_extension("sqlite-wal");
    let length: u64 = 67 << 20;
    // SQLite ignores the end of the log that it has not written.
    let lengthen = || std::fs::File::options().write(true).open(&log).unwrap().set_len(length).unwrap();

    let mut reader = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut reader).await.unwrap();
    sqlx::raw_sql("SELECT n FROM counter").fetch_all(&mut reader).await.unwrap();
    for (way, changed) in changes(&database, lengthen).await {
        assert!(changed.as_ref().is_err_and(|error| is_limit(error, LimitKind::Disk)), "{way}: {changed:?}");
    }
    reader.close().await.unwrap();
    for (way, changed) in changes(&database, lengthen).await {
        assert_eq!(changed, Ok(()), "{way}");
    }
    assert!(log.metadata().unwrap().len() < length);
    assert_eq!(scalar(&database, "SELECT sum(n) FROM counter").await, Value::Integer(10));
    fixture.stop().await;
}
