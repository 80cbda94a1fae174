//! What a hostile plugin tries.

use std::os::unix::fs::PermissionsExt;

use super::*;

on_both!(what_no_database_allows, the_record_is_out_of_reach, plugins_do_not_see_each_other);

async fn refused(database: &PluginDatabase, text: &str) {
    assert!(database.query(sql(text)).await.is_err(), "{text}");
    assert!(database.execute(sql(text)).await.is_err(), "{text}");
    let mut transaction = database.begin().await.unwrap();
    assert!(transaction.execute(sql(text)).await.is_err(), "{text}");
}

async fn what_no_database_allows(fixture: &Fixture) {
    let database = fixture.plugin("CREATE TABLE a (id bigint)").await;
    for text in [
        "ATTACH 'other' AS other",
        "ATTACH DATABASE '../other/data.sqlite' AS other",
        "DETACH main",
        "PRAGMA writable_schema = 1",
        "PRAGMA user_version",
        "VACUUM",
        "VACUUM INTO '/tmp/stolen.sqlite'",
        "SELECT load_extension('/tmp/x.so')",
        "BEGIN",
        "BEGIN; SELECT 1",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "RELEASE s",
        "END",
        "CREATE TABLE b (id int)",
        "CREATE TEMP TABLE b (id int)",
        "DROP TABLE a",
        "ALTER TABLE a ADD COLUMN b int",
        "REINDEX",
        "ANALYZE",
        "EXPLAIN SELECT 1",
        "SET ROLE wharf_host",
        "RESET ROLE",
        "SET search_path = wharf",
        "SHOW search_path",
        "COPY a TO PROGRAM 'id'",
        "COPY a TO '/tmp/x'",
        "CREATE EXTENSION dblink",
        "DO $$ BEGIN END $$",
        "LISTEN x",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "NOTIFY x",
        "PREPARE p AS SELECT 1",
        "CALL x()",
        "GRANT ALL ON a TO PUBLIC",
        "LOCK TABLE a",
        "TRUNCATE a",
        "/* SELECT */ PRAGMA user_version",
        "(PRAGMA user_version)",
    ] {
        refused(&database, text).await;
    }
    assert_eq!(count(&database, "a").await, 0);
}

async fn the_record_is_out_of_reach(fixture: &Fixture) {
    let database = fixture.plugin("CREATE TABLE a (id bigint)").await;
    for text in [
        "SELECT * FROM _wharf_migration",
        "SELECT * FROM \"_wharf_migration\"",
        "DELETE FROM _WHARF_migration",
        "DELETE FROM '_wharf_migration'",
        "SELECT * FROM '_wharf_migration'",
    ] {
        refused(&database, text).await;
    }
    assert!(
        fixture
            .node()
            .migrate(&name("items"), &[migration("0001", "CREATE TABLE a (id bigint)")])
            .await
            .unwrap()
            .is_empty()
    );
}

async fn plugins_do_not_see_each_other(fixture: &Fixture) {
    let (one_name, two_name) = (name("a-b"), name("a"));
    fixture
        .data
        .migrate(&one_name, &[migration("1", "CREATE TABLE s (t text); INSERT INTO s VALUES ('one')")])
        .await
        .unwrap();
    fixture
        .data
        .migrate(&two_name, &[migration("1", "CREATE TABLE s (t text); INSERT INTO s VALUES ('two')")])
        .await
        .unwrap();
    let (first, second) =
        (fixture.data.plugin(&one_name).await.unwrap(), fixture.data.plugin(&two_name).await.unwrap());
    assert_eq!(one(&first.query(sql("SELECT t FROM s")).await.unwrap()), &text("one"));
    assert_eq!(one(&second.query(sql("SELECT t FROM s")).await.unwrap()), &text("two"));
    fixture.data.delete(&one_name).await.unwrap();
    assert_eq!(one(&second.query(sql("SELECT t FROM s")).await.unwrap()), &text("two"));
}

#[tokio::test]
async fn sqlite_files_are_private_and_the_schema_is_only_read() {
    let fixture = Fixture::sqlite().await;
    let database = fixture.plugin("CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)").await;
    database.execute(sql("INSERT INTO a DEFAULT VALUES")).await.unwrap();
    let directory = fixture.directory.path().join("plugins/items");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(directory.parent().unwrap())), (0o700, 0o700));
    for file in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    for text in [
        "UPDATE sqlite_master SET sql = ''",
        "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 0, '')",
        "DELETE FROM sqlite_sequence",
        "SELECT * FROM pragma_table_info('a')",
        "SELECT * FROM pragma_database_list",
        "SELECT fts3_tokenizer('simple')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/x', 'x')",
        "SELECT \"no such column\"",
    ] {
        refused(&database, text).await;
    }
    for text in [
        "CREATE VIRTUAL TABLE f USING fts3(a)",
        "CREATE VIRTUAL TABLE d USING dbstat",
        "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END",
        "CREATE TRIGGER begin AFTER INSERT ON a BEGIN SELECT 1; END; PRAGMA user_version = 1",
        "DROP TABLE '_wharf_migration'",
        "INSERT INTO '_wharf_migration' VALUES (9, 'x', 'y')",
        "DROP TABLE sqlite_sequence",
    ] {
        let all = [migration("0001", "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)"), migration("2", text)];
        assert!(fixture.data.migrate(&name("items"), &all).await.is_err(), "{text}");
    }
    let search = "CREATE VIRTUAL TABLE search USING fts5(body);
        CREATE TRIGGER found AFTER INSERT ON a BEGIN INSERT INTO search VALUES ('row ' || new.id); SELECT 1; END";
    let all = [migration("0001", "CREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT)"), migration("2", search)];
    fixture.data.migrate(&name("items"), &all).await.unwrap();
    database.execute(sql("INSERT INTO a DEFAULT VALUES")).await.unwrap();
    let found = database.query(with("SELECT body FROM search WHERE search MATCH $1", [text("row")])).await.unwrap();
    assert_eq!(one(&found), &text("row 2"));
}

