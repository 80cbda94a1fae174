//! The plugins' databases. Each plugin has a SQLite file, or a PostgreSQL schema with its own login role, that no other
//! plugin can reach. Owns opening, limits, transactions, migrations and removal. Shares nothing with the host's own
//! tables except the passwords of the roles. Knows no WebAssembly and no HTTP: `capability::sql` passes statements in,
//! and gets rows or a [`DataError`] back.
//!
//! The same SQL runs on both databases: [`statement`] checks it, and [`Value`] is the type of all values. On both, a
//! transaction can only be rolled back after its first error. `wit/deps/sql/sql.wit` lists the remaining differences.

mod connection_pool;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod kept_statements;
mod migration;
mod outbox;
mod postgres;
mod result_budget;
mod sqlite;
mod statement;
mod statement_limits;
mod value;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::{OnceCell, Semaphore};

pub use self::error::{DataError, LimitKind};
pub use self::migration::{Migration, MigrationError, check as check_migrations};
pub use self::outbox::OutboxMessage;
use self::postgres::{CurrentAllowlist, Postgres};
use self::sqlite::Sqlite;
pub use self::statement_limits::StatementLimits;
pub use self::value::{Rows, Statement, Value};
use super::Db;
use super::host_pool::PgHostPool;
use crate::clock::Random;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::id::PluginName;

/// The idle time after which a connection is closed.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// The maximum number of statements in one batch.
const MAX_BATCH: usize = 1_000;

/// The interval between two searches for idle connections.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(20);

/// The databases of all plugins of this host.
pub struct PluginData {
    storage: Storage,
    limits: StatementLimits,
    open: Arc<Mutex<OpenDatabases>>,
    deleting: Arc<tokio::sync::Mutex<()>>,
    /// One permit for each migration that holds a connection of the host: at most half of them, because the host needs
    /// the others to serve.
    migrating: Semaphore,
    idle: tokio::task::JoinHandle<()>,
}

type OpenDatabases = HashMap<PluginName, Arc<OnceCell<Arc<PluginDatabase>>>>;

enum Storage {
    Files { directory: PathBuf },
    Schemas { host: PgHostPool, options: Box<PgConnectOptions>, random: Random, allowlist: Arc<CurrentAllowlist> },
}

impl PluginData {
    /// Keeps the plugins' data on the same database as the host's. Opens no connection yet. Must be called within the
    /// runtime: it starts a task that closes idle connections.
    ///
    /// # Errors
    /// `database.url` is invalid.
    pub fn open(db: &Db, config: &Config, random: Random) -> Result<Self> {
        let storage = match (db, &config.database.url) {
            (Db::Postgres(host), Some(url)) => {
                let options = Box::new(super::reach::options(url.expose())?);
                let allowlist = Arc::new(CurrentAllowlist::new(host));
                Storage::Schemas { host: host.clone(), options, random, allowlist }
            }
            _ => Storage::Files { directory: config.server.data_dir.join("plugins") },
        };
        let open = Arc::new(Mutex::new(OpenDatabases::new()));
        let idle = tokio::spawn(close_idle(Arc::downgrade(&open)));
        let migrating = Semaphore::new(usize::try_from(config.database.connections / 2).unwrap_or_default().max(1));
        let (limits, deleting) = (StatementLimits::from(&config.plugins), Arc::default());
        Ok(Self { storage, limits, open, deleting, migrating, idle })
    }

    /// Returns the database of a plugin, and creates it if it is missing. Cheap if it is open already.
    ///
    /// # Errors
    /// The database cannot be created: the disk is full, files cannot be written, or the PostgreSQL role of the host
    /// may not create roles and schemas.
    pub async fn plugin(&self, name: &PluginName) -> Result<Arc<PluginDatabase>> {
        let cell = Arc::clone(self.lock().entry(name.clone()).or_default());
        cell.get_or_try_init(|| async {
            Ok(Arc::new(PluginDatabase { engine: self.create(name).await?, limits: self.limits.clone() }))
        })
        .await
        .cloned()
    }

