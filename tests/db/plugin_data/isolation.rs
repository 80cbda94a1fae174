//! Isolation of a plugin's database: each attack must be refused. The submodules attack what only one of the two
//! databases has.

pub(super) mod postgres;
mod sqlite;

use proptest::prelude::*;
use proptest::test_runner::{Config as Proptest, RngAlgorithm, TestRng, TestRunner};
use wharf::db::plugin_data::{DataError, PluginDatabase, Value};

use super::fixture::{Fixture, add, count, execute, on_both, query, scalar, sql};
use crate::support::Backend;

on_both! {
    only_permitted_kinds_of_statements_run,
    another_plugins_data_is_out_of_reach,
    the_tables_of_the_host_are_out_of_reach,
    no_statement_escapes_its_transaction,
    random_statements_never_panic_or_change_foreign_data,
    the_database_does_not_reveal_other_plugins,
}

/// Checks that a statement is refused as invalid, alone and in a batch.
pub(super) async fn assert_refused(database: &PluginDatabase, attack: &str) {
    match query(database, attack, &[]).await {
        Err(DataError::Invalid(_)) => {}
        other => panic!("{attack:?}: {other:?}"),
    }
    match database.batch(vec![sql("SELECT 1"), sql(attack)]).await {
        Err(DataError::Invalid(_)) => {}
        other => panic!("{attack:?} in a batch: {other:?}"),
    }
}

