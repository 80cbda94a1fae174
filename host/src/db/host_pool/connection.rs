//! A connection of the pool while it is in use. Owns the time limit of a statement, and the decision whether the connection
//! is used again afterwards.
//!
//! After a statement has ended, the connection is idle at once. If its user went away before that, the statement is waited
//! for in the background, and an open transaction is rolled back there.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::Database;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tokio::runtime::Handle;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::idle::{IdleConnections, Lease, Place, RETURN_TIMEOUT};
use super::outages::Outages;
use super::write_turn::WriteTurn;

/// How long the host waits for a response after the server's own limit.
const GRACE: Duration = Duration::from_secs(2);

/// A database that the host can use.
pub trait HostDatabase: Database {
    /// Runs BEGIN, COMMIT or ROLLBACK. sqlx does not learn of the transaction, so it keeps no state of it.
    fn control<'c>(connection: &'c mut Self::Connection, sql: &'static str) -> BoxFuture<'c, sqlx::Result<()>>;

    /// Waits for the statement that runs, if any, and for a response.
    fn test(connection: &mut Self::Connection) -> BoxFuture<'_, sqlx::Result<()>>;
}

/// A connection from the pool. When it is dropped, it returns to the pool if its state is known, and is closed
/// otherwise; an open transaction is rolled back in the background.
pub struct HostConnection<DB: HostDatabase> {
    /// `None` after the connection was thrown away.
    pub(super) lease: Option<Lease<DB>>,
    place: Option<Place>,
    idle: Arc<IdleConnections<DB>>,
    pub(super) limit: Option<Duration>,
    outages: Arc<Outages>,
    pub(super) in_transaction: bool,
    /// A statement was sent, and its response has not been read to the end.
    running: bool,
    /// The connection may have ended while it was idle.
    pub(super) untested: bool,
    /// Until the statement or the transaction has ended.
    pub(super) write_turn: Option<WriteTurn>,
}

impl<DB: HostDatabase> fmt::Debug for HostConnection<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConnection").field("in_transaction", &self.in_transaction).finish_non_exhaustive()
    }
}

impl<DB: HostDatabase> HostConnection<DB> {
    /// Returns a place without a connection.
    pub(super) fn at(
        place: Place,
        idle: &Arc<IdleConnections<DB>>,
        outages: &Arc<Outages>,
        limit: Option<Duration>,
    ) -> Self {
        Self {
            lease: None,
            place: Some(place),
            idle: Arc::clone(idle),
            limit,
            outages: Arc::clone(outages),
            in_transaction: false,
            running: false,
            untested: false,
            write_turn: None,
        }
    }

    /// Returns whether the connection responds in time. If it does not, it is closed, and its place stays taken.
    pub(super) async fn responds(&mut self, limit: Duration) -> bool {
        let Ok(connection) = self.start() else { return false };
        let ended = timeout(limit, DB::test(connection)).await;
        self.running = false;
        let responds = matches!(ended, Ok(Ok(())));
        if !responds {
            self.outages.record();
            self.lease = None;
        }
        responds
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self, sql: &'static str) -> sqlx::Result<()> {
        // If this future is dropped before the response, the transaction may have begun.
        self.in_transaction = true;
        self.control(sql).await
    }

    /// Runs BEGIN, COMMIT or ROLLBACK.
    pub(super) async fn control(&mut self, sql: &'static str) -> sqlx::Result<()> {
        let limit = self.wait();
        let ended = timeout(limit, DB::control(self.start()?, sql)).await;
        self.settle(ended)
    }

    /// Returns how long the host waits for the response to a statement.
    pub(super) fn wait(&self) -> Duration {
        self.limit.map_or(Duration::MAX, |limit| limit.saturating_add(GRACE))
    }

    /// Returns the connection for a statement, which runs until [`HostConnection::settle`].
    pub(super) fn start(&mut self) -> sqlx::Result<&mut DB::Connection> {
        self.running = true;
        self.lease.as_mut().and_then(Lease::connection).ok_or_else(thrown_away)
    }

    /// Throws the connection away if a statement left it in an unknown state.
    pub(super) fn settle<T>(&mut self, ended: Result<sqlx::Result<T>, Elapsed>) -> sqlx::Result<T> {
        self.running = false;
        let result = ended.unwrap_or_else(|_elapsed| {
            let text = "the database did not respond within the time limit of a statement";
            Err(sqlx::Error::Io(io::Error::new(ErrorKind::TimedOut, text)))
        });
        if result.as_ref().is_err_and(ends_connection) {
            self.outages.record();
            self.discard();
        }
        result
    }

    /// Returns whether the first statement on this connection failed because nobody had tested the connection. A response
    /// that did not come in time is no such failure: the caller has waited long enough.
    pub(super) fn had_ended<T>(&self, first: &sqlx::Result<T>) -> bool {
        let is_late =
            |error: &sqlx::Error| matches!(error, sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut);
        self.untested && first.as_ref().is_err_and(|error| ends_connection(error) && !is_late(error))
    }

    /// Closes the connection at once. The pool may open another one.
    pub(super) fn discard(&mut self) {
        self.lease = None;
        self.place = None;
    }
}

impl<DB: HostDatabase> Drop for HostConnection<DB> {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        if !self.in_transaction && !self.running {
            return self.idle.keep(lease);
        }
        // Without a runtime the process is ending, and its files and sockets are closed with it.
        let Ok(runtime) = Handle::try_current() else { return };
        let in_transaction = self.in_transaction;
        let (idle, place, write_turn) = (Arc::clone(&self.idle), self.place.take(), self.write_turn.take());
        runtime.spawn(async move {
            let Some(connection) = lease.connection() else { return };
            let end = if in_transaction { DB::control(connection, "ROLLBACK") } else { DB::test(connection) };
            if !matches!(timeout(RETURN_TIMEOUT, end).await, Ok(Ok(()))) {
                return;
            }
            drop(write_turn);
            idle.keep(lease);
            drop(place);
        });
    }
}

/// Returns whether the connection cannot be used after the error.
fn ends_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.severity() != PgSeverity::Error)
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

fn thrown_away() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(ErrorKind::NotConnected, "the connection was closed"))
}
