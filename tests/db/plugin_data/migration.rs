//! Migrations and removal.

use super::*;

on_both!(
    applied_once,
    history_does_not_change,
    a_failing_one_leaves_nothing,
    two_at_once,
    tables_are_rebuilt,
    sessions_and_transactions_are_refused,
    removal_removes_everything,
    a_closed_host_answers_unavailable,
);

async fn applied_once(fixture: &Fixture) {
    let items = name("items");
    let mut all = vec![
        migration("0001", "CREATE TABLE a (id bigint); INSERT INTO a VALUES (1); -- why; not"),
        migration("0002", "CREATE INDEX a_id ON a (id)"),
    ];
    assert_eq!(fixture.data.migrate(&items, &all).await.unwrap(), ["0001", "0002"]);
    assert!(fixture.data.migrate(&items, &all).await.unwrap().is_empty());
    all.push(migration("0003", "ALTER TABLE a ADD COLUMN n bigint"));
    assert_eq!(fixture.node().migrate(&items, &all).await.unwrap(), ["0003"]);
    // An older release knows fewer; that is a rollback.
    assert!(fixture.data.migrate(&items, &all[..1]).await.unwrap().is_empty());
    let database = fixture.data.plugin(&items).await.unwrap();
    assert_eq!(count(&database, "a").await, 1);
    assert!(fixture.data.migrate(&name("empty"), &[]).await.unwrap().is_empty());
}

async fn history_does_not_change(fixture: &Fixture) {
    let items = name("items");
    let all = [migration("1", "CREATE TABLE a (id int)"), migration("2", "CREATE TABLE b (id int)")];
    fixture.data.migrate(&items, &all).await.unwrap();
    let changed = [migration("1", "CREATE TABLE a (id text)"), all[1].clone()];
    let renamed = [migration("0", "CREATE TABLE a (id int)"), all[1].clone()];
    let inserted = [all[0].clone(), migration("1b", "CREATE TABLE c (id int)"), all[1].clone()];
    for (list, at) in [(&changed[..], "1"), (&renamed, "0"), (&inserted, "1b"), (&all[1..], "2")] {
        let error = fixture.data.migrate(&items, list).await.unwrap_err();
        assert!(matches!(&error, MigrationError::History { name, .. } if name == at), "{error}");
    }
}

async fn a_failing_one_leaves_nothing(fixture: &Fixture) {
    let items = name("items");
    let good = migration("1", "CREATE TABLE a (id int)");
    let bad = migration("2", "CREATE TABLE b (id int); INSERT INTO nowhere VALUES (1); CREATE TABLE c (id int)");
    let error = fixture.data.migrate(&items, &[good.clone(), bad]).await.unwrap_err();
    assert!(
        matches!(&error, MigrationError::Statement { name, statement: 2, error: DataError::Invalid(_) } if name == "2")
    );
    assert!(error.to_string().starts_with("migration 2, statement 2: "), "{error}");
    let database = fixture.data.plugin(&items).await.unwrap();
    is_invalid(database.query(sql("SELECT * FROM a")).await, "no table");
    let fixed = migration("2", "CREATE TABLE b (id int)");
    assert_eq!(fixture.data.migrate(&items, &[good, fixed]).await.unwrap(), ["1", "2"]);
}

async fn two_at_once(fixture: &Fixture) {
    let items = name("items");
    let all = [migration("1", "CREATE TABLE a (id int)"), migration("2", "INSERT INTO a VALUES (1)")];
    let nodes = [fixture.node(), fixture.node(), fixture.node()];
    let applied =
        tokio::join!(nodes[0].migrate(&items, &all), nodes[1].migrate(&items, &all), nodes[2].migrate(&items, &all));
    let applied = [applied.0.unwrap(), applied.1.unwrap(), applied.2.unwrap()];
    assert_eq!(applied.iter().map(Vec::len).sum::<usize>(), 2, "{applied:?}");
    assert_eq!(count(&nodes[0].plugin(&items).await.unwrap(), "a").await, 1);
}

