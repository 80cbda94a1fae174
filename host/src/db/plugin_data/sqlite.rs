//! A plugin's database in a SQLite file. Owns the file, the one connection that writes and the connections that only
//! read: those of the plugin, and one of the host. A quick statement runs in place (`place`). Every other one runs on a
//! blocking thread that holds its connection, so the thread returns the connection clean even if the caller goes away.

mod authorizer;
mod bounded_functions;
mod connection;
mod control;
mod error_mapping;
#[cfg(fuzzing)]
pub mod fuzzing;
mod in_place;
mod log_pages;
mod log_upkeep;
mod migrate;
mod outbox;
mod place;
mod plan;

use std::collections::HashSet;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wharf_sql_text::Dialect;

use self::connection::{Connection, RunError, StatementResult};
use super::connection_pool::{ConnectionPool, Lease};
use super::error::DataError;
use super::result_budget::ResultBudget;
use super::statement::{self, Verb};
use super::statement_limits::StatementLimits;
use super::value::{Rows, Statement};
use crate::db::sqlite_file::log_path;
use crate::error::{Error, Result};

/// The time after a statement's deadline at which the caller stops waiting for the thread.
const GRACE: Duration = Duration::from_millis(500);

/// The number of remembered WITH statements that write; at one more, all are forgotten.
const REMEMBERED_TEXTS: usize = 1_024;

const FILE: &str = "data.sqlite";

pub(super) struct Sqlite {
    directory: PathBuf,
    /// The limits of the host's own work: migrations, and the wait for running statements.
    limits: StatementLimits,
    writer: Arc<ConnectionPool<Connection>>,
    /// If it has no connections, the writer also reads.
    readers: Arc<ConnectionPool<Connection>>,
    /// The connection on which the host reads the outbox, beyond the plugin's limit.
    outbox: Arc<ConnectionPool<Connection>>,
    /// The digests of texts that begin with WITH and write, so that no reader compiles them first.
    writing: Mutex<HashSet<[u8; 32]>>,
}

type LeasedConnection = Lease<Connection>;

impl Sqlite {
    /// Creates the file if it is missing.
    pub(super) fn open(directory: PathBuf, limits: &StatementLimits) -> Result<Self> {
        create(&directory)
            .map_err(|error| Error::io(format!("cannot create {}", directory.join(FILE).display()), error))?;
        Ok(Self {
            directory,
            limits: limits.clone(),
            writer: ConnectionPool::new(1),
            readers: ConnectionPool::new(limits.connections.saturating_sub(1)),
            outbox: ConnectionPool::new(1),
            writing: Mutex::default(),
        })
    }

    /// Changes the number of connections, the writing one included.
    pub(super) fn resize(&self, connections: u32) {
        self.readers.resize(connections.saturating_sub(1));
    }

    /// Returns the bytes of the file and its write-ahead log.
    pub(super) fn disk(&self) -> Option<u64> {
        let bytes = |file: &Path| std::fs::metadata(file).ok().map(|file| file.len());
        let file = self.directory.join(FILE);
        Some(bytes(&file)?.saturating_add(bytes(&log_path(&file)).unwrap_or_default()))
    }

    /// Returns the number of the plugin's connections in use.
    pub(super) fn in_use(&self) -> usize {
        self.writer.leased().saturating_add(self.readers.leased())
    }

    pub(super) async fn run(
        &self,
        limits: &StatementLimits,
        mut statement: Statement,
    ) -> Result<(Rows, u64), DataError> {
        let verb = statement::admit(Dialect::Sqlite, &mut statement, limits)?.verb;
        if let Some(readers) = self.readers_for(verb, &statement.sql) {
            let leased = self.lease(readers, limits).await?;
            let (leased, result, returned) = self.run_statement(leased, limits, statement).await?;
            drop(leased);
            match result {
                Err(RunError::NeedsWriter) => {
                    self.remember(&returned.sql);
                    statement = returned;
                }
                result => return or_data_error(result).map(|outcome| (outcome.rows, outcome.affected)),
            }
        }
        let leased = self.lease(&self.writer, limits).await?;
        let (leased, result, _) = self.run_statement(leased, limits, statement).await?;
        leased.end();
        or_data_error(result).map(|outcome| (outcome.rows, outcome.affected))
    }

    pub(super) async fn batch(
        &self,
        limits: &StatementLimits,
        mut statements: Vec<Statement>,
    ) -> Result<Vec<Rows>, DataError> {
        let mut reads = true;
        for statement in &mut statements {
            reads &= statement::admit(Dialect::Sqlite, statement, limits)?.verb.reads();
        }
        let pool = if reads && self.readers.size() > 0 { &self.readers } else { &self.writer };
        let mut leased = self.lease(pool, limits).await?;
        let begin = if reads { "BEGIN" } else { "BEGIN IMMEDIATE" };
        let is_quick =
            |connection: &Connection| connection.is_quick(&statements) && (reads || connection.commits_quickly(&[]));
        let run = |connection: &mut Connection| run_batch(connection, begin, limits, &statements);
        if let Some(results) = leased.try_in_place(is_quick, run) {
            leased.end();
            return Ok(results);
        }
        let (time, limits) = (limits.time, limits.clone());
        // The beginning of the transaction has the time of a statement too.
        let count = u32::try_from(statements.len()).unwrap_or(u32::MAX).saturating_add(1);
        let (leased, result) = self
            .on_thread(leased, time.saturating_mul(count), move |connection| {
                run_batch(connection, begin, &limits, &statements)
            })
            .await?;
        leased.end();
        result
    }