/// Returns spellings that hide the first word of a statement.
fn spellings(attack: &str) -> Vec<String> {
    let (first, rest) = attack.split_once(' ').unwrap_or((attack, ""));
    let swapped: String = first
        .chars()
        .enumerate()
        .map(|(index, c)| if index % 2 == 0 { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
        .collect();
    vec![
        attack.to_owned(),
        attack.to_lowercase(),
        format!("{swapped}\t{rest}"),
        format!(" \n\u{c};{attack}"),
        format!("/* SELECT */ {attack}"),
        format!("/* /* */ {attack} -- */"),
        format!("-- SELECT\n{attack}"),
        format!("-- SELECT\r{attack}"),
        format!("({attack})"),
        format!("SELECT 1; {attack}"),
        format!("SELECT ';'; {attack}"),
        format!("SELECT '\\'; {attack} --'"),
        format!("{first}/**/{rest}\0"),
        format!("SELECT 1\0; {attack}"),
        format!("\u{feff}{attack}"),
        format!("\u{a0}{attack}"),
        format!("EXPLAIN {attack}"),
        format!("WITH x AS (SELECT 1) {attack}"),
    ]
}

async fn only_permitted_kinds_of_statements_run(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let outside = fixture.dir.path().join("stolen.sqlite");
    let attacks = [
        format!("ATTACH '{}' AS stolen", outside.display()),
        format!("ATTACH DATABASE 'file:{}?mode=rwc' AS stolen", outside.display()),
        "DETACH main".to_owned(),
        "PRAGMA writable_schema = ON".to_owned(),
        "PRAGMA journal_mode = OFF".to_owned(),
        "PRAGMA database_list".to_owned(),
        "PRAGMA query_only = OFF".to_owned(),
        format!("VACUUM INTO '{}'", outside.display()),
        "VACUUM".to_owned(),
        "REINDEX item".to_owned(),
        "ANALYZE".to_owned(),
        "CREATE TABLE evil (a INT)".to_owned(),
        "CREATE TEMP TABLE evil (a INT)".to_owned(),
        "CREATE TRIGGER evil AFTER INSERT ON item BEGIN SELECT 1; END".to_owned(),
        "CREATE VIRTUAL TABLE evil USING fts5(a)".to_owned(),
        "CREATE EXTENSION dblink".to_owned(),
        "CREATE FUNCTION evil() RETURNS INT LANGUAGE sql AS 'SELECT 1'".to_owned(),
        "CREATE ROLE evil SUPERUSER".to_owned(),
        "ALTER TABLE item RENAME TO evil".to_owned(),
        "ALTER ROLE CURRENT_USER SUPERUSER".to_owned(),
        "DROP TABLE item".to_owned(),
        "TRUNCATE item".to_owned(),
        "BEGIN".to_owned(),
        "COMMIT".to_owned(),
        "END".to_owned(),
        "ROLLBACK".to_owned(),
        "SAVEPOINT a".to_owned(),
        "RELEASE a".to_owned(),
        "PREPARE TRANSACTION 'a'".to_owned(),
        "PREPARE evil AS SELECT 1".to_owned(),
        "EXECUTE evil".to_owned(),
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1".to_owned(),
        "SET ROLE postgres".to_owned(),
        "SET SESSION AUTHORIZATION postgres".to_owned(),
        "RESET ROLE".to_owned(),
        "RESET ALL".to_owned(),
        "DISCARD ALL".to_owned(),
        "SET search_path = wharf".to_owned(),
        "SET statement_timeout = 0".to_owned(),
        "COPY item TO PROGRAM 'id'".to_owned(),
        "COPY item TO '/tmp/stolen'".to_owned(),
        "COPY item FROM '/etc/passwd'".to_owned(),
        "DO $$ BEGIN END $$".to_owned(),
        "CALL evil()".to_owned(),
        "LISTEN evil".to_owned(),
        "NOTIFY evil".to_owned(),
        "LOCK TABLE item".to_owned(),
        "GRANT ALL ON item TO PUBLIC".to_owned(),
        "LOAD 'evil'".to_owned(),
        "REASSIGN OWNED BY CURRENT_USER TO postgres".to_owned(),
        "SECURITY LABEL ON TABLE item IS 'x'".to_owned(),
    ];
    for attack in &attacks {
        for spelling in spellings(attack) {
            assert_refused(&database, &spelling).await;
        }
    }
    assert!(!outside.exists());
    assert_eq!(count(&database).await, Value::Integer(0));
}

async fn another_plugins_data_is_out_of_reach(fixture: &Fixture) {
    let secrets = fixture.tables("secrets").await;
    execute(&secrets, "INSERT INTO item (id, owner, title) VALUES (1, 'x', 'secret')", &[]).await.unwrap();
    let database = fixture.tables("shop").await;
    assert_eq!(count(&database).await, Value::Integer(0));
    for attack in [
        "SELECT * FROM \"plugin_secrets\".item",
        "SELECT * FROM plugin_secrets.item",
        "INSERT INTO \"plugin_secrets\".item (id, owner, title) VALUES (2, 'a', 'b')",
        "DELETE FROM \"plugin_secrets\".item",
        "SELECT * FROM wharf.users",
        "SELECT * FROM \"wharf\".\"plugin_database\"",
        "UPDATE wharf.users SET id = id",
        "SELECT * FROM users",
        "SELECT * FROM secrets.item",
    ] {
        assert_refused(&database, attack).await;
    }
    assert_eq!(count(&secrets).await, Value::Integer(1));
}

async fn the_tables_of_the_host_are_out_of_reach(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    database.append_message(None, "a message".to_owned()).await.unwrap();
    for (table, column) in [("migration", "name"), ("outbox", "text")] {
        let (lower, upper) = (format!("_wharf_{table}"), format!("_WHARF_{}", table.to_uppercase()));
        let mut names = vec![lower.clone(), format!("\"{lower}\""), upper.clone(), format!("\"{upper}\"")];
        match fixture.backend {
            // SQLite accepts strings as names.
            Backend::Sqlite => {
                names.extend([format!("'{lower}'"), format!("[{lower}]"), format!("`{lower}`")]);
                names.push(format!("main.'{lower}'"));
            }
            Backend::Postgres => names.push(format!("plugin_shop.{lower}")),
        }
        for name in names {
            assert_refused(&database, &format!("SELECT * FROM {name}")).await;
            assert_refused(&database, &format!("DELETE FROM {name}")).await;
            assert_refused(&database, &format!("INSERT INTO {name} ({column}) VALUES ('x')")).await;
            assert_refused(&database, &format!("UPDATE {name} SET {column} = 'x'")).await;
            assert_refused(&database, &format!("WITH x AS (SELECT {column} FROM {name}) SELECT * FROM x")).await;
        }
    }
    let messages = fixture.data.outbox(&super::fixture::name("shop"), 10).await.unwrap();
    assert_eq!(messages.into_iter().map(|message| message.text).collect::<Vec<_>>(), ["a message"]);
}

async fn no_statement_escapes_its_transaction(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for attack in ["COMMIT", "SELECT 1; COMMIT", "/* */ END", "(COMMIT)", "ROLLBACK TO a", "RELEASE SAVEPOINT a"] {
        let mut transaction = database.begin().await.unwrap();
        add(&mut transaction, 1).await.unwrap();
        let error = transaction.execute(sql(attack)).await.unwrap_err();
        assert!(matches!(error, DataError::Invalid(_)), "{attack}: {error:?}");
        drop(transaction);
        assert_eq!(count(&database).await, Value::Integer(0), "{attack}");
    }
}

fn words(words: &[&str]) -> impl Strategy<Value = String> + use<> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    prop::sample::select(words)
}

/// Generates random sequences of SQL tokens, many of which must not run.
fn random_statement() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => words(&[
            "SELECT", "VALUES", "WITH", "INSERT INTO", "UPDATE", "DELETE FROM", "BEGIN", "COMMIT", "ROLLBACK", "PRAGMA",
            "ATTACH", "VACUUM INTO", "CREATE TABLE", "DROP TABLE", "ALTER TABLE", "SET", "RESET ROLE", "COPY", "DO",
            "LISTEN", "EXPLAIN", "TRUNCATE", "RETURNING", "FROM", "WHERE", "AS", "INTO", "SAVEPOINT",
        ]),
        4 => words(&[
            "canary", "item", "counter", "n", "id", "1", "'x'", "\"n\"", "*", "(", ")", ",", ";", "=", "$1", "$2",
            "_wharf_migration", "_wharf_outbox", "sqlite_schema", "pg_settings", "set_config('role','postgres',false)",
        ]),
        2 => words(&[
            "'", "\"", "`", "[", "]", "--", "\n", "\r", "/*", "*/", "$$", "$a$", "E'\\'", "U&'", "\\", "\0", "?", ":a",
            "@", "#", "::", "é", "\u{2028}", "\u{feff}",
        ]),
        1 => "\\PC{0,8}",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec((token, prop::bool::ANY), 0..14).prop_map(|tokens| {
        tokens.into_iter().map(|(token, space)| if space { format!("{token} ") } else { token }).collect()
    })
}

