//! Decides which migrations to apply. Owns the table of applied migrations in each plugin's database, and the rule that
//! history never changes: the applied migrations stay first, in their order, with their digests.
//!
//! A text has one digest, with and without a byte order mark, and with either line ending. Earlier versions recorded the
//! digest of the bytes; such a digest stays valid for each of these forms.

use std::time::Duration;

use sha2::{Digest, Sha256};
use wharf_sql_text::{Dialect, RefusedStatement, canonical, check_migration, check_names};

use super::error::DataError;

/// The time limit of all migrations of one deploy together.
pub(super) const MIGRATION_TIME: Duration = Duration::from_secs(60);

/// A step of a plugin's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The unique name, such as `0001_items`.
    pub name: String,
    /// The statements, separated by semicolons.
    pub sql: String,
}

/// The reason why no migration was applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The list does not continue the applied migrations.
    #[error("migration {name}: {reason}")]
    History {
        /// The first migration that does not fit.
        name: String,
        /// The reason.
        reason: String,
    },
    /// A statement of a migration was refused or failed.
    #[error("migration {name}, statement {statement}: {error}")]
    Statement {
        /// The migration.
        name: String,
        /// The number of the statement, from 1.
        statement: usize,
        /// The error of the database.
        error: DataError,
    },
    /// Another node is migrating this plugin, or the database cannot be reached.
    #[error("the migrations could not be applied: {0}")]
    Database(DataError),
    /// The database did not respond to the commit, or not in time. They may be applied.
    #[error("it is not known whether the migrations were applied: {0}")]
    Unclear(DataError),
    /// The host failed.
    #[error("{0}")]
    Host(#[from] crate::error::Error),
}

impl MigrationError {
    /// Returns whether it is certain that no migration was applied.
    pub fn is_rolled_back(&self) -> bool {
        !matches!(self, Self::Unclear(_))
    }
}

impl From<DataError> for MigrationError {
    fn from(error: DataError) -> Self {
        Self::Database(error)
    }
}

impl MigrationError {
    pub(super) fn refused(migration: &Migration, refused: RefusedStatement) -> Self {
        let (name, statement) = (migration.name.clone(), refused.statement);
        Self::Statement { name, statement, error: refused.reason.into() }
    }
}

/// Checks migrations by their names and their text, as a deploy does before it runs them.
///
/// # Errors
/// No database of a host would accept them.
pub fn check(migrations: &[Migration]) -> Result<(), MigrationError> {
    check_list(migrations)?;
    for migration in migrations {
        let text = canonical(&migration.sql);
        if let Err(refused) = check_migration(Dialect::Sqlite, &text)
            && check_migration(Dialect::Postgres, &text).is_err()
        {
            return Err(MigrationError::refused(migration, refused));
        }
    }
    Ok(())
}

fn check_list(migrations: &[Migration]) -> Result<(), MigrationError> {
    check_names(migrations.iter().map(|migration| migration.name.as_str()))
        .map_err(|(name, reason)| MigrationError::History { name: name.to_owned(), reason })
}

/// A row of the table of applied migrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) name: String,
    pub(super) digest: String,
}

/// The table of applied migrations; `position` counts from 1.
pub(super) const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS _wharf_migration \
     (position INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL)";
pub(super) const READ_RECORD: &str = "SELECT name, digest FROM _wharf_migration ORDER BY position";
pub(super) const WRITE_RECORD: &str = "INSERT INTO _wharf_migration (position, name, digest) VALUES ($1, $2, $3)";