    /// Returns the number of the plugin's database connections in use.
    pub fn in_use(&self, name: &PluginName) -> usize {
        let database = self.lock().get(name).and_then(|cell| cell.get().cloned());
        database.map_or(0, |database| match &database.engine {
            Engine::Sqlite(sqlite) => sqlite.in_use(),
            Engine::Postgres(postgres) => postgres.in_use(),
        })
    }

    /// Returns the bytes of disk that the plugin's database uses, if they are known.
    pub fn disk(&self, name: &PluginName) -> Option<u64> {
        let database = self.lock().get(name).and_then(|cell| cell.get().cloned())?;
        match &database.engine {
            Engine::Sqlite(sqlite) => sqlite.disk(),
            Engine::Postgres(postgres) => postgres.disk(),
        }
    }

    /// Returns whether a plugin has a database.
    ///
    /// # Errors
    /// The file system or the database fails.
    pub async fn exists(&self, name: &PluginName) -> Result<bool> {
        match &self.storage {
            Storage::Files { directory } => {
                let directory = directory.join(name.as_str());
                directory
                    .try_exists()
                    .map_err(|error| Error::io(format!("cannot check whether {} exists", directory.display()), error))
            }
            Storage::Schemas { host, .. } => Postgres::exists(host, name).await,
        }
    }

    /// Ends every connection of the plugin, and keeps its role from logging in. A file has no logins: there it has no
    /// effect.
    ///
    /// # Errors
    /// The database fails.
    pub async fn forbid_login(&self, name: &PluginName) -> Result<()> {
        let Storage::Schemas { host, .. } = &self.storage else { return Ok(()) };
        Postgres::set_login(host, name, false).await?;
        // Its connections have ended. The next use opens the database again.
        let open = self.lock().remove(name);
        if let Some(database) = open.as_ref().and_then(|cell| cell.get())
            && let Engine::Postgres(postgres) = &database.engine
        {
            postgres.close_at_once().await;
        }
        Ok(())
    }

    /// Lets the plugin's role log in again.
    ///
    /// # Errors
    /// The database fails.
    pub async fn allow_login(&self, name: &PluginName) -> Result<()> {
        let Storage::Schemas { host, .. } = &self.storage else { return Ok(()) };
        Postgres::set_login(host, name, true).await
    }

    async fn create(&self, name: &PluginName) -> Result<Engine> {
        match &self.storage {
            Storage::Files { directory } => {
                let (directory, limits) = (directory.join(name.as_str()), self.limits.clone());
                let opened = tokio::task::spawn_blocking(move || Sqlite::open(directory, &limits)).await;
                let sqlite =
                    opened.map_err(|error| Error::internal("opening a plugin's file failed").with_source(error))??;
                Ok(Engine::Sqlite(Arc::new(sqlite)))
            }
            Storage::Schemas { host, options, random, allowlist } => {
                let allowlist = Arc::clone(allowlist);
                let postgres = Postgres::open(host, options, random, allowlist, name, &self.limits).await?;
                Ok(Engine::Postgres(Arc::new(postgres)))
            }
        }
    }

    /// Applies the migrations that are not applied yet, in one transaction, and returns their names. Several nodes may
    /// call this at the same time.
    ///
    /// # Errors
    /// The list does not continue the applied migrations, or a migration failed. The error names the migration and the
    /// reason.
    pub async fn migrate(&self, name: &PluginName, migrations: &[Migration]) -> Result<Vec<String>, MigrationError> {
        match &self.plugin(name).await?.engine {
            Engine::Sqlite(sqlite) => sqlite.migrate(migrations.to_vec()).await,
            Engine::Postgres(postgres) => {
                // It is never closed.
                let _permit = self.migrating.acquire().await.map_err(Error::internal)?;
                postgres.migrate(migrations).await
            }
        }
    }