async fn random_statements_never_panic_or_change_foreign_data(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    let tables = "CREATE TABLE canary (id BIGINT PRIMARY KEY)";
    let other = fixture.data.plugin(&super::fixture::name("canary")).await.unwrap();
    let list = [super::fixture::migration("1", tables)];
    fixture.data.migrate(&super::fixture::name("canary"), &list).await.unwrap();
    let before = tables_of(fixture, &database).await;
    let runtime = tokio::runtime::Handle::current();
    let cases = if fixture.backend == Backend::Sqlite { 2_000 } else { 500 };
    tokio::task::block_in_place(|| {
        let config = Proptest { cases, failure_persistence: None, ..Proptest::default() };
        // The seed is fixed, so that runs are repeatable; `make fuzz FUZZ=sql` explores further.
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let run = |text: String| {
            runtime.block_on(async {
                let params =
                    vec![Value::Integer(1); usize::from(text.contains("$1")) + usize::from(text.contains("$2"))];
                let result = query(&database, &text, &params).await;
                prop_assert!(!matches!(result, Err(DataError::Unavailable)), "{result:?}");
                let wanted =
                    super::fixture::migration(&format!("soup {}", text.len()), &format!("CREATE {text}; nonsense"));
                prop_assert!(fixture.data.migrate(&super::fixture::name("soup"), &[wanted]).await.is_err());
                Ok(())
            })
        };
        runner.run(&random_statement(), run).unwrap();
    });
    assert_eq!(tables_of(fixture, &database).await, before);
    assert_eq!(scalar(&other, "SELECT count(*) FROM canary").await, Value::Integer(0));
}

