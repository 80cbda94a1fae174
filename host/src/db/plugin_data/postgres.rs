//! A plugin's database on PostgreSQL: a schema that its own role owns, used through a few connections of that role. The
//! role's rights are the security boundary; the host's own connections never run a plugin's SQL. A statement that does
//! not run to its end, because its caller went away or it hit a limit, is also ended on the server.

mod allowlist;
mod backend;
mod column;
mod disk_usage;
mod error_mapping;
#[cfg(fuzzing)]
pub mod fuzzing;
mod migrate;
mod numeric;
mod outbox;
mod parameter;
mod role;
mod timestamp;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::OnceCell;

pub(super) use self::allowlist::CurrentAllowlist;
use wharf_sql_text::Dialect;

use self::backend::{Backend, RunError};
use self::disk_usage::DiskUsage;
use super::connection_pool::{ConnectionPool, Lease};
use super::error::DataError;
use super::kept_statements::MAX_STATEMENTS;
use super::result_budget::ResultBudget;
use super::statement::{self, Admitted, Verb};
use super::statement_limits::StatementLimits;
use super::value::{Rows, Statement};
use crate::clock::Random;
use crate::db::host_pool::PgHostPool;
use crate::db::session_settings::Setting;
use crate::error::Result;
use crate::id::PluginName;

/// The time that the host waits for a response after the server's own deadline.
const GRACE: Duration = Duration::from_millis(500);

/// A connection that was idle for longer is tested before a statement uses it.
const TRUSTED_IDLE_TIME: Duration = Duration::from_secs(5);

/// The number of attempts of a batch that loses against concurrent transactions. The host has the whole batch, so it
/// can retry.
const BATCH_TRIES: u32 = 3;

/// The same guarantee as on SQLite: a transaction is serializable, or fails with a conflict.
const BEGIN: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";

pub(super) struct Postgres {
    plugin: PluginName,
    host: PgHostPool,
    options: PgConnectOptions,
    settings: Vec<Setting>,
    allowlist: Arc<CurrentAllowlist>,
    /// The limits of the host's own work, and of connections before a statement sets other deadlines.
    limits: StatementLimits,
    pool: Arc<ConnectionPool<Backend>>,
    /// The connection of the host's own statements on the outbox, beyond the plugin's limit.
    outbox: Arc<ConnectionPool<Backend>>,
    /// Set once the table of the outbox exists.
    outbox_exists: OnceCell<()>,
    disk: DiskUsage,
}

/// A leased connection. When it is dropped, it returns to the pool if it is clean; an open transaction is rolled back
/// in the background; in any other state the connection is ended on both sides.
struct LeasedBackend {
    lease: Option<Lease<Backend>>,
    host: PgHostPool,
    limits: StatementLimits,
}

impl LeasedBackend {
    fn backend(&mut self) -> Result<&mut Backend, DataError> {
        self.lease.as_mut().and_then(|lease| lease.connection.as_deref_mut()).ok_or(DataError::Unavailable)
    }
}

impl Drop for LeasedBackend {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let Some(backend) = &lease.connection else { return };
        if !backend.is_unclean() && !backend.in_transaction() {
            return;
        }
        // Without a runtime the process is ending, and its sockets are closed with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (host, limits) = (self.host.clone(), self.limits.clone());
        runtime.spawn(async move {
            let Some(mut backend) = lease.connection.take() else { return };
            if !backend.is_unclean() {
                let ended = tokio::time::timeout(limits.time, backend.end("ROLLBACK", &limits)).await;
                if matches!(ended, Ok(Ok(()))) {
                    lease.connection = Some(backend);
                    drop(lease);
                    return;
                }
            }
            backend.terminate(&host).await;
            // The permit is returned only now, so that the role never has more backends than its limit.
            drop(lease);
        });
    }
}

impl Postgres {
    /// Creates the role and the schema if they are missing.
    pub(super) async fn open(
        host: &PgHostPool,
        options: &PgConnectOptions,
        random: &Random,
        allowlist: Arc<CurrentAllowlist>,
        plugin: &PluginName,
        limits: &StatementLimits,
    ) -> Result<Self> {
        let role = role::ensure(host, random, plugin).await?;
        let options = options
            .clone()
            .username(&role.name)
            .password(role.password.expose())
            .application_name("wharf-plugin")
            .statement_cache_capacity(MAX_STATEMENTS);
        let settings = vec![
            ("search_path", role::schema(plugin)),
            ("statement_timeout", limits.time.as_millis().to_string()),
            ("lock_timeout", backend::lock_time(limits.time).to_string()),
            ("idle_in_transaction_session_timeout", "120s".to_owned()),
            // The lexer depends on this setting.
            ("standard_conforming_strings", "on".to_owned()),
        ];
        Ok(Self {
            plugin: plugin.clone(),
            host: host.clone(),
            options,
            settings,
            allowlist,
            limits: limits.clone(),
            pool: ConnectionPool::new(limits.connections),
            outbox: ConnectionPool::new(1),
            outbox_exists: OnceCell::new(),
            disk: DiskUsage::of(host, plugin),
        })
    }

