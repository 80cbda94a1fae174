//! Transactions in which the plugin decides between the statements.

use super::{Error, FromRow, FromValue, Rows, Scalar, Value, host, statement};

/// An open transaction. It commits when the function passed to [`transaction`] returns `Ok`.
#[derive(Debug)]
pub struct Transaction(host::Transaction);

/// Runs `work` in a transaction. `Ok` commits it; `Err`, a trap and a timeout roll it back. If there is nothing to
/// decide between the statements, use [`batch`](super::batch), which makes one call to the host.
///
/// ```
/// # wharf_sdk::testing::with_sql("CREATE TABLE account (id TEXT PRIMARY KEY, money BIGINT NOT NULL)", || {
/// use wharf_sdk::prelude::*;
/// use wharf_sdk::sql::{self, params};
///
/// # sql::execute("INSERT INTO account VALUES ('a', 10), ('b', 0)", params![])?;
/// fn transfer(from: &str, to: &str, amount: i64) -> Result<()> {
///     sql::transaction(|tx| {
///         let money: i64 = tx.query_value("SELECT money FROM account WHERE id = $1", params![from])?;
///         if money < amount {
///             return Err(Problem::conflict("not_enough", "Not enough money"));
///         }
///         tx.execute("UPDATE account SET money = money - $2 WHERE id = $1", params![from, amount])?;
///         tx.execute("UPDATE account SET money = money + $2 WHERE id = $1", params![to, amount])?;
///         Ok(())
///     })
/// }
///
/// transfer("a", "b", 7)?;
/// assert!(transfer("a", "b", 7).is_err());
/// # Ok::<(), Problem>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// The error of `work`, or the database's error at begin and commit. After [`Error::Conflict`] the transaction can be
/// retried.
pub fn transaction<T, E: From<Error>>(work: impl FnOnce(&mut Transaction) -> Result<T, E>) -> Result<T, E> {
    let mut transaction = Transaction(host::Transaction::begin()?);
    match work(&mut transaction) {
        Ok(value) => {
            host::Transaction::commit(transaction.0)?;
            Ok(value)
        }
        Err(error) => {
            // The first error is the one to report. The host rolls back in any case.
            let _ = host::Transaction::rollback(transaction.0);
            Err(error)
        }
    }
}

impl Transaction {
    /// Runs a statement and returns all rows.
    ///
    /// # Errors
    /// As [`query`](super::query).
    pub fn query<T: FromRow>(&mut self, sql: &str, params: Vec<Value>) -> Result<Vec<T>, Error> {
        self.rows(sql, params)?.all()
    }

    /// Runs a statement and returns the first row, if there is one.
    ///
    /// # Errors
    /// As [`query`](super::query).
    pub fn query_optional<T: FromRow>(&mut self, sql: &str, params: Vec<Value>) -> Result<Option<T>, Error> {
        self.rows(sql, params)?.optional()
    }

    /// Runs a statement that always returns a row, and returns the first.
    ///
    /// # Errors
    /// As [`query_one`](super::query_one).
    pub fn query_one<T: FromRow>(&mut self, sql: &str, params: Vec<Value>) -> Result<T, Error> {
        self.rows(sql, params)?.one()
    }

    /// Runs a statement and returns the first column of the first row.
    ///
    /// # Errors
    /// As [`query_one`](super::query_one).
    pub fn query_value<T: FromValue>(&mut self, sql: &str, params: Vec<Value>) -> Result<T, Error> {
        self.query_one::<Scalar<T>>(sql, params).map(|Scalar(value)| value)
    }

    /// Runs a statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// As [`query`](super::query).
    pub fn execute(&mut self, sql: &str, params: Vec<Value>) -> Result<u64, Error> {
        self.0.execute(&statement(sql, params))
    }

    fn rows(&mut self, sql: &str, params: Vec<Value>) -> Result<Rows, Error> {
        self.0.query(&statement(sql, params)).map(Rows::new)
    }
}
