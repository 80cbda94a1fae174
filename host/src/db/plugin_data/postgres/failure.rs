//! PostgreSQL's errors in the terms of `wharf:sql`.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::db::plugin_data::DataError;
use crate::db::plugin_data::error::cut;
use crate::db::plugin_data::value::Limits;

/// An error of more bytes leaves a connection behind that keeps as much memory for what comes next.
const KEPT: usize = 64 * 1024;

/// Whether the error says nothing about the connection: it can be used on.
pub(super) fn leaves_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| {
            let is_long = error.message().len() > KEPT;
            error.severity() == PgSeverity::Error && class(error.code()) != "XX" && !is_long
        }),
        sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// Whether a cached plan no longer fits because a table was altered meanwhile.
pub(super) fn is_stale_plan(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.code().as_deref() == Some("0A000") && error.message().contains("cached plan must not change")
    })
}

fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

pub(super) fn of(error: sqlx::Error, limits: &Limits) -> DataError {
    if is_stale_plan(&error) {
        return DataError::Conflict;
    }
    let sqlx::Error::Database(error) = error else {
        return match error {
            sqlx::Error::Encode(error) => DataError::invalid(error.to_string()),
            error => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a plugin's database cannot be reached");
                DataError::Unavailable
            }
        };
    };
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else { return DataError::Unavailable };
    match error.code() {
        "40001" | "40P01" | "55P03" => DataError::Conflict,
        // The statement was cancelled, which only its timeout does.
        "57014" => DataError::time(limits.time),
        "54000" => DataError::bytes(limits),
        code if class(code) == "23" => DataError::constraint(constraint_name(error)),
        code if matches!(class(code), "08" | "53" | "57" | "58" | "F0" | "XX") || code == "25P03" => {
            tracing::warn!(code, message = cut(error.message()), "a plugin's database failed");
            DataError::Unavailable
        }
        "28000" | "28P01" | "3D000" => {
            tracing::error!(message = cut(error.message()), "a plugin's role cannot log in");
            DataError::Unavailable
        }
        code if tells_of_others(code, error.message()) => {
            DataError::invalid("what the statement names beyond the plugin's own database is not there for it")
        }
        _ => DataError::invalid(error.message()),
    }
}

/// Whether the message tells what is another's from what is not there: not allowed, no such schema, and no such thing in it.
/// Whether there is a schema of another plugin is nothing that a plugin learns.
fn tells_of_others(code: &str, message: &str) -> bool {
    // insufficient_privilege, invalid_schema_name; undefined_table, undefined_object and undefined_function of a schema that
    // is named.
    matches!(code, "42501" | "3F000") || matches!(code, "42P01" | "42704" | "42883") && message.contains('.')
}

fn constraint_name(error: &PgDatabaseError) -> String {
    match (error.constraint(), error.table(), error.column()) {
        (Some(name), _, _) => name.to_owned(),
        (None, Some(table), Some(column)) => format!("{table}.{column}"),
        (None, Some(table), None) => table.to_owned(),
        _ => cut(error.message()),
    }
}
