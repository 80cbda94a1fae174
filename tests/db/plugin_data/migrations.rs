//! A plugin's schema over its releases.

use wharf::db::plugin_data::{DataError, MigrationError, Value};

use super::fixture::{Fixture, execute, migration, name, on_both, query, scalar};
use crate::support::Backend;

const ONE: &str = "CREATE TABLE one (id BIGINT PRIMARY KEY); INSERT INTO one VALUES (1);";
const TWO: &str = "ALTER TABLE one ADD COLUMN title TEXT DEFAULT 'none'; CREATE TABLE two (id BIGINT)";

on_both! {
    migrations_are_applied_once_and_in_order,
    a_changed_migration_is_rejected,
    the_form_of_a_text_is_no_part_of_a_migration,
    a_migration_inserted_before_an_applied_one_is_rejected,
    a_failing_migration_rolls_back_the_whole_list,
    an_older_release_without_the_newer_migrations_is_accepted,
    concurrent_migrators_apply_each_migration_once,
    prepared_statements_follow_the_schema,
    a_migration_cannot_touch_anything_but_its_own_tables,
    a_migration_cannot_take_the_name_of_the_outbox,
    invalid_migration_texts_and_names_are_rejected,
}

async fn migrations_are_applied_once_and_in_order(fixture: &Fixture) {
    let shop = name("shop");
    let migrate = async |list: &[(&str, &str)]| {
        let list: Vec<_> = list.iter().map(|(name, sql)| migration(name, sql)).collect();
        fixture.data.migrate(&shop, &list).await.unwrap()
    };
    assert_eq!(migrate(&[]).await, [""; 0]);
    assert_eq!(migrate(&[("0001", ONE)]).await, ["0001"]);
    assert_eq!(migrate(&[("0001", ONE)]).await, [""; 0]);
    assert_eq!(migrate(&[("0001", ONE), ("0002", TWO)]).await, ["0002"]);
    let database = fixture.open("shop").await;
    assert_eq!(scalar(&database, "SELECT title FROM one").await, Value::Text("none".to_owned()));
    let other = fixture.another_node();
    assert_eq!(other.migrate(&shop, &[migration("0001", ONE), migration("0002", TWO)]).await.unwrap(), [""; 0]);
    other.close().await;
}

async fn a_changed_migration_is_rejected(fixture: &Fixture) {
    let shop = name("shop");
    fixture.data.migrate(&shop, &[migration("0001", ONE)]).await.unwrap();
    let changed = [migration("0001", "CREATE TABLE other (id BIGINT)"), migration("0002", TWO)];
    let error = fixture.data.migrate(&shop, &changed).await.unwrap_err();
    assert!(matches!(&error, MigrationError::History { name, .. } if name == "0001"), "{error:?}");
    let database = fixture.open("shop").await;
    assert!(query(&database, "SELECT id FROM two", &[]).await.is_err(), "no migration of the list is applied");
}

async fn the_form_of_a_text_is_no_part_of_a_migration(fixture: &Fixture) {
    const TEXT: &str = "-- One\nCREATE TABLE one (id BIGINT, title TEXT);\nINSERT INTO one VALUES (1, 'a\nb');\n";
    let shop = name("shop");
    let crlf = TEXT.replace('\n', "\r\n");
    let marked = format!("\u{feff}{crlf}");
    assert_eq!(fixture.data.migrate(&shop, &[migration("0001", &marked)]).await.unwrap(), ["0001"]);
    for form in [TEXT, &crlf, &marked, &format!("\u{feff}{TEXT}")] {
        assert_eq!(fixture.data.migrate(&shop, &[migration("0001", form)]).await.unwrap(), [""; 0], "{form:?}");
    }
    let database = fixture.open("shop").await;
    assert_eq!(scalar(&database, "SELECT title FROM one").await, Value::Text("a\nb".to_owned()));
}

async fn a_migration_inserted_before_an_applied_one_is_rejected(fixture: &Fixture) {
    let shop = name("shop");
    fixture.data.migrate(&shop, &[migration("0002", ONE)]).await.unwrap();
    let error = fixture.data.migrate(&shop, &[migration("0001", TWO), migration("0002", ONE)]).await.unwrap_err();
    assert!(matches!(&error, MigrationError::History { name, .. } if name == "0001"), "{error:?}");
}

async fn a_failing_migration_rolls_back_the_whole_list(fixture: &Fixture) {
    let shop = name("shop");
    let failing =
        [migration("0001", ONE), migration("0002", "CREATE TABLE two (id BIGINT); INSERT INTO one VALUES (1)")];
    let error = fixture.data.migrate(&shop, &failing).await.unwrap_err();
    let MigrationError::Statement { name, statement, error } = error else { panic!("{error:?}") };
    assert_eq!((name.as_str(), statement), ("0002", 2));
    assert!(matches!(error, DataError::Constraint(_)), "{error:?}");
    let database = fixture.open("shop").await;
    for table in ["one", "two"] {
        assert!(query(&database, &format!("SELECT id FROM {table}"), &[]).await.is_err(), "{table} exists");
    }
    assert_eq!(fixture.data.migrate(&shop, &[migration("0001", ONE)]).await.unwrap(), ["0001"]);
}

