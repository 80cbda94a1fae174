//! Transactions of the host's database. A transaction that stores messages gives the signal after its commit, so that no
//! caller can forget it. Owns the locks that transactions take by number.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::{Postgres, Sqlite};

use super::connection::{HostConnection, HostDatabase};
use crate::signals::Signals;

/// A transaction. Dropping it rolls it back.
#[derive(Debug)]
pub struct Transaction<DB: HostDatabase> {
    connection: HostConnection<DB>,
    signals: Signals,
    stores_messages: bool,
    stores_mails: bool,
}

impl<DB: HostDatabase> Transaction<DB> {
    /// Returns the transaction that a connection has begun.
    pub(super) fn of(connection: HostConnection<DB>, signals: Signals) -> Self {
        Self { connection, signals, stores_messages: false, stores_mails: false }
    }

    /// Notes that the transaction stores messages, or makes tasks ready. The commit gives the signal for them.
    pub(in crate::db) fn stores_messages(&mut self) {
        self.stores_messages = true;
    }

    /// Notes that the transaction queues mails of plugins. The commit gives the signal for them.
    pub(in crate::db) fn stores_mails(&mut self) {
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
            Ok(()) => {
                self.connection.in_transaction = false;
                self.connection.write_turn = None;
            }
            Err(_) => self.connection.discard(),
        }
        ended
    }
}

impl Transaction<Sqlite> {
    /// Does nothing: SQLite has one writer, and `on!` begins the transactions of writers with `BEGIN IMMEDIATE`.
    pub(in crate::db) async fn take_lock(&mut self, _number: i64) -> sqlx::Result<()> {
        Ok(())
    }
}

impl Transaction<Postgres> {
    /// Takes the lock with this number until the end of the transaction. All changes of accounts and releases wait for the
    /// lock of events, so the server soon ends a transaction whose process hangs or is cut off while it has a lock.
    ///
    /// # Errors
    /// The database fails, or the wait is longer than the limit of a statement.
    pub(in crate::db) async fn take_lock(&mut self, number: i64) -> sqlx::Result<()> {
        const SQL: &str =
            "SELECT pg_advisory_xact_lock($1), set_config('idle_in_transaction_session_timeout', '15s', TRUE)";
        sqlx::query(SQL).bind(number).execute(&mut self.connection).await.map(drop)
    }

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