    /// Deletes all data of a plugin. Waits for its running statements as long as one may take, then ends them.
    ///
    /// # Errors
    /// The data could not be deleted. It is still there, and the call can be retried.
    pub async fn delete(&self, name: &PluginName) -> Result<()> {
        // One deletion at a time: a second one would remove a database that was opened after the first.
        let guard = Arc::clone(&self.deleting).lock_owned().await;
        let database = self.plugin(name).await?;
        let (open, name) = (Arc::clone(&self.open), name.clone());
        // Runs to its end even if the caller goes away: a half-deleted database could never be used again.
        let deletion = tokio::spawn(async move {
            let deleted = match &database.engine {
                Engine::Sqlite(sqlite) => sqlite.delete().await,
                Engine::Postgres(postgres) => postgres.delete().await,
            };
            // In any case its connections are closed: the next use opens the database again.
            open.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            drop(guard);
            deleted
        });
        deletion.await.map_err(|error| Error::internal("deleting a plugin's data failed").with_source(error))?
    }

    /// Closes every connection. Waits for running statements as long as one may take.
    pub async fn close(&self) {
        self.idle.abort();
        let all: Vec<_> = self.lock().drain().collect();
        let closing = all.iter().filter_map(|(_, cell)| cell.get()).map(|database| database.close());
        futures_util::future::join_all(closing).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenDatabases> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PluginData {
    fn drop(&mut self) {
        self.idle.abort();
    }
}

async fn close_idle(open: Weak<Mutex<OpenDatabases>>) {
    let mut interval = tokio::time::interval(IDLE_CHECK_INTERVAL);
    loop {
        interval.tick().await;
        let Some(open) = open.upgrade() else { return };
        let databases: Vec<_> = open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .filter_map(|cell| cell.get().cloned())
            .collect();
        for database in databases {
            match &database.engine {
                Engine::Sqlite(sqlite) => sqlite.close_idle(IDLE_TIME).await,
                Engine::Postgres(postgres) => postgres.close_idle(IDLE_TIME),
            }
        }
    }
}

/// One plugin's database. The future of every call may be dropped at any time: the statement is interrupted, and its
/// connection returns clean to the pool.
pub struct PluginDatabase {
    engine: Engine,
    limits: StatementLimits,
}

#[derive(Clone)]
enum Engine {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

impl PluginDatabase {
    /// Returns the limits of its statements.
    pub fn limits(&self) -> &StatementLimits {
        &self.limits
    }

    /// Returns the same database with other limits. All such values share the plugin's connections;
    /// [`PluginDatabase::apply_connections`] changes their number.
    #[must_use]
    pub fn with_limits(&self, limits: StatementLimits) -> Self {
        Self { engine: self.engine.clone(), limits }
    }

    /// Applies the limit on connections to the plugin.
    pub fn apply_connections(&self) {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.resize(self.limits.connections),
            Engine::Postgres(postgres) => postgres.resize(self.limits.connections),
        }
    }

    /// Runs one statement and returns its rows.
    ///
    /// # Errors
    /// See the cases of [`DataError`].
    pub async fn query(&self, statement: Statement) -> Result<Rows, DataError> {
        self.run(statement).await.map(|(rows, _)| rows)
    }

    /// Runs one statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// See the cases of [`DataError`].
    pub async fn execute(&self, statement: Statement) -> Result<u64, DataError> {
        self.run(statement).await.map(|(_, affected)| affected)
    }

    async fn run(&self, statement: Statement) -> Result<(Rows, u64), DataError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.run(&self.limits, statement).await,
            Engine::Postgres(postgres) => postgres.run(&self.limits, statement).await,
        }
    }

