//! The pages of the write-ahead log of a connection that writes, counted. SQLite would move them into the file within the
//! commit that makes the log long. That waits for the disk, so `log_upkeep` does it after a commit, on a thread that may
//! block.

use std::cell::Cell;
use std::ffi::c_int;

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
    /// Learns what the work on this thread did to the log. Call it after each work.
    pub(super) fn read(&mut self) {
        let pages = PAGES.take();
        if pages > 0 {
            self.pages = pages;
        }
    }

    pub(super) fn is_long(&self) -> bool {
        self.pages >= LONG
    }

    /// The log was moved.
    pub(super) fn clear(&mut self) {
        self.pages = 0;
    }

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
