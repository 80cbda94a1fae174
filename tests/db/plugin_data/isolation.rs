//! Isolation of a plugin's database: each attack must be refused.

use proptest::prelude::*;
use proptest::test_runner::{Config as Proptest, RngAlgorithm, TestRng, TestRunner};
use wharf::db::plugin_data::{DataError, PluginDatabase, Value};

use super::fixture::{Fixture, add, count, execute, on_both, query, scalar, sql, text};
use crate::support::Backend;

on_both! {
    only_permitted_kinds_of_statements_run,
    another_plugins_data_is_out_of_reach,
    the_migration_table_is_out_of_reach,
    no_statement_escapes_its_transaction,
    random_statements_never_panic_or_change_foreign_data,
    the_database_does_not_reveal_other_plugins,
}

/// Checks that a statement is refused as invalid, alone and in a batch.
async fn assert_refused(database: &PluginDatabase, attack: &str) {
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

async fn the_migration_table_is_out_of_reach(fixture: &Fixture) {
    let database = fixture.tables("shop").await;
    for name in ["_wharf_migration", "\"_wharf_migration\"", "_WHARF_MIGRATION", "\"_Wharf_Migration\""] {
        assert_refused(&database, &format!("SELECT * FROM {name}")).await;
        assert_refused(&database, &format!("DELETE FROM {name}")).await;
        assert_refused(&database, &format!("WITH x AS (SELECT name FROM {name}) SELECT * FROM x")).await;
    }
    if fixture.backend == Backend::Sqlite {
        for name in ["'_wharf_migration'", "[_wharf_migration]", "`_wharf_migration`", "main.'_wharf_migration'"] {
            assert_refused(&database, &format!("SELECT * FROM {name}")).await;
            assert_refused(&database, &format!("DELETE FROM {name}")).await;
        }
    }
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
            "_wharf_migration", "sqlite_schema", "pg_settings", "set_config('role','postgres',false)",
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_prepares_nothing_that_reaches_beyond_the_file() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let database = fixture.tables("shop").await;
    for attack in [
        "SELECT load_extension('evil')",
        "SELECT LOAD_EXTENSION('evil', 'entry')",
        "SELECT \"load_extension\"('evil')",
        "SELECT [load_extension] ('evil')",
        "SELECT `Load_Extension`/**/('evil')",
        "WITH x AS (SELECT load_extension('evil')) SELECT * FROM x",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/evil', 'x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM pragma_journal_mode('off')",
        "SELECT * FROM pragma_table_info('_wharf_migration')",
        "SELECT * FROM fsdir('/')",
        "UPDATE sqlite_schema SET sql = 'x'",
        "DELETE FROM sqlite_master",
        "INSERT INTO 'sqlite_schema' VALUES ('table', 'x', 'x', 1, 'x')",
        "UPDATE sqlite_dbpage SET data = zeroblob(4096)",
        "SELECT * FROM temp.x",
        "INSERT INTO item SELECT * FROM main._wharf_migration",
    ] {
        assert_refused(&database, attack).await;
    }
    for harmless in
        ["SELECT 'load_extension(1)'", "SELECT name FROM sqlite_schema", "SELECT json_extract('[1]', '$[0]')"]
    {
        query(&database, harmless, &[]).await.unwrap();
    }
    fixture.stop().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let database = fixture.tables("shop").await;
    execute(&database, "UPDATE counter SET n = 1", &[]).await.unwrap();
    let directory = fixture.dir.path().join("plugins/shop");
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o077, 0);
    for file in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
    }
    fixture.stop().await;
}