    /// Returns whether a plugin has a role and a schema.
    pub(super) async fn exists(host: &PgHostPool, plugin: &PluginName) -> Result<bool> {
        Ok(role::existing(host, plugin).await?.is_some())
    }

    /// Returns whether a plugin has a role that may log in, and a schema.
    pub(super) async fn accepts_login(host: &PgHostPool, plugin: &PluginName) -> Result<bool> {
        role::accepts_login(host, plugin).await
    }

    /// Allows or forbids the plugin's role to log in. If it is forbidden, the role's connections end.
    pub(super) async fn set_login(host: &PgHostPool, plugin: &PluginName, allowed: bool) -> Result<()> {
        role::set_login(host, plugin, allowed).await
    }

    /// Changes the number of connections.
    pub(super) fn resize(&self, connections: u32) {
        self.pool.resize(connections);
    }

    /// Returns the bytes of tables and indexes at the latest write.
    pub(super) fn disk(&self) -> Option<u64> {
        self.disk.known()
    }

    /// Returns the number of the plugin's connections in use.
    pub(super) fn in_use(&self) -> usize {
        self.pool.leased()
    }

    async fn lease(&self, limits: &StatementLimits) -> Result<LeasedBackend, DataError> {
        self.lease_from(&self.pool, limits, DataError::connections(limits)).await
    }

    /// `busy` is the error if all connections of the pool stay in use.
    async fn lease_from(
        &self,
        pool: &Arc<ConnectionPool<Backend>>,
        limits: &StatementLimits,
        busy: DataError,
    ) -> Result<LeasedBackend, DataError> {
        let lease = pool.lease(limits, busy).await?;
        let mut leased = self.connected(lease, limits).await?;
        let backend = leased.backend()?;
        if backend.time() != limits.time {
            with_deadline(limits, backend.set_time(limits)).await.map_err(of_own_statement)?;
        }
        Ok(leased)
    }

    /// Connects, unless the lease has a connection that still works.
    async fn connected(&self, lease: Lease<Backend>, limits: &StatementLimits) -> Result<LeasedBackend, DataError> {
        let idle_for = lease.idle_for;
        let mut leased = LeasedBackend { lease: Some(lease), host: self.host.clone(), limits: limits.clone() };
        if let Ok(backend) = leased.backend() {
            let is_trusted = idle_for < TRUSTED_IDLE_TIME;
            if is_trusted
                || with_deadline(limits, async { Ok(backend.is_alive().await) }).await.map_err(of_own_statement)?
            {
                return Ok(leased);
            }
            if let Some(lease) = &mut leased.lease {
                lease.connection = None;
            }
        }
        let connected = with_deadline(limits, async {
            let connected = Backend::connect(&self.options, &self.settings, self.limits.time, &self.allowlist).await;
            connected.map_err(|error| error_mapping::to_data_error(error, limits))
        });
        let backend = connected.await.map_err(of_own_statement)?;
        if let Some(lease) = &mut leased.lease {
            lease.connection = Some(Box::new(backend));
        }
        Ok(leased)
    }

    pub(super) async fn run(
        &self,
        limits: &StatementLimits,
        mut statement: Statement,
    ) -> Result<(Rows, u64), DataError> {
        let Admitted { verb, grows } = statement::admit(Dialect::Postgres, &mut statement, limits)?;
        if grows {
            self.disk.admit(limits).await?;
        }
        let mut tries = 0_usize;
        loop {
            let mut leased = self.lease(limits).await?;
            let backend = leased.backend()?;
            match with_deadline(limits, run_alone(backend, &statement, verb, limits)).await {
                // Each connection may have a plan from before a migration; a new connection has none.
                Err(RunError::StalePlan) if tries < self.pool.size() => tries = tries.saturating_add(1),
                result => return or_data_error(result),
            }
        }
    }

    pub(super) async fn batch(
        &self,
        limits: &StatementLimits,
        mut statements: Vec<Statement>,
    ) -> Result<Vec<Rows>, DataError> {
        let mut grows = false;
        for statement in &mut statements {
            grows |= statement::admit(Dialect::Postgres, statement, limits)?.grows;
        }
        if grows {
            self.disk.admit(limits).await?;
        }
        let mut tries = 0_u32;
        loop {
            let result = self.try_batch(limits, &statements).await;
            tries = tries.saturating_add(1);
            if tries >= BATCH_TRIES || !matches!(result, Err(DataError::Conflict)) {
                return result;
            }
        }
    }