    /// Leases the writing connection, which keeps the other writers of this process out. The transaction begins in the
    /// file with its first statement, on the same thread: another process keeps it waiting there.
    pub(super) async fn begin(self: &Arc<Self>, limits: &StatementLimits) -> Result<Transaction, DataError> {
        let leased = self.lease(&self.writer, limits).await?;
        Ok(Transaction {
            database: Arc::clone(self),
            limits: limits.clone(),
            leased: Some(leased),
            failed: false,
            is_short: true,
            messages: Vec::new(),
            message_memory: 0,
        })
    }

    /// Deletes the directory of the file, once no statement uses it or the wait has ended.
    pub(super) async fn delete(&self) -> Result<()> {
        self.close().await;
        let directory = self.directory.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
        match removed {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::internal(format!("cannot remove {}", self.directory.display())).with_source(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn close(&self) {
        let mut connections = self.writer.close(self.limits.time).await;
        connections.extend(self.readers.close(self.limits.time).await);
        connections.extend(self.outbox.close(self.limits.time).await);
        // The last connection writes the write-ahead log into the file.
        drop(tokio::task::spawn_blocking(move || drop(connections)).await);
    }

    /// Closes the connections that were idle for `age`.
    pub(super) async fn close_idle(&self, age: Duration) {
        let mut stale = self.writer.stale(age);
        stale.extend(self.readers.stale(age));
        stale.extend(self.outbox.stale(age));
        if !stale.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(stale)).await);
        }
    }

    fn readers_for(&self, verb: Verb, sql: &str) -> Option<&Arc<ConnectionPool<Connection>>> {
        let writes = verb.surely_writes() || (!verb.reads() && self.remembers(sql));
        Some(&self.readers).filter(|readers| !writes && readers.size() > 0)
    }

    fn remembers(&self, text: &str) -> bool {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest(text))
    }

    fn remember(&self, text: &str) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.len() >= REMEMBERED_TEXTS {
            writing.clear();
        }
        writing.insert(digest(text));
    }

    async fn lease(
        &self,
        pool: &Arc<ConnectionPool<Connection>>,
        limits: &StatementLimits,
    ) -> Result<LeasedConnection, DataError> {
        let busy = if Arc::ptr_eq(pool, &self.writer) {
            DataError::Conflict
        } else if Arc::ptr_eq(pool, &self.outbox) {
            DataError::Unavailable
        } else {
            DataError::connections(limits)
        };
        let mut leased = pool.lease(limits, busy).await?;
        if leased.connection.is_some() {
            return Ok(leased);
        }
        let file = self.directory.join(FILE);
        let writable = Arc::ptr_eq(pool, &self.writer);
        let limits = self.limits.clone();
        tokio::task::spawn_blocking(move || {
            leased.connection = Some(Box::new(Connection::open(&file, &limits, writable)?));
            Ok(leased)
        })
        .await
        .unwrap_or(Err(DataError::Unavailable))
    }

    /// Runs one statement, and returns it for a retry.
    async fn run_statement(
        &self,
        mut leased: LeasedConnection,
        limits: &StatementLimits,
        statement: Statement,
    ) -> Result<(LeasedConnection, Result<StatementResult, RunError>, Statement), DataError> {
        let is_quick = |connection: &Connection| {
            let reads = !connection.is_writable();
            connection.is_quick(std::slice::from_ref(&statement)) && (reads || connection.commits_quickly(&[]))
        };
        let run = |connection: &mut Connection| {
            connection.statement(&statement.sql, &statement.params, limits, &mut ResultBudget::new(limits))
        };
        if let Some(result) = leased.try_in_place(is_quick, run) {
            return Ok((leased, Ok(result), statement));
        }
        let (time, limits) = (limits.time, limits.clone());
        let (leased, (result, statement)) = self
            .on_thread(leased, time, move |connection| {
                let mut budget = ResultBudget::new(&limits);
                (connection.statement(&statement.sql, &statement.params, &limits, &mut budget), statement)
            })
            .await?;
        Ok((leased, result, statement))
    }

    /// Runs `work` with the connection on a thread that may block. When the caller goes away or `limit` has passed, the
    /// statement is interrupted, and the thread returns the connection when it ends.
    async fn on_thread<R: Send + 'static>(
        &self,
        mut leased: LeasedConnection,
        limit: Duration,
        work: impl FnOnce(&mut Connection) -> R + Send + 'static,
    ) -> Result<(LeasedConnection, R), DataError> {
        let Some(connection) = &leased.connection else { return Err(DataError::Unavailable) };
        let guard = connection.control.guard();
        let thread = tokio::task::spawn_blocking(move || {
            let result = leased.connection.as_deref_mut().map(|connection| {
                let result = work(connection);
                connection.log.read();
                result
            });
            (leased, result)
        });
        match tokio::time::timeout(limit.saturating_add(GRACE), thread).await {
            Ok(Ok((leased, Some(result)))) => {
                guard.disarm();
                Ok((leased, result))
            }
            Ok(_) => Err(DataError::Unavailable),
            Err(_elapsed) => Err(DataError::time(limit)),
        }
    }
}

