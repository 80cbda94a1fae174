//! The connection pool of the host's own database. Owns the places of the connections (`idle`), the time limits of the
//! host's statements, and the decision whether a connection is used again (`connection`).
//!
//! A connection is thrown away when its BEGIN, COMMIT or ROLLBACK failed, when the server ended it, and when it did not
//! respond in time: its state is unknown then. sqlx would return such a connection to its pool, where a failed COMMIT
//! makes every later transaction fail. On PostgreSQL the server ends a statement after the limit, and the host stops
//! waiting shortly after that, because a network can swallow the response. After such an outage, connections from
//! before it are replaced without a test.
//!
//! On PostgreSQL a connection can end while it is idle, and a test is a round trip. So a connection is tested before its use
//! if it was idle for long, and before each write outside a transaction. A read or a BEGIN uses a connection that was used
//! a moment ago without a test, and is repeated once on another one if the connection had ended (`repetition`). A write is
//! never repeated: if its response is lost, nobody knows whether it was done.

mod connection;
mod executor;
mod idle;
mod outages;
mod repetition;
mod transaction;
mod write_turn;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Database, Pool, Postgres, Sqlite};
use tokio::time::timeout;

pub use self::connection::{HostConnection, HostDatabase};
use self::idle::{Idle, IdleConnections, Lease, RETURN_TIMEOUT};
use self::outages::Outages;
pub use self::transaction::Transaction;
use self::write_turn::WriteTurns;
use super::session_settings::{self, Setting};
use super::sqlite_file::WalAnchor;
use crate::clock::Random;
use crate::signals::Signals;

/// A connection that was idle for longer is tested before any statement uses it.
const TRUSTED_IDLE_TIME: Duration = Duration::from_secs(5);