/// The session settings that a plugin's statement would see.
const SESSION: &str = "SELECT current_user || ' ' || session_user || ' ' || current_setting('search_path') || ' ' || \
    current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') || ' ' || \
    current_setting('standard_conforming_strings') || ' ' || current_setting('default_transaction_read_only') || ' ' || \
    current_setting('application_name')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_role_reaches_only_its_own_schema() {
    let one_connection = |config: &mut wharf::config::Config| config.plugins.sql_connections = 1;
    let Some(fixture) = Fixture::new(Backend::Postgres, one_connection).await else { return };
    let database = fixture.tables("shop").await;
    let session = scalar(&database, SESSION).await;
    for attack in [
        "SELECT rolpassword FROM pg_authid",
        "SELECT passwd FROM pg_shadow",
        "SELECT * FROM pg_catalog.pg_user_mapping",
        "SELECT * FROM pg_largeobject",
        "SELECT * FROM pg_hba_file_rules",
        "SELECT set_config('role', 'postgres', false)",
        "SELECT pg_catalog.set_config('search_path', 'wharf', false)",
        "SELECT \"set_config\"('search_path', 'wharf', false)",
        "SELECT U&\"set\\005fconfig\"('search_path', 'wharf', false)",
        "SELECT set_config /* */ -- \n ('search_path', 'wharf', false)",
        "SELECT E'\\'', set_config('search_path', 'wharf', false), ''",
        "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'",
        "UPDATE pg_catalog.pg_settings SET setting = '0' WHERE name = 'statement_timeout'",
        "UPDATE \"pg_settings\" SET setting = 'wharf' WHERE name = 'search_path' RETURNING name",
        "WITH x AS (UPDATE pg_settings SET setting = 'x' WHERE name = 'application_name' RETURNING 1) SELECT * FROM x",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_read_binary_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT pg_stat_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_export(1, '/tmp/evil')",
        "SELECT lo_create(1)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT pg_notify('a', 'b')",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT pg_cancel_backend(1)",
        "SELECT pg_reload_conf()",
        "SELECT pg_rotate_logfile()",
        "SELECT pg_switch_wal()",
        "SELECT pg_create_restore_point('x')",
        "SELECT query_to_xml('SET search_path = wharf', true, true, '')",
        "SELECT * FROM ts_stat('SELECT 1')",
        "SELECT * INTO evil FROM item",
        "SELECT 1 AS a INTO TEMP evil",
        "SELECT * FROM public.dblink('dbname=postgres', 'SELECT 1') AS t (a INT)",
        "SELECT public.dblink_exec('dbname=postgres', 'SELECT 1')",
        "SELECT format_type(oid, NULL) FROM generate_series(16384, 20000) AS oid",
        "SELECT \"format_type\" (16384, NULL)",
        "SELECT CAST(acldefault('r', 10) AS text)",
        "SELECT CAST('=r/10' AS aclitem)",
        "SELECT makeaclitem(10, 10, 'SELECT', false)",
        "SELECT CAST(x AS text) FROM (SELECT pg_typeof(1) UNION ALL SELECT 16384) t (x)",
        "SELECT CAST(x AS text) FROM (SELECT get_current_ts_config() UNION ALL SELECT 16384) t (x)",
        "SELECT regclass(16384)",
        "SELECT CAST(CAST(16384 AS oid) AS regclass)",
        "SELECT * FROM json_to_record('{\"a\": 16384}') AS x (a regclass)",
        "SELECT '{1259}'::_regclass",
        "SELECT nextval(16384)",
        "SELECT nextval('16384')",
        "SELECT currval(oid::regclass) FROM generate_series(16384, 20000) AS oid",
        "SELECT col_description(16384, 1)",
        "SELECT obj_description(16384)",
        "SELECT satisfies_hash_partition(16384, 1, 0, 1)",
        "SELECT txid_current()",
        "SELECT inet_server_addr()",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT 1')",
        "SELECT currtid2('item', '(0,1)')",
        "SELECT brin_summarize_new_values(16384)",
        "SELECT 1into evil",
        "SELECT 1.5into evil",
    ] {
        assert_refused(&database, attack).await;
        assert_eq!(scalar(&database, SESSION).await, session, "{attack}");
    }
    let role = query(&database, "SELECT current_user", &[]).await.unwrap().values[0][0].clone();
    let Value::Text(role) = role else { panic!("{role:?}") };
    fixture.tables("other").await;
    let mut superuser = fixture.superuser().await;
    let may: Vec<String> = sqlx::query_scalar(
        "SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname NOT IN ('pg_catalog', 'information_schema', \
         'plugin_shop') AND nspname NOT LIKE 'pg\\_%' AND (has_schema_privilege($1, oid, 'CREATE') \
         OR (nspname <> 'public' AND has_schema_privilege($1, oid, 'USAGE'))) \
         UNION ALL SELECT 'create' WHERE has_database_privilege($1, current_database(), 'CREATE') \
         UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname <> $1 AND pg_has_role($1, oid, 'MEMBER') \
         UNION ALL SELECT 'attribute' FROM pg_roles WHERE rolname = $1 \
         AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR rolinherit)",
    )
    .bind(&role)
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    assert_eq!(may, [""; 0]);
    for harmless in ["SELECT $1 AS text", "SELECT count(*) FROM item WHERE title = $1"] {
        query(&database, harmless, &[text("set_config('role')")]).await.unwrap();
    }
    fixture.stop().await;
}

