//! Entry points for the fuzz targets (`tests/fuzz`), compiled only for them: runs one statement on a database in memory
//! with the settings of a plugin's.

use std::path::Path;

use super::connection::{Connection, RunError};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::result_budget::ResultBudget;
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::plugin_data::value::{Rows, Value};

/// A database in memory.
pub struct Memory(Connection);

impl Memory {
    /// Opens an empty database.
    ///
    /// # Errors
    /// SQLite cannot open it.
    pub fn open(limits: &StatementLimits) -> Result<Self, DataError> {
        Connection::open(Path::new(":memory:"), limits, true).map(Self)
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// SQLite refuses the statement, or it hit a limit.
    pub fn query(&mut self, sql: &str, params: &[Value], limits: &StatementLimits) -> Result<Rows, DataError> {
        let outcome = self.0.statement(sql, params, limits, &mut ResultBudget::new(limits));
        outcome.map(|outcome| outcome.rows).map_err(|refusal| match refusal {
            RunError::Failed(error) => error,
            RunError::NeedsWriter => DataError::Unavailable,
        })
    }
}