async fn an_older_release_without_the_newer_migrations_is_accepted(fixture: &Fixture) {
    let shop = name("shop");
    fixture.data.migrate(&shop, &[migration("0001", ONE), migration("0002", TWO)]).await.unwrap();
    assert_eq!(fixture.data.migrate(&shop, &[migration("0001", ONE)]).await.unwrap(), [""; 0]);
    assert_eq!(scalar(&*fixture.open("shop").await, "SELECT title FROM one").await, Value::Text("none".to_owned()));
}

async fn concurrent_migrators_apply_each_migration_once(fixture: &Fixture) {
    let shop = name("shop");
    let list = [migration("0001", ONE), migration("0002", TWO)];
    let nodes = [fixture.another_node(), fixture.another_node()];
    let (a, b, c, d) = tokio::join!(
        fixture.data.migrate(&shop, &list),
        fixture.data.migrate(&shop, &list),
        nodes[0].migrate(&shop, &list),
        nodes[1].migrate(&shop, &list)
    );
    let mut applied: Vec<_> = [a, b, c, d].into_iter().map(Result::unwrap).collect();
    applied.sort();
    assert_eq!(applied, [vec![], vec![], vec![], vec!["0001".to_owned(), "0002".to_owned()]]);
    assert_eq!(scalar(&*fixture.open("shop").await, "SELECT count(*) FROM one").await, Value::Integer(1));
    for node in nodes {
        node.close().await;
    }
}

async fn prepared_statements_follow_the_schema(fixture: &Fixture) {
    let shop = name("shop");
    fixture.data.migrate(&shop, &[migration("0001", ONE)]).await.unwrap();
    let database = fixture.open("shop").await;
    const ALL: &str = "SELECT * FROM one";
    // Every connection has prepared the statement.
    let before = futures_util::future::join_all((0..16).map(|_| query(&database, ALL, &[]))).await;
    assert!(before.into_iter().all(|rows| rows.unwrap().columns == ["id"]));
    fixture.data.migrate(&shop, &[migration("0001", ONE), migration("0002", TWO)]).await.unwrap();
    for _ in 0..16 {
        let rows = query(&database, ALL, &[]).await.unwrap();
        assert_eq!(rows.columns, ["id", "title"]);
        assert_eq!(rows.values, [[Value::Integer(1), Value::Text("none".to_owned())]]);
    }
    assert_eq!(execute(&database, "INSERT INTO one VALUES (2, 'x')", &[]).await, Ok(1));
}

