//! The connection pool of the host's own database. Owns the time limits of the host's statements, transactions, and the
//! decision whether a connection is used again. A transaction that stores messages gives the signal after its commit, so
//! that no caller can forget it.
//!
//! A connection is thrown away when its BEGIN, COMMIT or ROLLBACK failed, when the server ended it, and when it did not
//! respond in time: its state is unknown then. sqlx would return such a connection to its pool, where a failed COMMIT
//! makes every later transaction fail. On PostgreSQL the server ends a statement after the limit, and the host stops
//! waiting shortly after that, because a network can swallow the response. After such an outage, connections from
//! before it are replaced without a test.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgPoolOptions, PgSeverity};
use sqlx::{Connection as _, Database, Either, Execute, Executor, Pool, Postgres, SqlStr, Sqlite};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

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

/// A pool without time limits.
impl<DB: Database> From<Pool<DB>> for HostPool<DB> {
    fn from(pool: Pool<DB>) -> Self {
        Self {
            pool,
            limit: None,
            outages: Arc::default(),
            anchor: None,
            signals: Signals::default(),
            random: Random::System,
        }
    }
}

impl HostPool<Sqlite> {
    pub(super) fn sqlite(pool: Pool<Sqlite>, anchor: WalAnchor) -> Self {
        Self { anchor: Some(Arc::new(anchor)), ..Self::from(pool) }
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
        Ok(HostConnection { lease: Some(lease), limit: self.limit, outages, in_transaction: false })
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
        let mut connection = self.acquire().await?;
        // If this future is dropped before the response, the transaction may have begun.
        connection.in_transaction = true;
        let begun = connection.control(begin).await;
        begun.inspect_err(|_| connection.discard())?;
        Ok(Transaction { connection, signals: self.signals.clone(), stores_messages: false, stores_mails: false })
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
        // sqlx tests a connection without a time limit before it returns to the pool, and holds its slot meanwhile.
        runtime.spawn(async move {
            if in_transaction {
                let ended = timeout(RETURN_TIMEOUT, DB::control(&mut lease, "ROLLBACK")).await;
                if !matches!(ended, Ok(Ok(()))) {
                    return drop(lease.detach());
                }
            }
            drop(timeout(RETURN_TIMEOUT, lease.return_to_pool()).await);
        });
    }
}

/// A transaction. Dropping it rolls it back.
#[derive(Debug)]
pub struct Transaction<DB: HostDatabase> {
    connection: HostConnection<DB>,
    signals: Signals,
    stores_messages: bool,
    stores_mails: bool,
}

impl<DB: HostDatabase> Transaction<DB> {
    /// Notes that the transaction stores messages. After the commit, the signal wakes the parts that wait for some.
    pub(super) fn stores_messages(&mut self) {
        self.stores_messages = true;
    }

    /// Notes that the transaction queues mails of plugins. The commit gives the signal for them.
    pub(super) fn stores_mails(&mut self) {
        self.stores_mails = true;
    }

    /// Commits the transaction. After an error it may have been committed: a lost response does not tell.
    ///
    /// # Errors
    /// The database refuses it or does not respond.
    pub async fn commit(self) -> sqlx::Result<()> {
        let (signals, stores_messages, stores_mails) = (self.signals.clone(), self.stores_messages, self.stores_mails);
        let ended = self.end("COMMIT").await;
        if stores_messages {
            signals.messages_stored();
        }
        if stores_mails {
            signals.mails_stored();
        }
        ended
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// The database does not respond. It then rolls the transaction back by itself.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, sql: &'static str) -> sqlx::Result<()> {
        let ended = self.connection.control(sql).await;
        match ended {
            Ok(()) => self.connection.in_transaction = false,
            Err(_) => self.connection.discard(),
        }
        ended
    }
}

