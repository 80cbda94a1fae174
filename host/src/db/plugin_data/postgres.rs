//! A plugin's database on PostgreSQL: a schema owned by a role of its own, reached through a few connections of that
//! role. The role's rights are the border; the host's own connections never run a plugin's SQL. A statement that does
//! not come to its end, because its caller left or a limit was reached, is ended on the server too.

mod backend;
mod column;
mod disk;
mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod migrate;
mod moment;
mod numeric;
mod parameter;
mod role;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use self::backend::{Backend, Failure};
use self::disk::Disk;
use super::lexer::Dialect;
use super::slots::{Lease, Slots};
use super::statement::{self, Admitted, Verb};
use super::value::{Budget, Limits};
use super::{DataError, Rows, Statement};
use crate::clock::Random;
use crate::error::Result;
use crate::id::PluginName;

/// How much longer than the server's own deadline the host waits for its answer.
const GRACE: Duration = Duration::from_millis(500);

/// A connection that was idle for longer is asked whether it still lives before a statement depends on it.
const TRUSTED: Duration = Duration::from_secs(5);

/// How often a batch that lost against others is tried again; the host has all of it.
const BATCH_TRIES: u32 = 3;

/// What SQLite gives a transaction too: it is as if it ran alone, or it is a conflict.
const BEGIN: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";

pub(super) struct Postgres {
    plugin: PluginName,
    host: PgPool,
    options: PgConnectOptions,
    /// What the host's own work is held to, and connections before a statement asks for other deadlines.
    limits: Limits,
    slots: Arc<Slots<Backend>>,
    disk: Arc<Disk>,
}

/// A leased connection whose end is seen to: given back when clean, rolled back in the background when a transaction is
/// open, ended on both sides otherwise.
struct Held {
    lease: Option<Lease<Backend>>,
    host: PgPool,
    limits: Limits,
}

impl Held {
    fn backend(&mut self) -> Result<&mut Backend, DataError> {
        self.lease.as_mut().and_then(|lease| lease.connection.as_deref_mut()).ok_or(DataError::Unavailable)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let Some(backend) = &lease.connection else { return };
        if !backend.is_unclean() && !backend.in_transaction() {
            return;
        }
        // Without a runtime the process is going, and its sockets with it.
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
            // The slot is free only now: the role's connections stay within their number.
            drop(lease);
        });
    }
}

impl Postgres {
    /// Makes the role and the schema when they are missing.
    pub(super) async fn open(
        host: &PgPool,
        options: &PgConnectOptions,
        random: &Random,
        plugin: &PluginName,
        limits: &Limits,
    ) -> Result<Self> {
        let role = role::ensure(host, random, plugin).await?;
        let options = options
            .clone()
            .username(&role.name)
            .password(role.password.expose())
            .application_name("wharf-plugin")
            .statement_cache_capacity(backend::CACHED_STATEMENTS)
            .options([
                ("search_path", role::schema(plugin)),
                ("statement_timeout", limits.time.as_millis().to_string()),
                ("lock_timeout", backend::lock_time(limits.time).to_string()),
                ("idle_in_transaction_session_timeout", "120s".to_owned()),
                // What the lexer takes for granted.
                ("standard_conforming_strings", "on".to_owned()),
            ]);
        Ok(Self {
            plugin: plugin.clone(),
            host: host.clone(),
            options,
            limits: limits.clone(),
            slots: Slots::new(limits.connections),
            disk: Arc::new(Disk::of(host, plugin)),
        })
    }

    /// Whether a plugin has a role and a schema.
    pub(super) async fn exists(host: &PgPool, plugin: &PluginName) -> Result<bool> {
        Ok(role::existing(host, plugin).await?.is_some())
    }

    /// Has so many connections from now on.
    pub(super) fn resize(&self, connections: u32) {
        self.slots.resize(connections);
    }

    /// Bytes that tables and indexes took when somebody last wrote.
    pub(super) fn disk(&self) -> Option<u64> {
        self.disk.known()
    }

    /// Connections in use.
    pub(super) fn in_use(&self) -> usize {
        self.slots.leased()
    }

    async fn lease(&self, limits: &Limits) -> Result<Held, DataError> {
        let mut held = self.lease_any(limits).await?;
        let backend = held.backend()?;
        if backend.time() != limits.time {
            within(limits, backend.set_time(limits)).await?;
        }
        Ok(held)
    }

    async fn lease_any(&self, limits: &Limits) -> Result<Held, DataError> {
        let lease = self.slots.lease(limits, DataError::connections(limits)).await?;
        let idle_for = lease.idle_for;
        let mut held = Held { lease: Some(lease), host: self.host.clone(), limits: limits.clone() };
        if let Ok(backend) = held.backend() {
            if idle_for < TRUSTED || within(limits, async { Ok(backend.answers().await) }).await? {
                return Ok(held);
            }
            if let Some(lease) = &mut held.lease {
                lease.connection = None;
            }
        }
        let connected = within(limits, async {
            let connected = Backend::connect(&self.options, self.limits.time).await;
            connected.map_err(|error| failure::of(error, limits))
        });
        let backend = connected.await.map_err(|error| match error {
            DataError::Limit(..) => DataError::Unavailable,
            error => error,
        })?;
        if let Some(lease) = &mut held.lease {
            lease.connection = Some(Box::new(backend));
        }
        Ok(held)
    }

