//! Where work with a connection runs. Short work runs in place, on the thread of its caller: a change of threads takes as
//! long as the work, and the next writer waits for it too. Everything else runs on a thread that may block.
//!
//! The thread of the caller serves other requests too, and a plugin chooses its statements and its data. So work in place
//! is bounded, whatever the statement does: by instructions and time, by the length of values, and it waits for nothing.
//! Work that meets a bound is undone, and runs on a thread from its beginning. That takes twice the time, so a statement
//! only runs in place after it was quick many times.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::connection::Connection;
use crate::db::plugin_data::connection_pool::Reusable as _;
use crate::db::plugin_data::value::Statement;

/// The checks (`connection::INSTRUCTIONS_PER_CHECK`) of quick work: 10,000 instructions, which take about a millisecond.
pub(super) const CHECKS: u32 = 200;
/// The time of quick work. The system can interrupt the thread meanwhile, so it is longer than the checks take.
pub(super) const TIME: Duration = Duration::from_millis(5);
/// The longest value in place, and the length of all parameters. One instruction with such a value takes some
/// microseconds.
pub(super) const BYTES: usize = 32 * 1024;
/// The longest pattern of LIKE and GLOB in place. No check interrupts the comparison of one text.
pub(super) const PATTERN: i32 = 50;
/// The maximum number of statements in one batch in place, and of messages in one commit.
const STATEMENTS: usize = 8;
/// How often a statement has to be quick before it runs in place, also after it was not. So a plugin whose statements turn
/// out to be slow takes the thread of its caller for a small part of the time.
const QUICK_RUNS: u8 = 32;

/// The latest quick runs of a statement.
#[derive(Debug, Default)]
pub(super) struct QuickRuns(AtomicU8);

impl QuickRuns {
    /// Counts a run.
    pub(super) fn count(&self, is_quick: bool) {
        let runs = if is_quick { self.0.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.0.store(runs, Ordering::Relaxed);
    }

    fn are_enough(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= QUICK_RUNS
    }
}

/// Measures a run of a statement.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start(connection: &Connection) -> Self {
        connection.control.restart_checks();
        Self(Instant::now())
    }

    /// Returns whether the run was quick. One that failed in place was not: it runs again.
    pub(super) fn is_quick(&self, connection: &Connection, has_failed: bool) -> bool {
        let is_retried = has_failed && connection.control.is_in_place();
        !is_retried && connection.control.checks() < CHECKS && self.0.elapsed() < TIME
    }
}

impl Connection {
    /// Runs a commit in place. It is not interrupted.
    pub(super) fn commit_in_place<R>(&mut self, commit: impl FnOnce(&mut Self) -> R) -> R {
        // An earlier run may have been cancelled.
        self.control.clear_deadline();
        let committed = commit(self);
        self.read_log_pages();
        committed
    }

    /// Returns whether these statements may be tried in place.
    pub(super) fn is_quick(&self, statements: &[Statement]) -> bool {
        let bytes = statements.iter().map(Statement::memory).fold(0, usize::saturating_add);
        let is_quick = |statement: &Statement| {
            self.kept.get(&statement.sql).is_some_and(|plan| plan.in_place.as_ref().is_some_and(QuickRuns::are_enough))
        };
        statements.len() <= STATEMENTS && bytes <= BYTES && statements.iter().all(is_quick)
    }

    /// Returns whether a short transaction with these messages may be committed in place: nothing has to be done besides
    /// to append to the log.
    pub(super) fn commits_quickly(&self, messages: &[Box<str>]) -> bool {
        let bytes = messages.iter().map(|text| text.len()).fold(0, usize::saturating_add);
        let has_table = messages.is_empty() || self.has_outbox;
        self.log.only_grows() && has_table && messages.len() <= STATEMENTS && bytes <= BYTES
    }

    /// Tries work in place. Returns `None` if it failed: then nothing of it has happened, and it can run on a thread, which
    /// finds out the reason.
    pub(super) fn in_place<R, E>(&mut self, work: impl FnOnce(&mut Self) -> Result<R, E>) -> Option<R> {
        // Another process may hold a lock.
        let tried = self.raw.busy_timeout(Duration::ZERO).ok().and_then(|()| {
            self.control.begin_in_place();
            let done = work(self).ok();
            self.control.end_in_place();
            done
        });
        // It fails for a negative time only.
        let _ = self.raw.busy_timeout(self.patience);
        tried
    }
}

impl super::LeasedConnection {
    /// Returns the connection if it is open and `may_run` there.
    pub(super) fn quick(&mut self, may_run: impl FnOnce(&Connection) -> bool) -> Option<&mut Connection> {
        self.connection.as_deref_mut().filter(|connection| may_run(connection))
    }

    /// Returns a connection after work in place. If its log is long, it is moved first: the next writer waits for that, and
    /// the caller does not.
    pub(super) fn end(mut self) {
        if self.connection.as_deref().is_some_and(Connection::has_long_log) {
            drop(spawn_blocking(move || {
                if let Some(connection) = self.connection.as_deref_mut() {
                    connection.move_long_log();
                }
            }));
        }
    }

    /// Ends what failed in place. A connection that is not clean is closed, on the thread that opens another one.
    pub(super) fn clean(&mut self) {
        if self.connection.as_deref_mut().is_some_and(|connection| !connection.reset()) {
            self.connection = None;
        }
    }
}
