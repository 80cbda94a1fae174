//! The host's own database: SQLite in the data directory, or a schema of PostgreSQL.
//!
//! Owns the migrations and all SQL on the host's tables (`db::user`, `db::session`, … one file per table family).
//! `db::host_pool` owns the connections, `db::failure` the meaning of errors. The databases of plugins
//! (`db::plugin_data`) share no tables with the host's. Each statement is written once, with `$1` parameters, and runs
//! on both databases; the `on!` macro picks the pool. Timestamps are integers in microseconds. Identifiers are `uuid` on
//! PostgreSQL and text on SQLite (`db::value`). No module outside `db` names sqlx.

pub(crate) mod account_transfer;
pub(crate) mod address_proof;
pub(crate) mod api_key;
pub mod audit;
pub mod deploy;
pub mod directory;
pub mod email;
pub mod event_stream;
pub(crate) mod factor;
mod failure;
pub mod host_pool;
pub(crate) mod identity;
pub mod intake;
pub(crate) mod invitation;
pub(crate) mod known_client;
pub(crate) mod login_challenge;
mod migrations;
pub mod node_lock;
pub(crate) mod passkey;
pub mod plugin;
pub mod plugin_data;
pub mod reach;
pub mod release;
pub(crate) mod reset_token;
pub(crate) mod role;
pub(crate) mod role_change;
mod row;
pub mod schedule;
pub(crate) mod session;
mod session_end;
mod session_settings;
pub(crate) mod signing_key;
mod sqlite_file;
mod sqlite_memory;
pub mod task;
pub(crate) mod user;
mod value;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Postgres, Sqlite};

pub(crate) use self::failure::is_duplicate;
use self::host_pool::HostPool;
use self::sqlite_file::WalAnchor;
use crate::clock::Random;
use crate::config;
use crate::error::{Error, Result};
use crate::id::EventId;
use crate::signals::Signals;

/// Runs `$body` with `$pool` bound to the pool of the database in use. The body is compiled once per database, so its
/// queries must be generic over both: `sqlx::query_as::<_, Row>(SQL).bind(id).fetch_optional($pool)`. The second form
/// also binds `$begin`, the statement that begins a writing transaction, for `pool.begin_with(…)`: on SQLite it takes
/// the write lock first, because a transaction that reads before it writes can fail on a concurrent writer.
macro_rules! on {
    ($db:expr, $pool:ident => $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite($pool) => $body,
            $crate::db::Db::Postgres($pool) => $body,
        }
    };
    ($db:expr, $pool:ident, $begin:ident => $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite($pool) => {
                let $begin = "BEGIN IMMEDIATE";
                $body
            }
            $crate::db::Db::Postgres($pool) => {
                let $begin = "BEGIN";
                $body
            }
        }
    };
}
pub(crate) use on;

/// The schema of the host's tables on PostgreSQL. The plugins' roles have no rights to it.
pub(crate) const HOST_SCHEMA: &str = "wharf";

/// The file of the host's database in the data directory.
pub(crate) const SQLITE_FILE: &str = "wharf.sqlite";

/// The session setting that names the holder of the database's lock for the trigger `check_holder`.
const HOLDER: &str = "wharf.holder";

/// The time limit of [`Db::ping`]: health checks do not wait long.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of connections to the host's database. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Db {
    /// The embedded default, a file in the data directory.
    Sqlite(HostPool<Sqlite>),
    /// Used when `database.url` is set.
    Postgres(HostPool<Postgres>),
}

impl Db {
    /// Connects and migrates the schema, under a lock so that several nodes can start at the same time.
    ///
    /// # Errors
    /// The database cannot be reached within `database.timeout`, or its schema is newer than this binary.
    pub async fn open(config: &config::Database, data_dir: &Path) -> Result<Self> {
        Self::open_as(config, data_dir, None).await
    }

    /// Does the same for the host that has the [lock](node_lock) of the database: its connections name it as the holder.
    ///
    /// # Errors
    /// As [`Db::open`].
    pub async fn open_as(config: &config::Database, data_dir: &Path, holder: Option<&str>) -> Result<Self> {
        match &config.url {
            None => Self::open_sqlite(config, &data_dir.join(SQLITE_FILE)).await,
            Some(url) => Self::open_postgres(config, url.expose(), holder).await,
        }
    }

