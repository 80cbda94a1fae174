//! Features that only SQLite has.

use futures_util::future::join_all;
use wharf::db::plugin_data::{DataError, Value};

use super::fixture::{Fixture, execute, migration, name, query, text};
use crate::support::Backend;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_text_search_and_triggers_work_from_migrations() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let tables = "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT);
        CREATE VIRTUAL TABLE search USING fts5(body);
        CREATE TRIGGER found AFTER INSERT ON a BEGIN
            INSERT INTO search VALUES (CASE WHEN new.id > 1 THEN 'row ' || new.id END); SELECT 1;
        END";
    fixture.data.migrate(&name("a"), &[migration("1", tables)]).await.unwrap();
    let database = fixture.open("a").await;
    for _ in 0..2 {
        execute(&database, "INSERT INTO a DEFAULT VALUES", &[]).await.unwrap();
    }
    let found = query(&database, "SELECT body FROM search WHERE search MATCH $1", &[text("row")]).await.unwrap();
    assert_eq!(found.values, [[text("row 2")]]);
    for refused in ["DELETE FROM sqlite_sequence", "SELECT \"no such column\" FROM a"] {
        assert!(matches!(execute(&database, refused, &[]).await, Err(DataError::Invalid(_))), "{refused}");
    }
    for refused in [
        "CREATE VIRTUAL TABLE f USING fts3(a)",
        "CREATE VIRTUAL TABLE d USING dbstat",
        "CREATE TRIGGER begin AFTER INSERT ON a BEGIN SELECT 1; END; PRAGMA user_version = 1",
    ] {
        let list = [migration("1", tables), migration("2", refused)];
        assert!(fixture.data.migrate(&name("a"), &list).await.is_err(), "{refused}");
    }
    fixture.stop().await;
}

/// The splitter takes the name for the beginning of a trigger body, and passes the whole text to SQLite as one
/// statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_named_begin_does_not_exhaust_the_stack() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let many = "SELECT 1; ".repeat(60_000);
    let text = format!("CREATE TABLE a (id INT); CREATE TRIGGER begin AFTER INSERT ON a BEGIN SELECT 1; END; {many}");
    let _ = fixture.data.migrate(&name("a"), &[migration("1", &text)]).await;
    let database = fixture.open("a").await;
    assert_eq!(query(&database, "SELECT 1", &[]).await.unwrap().values, [[Value::Integer(1)]]);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_checkpoints_the_write_ahead_log() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let database = fixture.tables("shop").await;
    execute(&database, "UPDATE counter SET n = 1", &[]).await.unwrap();
    fixture.data.close().await;
    assert!(!fixture.dir.path().join("plugins/shop/data.sqlite-wal").exists());
    assert_eq!(query(&database, "SELECT 1", &[]).await, Err(DataError::Unavailable));
    assert!(matches!(database.begin().await, Err(DataError::Unavailable)));
    fixture.stop().await;
}

/// SQLite does not wait for other processes while it creates the write-ahead log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_open_a_new_file_concurrently() {
    let fixture = Fixture::new(Backend::Sqlite, |_| ()).await.unwrap();
    let nodes: Vec<_> = (0..8).map(|_| fixture.another_node()).collect();
    for round in 0..20 {
        let plugin = name(&format!("p{round}"));
        let list = [migration("1", "CREATE TABLE a (id INT)")];
        let applied = join_all(nodes.iter().map(|node| node.migrate(&plugin, &list))).await;
        let applied: Vec<_> = applied.into_iter().map(Result::unwrap).filter(|applied| !applied.is_empty()).collect();
        assert_eq!(applied, [["1"]]);
    }
    for node in nodes {
        node.close().await;
    }
    fixture.stop().await;
}
