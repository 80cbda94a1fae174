//! The write-ahead log of a plugin's file: its limit, and its move into the file. `log_pages` counts its pages.

use std::time::Duration;

use tokio::task::spawn_blocking;

use super::connection::Connection;
use super::control::Mode;
use super::error_mapping;
use crate::db::plugin_data::connection_pool::Lease;
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::statement_limits::StatementLimits;

/// The bytes that the write-ahead log may have in addition to the limit on the file: SQLite restarts the log after 4
/// MiB if no reader is active.
const WAL_BYTES: u64 = 64 * 1024 * 1024;
/// The longest wait for readers before the log is truncated.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(100);

impl Lease<Connection> {
    /// Returns the connection after work that may have committed. If its log is long, it is moved first: the next writer
    /// waits for the disk. The caller does not, so no limit on its time can report a commit as failed.
    pub(super) fn end(mut self) {
        if self.connection.as_deref().is_some_and(|connection| connection.log.is_long()) {
            drop(spawn_blocking(move || {
                if let Some(connection) = self.connection.as_deref_mut() {
                    connection.move_long_log();
                }
            }));
        }
    }
}

impl Connection {
    /// Moves a long log into the file, as far as no reader needs it. Waits for the disk, and for no reader.
    fn move_long_log(&mut self) {
        if !self.log.is_long() || self.in_transaction() {
            return;
        }
        self.log.clear();
        self.control.clear_deadline();
        self.control.set_mode(Mode::Host);
        let moved = self.raw.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        // The commits are safe in the log, and the next one tries again.
        if let Err(error) = moved
            && error_mapping::may_log_now()
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot move the log of a plugin's database");
        }
    }

    /// Limits the write-ahead log before a transaction, because nothing can shorten it within one. If it stays too
    /// long, the first statement that writes looks again and fails. Otherwise that statement does not look: only
    /// another process, for which the transaction waited at its beginning, can have written meanwhile.
    pub(super) fn shorten_wal(&mut self, limits: &StatementLimits) {
        // The deadline of an earlier statement may have passed.
        self.control.set_deadline(limits.time);
        self.is_wal_short = self.limit_wal(limits).is_ok();
    }

    /// Limits the write-ahead log: SQLite does not restart it while there is always a reader of an older state.
    pub(super) fn limit_wal(&mut self, limits: &StatementLimits) -> Result<(), DataError> {
        let most = limits.disk.saturating_add(WAL_BYTES);
        let is_long = || std::fs::metadata(&self.wal).is_ok_and(|log| log.len() > most);
        if !is_long() {
            return Ok(());
        }
        if self.control.is_in_place() {
            return Err(DataError::disk(limits));
        }
        // Within a transaction the checkpoint fails, and the transaction is rolled back.
        self.control.set_mode(Mode::Host);
        let emptied = self.raw.busy_timeout(CHECKPOINT_TIMEOUT).and_then(|()| {
            let emptied = self.raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
            self.raw.busy_timeout(self.patience)?;
            emptied
        });
        self.control.set_mode(Mode::Statement);
        self.log.clear();
        if emptied.is_ok_and(|busy| busy == 0) || !is_long() { Ok(()) } else { Err(DataError::disk(limits)) }
    }
}
