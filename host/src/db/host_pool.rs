//! The connection pool of the host's own database. Owns the time limits of the host's statements, and the decision whether
//! a connection is used again.
//!
//! A connection is thrown away when its BEGIN, COMMIT or ROLLBACK failed, when the server ended it, and when it did not
//! respond in time: its state is unknown then. sqlx would return such a connection to its pool, where a failed COMMIT
//! makes every later transaction fail. On PostgreSQL the server ends a statement after the limit, and the host stops
//! waiting shortly after that, because a network can swallow the response. After such an outage, connections from
//! before it are replaced without a test.

mod executor;
mod transaction;
mod write_turn;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgPoolOptions, PgSeverity};
use sqlx::{Connection as _, Database, Pool, Postgres, Sqlite};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

pub use self::transaction::Transaction;
use self::write_turn::{WriteTurn, WriteTurns};
use super::session_settings::{self, Setting};
use super::sqlite_file::WalAnchor;
use crate::clock::Random;
use crate::signals::Signals;

/// How long the host waits for a response after the server's own limit.
const GRACE: Duration = Duration::from_secs(2);

/// How long an idle connection may take to respond to a test; at most half of the wait for a connection.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a rollback and a return to the pool may take in the background.
const RETURN_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool of connections to the host's database. Cheap to clone.
pub struct HostPool<DB: Database> {
    pool: Pool<DB>,
    /// The limit of one statement; `None` for SQLite, whose statements cannot lose their response.
    limit: Option<Duration>,
    outages: Arc<Outages>,
    /// `None` for PostgreSQL, which has many writers at a time.
    write_turns: Option<WriteTurns>,
    anchor: Option<Arc<WalAnchor>>,
    signals: Signals,
    /// The source of the ids of the host's events.
    random: Random,
}

/// The pool on PostgreSQL.
pub type PgHostPool = HostPool<Postgres>;

impl<DB: Database> Clone for HostPool<DB> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            limit: self.limit,
            outages: Arc::clone(&self.outages),
            write_turns: self.write_turns.clone(),
            anchor: self.anchor.clone(),
            signals: self.signals.clone(),
            random: self.random.clone(),
        }
    }
}

impl<DB: Database> fmt::Debug for HostPool<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPool").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// A pool without time limits, whose writers take no turns.
impl<DB: Database> From<Pool<DB>> for HostPool<DB> {
    fn from(pool: Pool<DB>) -> Self {
        Self {
            pool,
            limit: None,
            outages: Arc::default(),
            write_turns: None,
            anchor: None,
            signals: Signals::default(),
            random: Random::System,
        }
    }
}

impl HostPool<Sqlite> {
    pub(super) fn sqlite(pool: Pool<Sqlite>, anchor: WalAnchor) -> Self {
        let write_turns = Some(WriteTurns::new(pool.options().get_acquire_timeout()));
        Self { write_turns, anchor: Some(Arc::new(anchor)), ..Self::from(pool) }
    }

    /// Waits until the disk has what was committed so far.
    pub(super) async fn make_durable(&self) -> crate::error::Result<()> {
        match &self.anchor {
            Some(anchor) => anchor.make_durable().await,
            None => Ok(()),
        }
    }
}

impl HostPool<Postgres> {
    /// Opens connections with `options` and `settings` on demand. `limit` is the time limit of a statement, also on the
    /// server.
    pub(super) fn postgres(
        options: PgPoolOptions,
        connect: PgConnectOptions,
        mut settings: Vec<Setting>,
        limit: Duration,
    ) -> Self {
        let outages = Arc::<Outages>::default();
        let seen = Arc::clone(&outages);
        let test_timeout = TEST_TIMEOUT.min(options.get_acquire_timeout() / 2);
        let options = options.test_before_acquire(false).before_acquire(move |connection, meta| {
            let outages = Arc::clone(&seen);
            Box::pin(async move { Ok(outages.is_usable(connection, meta.age, test_timeout).await) })
        });
        settings.extend([
            ("statement_timeout", limit.as_millis().to_string()),
            // Longer than the migrations of a plugin, during which the host holds a lock in a transaction.
            ("idle_in_transaction_session_timeout", "120s".to_owned()),
        ]);
        let options = session_settings::in_pool(options, settings);
        Self { limit: Some(limit), outages, ..Self::from(options.connect_lazy_with(connect)) }
    }
}