impl Transaction<Postgres> {
    /// Gives the statements of this transaction more time, also on the server.
    ///
    /// # Errors
    /// The database does not respond.
    pub async fn extend_limit(&mut self, limit: Duration) -> sqlx::Result<()> {
        let sql = format!("SET LOCAL statement_timeout = {}", limit.as_millis());
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut self.connection).await?;
        self.connection.limit = self.connection.limit.map(|_| limit);
        Ok(())
    }
}

impl<DB: HostDatabase> Deref for Transaction<DB> {
    type Target = HostConnection<DB>;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl<DB: HostDatabase> DerefMut for Transaction<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
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

/// Turns a result that has arrived as a whole into the stream that sqlx wants. The results of the host are small.
fn stream_of<'e, T: Send + 'e>(
    all: impl Future<Output = sqlx::Result<Vec<T>>> + Send + 'e,
) -> BoxStream<'e, sqlx::Result<T>> {
    stream::once(all).map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
}

/// Implements sqlx's interface for one database: the compiler cannot prove the bounds of a generic implementation.
macro_rules! executor {
    ($db:ty) => {
        impl HostDatabase for $db {
            fn control<'c>(connection: &'c mut Self::Connection, sql: &'static str) -> BoxFuture<'c, sqlx::Result<()>> {
                Box::pin(async move { sqlx::raw_sql(sql).execute(connection).await.map(drop) })
            }
        }

        impl<'c> Executor<'c> for &'c mut HostConnection<$db> {
            type Database = $db;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, sqlx::Result<Either<<$db as Database>::QueryResult, <$db as Database>::Row>>>
            where
                'c: 'e,
                E: 'q + Execute<'q, $db>,
            {
                stream_of(async move {
                    let limit = self.wait();
                    let Some(lease) = self.lease.as_deref_mut() else { return Err(thrown_away()) };
                    let ended = timeout(limit, lease.fetch_many(query).try_collect::<Vec<_>>()).await;
                    self.settle(ended)
                })
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, sqlx::Result<Option<<$db as Database>::Row>>>
            where
                'c: 'e,
                E: 'q + Execute<'q, $db>,
            {
                Box::pin(async move {
                    let limit = self.wait();
                    let Some(lease) = self.lease.as_deref_mut() else { return Err(thrown_away()) };
                    let ended = timeout(limit, lease.fetch_optional(query)).await;
                    self.settle(ended)
                })
            }

            fn prepare_with<'e>(
                self,
                sql: SqlStr,
                parameters: &'e [<$db as Database>::TypeInfo],
            ) -> BoxFuture<'e, sqlx::Result<<$db as Database>::Statement>>
            where
                'c: 'e,
            {
                Box::pin(async move {
                    let limit = self.wait();
                    let Some(lease) = self.lease.as_deref_mut() else { return Err(thrown_away()) };
                    let ended = timeout(limit, lease.prepare_with(sql, parameters)).await;
                    self.settle(ended)
                })
            }
        }

        impl<'p> Executor<'p> for &'p HostPool<$db> {
            type Database = $db;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, sqlx::Result<Either<<$db as Database>::QueryResult, <$db as Database>::Row>>>
            where
                'p: 'e,
                E: 'q + Execute<'q, $db>,
            {
                stream_of(async move { self.acquire().await?.fetch_many(query).try_collect::<Vec<_>>().await })
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, sqlx::Result<Option<<$db as Database>::Row>>>
            where
                'p: 'e,
                E: 'q + Execute<'q, $db>,
            {
                Box::pin(async move { self.acquire().await?.fetch_optional(query).await })
            }

            fn prepare_with<'e>(
                self,
                sql: SqlStr,
                parameters: &'e [<$db as Database>::TypeInfo],
            ) -> BoxFuture<'e, sqlx::Result<<$db as Database>::Statement>>
            where
                'p: 'e,
            {
                Box::pin(async move { self.acquire().await?.prepare_with(sql, parameters).await })
            }
        }
    };
}
executor!(Sqlite);
executor!(Postgres);

#[cfg(test)]
mod tests {
    use crate::db::Db;
    use crate::error::{Error, code};

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
