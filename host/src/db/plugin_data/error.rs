//! What a plugin's statement can fail with: the cases of `wharf:sql`, which a guest can act on. Owns their texts; never
//! carries what only an operator may read (that goes to the log where it is found).

use std::time::Duration;

use super::value::Limits;

/// Mirrors `wharf:sql/database.error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The statement is wrong: its author corrects it.
    #[error("{0}")]
    Invalid(String),
    /// A constraint refused it: its name as declared, `table.column` where it has none, or `foreign key` on SQLite, which
    /// does not say which.
    #[error("constraint {0}")]
    Constraint(String),
    /// Lost against a concurrent transaction: the whole transaction may be tried again.
    #[error("a concurrent transaction came first")]
    Conflict,
    /// A limit was reached, with its name and value: `rows: 10000`.
    #[error("limit reached: {1}")]
    Limit(Bound, String),
    /// The database cannot be reached now.
    #[error("the database cannot be reached now")]
    Unavailable,
}

/// The longest text of an error: databases quote values in theirs, however long these are.
const MAX_TEXT: usize = 500;

/// A limit that statements meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Rows of an answer.
    Rows,
    /// Bytes of an answer, or of statements and their parameters.
    Bytes,
    /// Time of a statement.
    Time,
    /// Connections.
    Connections,
    /// Disk of the whole database.
    Disk,
    /// Statements of a batch, and the text of one: the same for everybody.
    Statements,
}

impl DataError {
    pub(super) fn invalid(text: impl AsRef<str>) -> Self {
        Self::Invalid(cut(text.as_ref()))
    }

    pub(super) fn constraint(name: impl AsRef<str>) -> Self {
        Self::Constraint(cut(name.as_ref()))
    }

    pub(super) fn rows(limits: &Limits) -> Self {
        Self::Limit(Bound::Rows, format!("rows: {}", limits.rows))
    }

    pub(super) fn bytes(limits: &Limits) -> Self {
        Self::Limit(Bound::Bytes, format!("bytes: {}", limits.bytes))
    }

    pub(super) fn time(limit: Duration) -> Self {
        Self::Limit(Bound::Time, format!("statement time: {} ms", limit.as_millis()))
    }

    pub(super) fn connections(limits: &Limits) -> Self {
        Self::Limit(Bound::Connections, format!("connections: {}", limits.connections))
    }

    pub(super) fn disk(limits: &Limits) -> Self {
        Self::Limit(Bound::Disk, format!("disk: {} bytes", limits.disk))
    }

    /// A transaction after its first error, on both databases alike.
    pub(super) fn failed_transaction() -> Self {
        Self::invalid("an earlier statement of this transaction failed; it can only be rolled back")
    }
}

/// As much of a text as is told.
pub(super) fn cut(text: &str) -> String {
    let told = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
    if told.len() == text.len() { told.to_owned() } else { format!("{told}…") }
}
