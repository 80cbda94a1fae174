//! Attacks on PostgreSQL: the role of the plugin, its session, and the schemas of others.

use wharf::db::plugin_data::Value;

use super::assert_refused;
use crate::db::plugin_data::fixture::{Fixture, TABLES, migration, name, query, scalar, text};
use crate::support::Backend;

/// The session settings that a plugin's statement would see.
pub(in crate::db::plugin_data) const SESSION: &str = "SELECT current_user || ' ' || session_user || ' ' || current_setting('search_path') || ' ' || \
    current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') || ' ' || \
    current_setting('standard_conforming_strings') || ' ' || current_setting('default_transaction_read_only') || ' ' || \
    current_setting('application_name')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_role_reaches_only_its_own_schema() {
    let one_connection = |config: &mut wharf::config::Config| config.plugins.sql_connections = 1;
    let Some(fixture) = Fixture::new(Backend::Postgres, one_connection).await else { return };
    let database = fixture.tables("shop").await;
    database.append_message(Some("a"), "a message".to_owned()).await.unwrap();
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
        "SELECT pg_advisory_xact_lock(1, 2)",
        "SELECT 1 FROM pg_advisory_xact_lock(1, 2)",
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
        "SELECT nextval('_wharf_outbox_id_seq')",
        "SELECT setval('\"_wharf_outbox_id_seq\"', 1)",
        "SELECT setval('plugin_shop._WHARF_outbox_id_seq', 1)",
        "SELECT last_value FROM _wharf_outbox_id_seq",
        "SELECT table_to_xml('_wharf_outbox', true, true, '')",
        "SELECT currval(oid::regclass) FROM generate_series(16384, 20000) AS oid",
        "SELECT col_description(16384, 1)",
        "SELECT obj_description(16384)",
        "SELECT satisfies_hash_partition(16384, 1, 0, 1)",
        "SELECT txid_current()",
        "SELECT inet_server_addr()",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT 1')",
        "SELECT currtid2('item', '(0,1)')",
        "SELECT brin_summarize_new_values(16384)",
        "SELECT * FROM TREAT('SELECT to_tsvector(nspname) FROM pg_namespace'::text AS ts_stat) x",
        "SELECT treat /* */ ('wharf.users'::text AS to_regclass)",
        "SELECT CAST(TREAT('plugin_two'::text AS pg_catalog.to_regnamespace) AS text)",
        "SELECT COLLATION FOR ('a'::text)",
        "SELECT current_setting('data_directory')",
        "SELECT current_setting('max_connections')",
        "SELECT current_setting(name) FROM (VALUES ('log_directory')) v (name)",
        "SELECT ('log_directory'::text).current_setting",
        "SELECT xpath('//a', CAST('<a/>' AS xml))::text",
        "SELECT xpath_exists('//a', CAST('<a/>' AS xml))",
        "SELECT XMLEXISTS('//a' PASSING BY VALUE CAST('<a/>' AS xml))",
        "SELECT * FROM XMLTABLE('//a' PASSING CAST('<a/>' AS xml) COLUMNS a text)",
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

/// A migration tells neither by its success nor by its error whether another plugin exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_does_not_reveal_other_plugins() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let database = fixture.tables("shop").await;
    fixture.tables("present").await;
    let Value::Text(role) = scalar(&database, "SELECT CAST(current_user AS text)").await else { unreachable!() };
    for question in [
        "COMMENT ON ROLE \"ROLE\" IS 'x'",
        "COMMENT ON SCHEMA plugin_NAME IS 'x'",
        "COMMENT ON TABLE plugin_NAME.item IS 'x'",
        "ALTER TABLE item OWNER TO \"ROLE\"",
        "DROP TABLE IF EXISTS plugin_NAME.item",
        "DROP TABLE IF EXISTS nothing, \"plugin_NAME\".item",
        "DROP TRIGGER IF EXISTS x ON plugin_NAME.item",
        "ALTER TABLE IF EXISTS plugin_NAME.item ADD x int",
        "CREATE TABLE IF NOT EXISTS plugin_NAME.item (id int)",
    ] {
        let ask = async |plugin: &str| {
            let other = role.replace("_shop", &format!("_{plugin}"));
            let sql = question.replace("NAME", plugin).replace("ROLE", &other);
            let list = [migration("0001_tables", TABLES), migration("0002", &sql)];
            let error = fixture.data.migrate(&name("shop"), &list).await.map_err(|error| error.to_string());
            assert!(error.is_err(), "{sql}: {error:?}");
            format!("{error:?}").replace(plugin, "NAME")
        };
        assert_eq!(ask("present").await, ask("absent").await, "{question}");
    }
    fixture.stop().await;
}
