//! The errors of a plugin's statement: the cases of `wharf:sql`, which a guest can act on. Owns their texts. Never
//! contains details that are only for operators: these go to the log where they occur.

use std::time::Duration;

use wharf_sql_text::Refused;

use super::statement_limits::StatementLimits;

/// Mirrors `wharf:sql/database.error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The statement is wrong; its author must correct it.
    #[error("{0}")]
    Invalid(String),
    /// A constraint refused the statement. Holds the declared name, `table.column` for a constraint without a name, or
    /// `foreign key` on SQLite, which does not name it.
    #[error("constraint {0}")]
    Constraint(String),
    /// A concurrent transaction came first; the whole transaction can be retried.
    #[error("a concurrent transaction came first")]
    Conflict,
    /// The statement hit a limit. The text has its name and value: `rows: 10000`.
    #[error("limit reached: {1}")]
    Limit(LimitKind, String),
    /// The database cannot be reached now, or its disk is full: the plugin is not at fault.
    #[error("the database cannot be reached now")]
    Unavailable,
    /// The database failed in a way that a statement can cause, such as memory for the statement or an internal error.
    /// A plugin sees it like [`DataError::Unavailable`], but it does not excuse the plugin.
    #[error("the database failed")]
    Failed,
}

/// The longest text of an error: databases quote values of any length in their errors.
const MAX_TEXT: usize = 500;

/// The limit that a statement hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Rows of a result.
    Rows,
    /// Bytes of a result, or of statements and their parameters.
    Bytes,
    /// Time of a statement.
    Time,
    /// Connections.
    Connections,
    /// Bytes of the whole database on disk.
    Disk,
    /// Statements of a batch, and the text of one: the same for all plugins.
    Statements,
}

impl DataError {
    pub(super) fn invalid(text: impl AsRef<str>) -> Self {
        Self::Invalid(shortened(text.as_ref()))
    }

    pub(super) fn constraint(name: impl AsRef<str>) -> Self {
        Self::Constraint(shortened(name.as_ref()))
    }

    pub(super) fn rows(limits: &StatementLimits) -> Self {
        Self::Limit(LimitKind::Rows, format!("rows: {}", limits.rows))
    }

    pub(super) fn bytes(limits: &StatementLimits) -> Self {
        Self::Limit(LimitKind::Bytes, format!("bytes: {}", limits.bytes))
    }

    pub(super) fn time(limit: Duration) -> Self {
        Self::Limit(LimitKind::Time, format!("statement time: {} ms", limit.as_millis()))
    }

    pub(super) fn connections(limits: &StatementLimits) -> Self {
        Self::Limit(LimitKind::Connections, format!("connections: {}", limits.connections))
    }

    pub(super) fn disk(limits: &StatementLimits) -> Self {
        Self::Limit(LimitKind::Disk, format!("disk: {} bytes", limits.disk))
    }

    /// Returns the error of every statement after the first error of a transaction, on both databases.
    pub(super) fn failed_transaction() -> Self {
        Self::invalid("an earlier statement of this transaction failed; it can only be rolled back")
    }
}

impl From<Refused> for DataError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(text) => Self::invalid(text),
            Refused::TooLong(limit) => Self::Limit(LimitKind::Statements, format!("statement bytes: {limit}")),
        }
    }
}

/// Cuts a text to the longest length of an error.
pub(super) fn shortened(text: &str) -> String {
    let start = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
    if start.len() == text.len() { start.to_owned() } else { format!("{start}…") }
}