    /// Runs all statements in one transaction and returns the rows of each.
    ///
    /// # Errors
    /// See the cases of [`DataError`]. No statement has changed anything then.
    pub async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Rows>, DataError> {
        if statements.len() > MAX_BATCH {
            return Err(DataError::Limit(LimitKind::Statements, format!("statements of a batch: {MAX_BATCH}")));
        }
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.batch(&self.limits, statements).await,
            Engine::Postgres(postgres) => postgres.batch(&self.limits, statements).await,
        }
    }

    /// Checks a statement that a call runs outside its own open transaction.
    ///
    /// # Errors
    /// The statement would wait for that transaction: it may write, or the plugin has only one connection.
    pub fn check_outside_transaction(&self, statement: &Statement) -> Result<(), DataError> {
        if self.limits.connections <= 1 {
            return Err(statement::own_transaction());
        }
        let dialect = match &self.engine {
            Engine::Sqlite(_) => wharf_sql_text::Dialect::Sqlite,
            Engine::Postgres(_) => wharf_sql_text::Dialect::Postgres,
        };
        statement::check_outside_transaction(dialect, statement)
    }

    /// Returns the error of a second transaction of one call, which would wait for the first.
    pub fn second_transaction() -> DataError {
        statement::own_transaction()
    }

    /// Begins a transaction. On SQLite it waits until the open transaction of this process ends; its first statement waits
    /// for those of other processes.
    ///
    /// # Errors
    /// [`DataError::Conflict`] if another transaction stays open too long, [`DataError::Limit`] if all connections are
    /// in use.
    pub async fn begin(&self) -> Result<Transaction, DataError> {
        Ok(Transaction(match &self.engine {
            Engine::Sqlite(sqlite) => OpenTransaction::Sqlite(Box::new(sqlite.begin(&self.limits).await?)),
            Engine::Postgres(postgres) => OpenTransaction::Postgres(Box::new(postgres.begin(&self.limits).await?)),
        }))
    }

    async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.close().await,
            Engine::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// An open, serializable transaction. Dropping it rolls it back, in any state. After its first error it can only be
/// rolled back.
pub struct Transaction(OpenTransaction);

enum OpenTransaction {
    Sqlite(Box<sqlite::Transaction>),
    Postgres(Box<postgres::Transaction>),
}

impl Transaction {
    /// Runs one statement and returns its rows.
    ///
    /// # Errors
    /// See the cases of [`DataError`]. The transaction has failed then.
    pub async fn query(&mut self, statement: Statement) -> Result<Rows, DataError> {
        self.run(statement).await.map(|(rows, _)| rows)
    }

    /// Runs one statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// See the cases of [`DataError`]. The transaction has failed then.
    pub async fn execute(&mut self, statement: Statement) -> Result<u64, DataError> {
        self.run(statement).await.map(|(_, affected)| affected)
    }

    async fn run(&mut self, statement: Statement) -> Result<(Rows, u64), DataError> {
        match &mut self.0 {
            OpenTransaction::Sqlite(transaction) => transaction.run(statement).await,
            OpenTransaction::Postgres(transaction) => transaction.run(statement).await,
        }
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The commit failed because of a conflict or a deferred constraint, or an earlier statement had failed. On SQLite
    /// also: a message of the transaction could not be stored, as when the database is full. Nothing of the transaction
    /// is there then, but after [`DataError::Limit`] of the time or [`DataError::Unavailable`] it may have been committed.
    pub async fn commit(self) -> Result<(), DataError> {
        match self.0 {
            OpenTransaction::Sqlite(transaction) => transaction.commit().await,
            OpenTransaction::Postgres(transaction) => transaction.commit().await,
        }
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// The database could not be reached. It then rolls the transaction back by itself.
    pub async fn rollback(self) -> Result<(), DataError> {
        match self.0 {
            OpenTransaction::Sqlite(transaction) => transaction.rollback().await,
            OpenTransaction::Postgres(transaction) => transaction.rollback().await,
        }
    }
}
