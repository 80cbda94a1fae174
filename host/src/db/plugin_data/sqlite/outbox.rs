//! The outbox in a plugin's file. Messages are appended and deleted on the connection that writes, and read on a
//! connection of the host, which waits for no transaction of the plugin.
//!
//! A transaction keeps its messages in memory, and its commit writes them in the same place: each change of threads would
//! lengthen the time for which other writers wait. So a message that does not fit on the disk fails the commit.

use std::time::Duration;

use super::connection::Connection;
use super::control::Mode;
use super::{FILE, Sqlite, Transaction, error_mapping, is_begun};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::outbox::{INSERT, MAX_BYTES, OutboxMessage, READ};
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::sqlite_file::{log_path, sync_log};
use crate::db::sqlite_memory::Meter;

/// AUTOINCREMENT uses no id again after all messages were deleted.
const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS _wharf_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL)";
const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_wharf_outbox')";
const FORGET: &str = "DELETE FROM _wharf_outbox WHERE id = $1";

impl Sqlite {
    pub(in crate::db::plugin_data) async fn append_message(
        &self,
        limits: &StatementLimits,
        text: String,
    ) -> Result<(), DataError> {
        let leased = self.lease(&self.writer, limits).await?;
        let (time, limits) = (commit_time(limits), limits.clone());
        let text = text.into_boxed_str();
        let (leased, appended) =
            self.on_thread(leased, time, move |connection| commit(connection, &[text], &limits)).await?;
        leased.end();
        appended
    }

    pub(in crate::db::plugin_data) async fn outbox(&self, limit: i64) -> Result<Vec<OutboxMessage>, DataError> {
        let leased = self.lease(&self.outbox, &self.limits).await?;
        let time = self.limits.time;
        let (leased, messages) =
            self.on_thread(leased, time, move |connection| read(connection, time, limit)).await.map_err(of_own_work)?;
        drop(leased);
        messages
    }

    pub(in crate::db::plugin_data) async fn make_durable(&self) -> Result<(), DataError> {
        let log = log_path(&self.directory.join(FILE));
        let synced = tokio::task::spawn_blocking(move || sync_log(&log)).await;
        match synced {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let file = self.directory.display();
                tracing::warn!(%file, %error, "the disk does not confirm the database of a plugin");
                Err(DataError::Unavailable)
            }
            Err(_) => Err(DataError::Unavailable),
        }
    }

    pub(in crate::db::plugin_data) async fn forget(&self, ids: Vec<i64>) -> Result<(), DataError> {
        let leased = self.lease(&self.writer, &self.limits).await?;
        let limits = self.limits.clone();
        let (leased, forgotten) = self
            .on_thread(leased, limits.time, move |connection| {
                connection.transaction("BEGIN IMMEDIATE", &limits, |connection| delete(connection, &ids))
            })
            .await
            .map_err(of_own_work)?;
        leased.end();
        forgotten
    }
}

impl Transaction {
    /// Keeps a message for the commit.
    pub(in crate::db::plugin_data) fn append_message(&mut self, text: String) -> Result<(), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        let kept = size_of::<Box<str>>().saturating_add(text.len());
        self.message_memory = self.message_memory.saturating_add(kept);
        self.messages.push(text.into_boxed_str());
        Ok(())
    }

    /// Returns the bytes that the kept messages take in the host's memory.
    pub(in crate::db::plugin_data) fn message_memory(&self) -> usize {
        self.message_memory
    }

    /// Writes the messages and commits. If either fails, nothing of the transaction is there. If the time runs out, the
    /// commit may have gone through. All messages together have the time of one statement.
    pub(in crate::db::plugin_data) async fn commit(self) -> Result<(), DataError> {
        let Self { database, limits, leased, failed, is_short, messages, .. } = self;
        let Some(mut leased) = leased.filter(|_| !failed) else { return Err(DataError::failed_transaction()) };
        if messages.is_empty() && !is_begun(&leased) {
            // No statement has begun the transaction.
            return Ok(());
        }
        let is_quick =
            |connection: &Connection| is_short && connection.in_transaction() && connection.commits_quickly(&messages);
        let run = |connection: &mut Connection| commit(connection, &messages, &limits);
        if let Some(committed) = leased.commit_in_place(is_quick, run) {
            leased.end();
            return committed;
        }
        let time = commit_time(&limits);
        let (leased, committed) =
            database.on_thread(leased, time, move |connection| commit(connection, &messages, &limits)).await?;
        leased.end();
        committed
    }
}

