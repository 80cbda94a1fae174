//! The plugins' databases: for each plugin a SQLite file, or a PostgreSQL schema with a login role of its own, that
//! nobody else can reach. Owns opening, limits, transactions, migrations and removal; shares nothing with the host's own
//! tables but the passwords of the roles. Knows no WebAssembly and no HTTP: `capability::sql` carries statements in and
//! rows or a [`DataError`] out.
//!
//! The same text runs on both: [`statement`] says which statements there are, [`Value`] how values travel. After its
//! first error a transaction can only be rolled back, on both; the rest of what differs is in `wit/deps/sql/sql.wit`.

mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod lexer;
mod migration;
mod postgres;
mod slots;
mod sqlite;
mod statement;
mod value;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::OnceCell;

pub use self::error::{Bound, DataError};
pub use self::migration::{Migration, MigrationError};
use self::postgres::Postgres;
use self::sqlite::Sqlite;
pub(super) use self::sqlite::heap::install as count_memory_of_sqlite;
pub use self::value::{Limits, Rows, Statement, Value};
use super::Db;
use crate::clock::Random;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::id::PluginName;

/// How long all migrations of one deploy may take together.
const MIGRATION_TIME: Duration = Duration::from_secs(60);

/// A connection that nobody used for this long is closed.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Statements of one batch.
const MAX_BATCH: usize = 1_000;

/// How often idle connections are looked for.
const IDLE_LOOK: Duration = Duration::from_secs(20);

/// The databases of all plugins of this host.
pub struct PluginData {
    place: Place,
    limits: Limits,
    open: Arc<Mutex<Open>>,
    deleting: Arc<tokio::sync::Mutex<()>>,
    idle: tokio::task::JoinHandle<()>,
}

type Open = HashMap<PluginName, Arc<OnceCell<Arc<PluginDatabase>>>>;

enum Place {
    Files { directory: PathBuf },
    Roles { host: PgPool, options: Box<PgConnectOptions>, random: Random },
}

impl PluginData {
    /// Keeps plugins' data where the host keeps its own. Opens nothing yet; must be called within the runtime, which
    /// closes idle connections from then on.
    ///
    /// # Errors
    /// `database.url` cannot be read.
    pub fn open(db: &Db, config: &Config, random: Random) -> Result<Self> {
        let place = match (db, &config.database.url) {
            (Db::Postgres(host), Some(url)) => {
                let options = Box::new(super::postgres_options(url.expose())?);
                Place::Roles { host: host.clone(), options, random }
            }
            _ => Place::Files { directory: config.server.data_dir.join("plugins") },
        };
        let open = Arc::new(Mutex::new(Open::new()));
        let idle = tokio::spawn(close_idle(Arc::downgrade(&open)));
        Ok(Self { place, limits: Limits::from(&config.plugins), open, deleting: Arc::default(), idle })
    }

    /// The database of a plugin, made when it is missing; cheap when it is open already.
    ///
    /// # Errors
    /// It cannot be made: no room or no right to write files, or a PostgreSQL role that may not make roles and schemas.
    pub async fn plugin(&self, name: &PluginName) -> Result<Arc<PluginDatabase>> {
        let cell = Arc::clone(self.lock().entry(name.clone()).or_default());
        cell.get_or_try_init(|| async {
            Ok(Arc::new(PluginDatabase { kind: self.make(name).await?, limits: self.limits.clone() }))
        })
        .await
        .cloned()
    }

    /// Database connections of a plugin that are in use now.
    pub fn in_use(&self, name: &PluginName) -> usize {
        let database = self.lock().get(name).and_then(|cell| cell.get().cloned());
        database.map_or(0, |database| match &database.kind {
            Kind::Sqlite(sqlite) => sqlite.in_use(),
            Kind::Postgres(postgres) => postgres.in_use(),
        })
    }

    /// Bytes of disk that the database of a plugin takes, as far as that is known.
    pub fn disk(&self, name: &PluginName) -> Option<u64> {
        let database = self.lock().get(name).and_then(|cell| cell.get().cloned())?;
        match &database.kind {
            Kind::Sqlite(sqlite) => sqlite.disk(),
            Kind::Postgres(postgres) => postgres.disk(),
        }
    }