async fn tables_are_rebuilt(fixture: &Fixture) {
    let database = fixture
        .plugin(
            "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p (id)); \
                 INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)",
        )
        .await;
    is_invalid(database.execute(sql("DROP TABLE c")).await, "at run time");
    let first = migration(
        "0001",
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p (id)); \
                 INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)",
    );
    let second = migration(
        "0002",
        "ALTER TABLE c RENAME TO d; ALTER TABLE p ADD COLUMN n int NOT NULL DEFAULT 0; \
                 CREATE VIEW w AS SELECT * FROM d; DROP VIEW w",
    );
    assert_eq!(fixture.data.migrate(&name("items"), &[first, second]).await.unwrap(), ["0002"]);
    assert_eq!(count(&database, "d").await, 1);
}

async fn sessions_and_transactions_are_refused(fixture: &Fixture) {
    for text in [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "SET search_path = public",
        "RESET ROLE",
        "SET ROLE postgres",
        "CREATE ROLE x",
        "GRANT ALL ON SCHEMA public TO PUBLIC",
        "CREATE EXTENSION dblink",
        "DO $$ BEGIN END $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "PRAGMA writable_schema = 1",
        "ATTACH 'x' AS y",
        "VACUUM",
        "CREATE TEMP TABLE t (id int)",
        "CREATE SCHEMA x",
        "COPY a TO PROGRAM 'id'",
        "DROP TABLE _wharf_migration",
        "DROP TABLE \"_wharf_migration\"",
        "UPDATE \"_wharf_migration\" SET name = ''",
        "LOCK TABLE a",
        "ANALYZE",
    ] {
        let all = [migration("1", &format!("CREATE TABLE a (id int); {text}"))];
        let error = fixture.data.migrate(&name("items"), &all).await.unwrap_err();
        assert!(matches!(&error, MigrationError::Statement { .. }), "{text}: {error}");
    }
    let database = fixture.data.plugin(&name("items")).await.unwrap();
    is_invalid(database.query(sql("SELECT * FROM a")).await, "none of it was done");
}

async fn removal_removes_everything(fixture: &Fixture) {
    let items = name("items");
    let database = fixture.plugin("CREATE TABLE a (id int)").await;
    assert_eq!(database.execute(sql("INSERT INTO a VALUES (1)")).await, Ok(1));
    if let Db::Postgres(pool) = &fixture.db {
        let role: String = sqlx::query_scalar("SELECT role FROM plugin_database").fetch_one(pool).await.unwrap();
        fixture.data.delete(&items).await.unwrap();
        let left: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1) + (SELECT count(*) FROM pg_namespace WHERE \
             nspname LIKE 'plugin_%') + (SELECT count(*) FROM plugin_database)",
        )
        .bind(role)
        .fetch_one(pool)
        .await
        .unwrap();
        assert_eq!(left, 0);
    } else {
        fixture.data.delete(&items).await.unwrap();
        assert!(!fixture.directory.path().join("plugins/items").exists());
    }
    assert_eq!(database.query(sql("SELECT 1 AS a")).await, Err(DataError::Unavailable));
    fixture.data.delete(&items).await.unwrap();
    let database = fixture.plugin("CREATE TABLE a (id int)").await;
    assert_eq!(count(&database, "a").await, 0);
}

async fn a_closed_host_answers_unavailable(fixture: &Fixture) {
    let database = fixture.plugin("CREATE TABLE a (id int)").await;
    fixture.data.close().await;
    assert_eq!(database.query(sql("SELECT 1 AS a")).await, Err(DataError::Unavailable));
    assert!(matches!(database.begin().await, Err(DataError::Unavailable)));
    if !fixture.is_postgres() {
        let log = fixture.directory.path().join("plugins/items/data.sqlite-wal");
        assert!(!log.exists(), "the log is in the file");
    }
}
