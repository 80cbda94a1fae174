//! The input and output of a statement: values, statements and rows. Knows neither database.

use super::error::DataError;
use super::statement_limits::StatementLimits;

/// Mirrors `wharf:sql/database.value`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL of any type.
    Null,
    /// SQLite stores 0 or 1; a column declared BOOLEAN returns a boolean.
    Boolean(bool),
    /// On PostgreSQL also valid for smallint, integer, numeric, float and (0 or 1) boolean parameters.
    Integer(i64),
    /// Never NaN as a parameter.
    Real(f64),
    /// On PostgreSQL also valid for uuid, timestamptz, timestamp, date, time, numeric, json, jsonb and enum parameters.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// Returns the bytes that count against the limit; an empty value counts too, because it takes memory.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len().max(8),
            Self::Blob(bytes) => bytes.len().max(8),
            Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Real(_) => 8,
        }
    }

    /// Returns the bytes that the value takes in the host's memory.
    fn memory(&self) -> usize {
        let heap = match self {
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
            Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Real(_) => 0,
        };
        size_of::<Self>().saturating_add(heap)
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
    /// Creates a statement.
    pub fn new(sql: impl Into<String>, params: impl Into<Vec<Value>>) -> Self {
        Self { sql: sql.into(), params: params.into() }
    }

    /// Returns the bytes that the statement takes in the host's memory.
    pub fn memory(&self) -> usize {
        self.params.iter().fold(self.sql.len(), |sum, value| sum.saturating_add(value.memory()))
    }

    /// Refuses values that neither database may get: too many bytes, NaN (SQLite would store NULL), and NUL in a text
    /// (PostgreSQL has no such text).
    pub(super) fn check_values(&self, limits: &StatementLimits) -> Result<(), DataError> {
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

/// The rows of a result; empty for a statement that returns none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// Row by row, as many values as columns.
    pub values: Vec<Vec<Value>>,
}

impl Rows {
    /// Returns the bytes that the rows take in the host's memory.
    pub fn memory(&self) -> usize {
        let names = self.columns.iter().map(String::len);
        let rows = self.values.len().saturating_mul(size_of::<Vec<Value>>());
        names.chain(self.values.iter().flatten().map(Value::memory)).fold(rows, usize::saturating_add)
    }
}