impl<DB: HostDatabase> HostPool<DB> {
    /// Returns the same pool with another source of randomness.
    pub(super) fn with_random(self, random: Random) -> Self {
        Self { random, ..self }
    }

    /// Returns the source of randomness.
    pub(super) fn random(&self) -> &Random {
        &self.random
    }

    /// Returns the signals that transactions give after their commits.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Returns the number of open connections.
    pub fn size(&self) -> u32 {
        self.pool.size()
    }

    /// Returns the number of idle connections.
    pub fn num_idle(&self) -> usize {
        self.pool.num_idle()
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// No connection is free or can be opened within the timeout of the pool.
    pub async fn acquire(&self) -> sqlx::Result<HostConnection<DB>> {
        let lease = self.pool.acquire().await?;
        let outages = Arc::clone(&self.outages);
        Ok(HostConnection { lease: Some(lease), limit: self.limit, outages, in_transaction: false, write_turn: None })
    }

    /// Waits for the turn to write, if the statement needs it, and for a connection, which then has the turn.
    async fn acquire_for(&self, sql: &str) -> sqlx::Result<HostConnection<DB>> {
        // First the turn, so that writers that wait take no connections from readers.
        let write_turn = match &self.write_turns {
            Some(turns) if write_turn::is_needed_for(sql) => Some(turns.take().await?),
            _ => None,
        };
        let mut connection = self.acquire().await?;
        connection.write_turn = write_turn;
        Ok(connection)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// As [`HostPool::acquire`]; the database refuses the transaction.
    pub async fn begin(&self) -> sqlx::Result<Transaction<DB>> {
        self.begin_with("BEGIN").await
    }

    /// Begins a transaction with a statement of its own.
    ///
    /// # Errors
    /// As [`HostPool::begin`].
    pub async fn begin_with(&self, begin: &'static str) -> sqlx::Result<Transaction<DB>> {
        let mut connection = self.acquire_for(begin).await?;
        // If this future is dropped before the response, the transaction may have begun.
        connection.in_transaction = true;
        let begun = connection.control(begin).await;
        begun.inspect_err(|_| connection.discard())?;
        Ok(Transaction::of(connection, self.signals.clone()))
    }

    /// Closes all connections, within a time limit.
    pub async fn close(&self) {
        if timeout(RETURN_TIMEOUT, self.pool.close()).await.is_err() {
            tracing::warn!("the host's database did not close its connections in time");
        }
        if let Some(anchor) = &self.anchor {
            anchor.close().await;
        }
    }
}

/// A database that the host can use.
pub trait HostDatabase: Database {
    /// Runs BEGIN, COMMIT or ROLLBACK. sqlx does not learn of the transaction, so it keeps no state of it.
    fn control<'c>(connection: &'c mut Self::Connection, sql: &'static str) -> BoxFuture<'c, sqlx::Result<()>>;
}

/// A connection from the pool. When it is dropped, it returns to the pool if its state is known, and is closed
/// otherwise; an open transaction is rolled back in the background.
pub struct HostConnection<DB: HostDatabase> {
    /// `None` after the connection was thrown away.
    lease: Option<PoolConnection<DB>>,
    limit: Option<Duration>,
    outages: Arc<Outages>,
    in_transaction: bool,
    /// Until the statement or the transaction has ended.
    write_turn: Option<WriteTurn>,
}

impl<DB: HostDatabase> fmt::Debug for HostConnection<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConnection").field("in_transaction", &self.in_transaction).finish_non_exhaustive()
    }
}

impl<DB: HostDatabase> HostConnection<DB> {
    async fn control(&mut self, sql: &'static str) -> sqlx::Result<()> {
        let limit = self.wait();
        let Some(lease) = &mut self.lease else { return Err(thrown_away()) };
        let ended = timeout(limit, DB::control(lease, sql)).await;
        self.settle(ended)
    }

    /// Returns how long the host waits for the response to a statement.
    fn wait(&self) -> Duration {
        self.limit.map_or(Duration::MAX, |limit| limit.saturating_add(GRACE))
    }

