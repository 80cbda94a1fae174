//! Which migrations are to be applied. Owns the record kept in each plugin's database and the rule that history does not
//! change: what was applied stays first, in its order, with its digest.

use sha2::{Digest, Sha256};

use super::DataError;

/// A step of a plugin's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Recorded once, `0001_items`.
    pub name: String,
    /// Statements, separated by semicolons.
    pub sql: String,
}

/// Why the migrations were not applied. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The list does not continue what was applied.
    #[error("migration {name}: {reason}")]
    History {
        /// The first migration that does not fit.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A statement of a migration was refused or failed.
    #[error("migration {name}, statement {statement}: {error}")]
    Statement {
        /// The migration.
        name: String,
        /// Its statement, the first is 1.
        statement: usize,
        /// What the database said.
        error: DataError,
    },
    /// Another node is migrating this plugin, or the database cannot be reached.
    #[error("the migrations could not be applied: {0}")]
    Database(DataError),
    /// The host's side failed.
    #[error("{0}")]
    Host(#[from] crate::error::Error),
}

impl From<DataError> for MigrationError {
    fn from(error: DataError) -> Self {
        Self::Database(error)
    }
}

/// A row of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) name: String,
    pub(super) digest: String,
}

/// The record's table: `position` counts from 1.
pub(super) const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS _wharf_migration \
     (position INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL)";
pub(super) const READ_RECORD: &str = "SELECT name, digest FROM _wharf_migration ORDER BY position";
pub(super) const WRITE_RECORD: &str = "INSERT INTO _wharf_migration (position, name, digest) VALUES ($1, $2, $3)";

/// SHA-256 of the text in lower-case hexadecimal.
pub(super) fn digest(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The part of `wanted` that is not applied yet. A release may know fewer migrations than were applied: it is an older
/// one, and rolling back to it does not undo the data.
pub(super) fn pending<'a>(wanted: &'a [Migration], applied: &[Applied]) -> Result<&'a [Migration], MigrationError> {
    let refuse = |name: &str, reason: String| Err(MigrationError::History { name: name.to_owned(), reason });
    for (index, migration) in wanted.iter().enumerate() {
        let length = migration.name.chars().count();
        if !(1..=200).contains(&length) || migration.name.chars().any(char::is_control) {
            return refuse(&migration.name, "a name has 1 to 200 characters".to_owned());
        }
        if wanted.iter().take(index).any(|earlier| earlier.name == migration.name) {
            return refuse(&migration.name, "the name stands twice".to_owned());
        }
    }
    for (migration, applied) in wanted.iter().zip(applied) {
        if migration.name != applied.name {
            let reason = format!("{} was applied at this place; migrations are only added at the end", applied.name);
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
    fn history_only_grows_at_its_end() {
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
    fn the_digest_is_that_of_the_text() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