/// PostgreSQL reads `(x).f` and `t.f` as calls too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_function_is_refused_in_every_notation() {
    let one_connection = |config: &mut wharf::config::Config| config.plugins.sql_connections = 1;
    let Some(fixture) = Fixture::new(Backend::Postgres, one_connection).await else { return };
    let database = fixture.tables("shop").await;
    fixture.tables("two").await;
    // A function that the host does not know yet.
    let mut superuser = fixture.superuser().await;
    let later = "CREATE FUNCTION public.later(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'";
    sqlx::raw_sql(later).execute(&mut superuser).await.unwrap();
    let session = scalar(&database, SESSION).await;
    for attack in [
        "SELECT (('SELECT to_tsvector(''simple'', nspname) FROM pg_namespace'::text).ts_stat).word",
        "SELECT (('SELECT to_tsvector(set_config(''lock_timeout'', ''0'', false))'::text).ts_stat).word",
        "SELECT (('SELECT to_tsvector(''a'')'::text).ts_stat).*",
        "SELECT ((CAST('SELECT to_tsvector(''a'')' AS text)) . /* */ \"ts_stat\").word",
        "SELECT (x.ts_stat).word FROM unnest(ARRAY['SELECT to_tsvector(''a'')']) AS x",
        "SELECT (('plugin_two'::text).to_regnamespace)::text",
        "SELECT (('plugin_two'::text).To_RegNamespace)::text",
        "SELECT x.to_regnamespace::text FROM unnest(ARRAY['plugin_two']) AS x",
        "SELECT ((ARRAY['plugin_two'])[1].to_regnamespace)::text",
        "SELECT ('1'::text).nextval",
        "SELECT (1259).nextval",
        "SELECT x.\"nextval\" FROM unnest(ARRAY['1']) AS x",
        "SELECT (1::bigint).regclass::text",
        "SELECT count(*) FROM item a JOIN item b ON public.later(1)",
        "SELECT public.later(1)",
        "SELECT (1::bigint).pg_advisory_lock",
    ] {
        assert_refused(&database, attack).await;
        assert_eq!(scalar(&database, SESSION).await, session, "{attack}");
    }
    let bound = query(&database, "SELECT ($1::text).to_regnamespace::text", &[text("plugin_two")]).await;
    assert!(matches!(bound, Err(DataError::Invalid(_))), "{bound:?}");
    let reason = query(&database, "SELECT t.to_regclass FROM item t", &[]).await.unwrap_err();
    assert!(
        matches!(&reason, DataError::Invalid(text) if text.starts_with(".to_regclass is not allowed")),
        "{reason:?}"
    );
    // The lock of the node, whose number each plugin can compute.
    for function in [
        "pg_advisory_lock",
        "pg_advisory_lock_shared",
        "pg_advisory_xact_lock",
        "pg_try_advisory_lock",
        "pg_try_advisory_lock_shared",
        "pg_try_advisory_xact_lock",
        "pg_advisory_unlock",
    ] {
        for attack in [
            format!("SELECT {function}(hashtext('wharf:node'))"),
            format!("SELECT pg_catalog.\"{function}\" (hashtext('wharf:node'))"),
            format!("SELECT (hashtext('wharf:node')::bigint).{function}"),
            format!("SELECT x.{function} FROM hashtext('wharf:node') AS x"),
        ] {
            assert_refused(&database, &attack).await;
        }
    }
    let advisory = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                    WHERE locktype = 'advisory' AND application_name = 'wharf-plugin' AND a.datname = current_database()";
    assert_eq!(sqlx::query_scalar::<_, i64>(advisory).fetch_one(&mut superuser).await.unwrap(), 0);
    for (plugin, attack) in [
        ("view", "CREATE VIEW v AS SELECT (('SELECT to_tsvector(''a'')'::text).ts_stat).word"),
        ("join", "CREATE TABLE t (a int); CREATE VIEW v AS SELECT x.a FROM t x JOIN t y ON public.later(1)"),
        ("default", "CREATE TABLE t (a bigint DEFAULT ('1'::text).nextval)"),
        ("lock", "SELECT (1::bigint).pg_try_advisory_lock"),
    ] {
        let list = [super::fixture::migration("1", attack)];
        assert!(fixture.data.migrate(&super::fixture::name(plugin), &list).await.is_err(), "{attack}");
    }
    // Ordinary names of columns are also names of functions and types.
    let tables = "
        CREATE TYPE place AS (street text, name text);
        CREATE TABLE entry (
            oid bigint, xid bigint, name text, version int, format text, value text, position int, length int, date date,
            text text, type text, \"user\" text, query text, count int, max int, language text, home place
        );
        CREATE INDEX entry_name ON plugin_columns.entry (name);
        CREATE INDEX entry_date ON ONLY plugin_columns.entry (date);
        INSERT INTO entry (oid, xid, name, home) VALUES (7, 8, 'a', ROW('s', 'n'))";
    let columns = super::fixture::name("columns");
    fixture.data.migrate(&columns, &[super::fixture::migration("1", tables)]).await.unwrap();
    let database = fixture.open("columns").await;
    let ordinary = "SELECT t.oid, t.xid, t.name, t.version, t.format, t.value, t.position, t.length, t.date, t.text, t.type, \
                    t.\"user\", t.query, t.count, t.max, t.language, (t.home).street, (t.home).name FROM entry t \
                    JOIN plugin_columns.entry u ON (t.oid = u.oid) AND lower(t.name) = u.name";
    let rows = query(&database, ordinary, &[]).await.unwrap();
    assert_eq!(rows.values[0][..3], [Value::Integer(7), Value::Integer(8), text("a")]);
    fixture.stop().await;
}