    /// Whether a plugin has a database.
    ///
    /// # Errors
    /// It cannot be found out.
    pub async fn exists(&self, name: &PluginName) -> Result<bool> {
        match &self.place {
            Place::Files { directory } => {
                let directory = directory.join(name.as_str());
                directory.try_exists().map_err(|error| {
                    Error::internal(format!("cannot look for {}", directory.display())).with_source(error)
                })
            }
            Place::Roles { host, .. } => Postgres::exists(host, name).await,
        }
    }

    async fn make(&self, name: &PluginName) -> Result<Kind> {
        match &self.place {
            Place::Files { directory } => {
                let (directory, limits) = (directory.join(name.as_str()), self.limits.clone());
                let made = tokio::task::spawn_blocking(move || Sqlite::open(directory, &limits)).await;
                let sqlite =
                    made.map_err(|error| Error::internal("opening a plugin's file failed").with_source(error))??;
                Ok(Kind::Sqlite(Arc::new(sqlite)))
            }
            Place::Roles { host, options, random } => {
                Ok(Kind::Postgres(Arc::new(Postgres::open(host, options, random, name, &self.limits).await?)))
            }
        }
    }

    /// Applies the migrations that are not applied yet and gives their names. All or nothing; safe on several nodes at
    /// once.
    ///
    /// # Errors
    /// The list does not continue what was applied, or a migration failed; it names the migration and the reason.
    pub async fn migrate(&self, name: &PluginName, migrations: &[Migration]) -> Result<Vec<String>, MigrationError> {
        match &self.plugin(name).await?.kind {
            Kind::Sqlite(sqlite) => sqlite.migrate(migrations.to_vec()).await,
            Kind::Postgres(postgres) => postgres.migrate(migrations).await,
        }
    }

    /// Removes everything a plugin stored. Waits a while for its running statements, then ends them.
    ///
    /// # Errors
    /// It could not be removed; then it is still there, and may be tried again.
    pub async fn delete(&self, name: &PluginName) -> Result<()> {
        // One at a time: a second one would remove what was opened anew after the first.
        let turn = Arc::clone(&self.deleting).lock_owned().await;
        let database = self.plugin(name).await?;
        let (open, name) = (Arc::clone(&self.open), name.clone());
        // It comes to its end though its caller may leave: half deleted, the plugin could never be used again.
        let deletion = tokio::spawn(async move {
            let deleted = match &database.kind {
                Kind::Sqlite(sqlite) => sqlite.delete().await,
                Kind::Postgres(postgres) => postgres.delete().await,
            };
            // Whatever came of it, its connections are closed: the next use opens anew.
            open.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            drop(turn);
            deleted
        });
        deletion.await.map_err(|error| Error::internal("deleting a plugin's data failed").with_source(error))?
    }

