//! The database of a test: SQLite in memory. It runs only the statements that the host allows.

use super::state::with;
use crate::bindings::imports::wharf::sql::database::{Error, Rows, Statement, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode};

/// Opens an empty database.
#[allow(clippy::expect_used, reason = "in a test, a panic is how a fault is reported")]
pub(crate) fn open() -> Connection {
    Connection::open_in_memory().expect("SQLite can open a database in memory")
}

pub(crate) fn query(statement: &Statement) -> Result<Rows, Error> {
    with_connection(|connection| run(connection, statement, Place::Outside))
}

pub(crate) fn execute(statement: &Statement) -> Result<u64, Error> {
    count_changes(statement, Place::Outside)
}

/// Where a statement runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a transaction.
    Inside,
    /// Outside any transaction of its own. The host refuses it while one is open, if it writes.
    Outside,
}

fn count_changes(statement: &Statement, place: Place) -> Result<u64, Error> {
    with_connection(|connection| {
        let before = connection.total_changes();
        run(connection, statement, place)?;
        // The rows of the statement itself, as the host counts them: not those that a foreign key deletes too.
        let is_unchanged = connection.total_changes() == before;
        Ok(if is_unchanged { 0 } else { connection.changes() })
    })
}

pub(crate) fn batch(statements: &[Statement]) -> Result<Vec<Rows>, Error> {
    if with(|host| host.has_transaction()) {
        // As in the host, statements that only read can run beside the open transaction.
        return statements.iter().map(query).collect();
    }
    let transaction = Transaction::begin()?;
    let rows = statements.iter().map(|statement| transaction.query(statement)).collect::<Result<_, _>>()?;
    Transaction::commit(transaction)?;
    Ok(rows)
}

/// A transaction. It is rolled back unless it is committed, as in the host.
#[derive(Debug)]
pub(crate) struct Transaction {
    open: bool,
}

impl Transaction {
    pub(crate) fn begin() -> Result<Self, Error> {
        control("BEGIN IMMEDIATE").map(|()| Self { open: true })
    }

    pub(crate) fn query(&self, statement: &Statement) -> Result<Rows, Error> {
        with_connection(|connection| run(connection, statement, Place::Inside))
    }

    pub(crate) fn execute(&self, statement: &Statement) -> Result<u64, Error> {
        count_changes(statement, Place::Inside)
    }

    pub(crate) fn commit(mut this: Self) -> Result<(), Error> {
        control("COMMIT")?;
        this.open = false;
        with(|host| host.messages.commit());
        Ok(())
    }

    pub(crate) fn rollback(mut this: Self) -> Result<(), Error> {
        this.open = false;
        roll_back()
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            let _ = roll_back();
        }
    }
}

fn roll_back() -> Result<(), Error> {
    with(|host| host.messages.uncommitted.clear());
    control("ROLLBACK")
}

fn with_connection<T>(work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    with(|host| work(host.connection.as_ref().ok_or(Error::Unavailable)?))
}

fn control(sql: &str) -> Result<(), Error> {
    with_connection(|connection| connection.execute_batch(sql).map_err(translate_error))
}

fn run(connection: &Connection, Statement { sql, params }: &Statement, place: Place) -> Result<Rows, Error> {
    const ALLOWED: [&str; 6] = ["SELECT", "VALUES", "WITH", "INSERT", "UPDATE", "DELETE"];
    let first = sql.split_whitespace().next().unwrap_or_default();
    if !ALLOWED.iter().any(|word| word.eq_ignore_ascii_case(first)) {
        return Err(Error::Invalid(format!("`{first}` is not a statement that a plugin may run")));
    }
    let mut prepared = connection.prepare(sql).map_err(translate_error)?;
    if place == Place::Outside && !connection.is_autocommit() && !prepared.readonly() {
        let text = "this call has an open transaction: use it, or end it first";
        return Err(Error::Invalid(text.to_owned()));
    }
    let mut highest = 0;
    for index in 1..=prepared.parameter_count() {
        // SQLite numbers parameters by their order in the text; the name `$2` tells the number that is meant.
        let number = prepared.parameter_name(index).and_then(|name| name.get(1..)?.parse::<usize>().ok());
        let number = number.ok_or_else(|| Error::Invalid("parameters are written `$1`, `$2`, …".to_owned()))?;
        let value = params.get(number.wrapping_sub(1));
        let value = value.ok_or_else(|| Error::Invalid(format!("`${number}` has no parameter")))?;
        prepared.raw_bind_parameter(index, to_sqlite(value)).map_err(translate_error)?;
        highest = highest.max(number);
    }
    if highest != params.len() {
        return Err(Error::Invalid(format!("the statement uses {highest} parameters, {} are given", params.len())));
    }
    let columns: Vec<String> = prepared.column_names().into_iter().map(str::to_owned).collect();
    let width = columns.len();
    let mut values = Vec::new();
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next().map_err(translate_error)? {
        let read = |column| row.get_ref(column).map_err(translate_error).and_then(from_sqlite);
        values.push((0..width).map(read).collect::<Result<_, _>>()?);
    }
    Ok(Rows { columns, values })
}

fn to_sqlite(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Boolean(value) => ValueRef::Integer(i64::from(*value)),
        Value::Integer(value) => ValueRef::Integer(*value),
        Value::Real(value) => ValueRef::Real(*value),
        Value::Text(value) => ValueRef::Text(value.as_bytes()),
        Value::Blob(value) => ValueRef::Blob(value),
    })
}

fn from_sqlite(value: ValueRef<'_>) -> Result<Value, Error> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(bytes) => Value::Text(std::str::from_utf8(bytes).map_err(|_| not_utf8())?.to_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

fn not_utf8() -> Error {
    Error::Invalid("a text is not UTF-8".to_owned())
}

/// Translates an error of SQLite as the host does.
#[allow(clippy::needless_pass_by_value, reason = "goes into `map_err`")]
fn translate_error(error: rusqlite::Error) -> Error {
    let message = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => {
            let name = message.split_once("failed: ").map_or(message.as_str(), |(_, name)| name);
            Error::Constraint(name.to_owned())
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Conflict,
        _ => Error::Invalid(message),
    }
}