/// Neither plugins nor migrations need more functions and types than these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_functions_and_types_of_postgres_can_be_used() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let tables = "
        CREATE TYPE state AS ENUM ('new', 'done');
        CREATE DOMAIN price AS numeric(10, 2) CHECK (value >= 0);
        CREATE SEQUENCE numbers;
        CREATE TABLE entry (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number bigint NOT NULL DEFAULT nextval('numbers'),
            name varchar(200) NOT NULL, state state NOT NULL DEFAULT 'new', price price, tags text[] NOT NULL DEFAULT '{}',
            data jsonb NOT NULL DEFAULT '{}', at timestamptz NOT NULL DEFAULT now(), day date DEFAULT CURRENT_DATE,
            span tstzrange, ip inet, place point, took interval(3), file bytea, bits bit(8),
            words tsvector GENERATED ALWAYS AS (to_tsvector('english', name)) STORED,
            CONSTRAINT named CHECK (length(btrim(name)) BETWEEN 1 AND 200), UNIQUE (number)
        );
        CREATE INDEX entry_words ON entry USING gin (words);
        CREATE INDEX entry_lower ON entry (lower(name), (data ->> 'a'));
        CREATE VIEW latest (name, at) AS SELECT name, max(at) FROM entry GROUP BY name;
        CREATE TRIGGER keep BEFORE UPDATE ON entry FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
        INSERT INTO entry (name, price, span, ip) VALUES
            ('one', 1.5, tstzrange(now(), now() + interval '1 day'), '10.0.0.1'), ('two', 2, NULL, NULL)";
    fixture.data.migrate(&super::fixture::name("shop"), &[super::fixture::migration("1", tables)]).await.unwrap();
    let database = fixture.open("shop").await;
    for expression in [
        "coalesce(nullif(name, ''), 'x'), greatest(1, 2), least(1, 2)",
        "lower(name), upper(name), initcap(name), trim(both ' ' from name), substring(name from 1 for 2), left(name, 1)",
        "position('o' in name), strpos(name, 'o'), replace(name, 'o', '0'), split_part(name, 'n', 1), lpad(name, 5, '.')",
        "regexp_replace(name, '[aeiou]', '*', 'g'), name ~* 'ONE', name ILIKE '%n%', overlay(name placing 'x' from 1)",
        "concat(name, number), concat_ws(',', name, number), format('%s-%L', name, number), quote_literal(name)",
        "md5(name), encode(sha256(CAST(name AS bytea)), 'hex'), to_hex(255), ascii('a'), chr(65)",
        "round(price, 1), ceil(price), floor(price), abs(-1), mod(7, 2), power(2, 3), sqrt(4), ln(2), div(7, 2), sign(-1)",
        "random() >= 0, width_bucket(5, 0, 10, 2), trunc(1.7), 7 % 2, 2 ^ 3, |/ 4, 1::numeric(5, 2)",
        "now() - at, age(at), date_trunc('day', at), extract(year from at), date_part('hour', at), at AT TIME ZONE 'UTC'",
        "to_char(at, 'YYYY-MM-DD'), CAST(to_timestamp(0) AS text), make_date(2020, 1, 1), make_interval(days => 1)::text",
        "clock_timestamp(), day + 1, CURRENT_TIMESTAMP, LOCALTIME, (at, at) OVERLAPS (at, at), isfinite(at)",
        "jsonb_build_object('a', name), jsonb_set(data, '{a}', '1'), data @> '{}', data #>> '{a}', jsonb_typeof(data)",
        "to_jsonb(name), json_build_array(1, 2)::text, jsonb_path_query_first(data, '$.a'), row_to_json(e)::text",
        "array_length(tags, 1), cardinality(tags), array_append(tags, 'x')::text, tags @> ARRAY['x'], 'x' = ANY (tags)",
        "array_to_string(tags, ','), string_to_array('a,b', ',')::text, unnest(ARRAY[1])",
        "ts_rank(words, plainto_tsquery('english', 'one')), words @@ websearch_to_tsquery('english', 'one')",
        "lower(span), upper(span), span @> now(), isempty(span), host(ip), family(ip), ip << inet '10.0.0.0/8'",
        "point(1, 2)::text, CAST(place AS text), num_nonnulls(price, span), CAST(file AS text), uuid '0f0e0d0c-0000-0000-0000-000000000000'",
        "enum_range(state)::text, state::text, number::text, bits::text",
        "row_number() OVER (ORDER BY number), lag(name, 1) OVER w, rank() OVER w, ntile(2) OVER w, first_value(name) OVER w",
    ] {
        let sql = format!("SELECT {expression} FROM entry e WINDOW w AS (PARTITION BY state ORDER BY number)");
        let cast = query(&database, &sql, &[]).await;
        let is_fine = match &cast {
            Ok(_) => true,
            // The types of columns that a guest cannot get are another matter.
            Err(DataError::Invalid(reason)) => reason.contains("; cast column"),
            Err(_) => false,
        };
        assert!(is_fine, "{sql}: {cast:?}");
    }
    for sql in [
        "SELECT count(*), count(DISTINCT name), sum(price), avg(price), min(name), max(at), bool_and(true), every(true), \
         string_agg(name, ',' ORDER BY name), stddev(number), array_agg(name)::text, jsonb_agg(name), \
         json_object_agg(name, number)::text, percentile_cont(0.5) WITHIN GROUP (ORDER BY number), \
         mode() WITHIN GROUP (ORDER BY state)::text, count(*) FILTER (WHERE price > 1) FROM entry",
        "SELECT state::text, grouping(state) FROM entry GROUP BY ROLLUP (state)",
        "SELECT v.a, s.n FROM (VALUES (1, 'x'), (2, 'y')) v (a, b), generate_series(1, 3) AS s (n), LATERAL (SELECT v.a) l (c)",
        "WITH RECURSIVE tree (id, depth) AS (SELECT 1, 0 UNION ALL SELECT id + 1, depth + 1 FROM tree WHERE depth < 3), \
         other (x) AS MATERIALIZED (SELECT 1) SELECT * FROM tree, other",
        "SELECT x.a FROM jsonb_to_recordset('[{\"a\": 1}]') AS x (a int)",
        "SELECT key, value FROM jsonb_each_text('{\"a\": 1}')",
        "INSERT INTO entry (name) VALUES ('three') ON CONFLICT (number) DO UPDATE SET name = excluded.name RETURNING number",
        "INSERT INTO plugin_shop.entry (name) SELECT 'four' WHERE NOT EXISTS (SELECT FROM entry WHERE name = 'four')",
        "SELECT nextval('numbers'), currval('numbers'), setval('numbers', 100), lastval()",
        "SELECT name FROM entry TABLESAMPLE bernoulli (100)",
        "DELETE FROM entry USING latest WHERE entry.name = latest.name AND entry.name IN ('three', 'four')",
    ] {
        query(&database, sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    fixture.stop().await;
}