/// Returns the time of a commit: the messages have the time of one statement, and nothing interrupts the commit after them.
fn commit_time(limits: &StatementLimits) -> Duration {
    limits.time.saturating_mul(2)
}

/// Writes messages in the open transaction, or in one of their own, and commits it, or rolls it back.
fn commit(connection: &mut Connection, messages: &[Box<str>], limits: &StatementLimits) -> Result<(), DataError> {
    let committed = write(connection, messages, limits).and_then(|()| connection.commit());
    if committed.is_err() {
        connection.rollback();
    } else if !messages.is_empty() {
        connection.has_outbox = true;
    }
    committed
}

/// Writes messages within the plugin's limits. A message may be longer than a value of the plugin.
fn write(connection: &mut Connection, messages: &[Box<str>], limits: &StatementLimits) -> Result<(), DataError> {
    let Some(longest) = messages.iter().map(|text| text.len()).max() else { return Ok(()) };
    let longest = limits.bytes.max(longest);
    connection.apply_limits(limits, longest, 0)?;
    if !connection.in_transaction() {
        connection.limit_wal(limits)?;
    }
    connection.begin(limits)?;
    let _meter = Meter::start(&connection.control, longest);
    let inserted = insert(connection, messages);
    inserted.map_err(|error| error_mapping::to_data_error(&connection.raw, &connection.control, error, Some(limits)))
}

fn insert(connection: &mut Connection, messages: &[Box<str>]) -> rusqlite::Result<()> {
    if !connection.has_outbox {
        connection.control.set_mode(Mode::Host);
        connection.raw.execute_batch(CREATE)?;
    }
    let mut statement = connection.host_statement(INSERT)?;
    for text in messages {
        statement.execute([&**text])?;
    }
    Ok(())
}

fn read(connection: &mut Connection, time: Duration, limit: i64) -> Result<Vec<OutboxMessage>, DataError> {
    connection.control.set_deadline(time);
    let messages = connection.limit_values(usize::MAX, 0).and_then(|()| select(connection, limit));
    messages.map_err(|error| error_mapping::to_data_error(&connection.raw, &connection.control, error, None))
}

fn select(connection: &mut Connection, limit: i64) -> rusqlite::Result<Vec<OutboxMessage>> {
    if !exists(connection)? {
        return Ok(Vec::new());
    }
    let mut statement = connection.host_statement(READ)?;
    let rows = statement.query_map([limit, MAX_BYTES], |row| {
        let (id, text) = (row.get(0)?, row.get(1)?);
        Ok(OutboxMessage { id, text })
    })?;
    rows.collect()
}

fn delete(connection: &mut Connection, ids: &[i64]) -> Result<(), DataError> {
    let deleted = delete_existing(connection, ids);
    deleted.map_err(|error| error_mapping::to_data_error(&connection.raw, &connection.control, error, None))
}

fn delete_existing(connection: &mut Connection, ids: &[i64]) -> rusqlite::Result<()> {
    if !exists(connection)? {
        return Ok(());
    }
    let mut statement = connection.host_statement(FORGET)?;
    for id in ids {
        statement.execute([id])?;
    }
    Ok(())
}

/// Returns whether the table is there. Only [`commit`] creates it, so a transaction that asks has not created it.
fn exists(connection: &mut Connection) -> rusqlite::Result<bool> {
    if !connection.has_outbox {
        let found = connection.host_statement(EXISTS)?.query_row([], |row| row.get(0))?;
        connection.has_outbox = found;
    }
    Ok(connection.has_outbox)
}

/// Maps the error of work of the host itself: if it takes too long, the disk does not respond.
fn of_own_work(error: DataError) -> DataError {
    match error {
        DataError::Limit(..) => DataError::Unavailable,
        error => error,
    }
}
