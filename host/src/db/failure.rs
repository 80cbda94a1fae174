//! The failures of the host's database: which of them are outages, which mean that nothing can be stored, and which are
//! defects of the host. Owns the table of the error codes of both databases. `plugin_data` has tables of its own for the
//! statements of plugins.
//!
//! | failure | SQLite (<https://sqlite.org/rescode.html>) | PostgreSQL (<https://www.postgresql.org/docs/current/errcodes-appendix.html>) | becomes |
//! |---|---|---|---|
//! | nothing can be stored | FULL, IOERR when writing, truncating or syncing a file, or when creating the index of the log | 53100 | 503 `storage_full` |
//! | outage | BUSY, LOCKED, PROTOCOL, other IOERR, CANTOPEN, READONLY, PERM, NOMEM, INTERRUPT, CORRUPT, NOTADB, NOLFS | 08, 25006, 25P03, 28, 3D000, 40, 42501, 53, 55006, 55P03, 57, 58, F0, XX | 503 `database_unavailable` |
//! | outage | no connection in time, a broken connection, no response in time | the same | 503 `database_unavailable` |
//! | another host took over the database | | WH001, from the trigger `check_holder` | 503 `shutting_down` |
//! | defect | any other | any other | 500 `internal` |

use std::time::Duration;

use rusqlite::ffi;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use crate::error::{Error, Kind, code};

/// The SQLSTATE with which the trigger `check_holder` refuses a change.
const TAKEN_OVER: &str = "WH001";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    StorageFull,
    Outage,
    TakenOver,
    Defect,
}

impl Failure {
    fn error(self) -> Error {
        match self {
            Self::StorageFull => Error::storage_full(),
            Self::Outage => {
                let kind = Kind::Unavailable(Duration::from_secs(1));
                Error::new(kind, code::DATABASE_UNAVAILABLE, "The database cannot be reached now")
            }
            Self::TakenOver => taken_over(),
            Self::Defect => Error::internal("a statement on the host's database failed"),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        failure_of(&error).error().with_source(error)
    }
}

/// Returns the error of a host whose database another host has taken over.
pub(super) fn taken_over() -> Error {
    let kind = Kind::Unavailable(Duration::from_secs(1));
    Error::new(kind, code::SHUTTING_DOWN, "The host is shutting down")
        .with_internal("another wharf took over the database, so this one changes nothing any more and stops")
}

/// Returns the error of a SQLite file that cannot be opened.
pub(super) fn of_file(error: rusqlite::Error) -> Error {
    let failure = error.sqlite_error().map_or(Failure::Defect, |error| of_sqlite(error.extended_code));
    failure.error().with_source(error)
}

fn failure_of(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => Failure::Outage,
        sqlx::Error::Database(error) => {
            if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
                return of_postgres(error.code());
            }
            let code = error.try_downcast_ref::<SqliteError>().and_then(|error| {
                let code = sqlx::error::DatabaseError::code(error)?;
                code.parse().ok()
            });
            code.map_or(Failure::Defect, of_sqlite)
        }
        _ => Failure::Defect,
    }
}

fn of_postgres(code: &str) -> Failure {
    match (code, code.get(..2).unwrap_or_default()) {
        ("53100", _) => Failure::StorageFull,
        (TAKEN_OVER, _) => Failure::TakenOver,
        ("25006" | "25P03" | "3D000" | "42501" | "55006" | "55P03", _) => Failure::Outage,
        (_, "08" | "28" | "40" | "53" | "57" | "58" | "F0" | "XX") => Failure::Outage,
        _ => Failure::Defect,
    }
}

/// `code` is an extended result code.
fn of_sqlite(code: i32) -> Failure {
    match code {
        // A full disk is FULL only when SQLite itself writes a page. A quota, a limit on the size of files, and an index
        // that cannot be created are reported as other failures.
        ffi::SQLITE_IOERR_WRITE
        | ffi::SQLITE_IOERR_FSYNC
        | ffi::SQLITE_IOERR_DIR_FSYNC
        | ffi::SQLITE_IOERR_TRUNCATE
        | ffi::SQLITE_IOERR_SHMOPEN
        | ffi::SQLITE_IOERR_SHMSIZE
        | ffi::SQLITE_IOERR_SHMMAP => return Failure::StorageFull,
        _ => {}
    }
    // The primary code is in the low byte.
    match code & 0xff {
        ffi::SQLITE_FULL => Failure::StorageFull,
        ffi::SQLITE_BUSY
        | ffi::SQLITE_LOCKED
        | ffi::SQLITE_PROTOCOL
        | ffi::SQLITE_IOERR
        | ffi::SQLITE_CANTOPEN
        | ffi::SQLITE_READONLY
        | ffi::SQLITE_PERM
        | ffi::SQLITE_NOMEM
        | ffi::SQLITE_INTERRUPT
        | ffi::SQLITE_CORRUPT
        | ffi::SQLITE_NOTADB
        | ffi::SQLITE_NOLFS => Failure::Outage,
        _ => Failure::Defect,
    }
}

/// Returns whether a unique constraint refused the statement.
pub(crate) fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_defect_of_the_host_is_internal() {
        for (code, expected) in [
            ("53100", Failure::StorageFull),
            ("53300", Failure::Outage),
            ("57P01", Failure::Outage),
            ("57P03", Failure::Outage),
            ("57014", Failure::Outage),
            ("40001", Failure::Outage),
            ("25006", Failure::Outage),
            ("WH001", Failure::TakenOver),
            ("25P02", Failure::Defect),
            ("42601", Failure::Defect),
            ("23505", Failure::Defect),
        ] {
            assert_eq!(of_postgres(code), expected, "{code}");
        }
        for (code, expected) in [
            (ffi::SQLITE_FULL, Failure::StorageFull),
            (ffi::SQLITE_IOERR_WRITE, Failure::StorageFull),
            (ffi::SQLITE_IOERR_READ, Failure::Outage),
            (ffi::SQLITE_BUSY, Failure::Outage),
            (ffi::SQLITE_BUSY_SNAPSHOT, Failure::Outage),
            (ffi::SQLITE_READONLY_DBMOVED, Failure::Outage),
            (ffi::SQLITE_ERROR, Failure::Defect),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, Failure::Defect),
        ] {
            assert_eq!(of_sqlite(code), expected, "{code}");
        }
    }
}