/// Returns the SHA-256 of the canonical text, in lower-case hexadecimal.
pub(super) fn digest(sql: &str) -> String {
    hash(&canonical(sql))
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether a recorded digest is that of a text, or that of its bytes in one of their forms.
fn is_digest_of(digest: &str, sql: &str) -> bool {
    let text = canonical(sql);
    digest == hash(&text) || digest == hash(sql) || digest == hash(&text.replace('\n', "\r\n"))
}

/// Returns the part of `wanted` that is not applied yet. An older release may have fewer migrations than were applied:
/// rolling back to it does not undo them.
pub(super) fn pending<'a>(wanted: &'a [Migration], applied: &[Applied]) -> Result<&'a [Migration], MigrationError> {
    let refuse = |name: &str, reason: String| Err(MigrationError::History { name: name.to_owned(), reason });
    check_list(wanted)?;
    for (migration, applied) in wanted.iter().zip(applied) {
        if migration.name != applied.name {
            let reason = format!("{} was applied at this position; add migrations only at the end", applied.name);
            return refuse(&migration.name, reason);
        }
        if !is_digest_of(&applied.digest, &migration.sql) {
            return refuse(
                &migration.name,
                "it was applied with another text; write a new migration instead".to_owned(),
            );
        }
    }
    Ok(wanted.get(applied.len()..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, sql: &str) -> Migration {
        Migration { name: name.to_owned(), sql: sql.to_owned() }
    }

    #[test]
    fn migrations_are_only_added_at_the_end() {
        let wanted = [migration("1", "a"), migration("2", "b"), migration("3", "c")];
        let applied: Vec<Applied> =
            wanted.iter().map(|m| Applied { name: m.name.clone(), digest: digest(&m.sql) }).collect();
        let names = |pending: &[Migration]| pending.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
        assert_eq!(pending(&wanted, &[]).map(names).unwrap(), ["1", "2", "3"]);
        assert_eq!(pending(&wanted, &applied[..2]).map(names).unwrap(), ["3"]);
        assert_eq!(pending(&wanted[..1], &applied).map(names).unwrap(), [""; 0]);
        assert!(pending(&wanted[1..], &applied[..1]).is_err(), "one in the middle is missing");
        assert!(pending(&[migration("1", "changed")], &applied).is_err());
        assert!(pending(&[migration("1", "a"), migration("1", "a")], &[]).is_err());
        assert!(pending(&[migration("", "a")], &[]).is_err());
    }

    #[test]
    fn every_form_of_an_applied_text_is_that_text() {
        const FORMS: [&str; 4] = ["a;\nb;\n", "a;\r\nb;\r\n", "\u{feff}a;\nb;\n", "\u{feff}a;\r\nb;\r\n"];
        let applied = |digest: String| [Applied { name: "1".to_owned(), digest }];
        for recorded in FORMS {
            for form in FORMS {
                let wanted = [migration("1", form)];
                assert!(pending(&wanted, &applied(digest(recorded))).is_ok(), "{recorded:?} {form:?}");
            }
        }
        // Digests of the bytes, by an earlier version, which refused a byte order mark.
        for recorded in &FORMS[..2] {
            for form in FORMS {
                assert!(pending(&[migration("1", form)], &applied(hash(recorded))).is_ok(), "{recorded:?} {form:?}");
            }
        }
        let mixed = "a;\r\nb;\n";
        assert!(pending(&[migration("1", mixed)], &applied(hash(mixed))).is_ok());
        for other in ["a;\nc;\n", "a;\n\nb;\n", "a; b;\n", "\u{feff}\u{feff}a;\nb;\n"] {
            assert!(pending(&[migration("1", other)], &applied(digest(FORMS[0]))).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_text_that_no_database_accepts_is_refused_without_one() {
        assert!(
            check(&[migration("1", "\u{feff}CREATE TABLE a (b int);\r\n"), migration("2", "DROP TABLE a")]).is_ok()
        );
        // A string of PostgreSQL, which SQLite does not know.
        assert!(check(&[migration("1", "SELECT $$;$$")]).is_ok());
        for (sql, text) in [
            (
                "CREATE TABLE a (b int); BEGIN; DROP TABLE a; COMMIT",
                "migration 1, statement 2: a migration may not contain BEGIN",
            ),
            ("ROLLBACK", "migration 1, statement 1: a migration may not contain ROLLBACK"),
            ("SELECT $1", "migration 1, statement 1: a migration cannot have parameters"),
        ] {
            let refused = check(&[migration("1", sql)]).unwrap_err().to_string();
            assert!(refused.starts_with(text), "{refused}");
        }
        assert!(check(&[migration("1", ""), migration("1", "")]).is_err());
    }

    #[test]
    fn the_digest_is_the_sha256_of_the_text() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
