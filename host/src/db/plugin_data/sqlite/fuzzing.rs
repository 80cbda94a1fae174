//! The way in for fuzzers (`tests/fuzz`), and in no other build: one statement on a database in memory, set up like a
//! plugin's.

use std::path::Path;

use super::connection::{Connection, Refusal};
use crate::db::plugin_data::value::{Budget, Limits};
use crate::db::plugin_data::{DataError, Rows, Value};

/// A database in memory.
pub struct Memory(Connection);

impl Memory {
    /// An empty one.
    ///
    /// # Errors
    /// It does not open.
    pub fn open(limits: &Limits) -> Result<Self, DataError> {
        Connection::open(Path::new(":memory:"), limits, true).map(Self)
    }

    /// What a statement answers.
    ///
    /// # Errors
    /// SQLite refuses it, or it is beyond a limit.
    pub fn ask(&mut self, sql: &str, params: &[Value], limits: &Limits) -> Result<Rows, DataError> {
        let outcome = self.0.statement(sql, params, limits, &mut Budget::new(limits));
        outcome.map(|outcome| outcome.rows).map_err(|refusal| match refusal {
            Refusal::Failed(error) => error,
            Refusal::Writes => DataError::Unavailable,
        })
    }
}
