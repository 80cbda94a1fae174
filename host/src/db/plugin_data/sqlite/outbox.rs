//! The outbox in a plugin's file. Messages are appended and deleted on the connection that writes, and read on a
//! connection of the host, which waits for no transaction of the plugin.

use std::time::Duration;

use super::connection::Connection;
use super::control::Mode;
use super::{FILE, Sqlite, Transaction, error_mapping};
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
        let (time, limits) = (limits.time, limits.clone());
        let (leased, appended) = self
            .on_thread(leased, time, move |connection| {
                admit(connection, &text, &limits)?;
                let appended = connection
                    .run_host("BEGIN IMMEDIATE")
                    .and_then(|()| insert(connection, &text, &limits))
                    .and_then(|()| connection.commit());
                if appended.is_err() {
                    connection.rollback();
                }
                appended
            })
            .await?;
        drop(leased);
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
        let time = self.limits.time;
        let (leased, forgotten) = self
            .on_thread(leased, time, move |connection| {
                connection.control.set_deadline(time);
                let forgotten = connection
                    .run_host("BEGIN IMMEDIATE")
                    .and_then(|()| delete(connection, &ids))
                    .and_then(|()| connection.commit());
                if forgotten.is_err() {
                    connection.rollback();
                }
                forgotten
            })
            .await
            .map_err(of_own_work)?;
        drop(leased);
        forgotten
    }
}

impl Transaction {
    pub(in crate::db::plugin_data) async fn append_message(&mut self, text: String) -> Result<(), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        // As for a statement of the plugin: if this function ends early, the transaction has failed.
        self.failed = true;
        let leased = self.leased.take().ok_or_else(DataError::failed_transaction)?;
        let (time, limits) = (self.limits.time, self.limits.clone());
        let (leased, appended) = self
            .database
            .on_thread(leased, time, move |connection| {
                admit(connection, &text, &limits).and_then(|()| insert(connection, &text, &limits))
            })
            .await?;
        let alive = leased.connection.as_deref().is_some_and(Connection::in_transaction);
        self.leased = Some(leased);
        appended?;
        self.failed = !alive;
        Ok(())
    }
}

/// Returns the longest value of the statement that inserts a message. A message may be longer than a value of the plugin.
fn longest(text: &str, limits: &StatementLimits) -> usize {
    limits.bytes.max(text.len())
}

/// Applies the plugin's limits to the insertion of a message. Outside a transaction, this can shorten the log.
fn admit(connection: &mut Connection, text: &str, limits: &StatementLimits) -> Result<(), DataError> {
    connection.apply_limits(limits, longest(text, limits), 0)?;
    connection.limit_wal(limits)
}

fn insert(connection: &mut Connection, text: &str, limits: &StatementLimits) -> Result<(), DataError> {
    connection.control.set_mode(Mode::Host);
    let (raw, control) = (&connection.raw, &connection.control);
    let _meter = Meter::start(control, longest(text, limits));
    let inserted = raw.execute_batch(CREATE).and_then(|()| raw.execute(INSERT, [text]));
    inserted.map(drop).map_err(|error| error_mapping::to_data_error(raw, control, error, Some(limits)))
}

fn read(connection: &mut Connection, time: Duration, limit: i64) -> Result<Vec<OutboxMessage>, DataError> {
    connection.control.set_deadline(time);
    connection.control.set_mode(Mode::Host);
    let raw = &connection.raw;
    let messages: rusqlite::Result<Vec<OutboxMessage>> = connection.limit_values(usize::MAX, 0).and_then(|()| {
        if !exists(raw)? {
            return Ok(Vec::new());
        }
        let mut statement = raw.prepare(READ)?;
        let rows = statement.query_map([limit, MAX_BYTES], |row| {
            let (id, text) = (row.get(0)?, row.get(1)?);
            Ok(OutboxMessage { id, text })
        })?;
        rows.collect()
    });
    messages.map_err(|error| error_mapping::to_data_error(raw, &connection.control, error, None))
}

fn delete(connection: &mut Connection, ids: &[i64]) -> Result<(), DataError> {
    let raw = &connection.raw;
    let deleted = exists(raw).and_then(|exists| {
        if exists {
            let mut statement = raw.prepare(FORGET)?;
            for id in ids {
                statement.execute([id])?;
            }
        }
        Ok(())
    });
    deleted.map_err(|error| error_mapping::to_data_error(raw, &connection.control, error, None))
}

fn exists(raw: &rusqlite::Connection) -> rusqlite::Result<bool> {
    raw.query_row(EXISTS, [], |row| row.get(0))
}

/// Maps the error of work of the host itself: if it takes too long, the disk does not respond.
fn of_own_work(error: DataError) -> DataError {
    match error {
        DataError::Limit(..) => DataError::Unavailable,
        error => error,
    }
}
