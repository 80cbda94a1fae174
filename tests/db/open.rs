//! Opening the host's own database.

use std::time::Duration;

use sqlx::Executor;
use wharf::config::{Database, Secret};
use wharf::db::Db;

use crate::support::patience::{NEVER, PATIENCE};
use crate::support::postgres::{self, TestDatabase};

fn settings(database: Option<&TestDatabase>) -> Database {
    let url = database.map(|database| Secret::new(database.url.clone()));
    Database { url, connections: 2, timeout: PATIENCE, ..Database::default() }
}

fn at(url: &str) -> Database {
    Database { url: Some(Secret::new(url)), ..settings(None) }
}

/// Counts the migrations that are recorded as applied.
async fn applied(db: &Db) -> i64 {
    const SQL: &str = "SELECT count(*) FROM _sqlx_migrations WHERE success";
    match db {
        Db::Sqlite(pool) => sqlx::query_scalar(SQL).fetch_one(pool).await.unwrap(),
        Db::Postgres(pool) => sqlx::query_scalar(SQL).fetch_one(pool).await.unwrap(),
    }
}

/// Records a migration of a newer binary.
async fn pretend_newer(db: &Db) {
    const SQL: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                       SELECT 9999, 'of a newer binary', true, checksum, 0 FROM _sqlx_migrations WHERE version = 1";
    match db {
        Db::Sqlite(pool) => drop(pool.execute(SQL).await.unwrap()),
        Db::Postgres(pool) => drop(pool.execute(SQL).await.unwrap()),
    }
}

async fn opening_migrates_the_schema_once(settings: &Database) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(settings, dir.path()).await.unwrap();
    db.ping().await.unwrap();
    let first = applied(&db).await;
    assert!(first > 0);
    db.close().await;
    let db = Db::open(settings, dir.path()).await.unwrap();
    assert_eq!(applied(&db).await, first);
    db.close().await;
}

async fn a_newer_schema_is_rejected(settings: &Database) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(settings, dir.path()).await.unwrap();
    pretend_newer(&db).await;
    db.close().await;
    let error = Db::open(settings, dir.path()).await.unwrap_err();
    assert!(format!("{error:?}").contains("9999"), "{error:?}");
}

#[tokio::test]
async fn opening_migrates_the_schema_once_on_sqlite() {
    opening_migrates_the_schema_once(&settings(None)).await;
}

#[tokio::test]
async fn opening_migrates_the_schema_once_on_postgres() {
    let Some(database) = postgres::database().await else { return };
    opening_migrates_the_schema_once(&settings(Some(&database))).await;
}

#[tokio::test]
async fn a_newer_schema_is_rejected_on_sqlite() {
    a_newer_schema_is_rejected(&settings(None)).await;
}

#[tokio::test]
async fn a_newer_schema_is_rejected_on_postgres() {
    let Some(database) = postgres::database().await else { return };
    a_newer_schema_is_rejected(&settings(Some(&database))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_concurrently_open_the_same_schema() {
    let Some(database) = postgres::database().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(Some(&database));
    let opened = futures_util::future::join_all((0..4).map(|_| Db::open(&settings, dir.path()))).await;
    for db in opened {
        let db = db.unwrap();
        db.ping().await.unwrap();
        db.close().await;
    }
}

#[tokio::test]
async fn an_unreachable_database_is_an_error_with_its_reason_and_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let no_socket = format!("postgres://someone:very-secret@/none?host={}", dir.path().display());
    for (url, reason) in [
        ("postgres://someone:very-secret@127.0.0.1:1/none", "Connection refused"),
        (&no_socket, "No such file or directory"),
    ] {
        let settings = Database { timeout: Duration::from_secs(1), ..at(url) };
        let error = Db::open(&settings, dir.path()).await.unwrap_err();
        assert!(error.report().contains(reason), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("very-secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_a_login_is_not_asked_again() {
    let Some(database) = postgres::database().await else { return };
    let dir = tempfile::tempdir().unwrap();
    for (url, reason) in [
        (database.url.replace(":wharf@", ":very-secret@"), "password authentication failed"),
        (format!("{}x", database.url), "does not exist"),
    ] {
        let settings = Database { timeout: NEVER, ..at(&url) };
        let error = Db::open(&settings, dir.path()).await.unwrap_err();
        assert!(error.report().contains(reason), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("very-secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_socket_can_be_named_as_libpq_names_it() {
    let Some(database) = postgres::database().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&at(&database.socket_url), dir.path()).await.unwrap();
    db.ping().await.unwrap();
    db.close().await;
}
