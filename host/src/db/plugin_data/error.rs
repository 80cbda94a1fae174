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
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
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
