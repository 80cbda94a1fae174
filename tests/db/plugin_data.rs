//! Plugins' databases. Every case runs on SQLite and on PostgreSQL; what only one of them can do is beside it.

mod isolation;
mod migration;
mod postgres_types;
mod statement;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use wharf::clock::Random;
use wharf::config::{Config, Secret};
use wharf::db::Db;
use wharf::db::plugin_data::{
    DataError, Migration, MigrationError, PluginData, PluginDatabase, Rows, Statement, Value,
};
use wharf::id::PluginName;

use crate::support::postgres::{TestDatabase, database};

/// Short limits, so that tests reach them soon.
const TIME: Duration = Duration::from_millis(1_500);
const ROWS: usize = 1_000;
const BYTES: usize = 1024 * 1024;
const CONNECTIONS: u32 = 3;

/// A host with nothing but its databases.
struct Fixture {
    data: PluginData,
    db: Db,
    config: Config,
    directory: tempfile::TempDir,
    postgres: Option<TestDatabase>,
}

impl Fixture {
    async fn sqlite() -> Self {
        Self::new(None).await
    }

    async fn postgres() -> Option<Self> {
        Some(Self::new(Some(database().await?)).await)
    }

    async fn new(postgres: Option<TestDatabase>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = directory.path().to_owned();
        config.database.url = postgres.as_ref().map(|database| Secret::new(&database.url));
        config.plugins.sql_time = TIME;
        config.plugins.sql_rows = ROWS;
        config.plugins.sql_bytes = BYTES;
        config.plugins.sql_connections = CONNECTIONS;
        let db = Db::open(&config.database, directory.path()).await.unwrap();
        let data = PluginData::open(&db, &config, Random::System).unwrap();
        Self { data, db, config, directory, postgres }
    }

    /// Another node on the same databases.
    fn node(&self) -> PluginData {
        PluginData::open(&self.db, &self.config, Random::System).unwrap()
    }

    fn is_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    /// A plugin with the given schema.
    async fn plugin(&self, schema: &str) -> Arc<PluginDatabase> {
        self.data.migrate(&name("items"), &[migration("0001", schema)]).await.unwrap();
        self.data.plugin(&name("items")).await.unwrap()
    }

    /// How many of a plugin's statements run on the server now.
    async fn running(&self, text: &str) -> i64 {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.postgres.as_ref().unwrap().superuser_url).await.unwrap();
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'wharf-plugin' AND state = 'active' \
             AND query LIKE '%' || $1 || '%' AND datname = current_database()",
        )
        .bind(text)
        .fetch_one(&mut connection)
        .await
        .unwrap()
    }
}

/// Each case as a test on each database.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod sqlite {
            use crate::db::plugin_data::Fixture;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(&Fixture::sqlite().await).await;
            })*
        }
        mod postgres {
            use crate::db::plugin_data::Fixture;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(fixture) = Fixture::postgres().await {
                    super::$case(&fixture).await;
                }
            })*
        }
    };
}
use on_both;

fn name(name: &str) -> PluginName {
    name.parse().unwrap()
}

fn migration(name: &str, sql: &str) -> Migration {
    Migration { name: name.to_owned(), sql: sql.to_owned() }
}

fn sql(sql: &str) -> Statement {
    Statement::new(sql, [])
}

fn with(sql: &str, params: impl Into<Vec<Value>>) -> Statement {
    Statement::new(sql, params)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn int(value: i64) -> Value {
    Value::Integer(value)
}

/// The only value of an answer.
fn one(rows: &Rows) -> &Value {
    assert_eq!((rows.values.len(), rows.columns.len()), (1, 1), "{rows:?}");
    &rows.values[0][0]
}

fn is_invalid<T: std::fmt::Debug>(result: Result<T, DataError>, what: &str) {
    assert!(matches!(result, Err(DataError::Invalid(_))), "{what}: {result:?}");
}

async fn count(database: &PluginDatabase, table: &str) -> i64 {
    let rows = database.query(sql(&format!("SELECT count(*) FROM {table}"))).await.unwrap();
    let Value::Integer(count) = one(&rows) else { panic!("{rows:?}") };
    *count
}

/// A statement that runs far longer than it may.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) \
                       SELECT count(*) FROM n";
