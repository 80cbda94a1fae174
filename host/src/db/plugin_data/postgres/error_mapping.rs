//! Maps PostgreSQL's errors to the errors of `wharf:sql`.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::db::plugin_data::error::{DataError, shortened};
use crate::db::plugin_data::statement_limits::StatementLimits;

/// After a longer error a connection is closed, because its buffer would keep that much memory.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// The same text for each object that a plugin cannot reach, so that it does not tell whether the object exists.
pub(super) const OUTSIDE: &str = "the statement names an object of another kind, or outside the plugin's own database";

/// Returns whether the connection can still be used after the error.
pub(super) fn leaves_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| {
            let is_long = error.message().len() > MAX_ERROR_BYTES;
            error.severity() == PgSeverity::Error && class(error.code()) != "XX" && !is_long
        }),
        sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// Returns whether a cached plan is invalid because a table was altered meanwhile.
pub(super) fn is_stale_plan(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.code().as_deref() == Some("0A000") && error.message().contains("cached plan must not change")
    })
}

fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

pub(super) fn to_data_error(error: sqlx::Error, limits: &StatementLimits) -> DataError {
    if is_stale_plan(&error) {
        return DataError::Conflict;
    }
    let sqlx::Error::Database(error) = error else {
        return match error {
            sqlx::Error::Encode(error) => DataError::invalid(error.to_string()),
            error => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a plugin's database cannot be reached");
                // Everything else, such as a message that the driver cannot read, can be the statement's doing.
                match error {
                    sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                        DataError::Unavailable
                    }
                    _ => DataError::Failed,
                }
            }
        };
    };
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else { return DataError::Unavailable };
    match error.code() {
        "40001" | "40P01" | "55P03" => DataError::Conflict,
        // Only the statement timeout cancels statements.
        "57014" => DataError::time(limits.time),
        "54000" => DataError::bytes(limits),
        code if class(code) == "23" => DataError::constraint(constraint_name(error)),
        code if matches!(class(code), "08" | "53" | "57" | "58" | "F0" | "XX") || matches!(code, "25006" | "25P03") => {
            tracing::warn!(code, message = shortened(error.message()), "a plugin's database failed");
            if can_be_caused(code, error.message()) { DataError::Failed } else { DataError::Unavailable }
        }
        "28000" | "28P01" | "3D000" => {
            tracing::error!(message = shortened(error.message()), "a plugin's role cannot log in");
            DataError::Unavailable
        }
        code if reveals_other_schemas(code, error.message()) => DataError::invalid(OUTSIDE),
        _ => DataError::invalid(error.message()),
    }
}

/// Returns whether a statement can cause the failure: protocol_violation (a value for a type of the plugin whose binary
/// form is another one), out_of_memory, configuration_limit_exceeded (temporary files),
/// idle_in_transaction_session_timeout, and internal errors, which some functions raise for odd arguments. If the lock
/// tables of the whole server are full, another plugin can be the cause.
fn can_be_caused(code: &str, message: &str) -> bool {
    if code == "53200" && message == "out of shared memory" {
        return false;
    }
    matches!(code, "08P01" | "53200" | "53400" | "25P03") || class(code) == "XX"
}

/// Returns whether the message would reveal whether an object of another plugin exists: PostgreSQL distinguishes a
/// denied object, a missing schema, and a missing object in a schema. A plugin must not learn which other plugins
/// exist.
fn reveals_other_schemas(code: &str, message: &str) -> bool {
    // insufficient_privilege, wrong_object_type, invalid_schema_name; and with the name of a schema: undefined_table,
    // undefined_object, undefined_function.
    matches!(code, "42501" | "42809" | "3F000")
        || matches!(code, "42P01" | "42704" | "42883") && message.contains('.')
        // Roles have the names of plugins.
        || code == "42704" && message.starts_with("role ")
}

fn constraint_name(error: &PgDatabaseError) -> String {
    match (error.constraint(), error.table(), error.column()) {
        (Some(name), _, _) => name.to_owned(),
        (None, Some(table), Some(column)) => format!("{table}.{column}"),
        (None, Some(table), None) => table.to_owned(),
        _ => shortened(error.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_that_another_plugin_can_cause_excuse_a_plugin() {
        for (code, message) in [
            ("08P01", "insufficient data left in message"),
            ("53200", "out of memory"),
            ("XX000", "cache lookup failed"),
        ] {
            assert!(can_be_caused(code, message), "{code}");
        }
        for (code, message) in [("53200", "out of shared memory"), ("53300", "too many clients"), ("57P01", "shutdown")]
        {
            assert!(!can_be_caused(code, message), "{code}");
        }
    }

    #[test]
    fn an_error_about_a_role_or_another_schema_is_not_passed_on() {
        for (code, message) in [
            ("42501", "permission denied for schema plugin_two"),
            ("3F000", "schema \"plugin_two\" does not exist"),
            ("42704", "role \"wharf_1_two\" does not exist"),
            ("42704", "type \"plugin_two.x\" does not exist"),
        ] {
            assert!(reveals_other_schemas(code, message), "{message}");
        }
        assert!(!reveals_other_schemas("42704", "type \"money2\" does not exist"));
    }
}