#[tokio::test]
async fn sqlite_trigger_named_begin_hides_no_statements() {
    let fixture = Fixture::sqlite().await;
    let many = "SELECT 1; ".repeat(60_000);
    let all = [migration(
        "1",
        &format!("CREATE TABLE a (id int); CREATE TRIGGER begin AFTER INSERT ON a BEGIN SELECT 1; END; {many}"),
    )];
    // Whatever it is taken for, it does not exhaust the stack.
    let _ = fixture.data.migrate(&name("items"), &all).await;
}

#[tokio::test]
async fn postgres_roles_reach_only_their_schema() {
    let Some(fixture) = Fixture::postgres().await else { return };
    // As in a database that an older PostgreSQL made.
    let Db::Postgres(pool) = &fixture.db else { unreachable!() };
    sqlx::query("GRANT CREATE ON SCHEMA public TO PUBLIC").execute(pool).await.unwrap();
    let database = fixture.plugin("CREATE TABLE a (id bigint)").await;
    fixture.data.migrate(&name("other"), &[migration("1", "CREATE TABLE s (t text)")]).await.unwrap();
    for text in [
        "SELECT * FROM wharf.plugin_database",
        "SELECT password FROM wharf.plugin_database",
        "SELECT * FROM plugin_other.s",
        "SELECT * FROM \"plugin_other\".s",
        "INSERT INTO plugin_other.s VALUES ('x')",
        "SELECT set_config('role', 'wharf_host', false)",
        "SELECT set_config('search_path', 'wharf', false)",
        "SELECT pg_catalog.\"set_config\"('statement_timeout', '0', false)",
        "SELECT lo_import('/etc/passwd')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_create(1)",
        "SELECT rolpassword FROM pg_authid",
        "SELECT * INTO b FROM a",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_notify('a', 'b')",
        "SELECT query_to_xml('SELECT set_config(''role'', ''x'', false)', true, true, '')",
        "SELECT pg_reload_conf()",
        "SELECT * FROM ts_stat('SELECT to_tsvector(''a'')')",
        "SELECT pg_terminate_backend(1)",
        "SELECT dblink('', 'SELECT 1')",
        "WITH x AS (INSERT INTO plugin_other.s VALUES ('x') RETURNING t) SELECT * FROM x",
    ] {
        refused(&database, text).await;
    }
    for text in [
        "CREATE TABLE public.b (id int)",
        "CREATE TABLE wharf.b (id int)",
        "CREATE TABLE plugin_other.b (id int)",
        "DROP TABLE wharf.plugin_database",
        "ALTER TABLE a OWNER TO wharf_host",
        "DROP TABLE plugin_other.s",
        "CREATE TABLE c (id int DEFAULT set_config('role', 'x', false)::int)",
        "CREATE VIEW v AS SELECT * FROM wharf.plugin_database",
        "CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()",
    ] {
        let all = [migration("0001", "CREATE TABLE a (id bigint)"), migration("2", text)];
        assert!(fixture.data.migrate(&name("items"), &all).await.is_err(), "{text}");
    }
    let weak: Vec<bool> = sqlx::query_scalar(
        "SELECT NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolinherit OR rolreplication OR rolbypassrls) AND rolcanlogin \
         AND rolconnlimit > 0 FROM pg_roles JOIN plugin_database ON role = rolname",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(weak, [true, true]);
}

#[tokio::test]
async fn postgres_says_which_right_is_missing() {
    let Some(fixture) = Fixture::postgres().await else { return };
    use sqlx::Connection;
    let postgres = fixture.postgres.as_ref().unwrap();
    let mut superuser = sqlx::PgConnection::connect(&postgres.superuser_url).await.unwrap();
    let poor = format!(
        "poor_{}",
        fixture.directory.path().file_name().unwrap().to_string_lossy().replace('.', "").to_lowercase()
    );
    let sql = format!(
        "CREATE ROLE {poor} LOGIN PASSWORD 'poor'; CREATE SCHEMA poor AUTHORIZATION {poor}; \
                       GRANT ALL ON SCHEMA wharf TO {poor}; GRANT ALL ON ALL TABLES IN SCHEMA wharf TO {poor}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
    let mut config = fixture.config.clone();
    let url = postgres.url.replace("wharf_host:wharf", &format!("{poor}:poor"));
    config.database.url = Some(Secret::new(&url));
    let pool = sqlx::postgres::PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::query("SET search_path = wharf").execute(connection).await.map(drop) })
        })
        .connect(&url)
        .await
        .unwrap();
    let data = PluginData::open(&Db::Postgres(pool), &config, Random::System).unwrap();
    let error = data.plugin(&name("items")).await.err().unwrap();
    assert!(error.report().contains("needs CREATEROLE and CREATE on the database"), "{}", error.report());
}
