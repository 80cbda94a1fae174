//! Opens SQLite files with a write-ahead log, also while the disk is full, and waits for the disk where a commit does not.
//!
//! SQLite keeps the index of a write-ahead log in a file of its own (`-shm`), which the first connection creates and
//! the last one removes. On a full disk it cannot be created, and then nothing can be read. SQLite's VFS `unix-excl`
//! keeps the index in memory instead (<https://sqlite.org/vfs.html>, section 2.1): the connections of this process share
//! it, and other processes cannot open the file. It is used only if the index cannot be created. Knows neither the
//! host's tables nor plugins.

use std::ffi::CStr;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{ErrorCode, OpenFlags, ffi};

use crate::error::{Error, Result};

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

/// Returns the path of the file's write-ahead log.
pub(super) fn log_path(file: &Path) -> PathBuf {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Waits until the disk has what was committed so far. With the setting `synchronous = NORMAL`, a commit survives the end of
/// the process, but not that of the machine. SQLite takes its locks on other files than the log, so that closing this one
/// ends none of them. Blocks.
pub(super) fn sync_log(log: &Path) -> std::io::Result<()> {
    match File::open(log) {
        Ok(log) => log.sync_data(),
        // SQLite waits for the disk when it writes the log into the file.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// An unused connection that keeps the index of the log open: other connections can then be closed and opened on a full
/// disk.
pub(super) struct WalAnchor {
    connection: Mutex<Option<rusqlite::Connection>>,
    log: PathBuf,
}

impl WalAnchor {
    /// Opens the file, and creates it if it is missing. Blocks.
    pub(super) fn open(file: &Path, limit: Duration) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = open(file, flags, |raw| {
            open_log(&raw, limit)?;
            Ok(raw)
        })?;
        Ok(Self { connection: Mutex::new(Some(connection)), log: log_path(file) })
    }

    /// Waits until the disk has what was committed so far.
    pub(super) async fn make_durable(&self) -> Result<()> {
        let log = self.log.clone();
        let synced = tokio::task::spawn_blocking(move || sync_log(&log)).await;
        let synced = synced.map_err(|error| Error::internal("waiting for the disk failed").with_source(error))?;
        synced.map_err(|error| Error::io(format!("the disk does not confirm {}", self.log.display()), error))
    }

    /// Closes the connection, after all others: the last one writes the log into the file.
    pub(super) async fn close(&self) {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(tokio::task::spawn_blocking(move || drop(connection)).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_log_needs_no_wait_and_any_other_failure_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let log = log_path(&dir.path().join("a.sqlite"));
        assert_eq!(log, dir.path().join("a.sqlite-wal"));
        sync_log(&log).unwrap();
        std::fs::write(&log, "frames").unwrap();
        sync_log(&log).unwrap();
        // Nothing can be below a file.
        let failure = sync_log(&log_path(&log.join("b.sqlite"))).unwrap_err();
        assert_eq!(failure.kind(), ErrorKind::NotADirectory);
    }
}
