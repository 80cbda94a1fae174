//! Opens SQLite files with a write-ahead log, also while the disk is full.
//!
//! SQLite keeps the index of a write-ahead log in a file of its own (`-shm`), which the first connection creates and
//! the last one removes. On a full disk it cannot be created, and then nothing can be read. SQLite's VFS `unix-excl`
//! keeps the index in memory instead (<https://sqlite.org/vfs.html>, section 2.1): the connections of this process share
//! it, and other processes cannot open the file. It is used only if the index cannot be created. Knows neither the
//! host's tables nor plugins.

use std::ffi::CStr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{ErrorCode, OpenFlags, ffi};

/// The VFS that keeps the index in memory.
const INDEX_IN_MEMORY: &CStr = c"unix-excl";

/// The pause between two attempts to open a file that another process is opening or closing.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Opens a connection and lets `set_up` open the write-ahead log. Calls `set_up` on a second connection if the index of
/// the log cannot be created on the disk.
pub(super) fn open<T>(
    file: &Path,
    flags: OpenFlags,
    set_up: impl Fn(rusqlite::Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    match rusqlite::Connection::open_with_flags(file, flags).and_then(&set_up) {
        Err(error) if lacks_index(&error) => {
            tracing::warn!(
                file = %file.display(),
                error = &error as &dyn std::error::Error,
                "the disk has no space for the index of a SQLite file; it is kept in memory, and until the file is closed, \
                 no other program can open it"
            );
            rusqlite::Connection::open_with_flags_and_vfs(file, flags, INDEX_IN_MEMORY).and_then(&set_up)
        }
        opened => opened,
    }
}

fn lacks_index(error: &rusqlite::Error) -> bool {
    let codes = [ffi::SQLITE_IOERR_SHMOPEN, ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_SHMMAP];
    error.sqlite_error().is_some_and(|error| codes.contains(&error.extended_code))
}

/// Sets the busy timeout and opens the write-ahead log.
pub(super) fn open_log(raw: &rusqlite::Connection, limit: Duration) -> rusqlite::Result<()> {
    raw.busy_timeout(limit)?;
    write_ahead(raw, limit)?;
    // The first reader opens the log.
    raw.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Switches to write-ahead logging, and retries while the file is busy: SQLite ignores the busy timeout while a
/// connection creates the log of a new file, or the last connection cleans it up (<https://sqlite.org/wal.html>,
/// section 8).
fn write_ahead(raw: &rusqlite::Connection, limit: Duration) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match raw.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && begun.elapsed() < limit => {
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

/// An unused connection that keeps the index of the log open: other connections can then be closed and opened on a full
/// disk.
pub(super) struct WalAnchor(Mutex<Option<rusqlite::Connection>>);

impl WalAnchor {
    /// Opens the file, and creates it if it is missing. Blocks.
    pub(super) fn open(file: &Path, limit: Duration) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = open(file, flags, |raw| {
            open_log(&raw, limit)?;
            Ok(raw)
        })?;
        Ok(Self(Mutex::new(Some(connection))))
    }

    /// Closes the connection, after all others: the last one writes the log into the file.
    pub(super) async fn close(&self) {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(tokio::task::spawn_blocking(move || drop(connection)).await);
    }
}
