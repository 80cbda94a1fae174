//! Decides which migrations to apply. Owns the table of applied migrations in each plugin's database, and the rule that
//! history never changes: the applied migrations stay first, in their order, with their digests.

use std::time::Duration;

use sha2::{Digest, Sha256};

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
    /// The host failed.
    #[error("{0}")]
    Host(#[from] crate::error::Error),
}

impl From<DataError> for MigrationError {
    fn from(error: DataError) -> Self {
        Self::Database(error)
    }
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

/// Returns the SHA-256 of the text, in lower-case hexadecimal.
pub(super) fn digest(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the part of `wanted` that is not applied yet. An older release may have fewer migrations than were applied:
/// rolling back to it does not undo them.
pub(super) fn pending<'a>(wanted: &'a [Migration], applied: &[Applied]) -> Result<&'a [Migration], MigrationError> {
    let refuse = |name: &str, reason: String| Err(MigrationError::History { name: name.to_owned(), reason });
    for (index, migration) in wanted.iter().enumerate() {
        let length = migration.name.chars().count();
        if !(1..=200).contains(&length) || migration.name.chars().any(char::is_control) {
            return refuse(&migration.name, "a name has 1 to 200 characters".to_owned());
        }
        if wanted.iter().take(index).any(|earlier| earlier.name == migration.name) {
            return refuse(&migration.name, "the name is used twice".to_owned());
        }
    }
    for (migration, applied) in wanted.iter().zip(applied) {
        if migration.name != applied.name {
            let reason = format!("{} was applied at this position; add migrations only at the end", applied.name);
            return refuse(&migration.name, reason);
        }
        if digest(&migration.sql) != applied.digest {
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
    fn the_digest_is_the_sha256_of_the_text() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
