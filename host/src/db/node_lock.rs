//! The lock that makes this host the only one that serves from its PostgreSQL database. Owns the lock's connection, the
//! watch over it, and the name under which this host is recorded as the holder. SQLite needs no such lock: its file is in
//! the data directory, which has a lock of its own.
//!
//! Several hosts on one database would not notice each other's deploys, pauses and revocations, and would overwrite them.
//! PostgreSQL releases a session-level advisory lock when its connection ends, so a host that dies keeps nobody waiting.
//! A host whose connection was lost takes the lock again, unless another host is recorded as the holder by then.
//!
//! The lock alone would leave a gap between the loss of the connection and the moment when the host notices it. A trigger
//! (migration `node lock`) closes the gap: each connection of this host names its holder in the setting
//! `wharf.holder`, and PostgreSQL refuses changes of plugins by any other host than the recorded one.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::failure::taken_over;
use super::{HOST_SCHEMA, reach, session_settings};
use crate::clock::Random;
use crate::config;
use crate::error::{Error, Result, code};

/// The time between two attempts to take the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The time between two attempts to connect again.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// An idle connection is tested this often. A connection that PostgreSQL closes is noticed at once.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one attempt to take the lock again may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the release of the lock may take. PostgreSQL releases it anyway when the process ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// PostgreSQL notices within 25 seconds that a host has disappeared without closing its connection. That is longer than
/// this host needs to notice that it cannot reach PostgreSQL.
const KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

/// The lock, held.
pub struct NodeLock {
    options: PgConnectOptions,
    timeout: Duration,
    holder: String,
    connection: LockConnection,
}

impl NodeLock {
    /// Waits for the lock, without limit. Calls `waiting` at each attempt that fails because another host has it. Returns
    /// `None` for SQLite.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn acquire(
        config: &config::Database,
        random: &Random,
        mut waiting: impl FnMut(),
    ) -> Result<Option<Self>> {
        let Some(url) = &config.url else { return Ok(None) };
        let options = reach::options(url.expose())?;
        let holder = random.uuid()?.to_string();
        let mut connection = LockConnection::open(&options, config.timeout).await?;
        while !connection.try_lock().await? {
            waiting();
            sleep(RETRY_INTERVAL).await;
        }
        Ok(Some(Self { options, timeout: config.timeout, holder, connection }))
    }

    /// Returns the name under which this host is recorded as the holder.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Records this host as the holder. Waits for changes of the earlier holder that are under way; later ones are refused.
    ///
    /// # Errors
    /// The database fails.
    pub async fn record(&mut self) -> Result<()> {
        let sql = format!(
            "INSERT INTO {HOST_SCHEMA}.node_lock (id, holder) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET holder = $1"
        );
        sqlx::query(AssertSqlSafe(sql)).bind(&self.holder).execute(&mut self.connection.listener).await?;
        Ok(())
    }

    /// Keeps the lock until `stopping`: takes it again whenever its connection was lost.
    ///
    /// # Errors
    /// Another host took the lock meanwhile. This host must not change anything any more.
    pub async fn keep(&mut self, stopping: &CancellationToken) -> Result<()> {
        while stopping.run_until_cancelled(self.connection.lost()).await.is_some() {
            tracing::warn!("the connection that holds the lock of the database was lost; taking the lock again");
            match stopping.run_until_cancelled(self.take_again()).await {
                None => break,
                Some(taken) => taken?,
            }
            tracing::info!("the lock of the database is held again");
        }
        Ok(())
    }

    async fn take_again(&mut self) -> Result<()> {
        loop {
            let Ok(tried) = timeout(ATTEMPT_TIMEOUT, self.try_again()).await else {
                tracing::debug!("PostgreSQL does not respond; the lock of the database cannot be taken again yet");
                sleep(RECONNECT_INTERVAL).await;
                continue;
            };
            match tried {
                Ok(Some(connection)) => {
                    self.connection = connection;
                    return Ok(());
                }
                // PostgreSQL has not noticed yet that the earlier connection is gone, or another host has just taken the
                // lock and is not recorded yet.
                Ok(None) => sleep(RETRY_INTERVAL).await,
                Err(error) if is_taken_over(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(error = error.report(), "the lock of the database cannot be taken again yet");
                    sleep(RECONNECT_INTERVAL).await;
                }
            }
        }
    }

    /// Connects again and tries to take the lock. Returns `None` if it is not free.
    async fn try_again(&self) -> Result<Option<LockConnection>> {
        let mut connection = LockConnection::open(&self.options, self.timeout).await?;
        let locked = connection.try_lock().await?;
        let sql = format!("SELECT holder FROM {HOST_SCHEMA}.node_lock WHERE id = 1");
        let holder: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection.listener).await?;
        if holder != self.holder {
            // It may have gone again already, but this host does not know the changes that it made.
            return Err(taken_over());
        }
        Ok(locked.then_some(connection))
    }

    /// Releases the lock.
    pub async fn release(self) {
        let LockConnection { pool, listener } = self.connection;
        drop(listener);
        let _ = timeout(CLOSE_TIMEOUT, pool.close()).await;
    }
}

/// The connection whose session holds the lock. A listener is the only connection of sqlx that notices at once when
/// PostgreSQL closes it; it takes its connection from a pool of one.
struct LockConnection {
    pool: PgPool,
    listener: PgListener,
}

impl LockConnection {
    async fn open(options: &PgConnectOptions, acquire: Duration) -> Result<Self> {
        let pool =
            PgPoolOptions::new().max_connections(1).acquire_timeout(acquire).idle_timeout(None).max_lifetime(None);
        let keepalives = KEEPALIVES.map(|(name, value)| (name, value.to_owned()));
        let pool = session_settings::in_pool(pool, keepalives).connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // A new connection would not have the lock.
        listener.eager_reconnect(false);
        Ok(Self { pool, listener })
    }

    async fn try_lock(&mut self) -> Result<bool> {
        const SQL: &str = "SELECT pg_try_advisory_lock(hashtext('wharf:node'))";
        Ok(sqlx::query_scalar(SQL).fetch_one(&mut self.listener).await?)
    }

    /// Waits until the connection is lost.
    async fn lost(&mut self) {
        loop {
            match timeout(PING_INTERVAL, self.listener.try_recv()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) => return,
                Err(_idle) => {
                    let ping = sqlx::query("SELECT 1").execute(&mut self.listener);
                    if !matches!(timeout(PING_TIMEOUT, ping).await, Ok(Ok(_))) {
                        return;
                    }
                }
            }
        }
    }
}

fn is_taken_over(error: &Error) -> bool {
    *error.code() == code::SHUTTING_DOWN
}
