//! The plugin's own relational database: a SQLite file or a PostgreSQL schema. The same SQL text runs on both.
//!
//! Statements have parameters `$1`, `$2`, …. Rows are read into structs with `#[derive(FromRow)]` or into tuples;
//! single values are read into any [`FromValue`].
//!
//! ```
//! # wharf_sdk::testing::with_sql("CREATE TABLE note (id TEXT PRIMARY KEY, stars BIGINT)", || {
//! use wharf_sdk::sql::{self, FromRow, params};
//!
//! #[derive(FromRow)]
//! struct Note {
//!     id: String,
//!     stars: i64,
//! }
//!
//! sql::execute("INSERT INTO note (id, stars) VALUES ($1, $2)", params!["a", 3])?;
//! let notes: Vec<Note> = sql::query("SELECT id, stars FROM note WHERE stars > $1", params![2])?;
//! let best: Option<i64> = sql::query_value("SELECT MAX(stars) FROM note", params![])?;
//! # assert_eq!((notes[0].id.as_str(), notes[0].stars, best), ("a", 3, Some(3)));
//! # Ok::<(), sql::Error>(())
//! # }).unwrap();
//! ```

mod row;
mod transaction;
mod value;

use crate::host::sql as host;

pub use crate::bindings::imports::wharf::sql::database::{Error, Statement, Value};
#[doc(inline)]
pub use crate::sql_params as params;
pub use row::{FromRow, Row, Rows, Scalar};
pub(crate) use transaction::note_conflict;
pub use transaction::{Transaction, transaction};
pub use value::FromValue;
pub use wharf_sdk_macros::FromRow;

use crate::Problem;

/// Builds the parameters of a statement: `params![id, title, 3]`. It takes every type that converts to a [`Value`]:
/// texts, integers, floats, booleans, bytes, [`Uuid`](crate::Uuid), [`Timestamp`](crate::Timestamp), JSON values, and
/// `Option` or references of these.
#[doc(hidden)]
#[macro_export]
macro_rules! sql_params {
    ($($value:expr),* $(,)?) => { ::std::vec![$($crate::sql::Value::from($value)),*] };
}

/// Creates one statement of a [`batch`].
pub fn statement(sql: impl Into<String>, params: Vec<Value>) -> Statement {
    Statement { sql: sql.into(), params }
}

/// Runs a statement and returns all rows.
///
/// # Errors
/// See [`Error`]; `?` in a handler turns it into a problem response.
pub fn query<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<Vec<T>, Error> {
    Rows::new(host::query(&statement(sql, params))?).all()
}

/// Runs a statement and returns the first row, if there is one.
///
/// # Errors
/// As [`query`].
pub fn query_optional<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<Option<T>, Error> {
    Rows::new(host::query(&statement(sql, params))?).optional()
}

/// Runs a statement that always returns a row, and returns the first.
///
/// # Errors
/// As [`query`], and [`Error::Invalid`] if there is no row.
pub fn query_one<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<T, Error> {
    Rows::new(host::query(&statement(sql, params))?).one()
}

/// Runs a statement and returns the first column of the first row: `SELECT COUNT(*) …`.
///
/// # Errors
/// As [`query_one`].
pub fn query_value<T: FromValue>(sql: &str, params: Vec<Value>) -> Result<T, Error> {
    query_one::<Scalar<T>>(sql, params).map(|Scalar(value)| value)
}

/// Runs a statement and returns the number of rows that it changed.
///
/// # Errors
/// As [`query`].
pub fn execute(sql: &str, params: Vec<Value>) -> Result<u64, Error> {
    host::execute(&statement(sql, params))
}

/// Runs several statements in one transaction and one call to the host: all of them or none.
///
/// ```
/// # wharf_sdk::testing::with_sql("CREATE TABLE note (id TEXT PRIMARY KEY)", || {
/// use wharf_sdk::sql::{self, params, statement};
///
/// let [ids, count] = sql::batch([
///     statement("SELECT id FROM note LIMIT $1", params![10]),
///     statement("SELECT COUNT(*) FROM note", params![]),
/// ])?;
/// let (ids, count): (Vec<(String,)>, i64) = (ids.all()?, count.value()?);
/// # assert_eq!((ids.len(), count), (0, 0));
/// # Ok::<(), sql::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// The error of the first statement that failed.
pub fn batch<const N: usize>(statements: [Statement; N]) -> Result<[Rows; N], Error> {
    let rows: Vec<Rows> = host::batch(&statements)?.into_iter().map(Rows::new).collect();
    rows.try_into()
        .map_err(|_| Error::Invalid("the host returned the results of another number of statements".to_owned()))
}

/// Does the same as [`batch`] for a number of statements that is only known at run time.
///
/// # Errors
/// The error of the first statement that failed.
pub fn batch_all(statements: &[Statement]) -> Result<Vec<Rows>, Error> {
    Ok(host::batch(statements)?.into_iter().map(Rows::new).collect())
}

/// The problem response to a database error that a handler passes on with `?`: 409 `constraint_violated` for a
/// constraint, 409 `transaction_conflict` for a lost transaction, 503 for a limit and for a database that cannot be
/// reached, and 500 `plugin_error` for an invalid statement, which is a defect of the plugin. The message itself goes
/// to the plugin's log only.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::internal(format_args!("sql: {message}")),
            Error::Constraint(name) => {
                crate::host::diagnostic(format_args!("sql: violates the constraint {name}"));
                Self::conflict("constraint_violated", "This conflicts with stored data")
            }
            Error::Conflict => {
                Self::conflict("transaction_conflict", "The data was changed at the same time, try again")
            }
            Error::Limit(limit) => {
                crate::host::diagnostic(format_args!("sql: exceeds the limit of {limit}"));
                Self::new(503, "database_limit", "The request exceeds a limit of the database")
            }
            Error::Unavailable => {
                Self::new(503, "database_unavailable", "The database cannot be reached, try again later")
            }
        }
    }
}