    async fn try_batch(&self, limits: &StatementLimits, statements: &[Statement]) -> Result<Vec<Rows>, DataError> {
        let mut leased = self.lease(limits).await?;
        let backend = leased.backend()?;
        let mut budget = ResultBudget::new(limits);
        let mut results = Vec::with_capacity(statements.len());
        with_deadline(limits, backend.begin(BEGIN, limits)).await?;
        for statement in statements {
            let run = backend.statement(&statement.sql, &statement.params, limits, &mut budget);
            // On an error, dropping the connection rolls back.
            results.push(or_data_error(with_deadline(limits, run).await)?.0);
        }
        with_deadline(limits, backend.end("COMMIT", limits)).await?;
        Ok(results)
    }

    pub(super) async fn begin(self: &Arc<Self>, limits: &StatementLimits) -> Result<Transaction, DataError> {
        let mut leased = self.lease(limits).await?;
        let backend = leased.backend()?;
        with_deadline(limits, backend.begin(BEGIN, limits)).await?;
        Ok(Transaction { database: Arc::clone(self), leased, failed: false })
    }

    pub(super) async fn delete(&self) -> Result<()> {
        self.close().await;
        role::drop_all(&self.host, &self.plugin).await
    }

    pub(super) async fn close(&self) {
        drop(self.pool.close(self.limits.time).await);
        drop(self.outbox.close(self.limits.time).await);
    }

    /// Closes the pool without waiting for running statements.
    pub(super) async fn close_at_once(&self) {
        drop(self.pool.close(Duration::ZERO).await);
        drop(self.outbox.close(Duration::ZERO).await);
    }

    pub(super) fn close_idle(&self, age: Duration) {
        drop(self.pool.stale(age));
        drop(self.outbox.stale(age));
    }
}

/// Runs one statement outside a transaction. A statement that writes and returns rows gets its own transaction: if its
/// result hits a limit, the write must be rolled back.
async fn run_alone(
    backend: &mut Backend,
    statement: &Statement,
    verb: Verb,
    limits: &StatementLimits,
) -> Result<(Rows, u64), RunError> {
    let mut budget = ResultBudget::new(limits);
    if verb.reads() || backend.column_count(&statement.sql, limits).await? == 0 {
        let (rows, affected) = backend.statement(&statement.sql, &statement.params, limits, &mut budget).await?;
        return Ok((rows, if verb.reads() { 0 } else { affected }));
    }
    backend.begin("BEGIN", limits).await?;
    let result = backend.statement(&statement.sql, &statement.params, limits, &mut budget).await?;
    backend.end("COMMIT", limits).await?;
    Ok(result)
}

/// Enforces the deadline on the host's side. The server has its own, unless it hangs or the plugin turned it off.
async fn with_deadline<T, E: From<DataError>>(
    limits: &StatementLimits,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(limits.time.saturating_add(GRACE), work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(DataError::time(limits.time).into()),
    }
}

/// Maps the error of a statement of the host itself: if it takes too long, the server does not respond.
fn of_own_statement(error: DataError) -> DataError {
    match error {
        DataError::Limit(..) => DataError::Unavailable,
        error => error,
    }
}

fn or_data_error<T>(result: Result<T, RunError>) -> Result<T, DataError> {
    result.map_err(|failure| match failure {
        RunError::StalePlan => DataError::Conflict,
        RunError::Data(error) => error,
    })
}

/// A transaction on its connection; dropping it rolls back.
pub(super) struct Transaction {
    database: Arc<Postgres>,
    leased: LeasedBackend,
    failed: bool,
}

impl Transaction {
    pub(super) async fn run(&mut self, mut statement: Statement) -> Result<(Rows, u64), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        // If this function ends early, for example because the caller goes away, the transaction has failed.
        self.failed = true;
        let limits = self.leased.limits.clone();
        let Admitted { verb, grows } = statement::admit(Dialect::Postgres, &mut statement, &limits)?;
        if grows {
            self.database.disk.admit(&limits).await?;
        }
        let backend = self.leased.backend()?;
        let mut budget = ResultBudget::new(&limits);
        let run = backend.statement(&statement.sql, &statement.params, &limits, &mut budget);
        let (rows, affected) = or_data_error(with_deadline(&limits, run).await)?;
        self.failed = false;
        Ok((rows, if verb.reads() { 0 } else { affected }))
    }

    pub(super) async fn commit(mut self) -> Result<(), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        let limits = self.leased.limits.clone();
        let backend = self.leased.backend()?;
        with_deadline(&limits, backend.end("COMMIT", &limits)).await
    }

    pub(super) async fn rollback(mut self) -> Result<(), DataError> {
        let limits = self.leased.limits.clone();
        let backend = self.leased.backend()?;
        if backend.is_unclean() {
            return Ok(());
        }
        with_deadline(&limits, backend.end("ROLLBACK", &limits)).await
    }
}