    async fn open_sqlite(config: &config::Database, file: &Path) -> Result<Self> {
        // SQLite accepts this only before its first use. The memory of the host's database is never limited.
        sqlite_memory::install()?;
        // The file contains the signing key. SQLite gives its write-ahead log the permissions of the file.
        private_file(file).map_err(|error| Error::io(format!("cannot create {}", file.display()), error))?;
        let failed = |error| Error::from(error).with_internal(format!("cannot open {}", file.display()));
        let (path, timeout) = (file.to_owned(), config.timeout);
        let anchor = tokio::task::spawn_blocking(move || WalAnchor::open(&path, timeout))
            .await
            .map_err(|error| Error::internal("the database was not opened").with_source(error))?
            .map_err(|error| failure::of_file(error).with_internal(format!("cannot open {}", file.display())))?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(config.timeout)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(config.connections)
            .acquire_timeout(config.timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(failed)?;
        migrations::sqlite().run(&pool).await.map_err(migration_failed)?;
        Ok(Self::Sqlite(HostPool::sqlite(pool, anchor)))
    }

    async fn open_postgres(config: &config::Database, url: &str, holder: Option<&str>) -> Result<Self> {
        let options = reach::options(url)?;
        let mut settings = vec![("search_path", HOST_SCHEMA.to_owned())];
        // Migrations may take longer than other statements, so they have a connection of their own. It names no holder:
        // this host is recorded as the holder only afterwards, and a migration may change the plugins.
        let opening = PgPoolOptions::new().max_connections(1).acquire_timeout(config.timeout);
        let opening = session_settings::in_pool(opening, settings.clone());
        // The pool would not tell why it cannot connect.
        reach::connect(&options, config.timeout).await?.close().await?;
        let opening = opening.connect_with(options.clone()).await?;
        // Two concurrent CREATE SCHEMA IF NOT EXISTS can both fail; sqlx takes its own advisory lock only for
        // migrations.
        let mut connection = opening.acquire().await?;
        sqlx::query("SELECT pg_advisory_lock(hashtext('wharf:schema'))").execute(&mut *connection).await?;
        let created = sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {HOST_SCHEMA}")))
            .execute(&mut *connection)
            .await;
        sqlx::query("SELECT pg_advisory_unlock(hashtext('wharf:schema'))").execute(&mut *connection).await?;
        created?;
        drop(connection);
        migrations::postgres().run(&opening).await.map_err(migration_failed)?;
        opening.close().await;
        settings.extend(holder.map(|holder| (HOLDER, holder.to_owned())));
        let pool = PgPoolOptions::new().max_connections(config.connections).acquire_timeout(config.timeout);
        Ok(Self::Postgres(HostPool::postgres(pool, options, settings, config.statement_timeout)))
    }

    /// Returns the same database with another source of randomness, for the ids of the host's events.
    #[must_use]
    pub fn with_random(self, random: Random) -> Self {
        match self {
            Self::Sqlite(pool) => Self::Sqlite(pool.with_random(random)),
            Self::Postgres(pool) => Self::Postgres(pool.with_random(random)),
        }
    }

    /// Makes everything that was committed so far survive the end of the machine, before its original is deleted elsewhere.
    /// A commit in a SQLite file does not wait for the disk; PostgreSQL waits by itself.
    ///
    /// # Errors
    /// The disk does not confirm it.
    pub async fn make_durable(&self) -> Result<()> {
        match self {
            Self::Sqlite(pool) => pool.make_durable().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Returns the signals that are given when messages were stored.
    pub fn signals(&self) -> &Signals {
        on!(self, pool => pool.signals())
    }

    /// Returns the id of a new event of the host.
    pub(crate) fn new_event_id(&self) -> Result<EventId> {
        Ok(EventId(on!(self, pool => pool.random().uuid())?))
    }

    /// Returns the statement for the database in use, for the few that differ: row locks, which SQLite neither has nor
    /// needs (it has one writer), and rows from JSON.
    pub(crate) fn dialect(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self {
            Self::Sqlite(_) => sqlite,
            Self::Postgres(_) => postgres,
        }
    }

    /// Returns the number of open connections, and how many of these are idle.
    pub fn connections(&self) -> (usize, usize) {
        let (open, idle) = match self {
            Self::Sqlite(pool) => (pool.size(), pool.num_idle()),
            Self::Postgres(pool) => (pool.size(), pool.num_idle()),
        };
        (usize::try_from(open).unwrap_or(usize::MAX), idle)
    }

    /// Checks that the database responds.
    ///
    /// # Errors
    /// The database does not respond in time.
    pub async fn ping(&self) -> Result<()> {
        let responds = async { on!(self, pool => sqlx::query("SELECT 1").execute(pool).await.map(drop)) };
        tokio::time::timeout(PING_TIMEOUT, responds).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(())
    }

    /// Closes every connection. SQLite then writes its write-ahead log into the file.
    pub async fn close(&self) {
        on!(self, pool => pool.close().await);
    }
}

/// Creates the file if it is missing, and makes it readable by this user only.
fn private_file(file: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
    std::fs::set_permissions(file, Permissions::from_mode(0o600))
}

fn migration_failed(error: sqlx::migrate::MigrateError) -> Error {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    const WHAT: &str = "the host's schema could not be migrated";
    match error {
        Execute(error) | ExecuteMigration(error, _) => Error::from(error).with_internal(WHAT),
        error => Error::internal(WHAT).with_source(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Opens a new database in a directory that is removed when the first value is dropped.
    pub(crate) async fn sqlite() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&config::Database::default(), dir.path()).await.unwrap();
        (dir, db)
    }
}