async fn a_migration_cannot_touch_anything_but_its_own_tables(fixture: &Fixture) {
    let shop = name("shop");
    fixture.open("shop").await.append_message(Some("a"), "a message".to_owned()).await.unwrap();
    let mut attacks = vec![
        "CREATE ROLE evil SUPERUSER",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "ALTER DATABASE postgres SET search_path = evil",
        "CREATE EXTENSION dblink",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA evil",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION f()",
        "SET search_path = wharf",
        "SET ROLE postgres",
        "RESET ROLE",
        "COMMIT",
        "SELECT 1; COMMIT; SELECT 1",
        "BEGIN; CREATE TABLE t (a INT)",
        "DO $$ BEGIN END $$",
        "COPY t FROM PROGRAM 'id'",
        "GRANT ALL ON SCHEMA wharf TO PUBLIC",
        "PRAGMA writable_schema = on",
        "ATTACH 'x' AS y",
        "VACUUM",
        "DROP TABLE _wharf_migration",
        "CREATE TABLE t (a INT); DELETE FROM _wharf_migration",
        "CREATE TABLE _wharf_x (a INT)",
        "CREATE VIEW v AS SELECT * FROM _wharf_migration",
        "DROP TABLE _wharf_outbox",
        "ALTER TABLE _wharf_outbox RENAME TO stolen",
        "CREATE TABLE t (a INT); ALTER TABLE t RENAME TO _wharf_outbox",
        "CREATE TABLE IF NOT EXISTS _wharf_outbox (text TEXT)",
        "DELETE FROM _wharf_outbox",
        "CREATE VIEW v AS SELECT * FROM _wharf_outbox",
        "CREATE INDEX i ON _wharf_outbox (text)",
        "CREATE TABLE t (a BIGINT REFERENCES _wharf_outbox (id))",
    ];
    attacks.extend(match fixture.backend {
        // SQLite accepts strings as names.
        Backend::Sqlite => vec![
            "DROP TABLE '_wharf_migration'",
            "ALTER TABLE '_wharf_migration' RENAME TO stolen",
            "CREATE INDEX i ON '_wharf_migration' (name)",
            "CREATE TABLE t (a); CREATE TRIGGER g AFTER INSERT ON '_wharf_migration' BEGIN INSERT INTO t VALUES (1); END",
            "DROP TABLE '_wharf_outbox'",
            "CREATE TABLE t (a); CREATE TRIGGER g AFTER DELETE ON '_wharf_outbox' BEGIN DELETE FROM t; END",
            "CREATE TABLE t (a REFERENCES '_wharf_outbox' (id))",
            "CREATE VIRTUAL TABLE f USING fts5 (text, content='_wharf_outbox')",
            "UPDATE sqlite_schema SET sql = 'x'",
            "CREATE TEMP TABLE t (a INT)",
            "CREATE VIRTUAL TABLE d USING dbstat",
            "CREATE VIRTUAL TABLE d USING fts4 (a)",
            "CREATE VIRTUAL TABLE d USING rtree (a, b, c)",
        ],
        Backend::Postgres => vec![
            "CREATE TABLE wharf.evil (a INT)",
            "CREATE TABLE public.evil (a INT)",
            "ALTER TABLE wharf.users RENAME TO u",
            "DROP TABLE wharf.users",
            "ALTER TABLE wharf.users OWNER TO CURRENT_USER",
            "CREATE VIEW v AS SELECT * FROM wharf.users",
            "CREATE VIEW v AS SELECT set_config('role', 'postgres', false)",
            "CREATE TABLE t (a TEXT DEFAULT set_config('search_path', 'wharf', false))",
            "UPDATE pg_catalog.pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'",
            "CREATE VIEW v AS SELECT * FROM pg_settings",
            "CREATE FOREIGN TABLE f (a INT) SERVER s",
            "CREATE TABLE t (a INT) TABLESPACE pg_global",
            "CREATE TABLE t (a INT REFERENCES wharf.users)",
            "CREATE TABLE t (a INT) INHERITS (_wharf_outbox)",
            "CREATE TABLE t (LIKE _wharf_outbox)",
            "CREATE TRIGGER g BEFORE DELETE ON _wharf_outbox \
             FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "ALTER SEQUENCE _wharf_outbox_id_seq RESTART",
            "SELECT setval('_wharf_outbox_id_seq', 1)",
            "CREATE TABLE t (a BIGINT DEFAULT nextval('plugin_shop._wharf_outbox_id_seq'))",
            "CREATE SEQUENCE s OWNED BY _wharf_outbox.id",
        ],
    });
    for attack in attacks {
        let error = fixture.data.migrate(&shop, &[migration("0001", attack)]).await.unwrap_err();
        assert!(matches!(error, MigrationError::Statement { .. }), "{attack}: {error:?}");
    }
    assert_eq!(fixture.data.migrate(&shop, &[migration("0001", ONE)]).await.unwrap(), ["0001"]);
    fixture.open("shop").await.append_message(Some("a"), "another".to_owned()).await.unwrap();
    let messages = fixture.data.outbox(&shop, 10).await.unwrap();
    assert_eq!(messages.into_iter().map(|message| message.text).collect::<Vec<_>>(), ["a message", "another"]);
}

/// A plugin cannot make its own table the outbox before the host creates it.
async fn a_migration_cannot_take_the_name_of_the_outbox(fixture: &Fixture) {
    let shop = name("shop");
    let mut attacks = vec![
        "CREATE TABLE _wharf_outbox (id BIGINT, text TEXT)",
        "CREATE TABLE t (a INT); ALTER TABLE t RENAME TO _wharf_outbox",
    ];
    attacks.extend(match fixture.backend {
        Backend::Sqlite => [
            "CREATE TABLE '_wharf_outbox' (id, text)",
            "CREATE TABLE t (id, text); ALTER TABLE t RENAME TO '_wharf_outbox'",
            "CREATE VIEW '_wharf_outbox' AS SELECT 1 AS id, 'x' AS text",
            "CREATE TABLE t (id, text); CREATE INDEX '_wharf_outbox' ON t (id)",
        ],
        Backend::Postgres => [
            "CREATE TABLE \"_wharf_outbox\" (id BIGINT, text TEXT)",
            "CREATE VIEW plugin_shop._wharf_outbox AS SELECT 1 AS id, 'x' AS text",
            "CREATE TYPE _wharf_outbox AS (id BIGINT)",
            "CREATE SEQUENCE _wharf_outbox_id_seq",
        ],
    });
    for attack in attacks {
        let error = fixture.data.migrate(&shop, &[migration("0001", attack)]).await.unwrap_err();
        assert!(matches!(error, MigrationError::Statement { .. }), "{attack}: {error:?}");
        assert_eq!(fixture.data.outbox(&shop, 10).await, Ok(Vec::new()), "{attack}");
    }
}

async fn invalid_migration_texts_and_names_are_rejected(fixture: &Fixture) {
    let shop = name("shop");
    for wrong in ["CREATE TABLE t (a TEXT DEFAULT '\0')", "INSERT INTO t VALUES ($1)", "nonsense", "CREATE"] {
        let error = fixture.data.migrate(&shop, &[migration("0001", wrong)]).await.unwrap_err();
        assert!(matches!(error, MigrationError::Statement { statement: 1, .. }), "{wrong:?}: {error:?}");
    }
    for wrong in ["", "a\nb"] {
        let error = fixture.data.migrate(&shop, &[migration(wrong, ONE)]).await.unwrap_err();
        assert!(matches!(error, MigrationError::History { .. }), "{wrong:?}: {error:?}");
    }
}
