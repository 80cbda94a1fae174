//! What goes into a statement and what comes out: values, statements, rows, and the limits both are held to. Knows
//! neither database.

use std::time::Duration;

use super::DataError;
use crate::config;

/// Mirrors `wharf:sql/database.value`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL of any type.
    Null,
    /// SQLite keeps it as 0 or 1; it comes back as a boolean from a column declared BOOLEAN.
    Boolean(bool),
    /// Also fills smallint, integer, numeric, float and (0 or 1) boolean parameters on PostgreSQL.
    Integer(i64),
    /// Never NaN as a parameter.
    Real(f64),
    /// Also fills uuid, timestamptz, timestamp, date, time, numeric, json, jsonb and enum parameters on PostgreSQL.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// What it weighs against the limit on bytes; an empty one too has its place in memory.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len().max(8),
            Self::Blob(bytes) => bytes.len().max(8),
            Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Real(_) => 8,
        }
    }

    /// What it takes in the host's memory.
    fn memory(&self) -> usize {
        let beside = match self {
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
            Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Real(_) => 0,
        };
        size_of::<Self>().saturating_add(beside)
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a real",
            Self::Text(_) => "a text",
            Self::Blob(_) => "a blob",
        }
    }
}

/// One statement with a value for each of its `$1…$n`.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The text of exactly one statement.
    pub sql: String,
    /// The values, `$1` first.
    pub params: Vec<Value>,
}

impl Statement {
    /// A statement.
    pub fn new(sql: impl Into<String>, params: impl Into<Vec<Value>>) -> Self {
        Self { sql: sql.into(), params: params.into() }
    }

    /// What it takes in the host's memory.
    pub fn memory(&self) -> usize {
        self.params.iter().fold(self.sql.len(), |sum, value| sum.saturating_add(value.memory()))
    }

    /// Refuses what neither database may see: too many bytes, NaN (SQLite would store NULL) and NUL in a text (PostgreSQL
    /// has no such text).
    pub(super) fn check_values(&self, limits: &Limits) -> Result<(), DataError> {
        let mut bytes = 0_usize;
        for (number, value) in (1..).zip(&self.params) {
            bytes = bytes.saturating_add(value.weight());
            match value {
                Value::Real(real) if real.is_nan() => {
                    return Err(DataError::invalid(format!("parameter ${number} is not a number (NaN)")));
                }
                Value::Text(text) if text.as_bytes().contains(&0) => {
                    return Err(DataError::invalid(format!("parameter ${number} contains the character NUL")));
                }
                _ => {}
            }
        }
        if bytes > limits.bytes { Err(DataError::bytes(limits)) } else { Ok(()) }
    }
}

/// An answer; empty for a statement that gives none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// Row by row, as many values as columns.
    pub values: Vec<Vec<Value>>,
}

impl Rows {
    /// What they take in the host's memory.
    pub fn memory(&self) -> usize {
        let names = self.columns.iter().map(String::len);
        let rows = self.values.len().saturating_mul(size_of::<Vec<Value>>());
        names.chain(self.values.iter().flatten().map(Value::memory)).fold(rows, usize::saturating_add)
    }
}

/// What every statement of a plugin is held to.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rows of one answer (of all answers of a batch together).
    pub rows: usize,
    /// Bytes of one answer, and of one statement's parameters.
    pub bytes: usize,
    /// Time of one statement; also how long it may wait for a connection.
    pub time: Duration,
    /// Connections of one plugin.
    pub connections: u32,
    /// Bytes of disk that the database may take. Migrations are not held to it.
    pub disk: u64,
}

impl From<&config::Plugins> for Limits {
    fn from(config: &config::Plugins) -> Self {
        Self {
            rows: config.sql_rows,
            bytes: config.sql_bytes,
            time: config.sql_time,
            connections: config.sql_connections.max(1),
            disk: config.sql_disk_bytes,
        }
    }
}

/// Counts an answer while it arrives, so that one beyond the limits is cut off rather than held in memory.
#[derive(Debug)]
pub(super) struct Budget<'a> {
    limits: &'a Limits,
    rows: usize,
    bytes: usize,
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self { limits, rows: 0, bytes: 0 }
    }

    pub(super) fn row(&mut self) -> Result<(), DataError> {
        self.rows = self.rows.saturating_add(1);
        if self.rows > self.limits.rows { Err(DataError::rows(self.limits)) } else { Ok(()) }
    }

    /// Whether a value that came as so many bytes may be looked at: one that cannot be within the limit is not even copied.
    /// What travels may be framed by a few bytes more than its value has.
    pub(super) fn admits(&self, raw: usize) -> Result<(), DataError> {
        const FRAME: usize = 16;
        let bytes = self.bytes.saturating_add(raw.saturating_sub(FRAME));
        if bytes > self.limits.bytes { Err(DataError::bytes(self.limits)) } else { Ok(()) }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<(), DataError> {
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes > self.limits.bytes { Err(DataError::bytes(self.limits)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_as_it_came_is_not_looked_at() {
        let limits = Limits { rows: 1, bytes: 100, time: Duration::ZERO, connections: 1, disk: 1 };
        let mut budget = Budget::new(&limits);
        assert!(budget.admits(101).is_ok(), "framed, it may be within");
        assert!(budget.admits(117).is_err());
        budget.bytes(90).unwrap();
        assert!(budget.admits(27).is_err());
        assert!(budget.admits(10).is_ok() && budget.bytes(11).is_err());
    }
}