/// How long an idle connection may take to respond to a test; at most half of the wait for a connection.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A pool of connections to the host's database. Cheap to clone.
pub struct HostPool<DB: Database> {
    /// Opens connections, counts them, and never gets one back.
    pool: Pool<DB>,
    idle: Arc<IdleConnections<DB>>,
    /// The time limit of a test; `None` for SQLite, whose connections do not end by themselves.
    test_timeout: Option<Duration>,
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
            idle: Arc::clone(&self.idle),
            test_timeout: self.test_timeout,
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

/// A pool without tests and time limits, whose writers take no turns. It keeps the connections that it opens.
impl<DB: Database> From<Pool<DB>> for HostPool<DB> {
    fn from(pool: Pool<DB>) -> Self {
        Self {
            idle: Arc::new(IdleConnections::new(pool.options())),
            pool,
            test_timeout: None,
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
        let test_timeout = Some(TEST_TIMEOUT.min(options.get_acquire_timeout() / 2));
        settings.extend([
            ("statement_timeout", limit.as_millis().to_string()),
            // A statement after a lock sees all that was committed before the lock was taken (`db::intake`).
            ("default_transaction_isolation", "read committed".to_owned()),
            // Longer than the migrations of a plugin, during which the host holds a lock in a transaction.
            ("idle_in_transaction_session_timeout", "120s".to_owned()),
        ]);
        let options = session_settings::in_pool(options, settings);
        Self { limit: Some(limit), test_timeout, ..Self::from(options.connect_lazy_with(connect)) }
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
        // sqlx has the connection of the migrations until its first use.
        self.idle.count().saturating_add(self.pool.num_idle())
    }

    /// Waits for a connection. An idle one is tested first, if connections can end by themselves.
    ///
    /// # Errors
    /// No connection is free or can be opened within the timeout of the pool.
    pub async fn acquire(&self) -> sqlx::Result<HostConnection<DB>> {
        self.acquire_in_time(false).await
    }

    /// Waits for the turn to write, if the statement needs it, and for a connection, which then has the turn.
    async fn acquire_for(&self, sql: &str) -> sqlx::Result<HostConnection<DB>> {
        // First the turn, so that writers that wait take no connections from readers.
        let write_turn = match &self.write_turns {
            Some(turns) if write_turn::is_needed_for(sql) => Some(turns.take().await?),
            _ => None,
        };
        let trusts_idle = self.test_timeout.is_some() && repetition::is_harmless(sql);
        let mut connection = self.acquire_in_time(trusts_idle).await?;
        connection.write_turn = write_turn;
        Ok(connection)
    }

    async fn acquire_in_time(&self, trusts_idle: bool) -> sqlx::Result<HostConnection<DB>> {
        let patience = self.pool.options().get_acquire_timeout();
        timeout(patience, self.connected(trusts_idle)).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Returns an idle connection that works, or else a new one. `trusts_idle` accepts a connection without a test if it was
    /// used a moment ago.
    async fn connected(&self, trusts_idle: bool) -> sqlx::Result<HostConnection<DB>> {
        let mut connection = HostConnection::at(self.idle.place().await?, &self.idle, &self.outages, self.limit);
        while let Some(Idle { lease, since }) = self.idle.take() {
            if !self.outages.ended_before(lease.opened()) {
                continue;
            }
            connection.lease = Some(lease);
            let Some(test_timeout) = self.test_timeout else { return Ok(connection) };
            connection.untested = trusts_idle && since.elapsed() < TRUSTED_IDLE_TIME;
            if connection.untested || connection.responds(test_timeout).await {
                return Ok(connection);
            }
        }
        // In a box, because it is large and seldom needed.
        connection.lease = Some(Lease::of(Box::pin(self.pool.acquire()).await?));
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
        let mut begun = connection.begin(begin).await;
        if connection.had_ended(&begun) {
            drop(connection);
            connection = self.acquire_for(begin).await?;
            begun = connection.begin(begin).await;
        }
        begun.inspect_err(|_| connection.discard())?;
        Ok(Transaction::of(connection, self.signals.clone()))
    }

    /// Closes all connections, within a time limit.
    pub async fn close(&self) {
        // From now on sqlx opens no connection. It waits for those in use, which are closed when they come back.
        let closed = self.pool.close();
        let idle = join_all(self.idle.close().into_iter().map(Lease::close));
        if timeout(RETURN_TIMEOUT, join(idle, closed)).await.is_err() {
            tracing::warn!("the host's database did not close its connections in time");
        }
        if let Some(anchor) = &self.anchor {
            anchor.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;
    use crate::db::{Db, sqlite_memory};
    use crate::error::{Error, code};

    /// SQLite checks a deferred reference when it commits, which is also when it writes to the disk.
    #[tokio::test]
    async fn a_statement_whose_commit_fails_returns_no_row() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        let table = "CREATE TABLE leaves (id INTEGER PRIMARY KEY, \
            parent INTEGER REFERENCES leaves (id) DEFERRABLE INITIALLY DEFERRED)";
        sqlx::query(table).execute(pool).await.unwrap();
        for (id, insert) in [
            (1, "INSERT INTO leaves (id, parent) VALUES ($1, $2) RETURNING id"),
            (2, "WITH leaf (id, parent) AS (SELECT $1, $2) INSERT INTO leaves SELECT * FROM leaf RETURNING id"),
            (3, "REPLACE INTO leaves (id, parent) VALUES ($1, $2) RETURNING id"),
        ] {
            let insert = async |parent: i64| {
                sqlx::query_scalar::<_, i64>(insert).bind(id).bind(parent).fetch_optional(pool).await
            };
            let failed = insert(9).await;
            assert!(failed.is_err(), "{failed:?}");
            assert_eq!(insert(id).await.unwrap(), Some(id));
        }
        db.close().await;
    }

    /// Returns an empty database, and a pool of at most so many connections to it.
    fn pool_of(connections: u32) -> (tempfile::TempDir, HostPool<Sqlite>) {
        sqlite_memory::install().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("a.sqlite")).create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(connections).connect_lazy_with(options);
        (dir, pool.into())
    }

    #[tokio::test]
    async fn a_connection_is_idle_as_soon_as_its_work_has_ended() {
        let (_dir, pool) = pool_of(4);
        for _ in 0..10 {
            sqlx::query("SELECT 1").execute(&pool).await.unwrap();
            assert_eq!((pool.size(), pool.num_idle()), (1, 1));
            sqlx::query("no statement").execute(&pool).await.unwrap_err();
            assert_eq!((pool.size(), pool.num_idle()), (1, 1));
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query("SELECT 1").execute(&mut *transaction).await.unwrap();
            assert_eq!((pool.size(), pool.num_idle()), (1, 0));
            transaction.commit().await.unwrap();
            assert_eq!((pool.size(), pool.num_idle()), (1, 1));
        }
        pool.close().await;
    }

    #[tokio::test]
    async fn a_full_pool_makes_its_users_wait() {
        let (_dir, pool) = pool_of(1);
        let mut first = pool.acquire().await.unwrap();
        let mut second = Box::pin(pool.acquire());
        assert!((&mut second).now_or_never().is_none());
        // A connection that was thrown away makes room before its user is gone.
        first.discard();
        let second = second.await.unwrap();
        let mut third = Box::pin(pool.acquire());
        assert!((&mut third).now_or_never().is_none());
        drop(second);
        drop(third.await.unwrap());
        assert_eq!((pool.size(), pool.num_idle()), (1, 1));
        drop(first);
        assert_eq!((pool.size(), pool.num_idle()), (1, 1));
        pool.close().await;
    }

    #[tokio::test]
    async fn a_pool_that_closes_waits_for_the_connections_in_use() {
        let (_dir, pool) = pool_of(2);
        let (first, second) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        drop(second);
        let mut closing = Box::pin(pool.close());
        assert!((&mut closing).now_or_never().is_none());
        assert!(matches!(pool.acquire().await, Err(sqlx::Error::PoolClosed)));
        drop(first);
        closing.await;
        assert_eq!((pool.size(), pool.num_idle()), (0, 0));
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

    #[tokio::test]
    async fn a_connection_whose_user_went_away_is_used_again_after_its_work() {
        let (_dir, pool) = pool_of(1);
        let rows = async || sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM t").fetch_one(&pool).await.unwrap();
        sqlx::query("CREATE TABLE t (a INTEGER)").execute(&pool).await.unwrap();
        let insert = "INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
            SELECT i FROM n";
        assert!(sqlx::query(insert).execute(&pool).now_or_never().is_none());
        assert_eq!((pool.size(), rows().await), (1, 100_000));
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("DELETE FROM t").execute(&mut *transaction).await.unwrap();
        drop(transaction);
        assert_eq!((pool.size(), rows().await), (1, 100_000));
        let mut transaction = pool.begin().await.unwrap();
        assert!(sqlx::query(insert).execute(&mut *transaction).now_or_never().is_none());
        drop(transaction);
        assert_eq!((pool.size(), rows().await), (1, 100_000));
        pool.close().await;
    }
}
