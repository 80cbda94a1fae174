//! A plugin's database in a SQLite file of its own. Owns the file, the one connection that writes and those that read
//! beside it; every statement runs on a blocking thread and takes its connection along, so that whatever becomes of the
//! caller, the thread gives the connection back clean.

mod authorizer;
mod connection;
mod control;
mod failure;
mod function;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(super) mod heap;
mod migrate;
mod plan;

use std::collections::HashSet;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::connection::{Connection, Outcome, Refusal, log_of};
use super::lexer::Dialect;
use super::slots::{Lease, Slots};
use super::statement::{self, Verb};
use super::value::{Budget, Limits};
use super::{DataError, Rows, Statement};
use crate::error::{Error, Result};

/// What a thread may take beyond the deadline of its statement before its caller stops waiting for it.
const GRACE: Duration = Duration::from_millis(500);

/// WITH statements known to write; when there are more, the oldest knowledge is worth nothing.
const REMEMBERED_TEXTS: usize = 1_024;

const FILE: &str = "data.sqlite";

pub(super) struct Sqlite {
    directory: PathBuf,
    /// What the host's own work is held to: migrations, and how long an end is waited for.
    limits: Limits,
    writer: Arc<Slots<Connection>>,
    /// Without any, the writer reads too.
    readers: Arc<Slots<Connection>>,
    /// Texts that begin with WITH and write, so that a reader need not compile them first.
    writing: Mutex<HashSet<Box<str>>>,
}

type Held = Lease<Connection>;

impl Sqlite {
    /// Makes the file when it is missing.
    pub(super) fn open(directory: PathBuf, limits: &Limits) -> Result<Self> {
        make(&directory).map_err(|error| {
            Error::internal(format!("cannot make {}", directory.join(FILE).display())).with_source(error)
        })?;
        Ok(Self {
            directory,
            limits: limits.clone(),
            writer: Slots::new(1),
            readers: Slots::new(limits.connections.saturating_sub(1)),
            writing: Mutex::default(),
        })
    }

    /// Has so many connections from now on, the writing one included.
    pub(super) fn resize(&self, connections: u32) {
        self.readers.resize(connections.saturating_sub(1));
    }

    /// Bytes of the file and its log.
    pub(super) fn disk(&self) -> Option<u64> {
        let bytes = |file: &Path| std::fs::metadata(file).ok().map(|file| file.len());
        let file = self.directory.join(FILE);
        Some(bytes(&file)?.saturating_add(bytes(&log_of(&file)).unwrap_or_default()))
    }

    /// Connections in use.
    pub(super) fn in_use(&self) -> usize {
        self.writer.leased().saturating_add(self.readers.leased())
    }

    pub(super) async fn run(&self, limits: &Limits, mut statement: Statement) -> Result<(Rows, u64), DataError> {
        let verb = statement::admit(Dialect::Sqlite, &mut statement, limits)?.verb;
        if let Some(readers) = self.readers_for(verb, &statement.sql) {
            let held = self.lease(readers, limits).await?;
            let (held, result, returned) = self.one(held, limits, statement).await?;
            drop(held);
            match result {
                Err(Refusal::Writes) => {
                    self.remember(&returned.sql);
                    statement = returned;
                }
                result => return answer(result).map(|outcome| (outcome.rows, outcome.affected)),
            }
        }
        let held = self.lease(&self.writer, limits).await?;
        let (held, result, _) = self.one(held, limits, statement).await?;
        drop(held);
        answer(result).map(|outcome| (outcome.rows, outcome.affected))
    }

    pub(super) async fn batch(&self, limits: &Limits, mut statements: Vec<Statement>) -> Result<Vec<Rows>, DataError> {
        let mut reads = true;
        for statement in &mut statements {
            reads &= statement::admit(Dialect::Sqlite, statement, limits)?.verb.reads();
        }
        let slots = if reads && self.readers.size() > 0 { &self.readers } else { &self.writer };
        let held = self.lease(slots, limits).await?;
        let begin = if reads { "BEGIN" } else { "BEGIN IMMEDIATE" };
        let (time, limits) = (limits.time, limits.clone());
        let count = u32::try_from(statements.len()).unwrap_or(u32::MAX).max(1);
        let (held, result) = self
            .on_thread(held, time.saturating_mul(count), move |connection| {
                let mut budget = Budget::new(&limits);
                let mut answers = Vec::with_capacity(statements.len());
                connection.host(begin)?;
                let done = statements.iter().try_for_each(|statement| {
                    let outcome = connection.statement(&statement.sql, &statement.params, &limits, &mut budget);
                    answers.push(answer(outcome)?.rows);
                    Ok(())
                });
                match done.and_then(|()| connection.commit()) {
                    Ok(()) => Ok(answers),
                    Err(error) => {
                        connection.rollback();
                        Err(error)
                    }
                }
            })
            .await?;
        drop(held);
        result
    }

    pub(super) async fn begin(self: &Arc<Self>, limits: &Limits) -> Result<Transaction, DataError> {
        let held = self.lease(&self.writer, limits).await?;
        let (held, begun) = self.on_thread(held, limits.time, |connection| connection.host("BEGIN IMMEDIATE")).await?;
        begun?;
        Ok(Transaction { database: Arc::clone(self), limits: limits.clone(), held: Some(held), failed: false })
    }

