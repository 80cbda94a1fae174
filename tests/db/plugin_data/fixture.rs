//! The databases of a host, without the host, and the macro that runs a case on both kinds.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tempfile::TempDir;
use wharf::clock::Random;
use wharf::config::{Config, Secret};
use wharf::db::Db;
use wharf::db::plugin_data::{
    DataError, Migration, PluginData, PluginDatabase, Rows, Statement, StatementLimits, Transaction, Value,
};
use wharf::id::PluginName;

use crate::support::Backend;
use crate::support::patience::PATIENCE;
use crate::support::polling::until;
use crate::support::postgres::{self, TestDatabase};

/// The tables that most cases use; the same text for both databases.
pub(super) const TABLES: &str = "
    CREATE TABLE owner (id BIGINT PRIMARY KEY);
    CREATE TABLE item (
        id BIGINT PRIMARY KEY,
        owner TEXT NOT NULL,
        title TEXT NOT NULL,
        price BIGINT,
        parent BIGINT CONSTRAINT item_parent_fkey REFERENCES owner (id),
        CONSTRAINT item_owner_title_key UNIQUE (owner, title),
        CONSTRAINT item_price_check CHECK (price >= 0)
    );
    CREATE UNIQUE INDEX item_title_index ON item (title);
    CREATE TABLE counter (id TEXT PRIMARY KEY, n BIGINT NOT NULL);
    INSERT INTO counter (id, n) VALUES ('a', 0), ('b', 0);
";

pub(super) struct Fixture {
    pub(super) backend: Backend,
    pub(super) config: Config,
    pub(super) data: PluginData,
    pub(super) db: Db,
    pub(super) dir: TempDir,
    pub(super) postgres: Option<TestDatabase>,
}

impl Fixture {
    /// Returns `None` if PostgreSQL is not installed.
    pub(super) async fn new(backend: Backend, change: impl FnOnce(&mut Config)) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = dir.path().to_owned();
        config.database.connections = 4;
        config.database.timeout = PATIENCE;
        config.plugins.sql_time = PATIENCE;
        let mut database = None;
        if backend == Backend::Postgres {
            let fresh = postgres::database().await?;
            config.database.url = Some(Secret::new(fresh.url.clone()));
            database = Some(fresh);
        }
        change(&mut config);
        let db = Db::open(&config.database, dir.path()).await.unwrap();
        let data = PluginData::open(&db, &config, Random::System).unwrap();
        Some(Self { backend, config, data, db, dir, postgres: database })
    }

    /// Opens the data as another node of the same Wharf would.
    pub(super) fn another_node(&self) -> PluginData {
        PluginData::open(&self.db, &self.config, Random::System).unwrap()
    }

    pub(super) async fn open(&self, plugin: &str) -> Arc<PluginDatabase> {
        self.data.plugin(&name(plugin)).await.unwrap()
    }

    /// Returns a plugin's database with the usual tables.
    pub(super) async fn tables(&self, plugin: &str) -> Arc<PluginDatabase> {
        self.data.migrate(&name(plugin), &[migration("0001_tables", TABLES)]).await.unwrap();
        self.open(plugin).await
    }

    /// Connects directly as the database superuser.
    pub(super) async fn superuser(&self) -> PgConnection {
        postgres::connect(self.postgres.as_ref().unwrap()).await
    }

    /// Waits until a statement with this text runs on the server, or no longer runs. SQLite cannot be asked: the test
    /// waits until the plugin `shop` uses a connection, and then a little longer for the statement to begin.
    pub(super) async fn until_running(&self, text: &str, running: bool) {
        if self.backend == Backend::Sqlite {
            let in_use = || (self.data.in_use(&name("shop")) > 0) == running;
            until("the connection to change", async || in_use().then_some(())).await;
            return tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut superuser = self.superuser().await;
        let what = if running { "the statement to run" } else { "the statement to end" };
        until(what, async || {
            let count: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = 'wharf-plugin' \
                 AND datname = current_database() AND position($1 IN query) > 0",
            )
            .bind(text)
            .fetch_one(&mut superuser)
            .await
            .unwrap();
            ((count > 0) == running).then_some(())
        })
        .await;
    }

    pub(super) async fn stop(self) {
        self.data.close().await;
        self.db.close().await;
    }
}

/// A statement that never ends.
pub(super) const ENDLESS: &str =
    "WITH RECURSIVE endless (n) AS (SELECT 1 UNION ALL SELECT 1 FROM endless WHERE n = 1) SELECT count(*) FROM endless";

pub(super) fn name(plugin: &str) -> PluginName {
    plugin.parse().unwrap()
}

pub(super) fn migration(name: &str, sql: &str) -> Migration {
    Migration { name: name.to_owned(), sql: sql.to_owned() }
}

pub(super) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(super) fn sql(text: &str) -> Statement {
    Statement::new(text, [])
}

pub(super) async fn query(database: &PluginDatabase, sql: &str, params: &[Value]) -> Result<Rows, DataError> {
    database.query(Statement::new(sql, params)).await
}

pub(super) async fn execute(database: &PluginDatabase, sql: &str, params: &[Value]) -> Result<u64, DataError> {
    database.execute(Statement::new(sql, params)).await
}

/// Returns the same database with a short time limit, for the statements that are to reach it.
pub(super) fn hasty(database: &PluginDatabase, time: Duration) -> PluginDatabase {
    database.with_limits(StatementLimits { time, ..database.limits().clone() })
}

/// Returns the only value of the only row.
pub(super) async fn scalar(database: &PluginDatabase, sql: &str) -> Value {
    let rows = query(database, sql, &[]).await.unwrap();
    assert_eq!(rows.values.len(), 1, "{sql}");
    rows.values[0][0].clone()
}

pub(super) async fn add(transaction: &mut Transaction, id: i64) -> Result<u64, DataError> {
    transaction
        .execute(Statement::new(
            "INSERT INTO item (id, owner, title) VALUES ($1, 'o', $2)",
            [Value::Integer(id), text(&format!("t{id}"))],
        ))
        .await
}

pub(super) async fn count(database: &PluginDatabase) -> Value {
    scalar(database, "SELECT count(*) FROM item").await
}

/// Defines `name::sqlite` and `name::postgres` for functions that take a `&Fixture`. An optional change of the settings
/// follows `=>`.
macro_rules! on_both {
    ($($case:ident $(=> $change:expr)?),* $(,)?) => {
        $(mod $case {
            #[allow(unused_imports, reason = "for names in the change of settings")]
            use super::*;

            async fn run(backend: crate::support::Backend) {
                #[allow(unused_variables, reason = "shadowed if a change is given")]
                let change = |_: &mut wharf::config::Config| ();
                $(let change = $change;)?
                let Some(fixture) = crate::db::plugin_data::fixture::Fixture::new(backend, change).await else { return };
                super::$case(&fixture).await;
                fixture.stop().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run(crate::support::Backend::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                run(crate::support::Backend::Postgres).await;
            }
        })*
    };
}
pub(super) use on_both;
