//! Transactions in which the plugin decides between the statements.

use super::{Error, FromRow, FromValue, Rows, Scalar, Value, host, statement};
use std::cell::Cell;

/// How often the work of a transaction runs while it loses.
const TRIES: u32 = 5;

thread_local! {
    /// Whether the open transaction has lost. A call has one transaction at a time.
    static LOST: Cell<bool> = const { Cell::new(false) };
}

/// An open transaction. It commits when the function passed to [`transaction`] returns `Ok`.
#[derive(Debug)]
pub struct Transaction(host::Transaction);

/// Runs `work` in a transaction. `Ok` commits it; `Err`, a trap and a timeout roll it back. If there is nothing to
/// decide between the statements, use [`batch`](super::batch), which makes one call to the host.
///
/// Transactions of a plugin run at the same time. On PostgreSQL, one that read what another one changed loses, and not only
/// if both concern the same row. Then `work` runs again, up to five times in all. So it does nothing that a rollback does not
/// undo, such as a request to another server. Its events, jobs and mails belong to the transaction.
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
/// The error of `work`, or the database's error at begin and commit. [`Error::Conflict`] means that it lost each time.
/// [`Error::Limit`] of the disk at the commit can mean that an event, a job or a mail did not fit.
pub fn transaction<T, E: From<Error>>(mut work: impl FnMut(&mut Transaction) -> Result<T, E>) -> Result<T, E> {
    let mut tries = 1;
    loop {
        let mut transaction = Transaction(host::Transaction::begin()?);
        LOST.set(false);
        let ended = match work(&mut transaction) {
            Ok(value) => noted(host::Transaction::commit(transaction.0)).map(|()| value).map_err(E::from),
            Err(error) => {
                // The first error is the one to report. The host rolls back in any case.
                let _ = host::Transaction::rollback(transaction.0);
                Err(error)
            }
        };
        if ended.is_ok() || !LOST.get() || tries == TRIES {
            return ended;
        }
        tries += 1;
    }
}

/// Records that the open transaction has lost.
pub(crate) fn note_conflict() {
    LOST.set(true);
}

/// Records it if that is the error.
fn noted<T>(result: Result<T, Error>) -> Result<T, Error> {
    if matches!(result, Err(Error::Conflict)) {
        note_conflict();
    }
    result
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
        noted(self.0.execute(&statement(sql, params)))
    }

    fn rows(&mut self, sql: &str, params: Vec<Value>) -> Result<Rows, Error> {
        noted(self.0.query(&statement(sql, params))).map(Rows::new)
    }
}

#[cfg(all(test, feature = "testing", not(target_arch = "wasm32")))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::Uuid;
    use crate::email::Message;
    use crate::host::stand_in::state::with;
    use crate::sql::{params, query_value};
    use crate::testing::with_sql;

    /// Runs a transaction that loses so many times, and returns how often its work ran and the rows that it left.
    fn run(losses: u32) -> (Result<(), Error>, u32, i64) {
        with_sql("CREATE TABLE n (id BIGINT PRIMARY KEY)", || {
            let mut runs = 0;
            let ended = transaction(|tx| {
                runs += 1;
                tx.execute("INSERT INTO n VALUES (1)", params![])?;
                if runs <= losses { noted(Err(Error::Conflict)) } else { Ok(()) }
            });
            (ended, runs, query_value("SELECT COUNT(*) FROM n", params![]).unwrap())
        })
    }

    #[test]
    fn a_transaction_that_loses_runs_again() {
        assert_eq!(run(0), (Ok(()), 1, 1));
        assert_eq!(run(4), (Ok(()), 5, 1));
        assert_eq!(run(5), (Err(Error::Conflict), 5, 0));
    }

    #[test]
    fn the_messages_of_a_try_that_loses_are_lost_with_it() {
        let subjects = with_sql("CREATE TABLE n (id BIGINT PRIMARY KEY)", || {
            let mut runs = 0;
            let ended = transaction(|_| {
                runs += 1;
                Message::to_account(Uuid::nil()).subject(runs).send().unwrap();
                if runs < 3 { noted(Err(Error::Conflict)) } else { Ok(()) }
            });
            ended.unwrap();
            with(|host| host.messages.mails.iter().map(|mail| mail.message.subject.clone()).collect::<Vec<_>>())
        });
        assert_eq!(subjects, ["3"]);
    }

    #[test]
    fn an_error_of_the_work_ends_it() {
        with_sql("CREATE TABLE n (id BIGINT PRIMARY KEY)", || {
            let mut runs = 0;
            let ended = transaction(|_| {
                runs += 1;
                Err::<(), _>(Error::Constraint("n.id".to_owned()))
            });
            assert_eq!((ended, runs), (Err(Error::Constraint("n.id".to_owned())), 1));
        });
    }
}
