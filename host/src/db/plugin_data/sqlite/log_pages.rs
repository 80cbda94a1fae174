//! The pages of the write-ahead log of a connection that writes. SQLite would move them into the file within the commit
//! that makes the log long. That waits for the disk, so it is done after a commit, on a thread that may block.

use std::cell::Cell;
use std::ffi::c_int;

use super::connection::Connection;
use super::control::Mode;

/// The pages from which the log is moved, as in SQLite itself.
const LONG: c_int = 1_000;

thread_local! {
    /// The pages of the log after the latest commit on this thread; 0 before one. SQLite tells it to a function that knows no
    /// connection.
    static PAGES: Cell<c_int> = const { Cell::new(0) };
}

/// The state of the log.
#[derive(Debug, Default)]
pub(super) struct LogPages {
    /// After the latest commit, or 0 if the log was moved since. The first commit then may wait for the disk: it begins the
    /// log anew.
    pages: c_int,
}

impl LogPages {
    /// Tells SQLite to leave the log to this module.
    pub(super) fn watch(raw: &rusqlite::Connection) {
        raw.wal_hook(Some(|_, pages| {
            PAGES.set(pages);
            Ok(())
        }));
    }

    /// Returns whether the next commit only appends to the log.
    pub(super) fn only_grows(&self) -> bool {
        (1..LONG).contains(&self.pages)
    }
}

impl Connection {
    /// Learns what the work on this thread did to the log. Call it after each work.
    pub(super) fn read_log_pages(&mut self) {
        let pages = PAGES.take();
        if pages > 0 {
            self.log.pages = pages;
        }
    }

    /// Returns whether the log has to be moved into the file.
    pub(super) fn has_long_log(&self) -> bool {
        self.log.pages >= LONG
    }

    /// Moves a long log into the file, as far as no reader needs it. Waits for the disk, and for no reader.
    pub(super) fn move_long_log(&mut self) {
        if !self.has_long_log() || self.in_transaction() {
            return;
        }
        self.log.pages = 0;
        self.control.clear_deadline();
        self.control.set_mode(Mode::Host);
        let moved = self.raw.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = moved {
            // The commits are safe in the log, and the next one tries again.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot move the log of a plugin's database");
        }
    }
}