    /// Closes every connection, waiting a while for running statements.
    pub async fn close(&self) {
        self.idle.abort();
        let all: Vec<_> = self.lock().drain().collect();
        let closing = all.iter().filter_map(|(_, cell)| cell.get()).map(|database| database.close());
        futures_util::future::join_all(closing).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PluginData {
    fn drop(&mut self) {
        self.idle.abort();
    }
}

async fn close_idle(open: Weak<Mutex<Open>>) {
    let mut look = tokio::time::interval(IDLE_LOOK);
    loop {
        look.tick().await;
        let Some(open) = open.upgrade() else { return };
        let databases: Vec<_> = open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .filter_map(|cell| cell.get().cloned())
            .collect();
        for database in databases {
            match &database.kind {
                Kind::Sqlite(sqlite) => sqlite.close_idle(IDLE_TIME).await,
                Kind::Postgres(postgres) => postgres.close_idle(IDLE_TIME),
            }
        }
    }
}

/// One plugin's database. Every call may be dropped at any moment: the statement is interrupted, and its connection
/// comes back clean.
pub struct PluginDatabase {
    kind: Kind,
    limits: Limits,
}

#[derive(Clone)]
enum Kind {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

impl PluginDatabase {
    /// What its statements are held to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The same database for somebody who is held to other limits. Its connections are the plugin's, whoever uses them;
    /// how many there are is changed by [`PluginDatabase::apply_connections`].
    #[must_use]
    pub fn within(&self, limits: Limits) -> Self {
        Self { kind: self.kind.clone(), limits }
    }

    /// Gives the plugin as many connections as these limits say.
    pub fn apply_connections(&self) {
        match &self.kind {
            Kind::Sqlite(sqlite) => sqlite.resize(self.limits.connections),
            Kind::Postgres(postgres) => postgres.resize(self.limits.connections),
        }
    }

    /// One statement with its answer.
    ///
    /// # Errors
    /// As the cases of [`DataError`] say.
    pub async fn query(&self, statement: Statement) -> Result<Rows, DataError> {
        self.run(statement).await.map(|(rows, _)| rows)
    }

    /// One statement; gives the number of rows it changed.
    ///
    /// # Errors
    /// As the cases of [`DataError`] say.
    pub async fn execute(&self, statement: Statement) -> Result<u64, DataError> {
        self.run(statement).await.map(|(_, affected)| affected)
    }

    async fn run(&self, statement: Statement) -> Result<(Rows, u64), DataError> {
        match &self.kind {
            Kind::Sqlite(sqlite) => sqlite.run(&self.limits, statement).await,
            Kind::Postgres(postgres) => postgres.run(&self.limits, statement).await,
        }
    }

    /// All statements in one transaction, all or nothing, with the answer of each.
    ///
    /// # Errors
    /// As the cases of [`DataError`] say; nothing was changed then.
    pub async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Rows>, DataError> {
        if statements.len() > MAX_BATCH {
            return Err(DataError::Limit(Bound::Statements, format!("statements of a batch: {MAX_BATCH}")));
        }
        match &self.kind {
            Kind::Sqlite(sqlite) => sqlite.batch(&self.limits, statements).await,
            Kind::Postgres(postgres) => postgres.batch(&self.limits, statements).await,
        }
    }

    /// A transaction; on SQLite it waits for the one that is open.
    ///
    /// # Errors
    /// [`DataError::Conflict`] when others hold it too long, [`DataError::Limit`] when all connections are in use.
    pub async fn begin(&self) -> Result<Transaction, DataError> {
        Ok(Transaction(match &self.kind {
            Kind::Sqlite(sqlite) => Begun::Sqlite(Box::new(sqlite.begin(&self.limits).await?)),
            Kind::Postgres(postgres) => Begun::Postgres(Box::new(postgres.begin(&self.limits).await?)),
        }))
    }

    async fn close(&self) {
        match &self.kind {
            Kind::Sqlite(sqlite) => sqlite.close().await,
            Kind::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// An open transaction, as if it ran alone. Dropping it, in whatever state, rolls it back. After its first error it can
/// only be rolled back.
pub struct Transaction(Begun);

enum Begun {
    Sqlite(Box<sqlite::Transaction>),
    Postgres(Box<postgres::Transaction>),
}

impl Transaction {
    /// One statement with its answer.
    ///
    /// # Errors
    /// As the cases of [`DataError`] say; the transaction has failed then.
    pub async fn query(&mut self, statement: Statement) -> Result<Rows, DataError> {
        self.run(statement).await.map(|(rows, _)| rows)
    }

    /// One statement; gives the number of rows it changed.
    ///
    /// # Errors
    /// As the cases of [`DataError`] say; the transaction has failed then.
    pub async fn execute(&mut self, statement: Statement) -> Result<u64, DataError> {
        self.run(statement).await.map(|(_, affected)| affected)
    }

    async fn run(&mut self, statement: Statement) -> Result<(Rows, u64), DataError> {
        match &mut self.0 {
            Begun::Sqlite(transaction) => transaction.run(statement).await,
            Begun::Postgres(transaction) => transaction.run(statement).await,
        }
    }

    /// Makes it last.
    ///
    /// # Errors
    /// It did not: a conflict or a deferred constraint was found, or an earlier statement had failed.
    pub async fn commit(self) -> Result<(), DataError> {
        match self.0 {
            Begun::Sqlite(transaction) => transaction.commit().await,
            Begun::Postgres(transaction) => transaction.commit().await,
        }
    }

    /// Undoes it.
    ///
    /// # Errors
    /// The database could not be told; it undoes the transaction by itself then.
    pub async fn rollback(self) -> Result<(), DataError> {
        match self.0 {
            Begun::Sqlite(transaction) => transaction.rollback().await,
            Begun::Postgres(transaction) => transaction.rollback().await,
        }
    }
}