    pub(super) async fn run(&self, limits: &Limits, mut statement: Statement) -> Result<(Rows, u64), DataError> {
        let Admitted { verb, grows } = statement::admit(Dialect::Postgres, &mut statement, limits)?;
        if grows {
            self.disk.admit(limits).await?;
        }
        let mut tries = 0_usize;
        loop {
            let mut held = self.lease(limits).await?;
            let backend = held.backend()?;
            match within(limits, alone(backend, &statement, verb, limits)).await {
                // Each connection may hold a plan from before a migration; a new one does not.
                Err(Failure::StalePlan) if tries < self.slots.size() => tries = tries.saturating_add(1),
                result => return data(result),
            }
        }
    }

    pub(super) async fn batch(&self, limits: &Limits, mut statements: Vec<Statement>) -> Result<Vec<Rows>, DataError> {
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

    async fn try_batch(&self, limits: &Limits, statements: &[Statement]) -> Result<Vec<Rows>, DataError> {
        let mut held = self.lease(limits).await?;
        let backend = held.backend()?;
        let mut budget = Budget::new(limits);
        let mut answers = Vec::with_capacity(statements.len());
        within(limits, backend.begin(BEGIN, limits)).await?;
        for statement in statements {
            let run = backend.statement(&statement.sql, &statement.params, limits, &mut budget);
            // On an error, the guard of the connection rolls back.
            answers.push(data(within(limits, run).await)?.0);
        }
        within(limits, backend.end("COMMIT", limits)).await?;
        Ok(answers)
    }

    pub(super) async fn begin(&self, limits: &Limits) -> Result<Transaction, DataError> {
        let mut held = self.lease(limits).await?;
        let backend = held.backend()?;
        within(limits, backend.begin(BEGIN, limits)).await?;
        Ok(Transaction { held, disk: Arc::clone(&self.disk), failed: false })
    }

    pub(super) async fn delete(&self) -> Result<()> {
        self.close().await;
        role::drop_all(&self.host, &self.plugin).await
    }

    pub(super) async fn close(&self) {
        drop(self.slots.close(self.limits.time).await);
    }

    pub(super) fn close_idle(&self, age: Duration) {
        drop(self.slots.stale(age));
    }
}

/// A statement that writes and answers gets a transaction around it: what it answers may be beyond a limit, and then it
/// must not have happened.
async fn alone(
    backend: &mut Backend,
    statement: &Statement,
    verb: Verb,
    limits: &Limits,
) -> Result<(Rows, u64), Failure> {
    let mut budget = Budget::new(limits);
    if verb.reads() || backend.answers_with(&statement.sql, limits).await? == 0 {
        let (rows, affected) = backend.statement(&statement.sql, &statement.params, limits, &mut budget).await?;
        return Ok((rows, if verb.reads() { 0 } else { affected }));
    }
    backend.begin("BEGIN", limits).await?;
    let answer = backend.statement(&statement.sql, &statement.params, limits, &mut budget).await?;
    backend.end("COMMIT", limits).await?;
    Ok(answer)
}

/// The deadline outside: the server keeps its own, unless it hangs or the plugin turned it off.
async fn within<T, E: From<DataError>>(limits: &Limits, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    match tokio::time::timeout(limits.time.saturating_add(GRACE), work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(DataError::time(limits.time).into()),
    }
}

fn data<T>(result: Result<T, Failure>) -> Result<T, DataError> {
    result.map_err(|failure| match failure {
        Failure::StalePlan => DataError::Conflict,
        Failure::Data(error) => error,
    })
}

/// Holds a connection; dropping it rolls back.
pub(super) struct Transaction {
    held: Held,
    disk: Arc<Disk>,
    failed: bool,
}

impl Transaction {
    pub(super) async fn run(&mut self, mut statement: Statement) -> Result<(Rows, u64), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        // Whatever ends this early, be it the caller going away, the transaction is over with it.
        self.failed = true;
        let limits = self.held.limits.clone();
        let Admitted { verb, grows } = statement::admit(Dialect::Postgres, &mut statement, &limits)?;
        if grows {
            self.disk.admit(&limits).await?;
        }
        let backend = self.held.backend()?;
        let mut budget = Budget::new(&limits);
        let run = backend.statement(&statement.sql, &statement.params, &limits, &mut budget);
        let (rows, affected) = data(within(&limits, run).await)?;
        self.failed = false;
        Ok((rows, if verb.reads() { 0 } else { affected }))
    }

    pub(super) async fn commit(mut self) -> Result<(), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        let limits = self.held.limits.clone();
        let backend = self.held.backend()?;
        within(&limits, backend.end("COMMIT", &limits)).await
    }

    pub(super) async fn rollback(mut self) -> Result<(), DataError> {
        let limits = self.held.limits.clone();
        let backend = self.held.backend()?;
        if backend.is_unclean() {
            return Ok(());
        }
        within(&limits, backend.end("ROLLBACK", &limits)).await
    }
}
