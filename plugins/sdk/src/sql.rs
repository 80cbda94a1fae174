//! The plugin's own relational database: a SQLite file or a PostgreSQL schema, spoken to with one SQL text.
//!
//! Statements have `$1`-style parameters. Rows are read into structs with `#[derive(FromRow)]` or into tuples, single
//! values into any [`FromValue`].
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
pub use row::{FromRow, Row, Rows};
pub use transaction::{Transaction, transaction};
pub use value::{FromValue, Scalar};
pub use wharf_sdk_macros::FromRow;

use crate::Problem;

/// The parameters of a statement: `params![id, title, 3]`. Takes whatever turns into a [`Value`]: texts, integers,
/// floats, booleans, bytes, [`Uuid`](crate::Uuid), [`Timestamp`](crate::Timestamp), JSON values, and `Option` or
/// references of these.
#[doc(hidden)]
#[macro_export]
macro_rules! sql_params {
    ($($value:expr),* $(,)?) => { ::std::vec![$($crate::sql::Value::from($value)),*] };
}

/// One statement of a [`batch`].
pub fn statement(sql: impl Into<String>, params: Vec<Value>) -> Statement {
    Statement { sql: sql.into(), params }
}

/// All rows.
///
/// # Errors
/// See [`Error`]; `?` in a handler turns it into an answer.
pub fn query<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<Vec<T>, Error> {
    Rows::new(host::query(&statement(sql, params))?).all()
}

/// The first row, if there is one.
///
/// # Errors
/// As [`query`].
pub fn query_optional<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<Option<T>, Error> {
    Rows::new(host::query(&statement(sql, params))?).optional()
}

/// The first row of a statement that always has one.
///
/// # Errors
/// As [`query`], and [`Error::Invalid`] without a row.
pub fn query_one<T: FromRow>(sql: &str, params: Vec<Value>) -> Result<T, Error> {
    Rows::new(host::query(&statement(sql, params))?).one()
}

/// The first column of the first row: `SELECT COUNT(*) …`.
///
/// # Errors
/// As [`query_one`].
pub fn query_value<T: FromValue>(sql: &str, params: Vec<Value>) -> Result<T, Error> {
    query_one::<Scalar<T>>(sql, params).map(|Scalar(value)| value)
}

/// How many rows the statement changed.
///
/// # Errors
/// As [`query`].
pub fn execute(sql: &str, params: Vec<Value>) -> Result<u64, Error> {
    host::execute(&statement(sql, params))
}

/// Several statements in one transaction and one crossing to the host: all or nothing.
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
/// That of the first statement that failed.
pub fn batch<const N: usize>(statements: [Statement; N]) -> Result<[Rows; N], Error> {
    let rows: Vec<Rows> = host::batch(&statements)?.into_iter().map(Rows::new).collect();
    rows.try_into().map_err(|_| Error::Invalid("the host answered another number of statements".to_owned()))
}

/// As [`batch`], for a number of statements that is known only when running.
///
/// # Errors
/// That of the first statement that failed.
pub fn batch_all(statements: &[Statement]) -> Result<Vec<Rows>, Error> {
    Ok(host::batch(statements)?.into_iter().map(Rows::new).collect())
}

/// What a client is answered when a handler passes a database error on with `?`. The message itself only goes to the
/// plugin's log: a constraint to 409 `constraint_violated`, a lost transaction to 409 `transaction_conflict`, a limit and
/// a database out of reach to 503, and a wrong statement, which is the plugin's own fault, to 500 `plugin_error`.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::internal(format_args!("sql: {message}")),
            Error::Constraint(name) => {
                crate::host::diagnostic(format_args!("sql: refused by the constraint {name}"));
                Self::conflict("constraint_violated", "This contradicts what is stored")
            }
            Error::Conflict => Self::conflict("transaction_conflict", "Changed by somebody else meanwhile, try again"),
            Error::Limit(limit) => {
                crate::host::diagnostic(format_args!("sql: beyond the limit of {limit}"));
                Self::new(503, "database_limit", "The request needs more of the database than it may use")
            }
            Error::Unavailable => {
                Self::new(503, "database_unavailable", "The database cannot be reached, try again later")
            }
        }
    }
}