    /// Throws the connection away if a statement left it in an unknown state.
    fn settle<T>(&mut self, ended: Result<sqlx::Result<T>, Elapsed>) -> sqlx::Result<T> {
        let result = ended.unwrap_or_else(|_elapsed| {
            let text = "the database did not respond within the time limit of a statement";
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
        });
        if result.as_ref().is_err_and(ends_connection) {
            self.outages.record();
            self.discard();
        }
        result
    }

    /// Closes the connection at once. The pool may open another one.
    fn discard(&mut self) {
        drop(self.lease.take().map(PoolConnection::detach));
    }
}

impl<DB: HostDatabase> Drop for HostConnection<DB> {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        // Without a runtime the process is ending, and its files and sockets are closed with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return drop(lease.detach()) };
        // They stay as large as the largest component so far.
        lease.shrink_buffers();
        let in_transaction = self.in_transaction;
        let write_turn = self.write_turn.take().filter(|_| in_transaction);
        // sqlx tests a connection without a time limit before it returns to the pool, and holds its slot meanwhile.
        runtime.spawn(async move {
            if in_transaction {
                let ended = timeout(RETURN_TIMEOUT, DB::control(&mut lease, "ROLLBACK")).await;
                if !matches!(ended, Ok(Ok(()))) {
                    return drop(lease.detach());
                }
            }
            drop(write_turn);
            drop(timeout(RETURN_TIMEOUT, lease.return_to_pool()).await);
        });
    }
}

/// The time of the latest outage: a connection broke or did not respond.
#[derive(Default)]
struct Outages(Mutex<Option<Instant>>);

impl Outages {
    fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns whether a connection of this age is newer than the latest outage.
    fn is_newer(&self, age: Duration) -> bool {
        let latest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.is_none_or(|latest| age <= latest.elapsed())
    }

    async fn is_usable(&self, connection: &mut PgConnection, age: Duration, test_timeout: Duration) -> bool {
        if !self.is_newer(age) {
            return false;
        }
        let usable = matches!(timeout(test_timeout, connection.ping()).await, Ok(Ok(())));
        if !usable {
            self.record();
        }
        usable
    }
}

/// Returns whether the connection cannot be used after the error.
fn ends_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.severity() != PgSeverity::Error)
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

fn thrown_away() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::NotConnected, "the connection was closed"))
}

#[cfg(test)]
mod tests {
    use crate::db::Db;
    use crate::error::{Error, code};

    /// SQLite checks a deferred reference when it commits, which is also when it writes to the disk.
    #[tokio::test]
    async fn a_statement_whose_commit_fails_returns_no_row() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        let table = "CREATE TABLE leaves (id INTEGER PRIMARY KEY, \
            parent INTEGER REFERENCES leaves (id) DEFERRABLE INITIALLY DEFERRED)";
        sqlx::query(table).execute(pool).await.unwrap();
        let insert = "INSERT INTO leaves (id, parent) VALUES (1, $1) RETURNING id";
        let insert = async |parent: i64| sqlx::query_scalar::<_, i64>(insert).bind(parent).fetch_optional(pool).await;
        let failed = insert(2).await;
        assert!(failed.is_err(), "{failed:?}");
        assert_eq!(insert(1).await.unwrap(), Some(1));
        db.close().await;
    }

    /// SQLite rolls a transaction back by itself when the disk is full, so ROLLBACK fails.
    #[tokio::test]
    async fn a_connection_whose_transaction_failed_is_not_used_again() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        let insert = "INSERT INTO artifacts (digest, component) VALUES ('x', zeroblob(1000000))";
        for _ in 0..20 {
            let mut full = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
            sqlx::query("PRAGMA max_page_count = 1").execute(&mut *full).await.unwrap();
            let error = Error::from(sqlx::query(insert).execute(&mut *full).await.unwrap_err());
            assert_eq!(*error.code(), code::STORAGE_FULL, "{error:?}");
        }
        for _ in 0..20 {
            let mut spacious = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
            sqlx::query(insert).execute(&mut *spacious).await.unwrap();
            sqlx::query("DELETE FROM artifacts").execute(&mut *spacious).await.unwrap();
            spacious.commit().await.unwrap();
        }
        db.close().await;
    }
}