    /// Removes the file and everything beside it, once nobody uses it or after a while.
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
        // The last one to go writes the log into the file.
        drop(tokio::task::spawn_blocking(move || drop(connections)).await);
    }

    /// Closes the connections that nobody used for `age`.
    pub(super) async fn close_idle(&self, age: Duration) {
        let mut stale = self.writer.stale(age);
        stale.extend(self.readers.stale(age));
        if !stale.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(stale)).await);
        }
    }

    fn readers_for(&self, verb: Verb, sql: &str) -> Option<&Arc<Slots<Connection>>> {
        let writes = verb.surely_writes() || (!verb.reads() && self.remembers(sql));
        Some(&self.readers).filter(|readers| !writes && readers.size() > 0)
    }

    fn remembers(&self, text: &str) -> bool {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).contains(text)
    }

    fn remember(&self, text: &str) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.len() >= REMEMBERED_TEXTS {
            writing.clear();
        }
        writing.insert(text.into());
    }

    async fn lease(&self, slots: &Arc<Slots<Connection>>, limits: &Limits) -> Result<Held, DataError> {
        let busy = if Arc::ptr_eq(slots, &self.writer) { DataError::Conflict } else { DataError::connections(limits) };
        let mut held = slots.lease(limits, busy).await?;
        if held.connection.is_some() {
            return Ok(held);
        }
        let file = self.directory.join(FILE);
        let writable = Arc::ptr_eq(slots, &self.writer);
        let limits = self.limits.clone();
        tokio::task::spawn_blocking(move || {
            held.connection = Some(Box::new(Connection::open(&file, &limits, writable)?));
            Ok(held)
        })
        .await
        .unwrap_or(Err(DataError::Unavailable))
    }

    /// One statement on its thread; the statement comes back for another try.
    async fn one(
        &self,
        held: Held,
        limits: &Limits,
        statement: Statement,
    ) -> Result<(Held, Result<Outcome, Refusal>, Statement), DataError> {
        let (time, limits) = (limits.time, limits.clone());
        let (held, (result, statement)) = self
            .on_thread(held, time, move |connection| {
                let mut budget = Budget::new(&limits);
                (connection.statement(&statement.sql, &statement.params, &limits, &mut budget), statement)
            })
            .await?;
        Ok((held, result, statement))
    }

    /// Runs `work` with the connection on a thread that may block. When the caller goes away or `limit` has passed, the
    /// statement is interrupted, and the thread's end gives the connection back.
    async fn on_thread<R: Send + 'static>(
        &self,
        mut held: Held,
        limit: Duration,
        work: impl FnOnce(&mut Connection) -> R + Send + 'static,
    ) -> Result<(Held, R), DataError> {
        let Some(connection) = &held.connection else { return Err(DataError::Unavailable) };
        let guard = connection.control.guard();
        let thread = tokio::task::spawn_blocking(move || {
            let result = held.connection.as_deref_mut().map(work);
            (held, result)
        });
        match tokio::time::timeout(limit.saturating_add(GRACE), thread).await {
            Ok(Ok((held, Some(result)))) => {
                guard.disarm();
                Ok((held, result))
            }
            Ok(_) => Err(DataError::Unavailable),
            Err(_elapsed) => Err(DataError::time(limit)),
        }
    }
}

fn answer(result: Result<Outcome, Refusal>) -> Result<Outcome, DataError> {
    result.map_err(|refusal| match refusal {
        Refusal::Failed(error) => error,
        Refusal::Writes => DataError::invalid("the statement writes where it may only read"),
    })
}

/// The directory and an empty file that nobody else may read; SQLite gives its log the rights of the file.
fn make(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(FILE))?;
    Ok(())
}

/// Holds the writing connection; dropping it rolls back.
pub(super) struct Transaction {
    database: Arc<Sqlite>,
    limits: Limits,
    held: Option<Held>,
    failed: bool,
}

impl Transaction {
    pub(super) async fn run(&mut self, mut statement: Statement) -> Result<(Rows, u64), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        // Whatever ends this early, be it the caller going away, the transaction is over with it.
        self.failed = true;
        statement::admit(Dialect::Sqlite, &mut statement, &self.limits)?;
        let held = self.held.take().ok_or_else(DataError::failed_transaction)?;
        let (held, result, _) = self.database.one(held, &self.limits, statement).await?;
        let alive = held.connection.as_deref().is_some_and(Connection::in_transaction);
        self.held = Some(held);
        let outcome = answer(result)?;
        self.failed = !alive;
        Ok((outcome.rows, outcome.affected))
    }

    pub(super) async fn commit(mut self) -> Result<(), DataError> {
        match self.held.take() {
            Some(held) if !self.failed => {
                let (held, result) = self.database.on_thread(held, self.limits.time, Connection::commit).await?;
                drop(held);
                result
            }
            _ => Err(DataError::failed_transaction()),
        }
    }

    pub(super) async fn rollback(mut self) -> Result<(), DataError> {
        if let Some(held) = self.held.take() {
            let (held, _) = self.database.on_thread(held, self.limits.time, Connection::rollback).await?;
            drop(held);
        }
        Ok(())
    }
}