/// Returns the tables as text; on PostgreSQL those of all plugins.
async fn tables_of(fixture: &Fixture, database: &PluginDatabase) -> Value {
    let columns = "SELECT string_agg(table_schema || table_name || column_name, ';' ORDER BY table_name, column_name) \
                   FROM information_schema.columns WHERE table_schema LIKE 'plugin%'";
    match fixture.backend {
        Backend::Sqlite => scalar(database, "SELECT group_concat(sql, ';') FROM sqlite_schema").await,
        Backend::Postgres => {
            Value::Text(sqlx::query_scalar(columns).fetch_one(&mut fixture.superuser().await).await.unwrap())
        }
    }
}

/// Neither the existence of another plugin nor its tables can be inferred.
async fn the_database_does_not_reveal_other_plugins(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    fixture.tables("present").await;
    for question in [
        "SELECT * FROM plugin_NAME.item",
        "SELECT * FROM \"plugin_NAME\".\"item\"",
        "SELECT * FROM NAME.item",
        "SELECT plugin_NAME.item(1)",
        "SELECT CAST(1 AS plugin_NAME.item)",
        "SELECT CAST('1' AS plugin_NAME.item)",
        "SELECT nextval('plugin_NAME.item')",
        "SELECT currval('plugin_NAME.item')",
        "SELECT row_security_active('plugin_NAME.item')",
        "SELECT 'a' COLLATE plugin_NAME.item",
        "SELECT 1 OPERATOR(plugin_NAME.+) 1",
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'plugin_NAME'",
        "SELECT count(*) FROM \"pg_catalog\".pg_class",
        "SELECT rolname FROM pg_roles",
        "SELECT datname, usename, query FROM pg_stat_activity",
        "SELECT relname, n_live_tup FROM pg_stat_all_tables",
        "SELECT * FROM information_schema.schemata",
        "SELECT 'plugin_NAME'::regnamespace",
        "SELECT CAST('plugin_NAME.item' AS regclass)",
        "SELECT regtypein('plugin_NAME.item')",
        "SELECT to_regclass('plugin_NAME.item')",
        "SELECT to_regnamespace('plugin_NAME')",
        "SELECT has_schema_privilege('plugin_NAME', 'usage')",
        "SELECT schema_to_xml('plugin_NAME', true, true, '')",
        "SELECT table_to_xml('plugin_NAME.item', true, true, '')",
        "DELETE FROM plugin_NAME.item",
        "INSERT INTO plugin_NAME.item (id) VALUES (1)",
        "UPDATE plugin_NAME.item SET id = 1",
    ] {
        let ask = async |name: &str| {
            let result = query(&database, &question.replace("NAME", name), &[]).await;
            // SQLite resolves the name within the plugin's own database, or as a column.
            let is_expected = matches!(result, Err(DataError::Invalid(_))) || fixture.backend == Backend::Sqlite;
            assert!(is_expected, "{question}: {result:?}");
            format!("{result:?}").replace(name, "NAME")
        };
        assert_eq!(ask("present").await, ask("absent").await, "{question}");
    }
    // A missing table of the plugin's own schema is named in the error.
    let mistyped = query(&database, "SELECT * FROM itme", &[]).await;
    assert!(matches!(&mistyped, Err(DataError::Invalid(reason)) if reason.contains("itme")), "{mistyped:?}");
}