/// Runs statements in a transaction of their own.
fn run_batch(
    connection: &mut Connection,
    begin: &'static str,
    limits: &StatementLimits,
    statements: &[Statement],
) -> Result<Vec<Rows>, DataError> {
    if begin == "BEGIN IMMEDIATE" {
        connection.shorten_wal(limits);
    }
    connection.transaction(begin, limits, |connection| {
        let mut budget = ResultBudget::new(limits);
        let mut results = Vec::with_capacity(statements.len());
        for statement in statements {
            let outcome = connection.statement(&statement.sql, &statement.params, limits, &mut budget);
            results.push(or_data_error(outcome)?.rows);
        }
        Ok(results)
    })
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn or_data_error(result: Result<StatementResult, RunError>) -> Result<StatementResult, DataError> {
    result.map_err(|refusal| match refusal {
        RunError::Failed(error) => error,
        RunError::NeedsWriter => DataError::invalid("the statement writes where it may only read"),
    })
}

/// Creates the directory and an empty file that only this user may read; SQLite gives its log the permissions of the
/// file.
fn create(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(FILE))?;
    Ok(())
}

/// A transaction on the writing connection; dropping it rolls back. `outbox` appends its messages and commits it.
pub(super) struct Transaction {
    database: Arc<Sqlite>,
    limits: StatementLimits,
    leased: Option<LeasedConnection>,
    failed: bool,
    /// Set if its statements ran in place, so it has changed little.
    is_short: bool,
    /// The messages that the commit writes, in order. No plugin can roll back a part of a transaction (`statement`
    /// refuses SAVEPOINT), so all of them belong to the commit.
    messages: Vec<Box<str>>,
    /// The bytes that they take in the host's memory.
    message_memory: usize,
}

impl Transaction {
    /// Runs a statement. The first one also begins the transaction. The wait for other processes has a time of its own.
    pub(super) async fn run(&mut self, mut statement: Statement) -> Result<(Rows, u64), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        // If this function ends early, for example because the caller goes away, the transaction has failed.
        self.failed = true;
        statement::admit(Dialect::Sqlite, &mut statement, &self.limits)?;
        let mut leased = self.leased.take().ok_or_else(DataError::failed_transaction)?;
        // A later statement cannot run again: SQLite undoes the whole transaction when it interrupts a statement.
        let is_quick = |connection: &Connection| {
            !connection.in_transaction() && connection.is_quick(std::slice::from_ref(&statement))
        };
        let run = |connection: &mut Connection| run_in_transaction(connection, &statement, &self.limits);
        if let Some(outcome) = leased.try_in_place(is_quick, run) {
            self.failed = !is_begun(&leased);
            self.leased = Some(leased);
            return Ok((outcome.rows, outcome.affected));
        }
        self.is_short = false;
        let waits = if is_begun(&leased) { 1 } else { 2 };
        let (time, limits) = (self.limits.time.saturating_mul(waits), self.limits.clone());
        let (leased, result) = self
            .database
            .on_thread(leased, time, move |connection| run_in_transaction(connection, &statement, &limits))
            .await?;
        let alive = is_begun(&leased);
        self.leased = Some(leased);
        let outcome = result?;
        self.failed = !alive;
        Ok((outcome.rows, outcome.affected))
    }

    pub(super) async fn rollback(mut self) -> Result<(), DataError> {
        if self.is_short {
            // The end of the lease rolls back.
            return Ok(());
        }
        if let Some(leased) = self.leased.take().filter(is_begun) {
            let (leased, _) = self.database.on_thread(leased, self.limits.time, Connection::rollback).await?;
            drop(leased);
        }
        Ok(())
    }
}

/// Runs a statement in the open transaction, or begins one with it.
fn run_in_transaction(
    connection: &mut Connection,
    statement: &Statement,
    limits: &StatementLimits,
) -> Result<StatementResult, DataError> {
    if !connection.in_transaction() {
        connection.shorten_wal(limits);
    }
    connection.begin(limits)?;
    let mut budget = ResultBudget::new(limits);
    or_data_error(connection.statement(&statement.sql, &statement.params, limits, &mut budget))
}

/// Returns whether the connection is in a transaction.
fn is_begun(leased: &LeasedConnection) -> bool {
    leased.connection.as_deref().is_some_and(Connection::in_transaction)
}
