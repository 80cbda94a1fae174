//! Maps SQLite's errors to the errors of `wharf:sql`. Owns the search for the declared name of a constraint: for
//! PRIMARY KEY and UNIQUE, SQLite reports only the columns.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::ffi::{self, ErrorCode};
use wharf_sql_text::{Dialect, Lexer, Token};

use super::control::Control;
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::sqlite_memory::Denial;

/// A disk with less free space counts as full: SQLite writes several pages at once.
const MIN_FREE_BYTES: u64 = 1024 * 1024;

/// The shortest interval between two log entries: a plugin can cause failing statements at any rate.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Maps an error. `limits` is `None` for the host's own statements.
pub(super) fn to_data_error(
    connection: &rusqlite::Connection,
    control: &Control,
    error: rusqlite::Error,
    limits: Option<&StatementLimits>,
) -> DataError {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(code, message) => (code, message.unwrap_or_else(|| code.to_string())),
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, msg),
        rusqlite::Error::MultipleStatement => return DataError::invalid("more than one statement; use a batch"),
        other => return DataError::invalid(other.to_string()),
    };
    let unavailable = || {
        if may_log_now() {
            tracing::error!(code = code.extended_code, message, "a plugin's database failed");
        }
        DataError::Unavailable
    };
    match code.code {
        ErrorCode::ConstraintViolation => match code.extended_code {
            ffi::SQLITE_CONSTRAINT_DATATYPE => DataError::invalid(message),
            _ => DataError::constraint(constraint_name(connection, &message)),
        },
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => DataError::Conflict,
        ErrorCode::OperationInterrupted => limits.map_or(DataError::Unavailable, |limits| DataError::time(limits.time)),
        ErrorCode::OutOfMemory | ErrorCode::SystemIoFailure => match (control.denial(), limits) {
            (Some(Denial::Memory), Some(limits)) => DataError::bytes(limits),
            (Some(Denial::Time), Some(limits)) => DataError::time(limits.time),
            (Some(Denial::Depth), Some(_)) => DataError::invalid("the statement is nested too deep"),
            _ => unavailable(),
        },
        ErrorCode::DiskFull => match limits {
            Some(limits) if !is_disk_full(connection) => DataError::disk(limits),
            _ => unavailable(),
        },
        ErrorCode::TooBig => limits.map_or(DataError::Unavailable, DataError::bytes),
        ErrorCode::Unknown
        | ErrorCode::TypeMismatch
        | ErrorCode::ParameterOutOfRange
        | ErrorCode::AuthorizationForStatementDenied
        | ErrorCode::SchemaChanged
        | ErrorCode::ApiMisuse => DataError::invalid(message),
        // A plugin can write the tables behind its full-text index, and SQLite then reports a corrupt index.
        ErrorCode::DatabaseCorrupt | ErrorCode::InternalMalfunction | ErrorCode::OperationAborted => {
            unavailable();
            DataError::Failed
        }
        _ => unavailable(),
    }
}

/// Returns whether the disk is full rather than the plugin's quota. SQLite reports the same error for both, and has
/// already rolled the statement back, so the size of the file does not tell.
fn is_disk_full(connection: &rusqlite::Connection) -> bool {
    let left = connection.path().and_then(|file| rustix::fs::statvfs(file).ok());
    left.is_none_or(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < MIN_FREE_BYTES)
}

/// Returns whether a failure of the plugins' databases may be logged: a plugin can cause many.
pub(super) fn may_log_now() -> bool {
    static LAST_LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last_logged = LAST_LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let now = last_logged.is_none_or(|last_logged| last_logged.elapsed() >= LOG_INTERVAL);
    if now {
        *last_logged = Some(Instant::now());
    }
    now
}

fn constraint_name(connection: &rusqlite::Connection, message: &str) -> String {
    let Some((kind, what)) = message.split_once(" constraint failed") else { return message.to_owned() };
    let what = what.trim_start_matches(':').trim();
    match kind {
        "FOREIGN KEY" => "foreign key".to_owned(),
        "UNIQUE" => {
            if let Some(index) = what.strip_prefix("index '").and_then(|rest| rest.strip_suffix('\'')) {
                return index.to_owned();
            }
            let mut table = "";
            let columns: Vec<&str> = what
                .split(", ")
                .filter_map(|column| {
                    let (of, name) = column.split_once('.')?;
                    table = of;
                    Some(name)
                })
                .collect();
            declared_name(connection, table, &columns).unwrap_or_else(|| what.to_owned())
        }
        _ => what.to_owned(),
    }
}

/// Returns the name of the unique index or constraint of `table` on exactly `columns`. The lookup is the host's own
/// statement; it only reads the schema, which every mode allows.
fn declared_name(connection: &rusqlite::Connection, table: &str, columns: &[&str]) -> Option<String> {
    const SQL: &str = "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name = $1 AND type IN ('index', 'table') \
                       AND sql IS NOT NULL ORDER BY type, name";
    let mut statement = connection.prepare_cached(SQL).ok()?;
    let mut rows = statement.query([table]).ok()?;
    while let Ok(Some(row)) = rows.next() {
        let kind: String = row.get(0).ok()?;
        let sql: String = row.get(2).ok()?;
        if kind == "index" {
            if unique_index_columns(&sql).is_some_and(|of| same(&of, columns)) {
                return row.get(1).ok();
            }
        } else if let Some(name) = named_constraints(&sql).into_iter().find(|(_, of)| same(of, columns)) {
            return Some(name.0);
        }
    }
    None
}

fn same(one: &[String], other: &[&str]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.eq_ignore_ascii_case(other))
}

fn name(token: Token<'_>) -> Option<String> {
    match token {
        Token::Word(word) => Some(word.to_owned()),
        Token::Name(quoted) => {
            let quote = quoted.get(..1)?;
            Some(quoted.get(1..quoted.len().saturating_sub(1))?.replace(&quote.repeat(2), quote))
        }
        _ => None,
    }
}

fn is(token: Token<'_>, keyword: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
}

type Tokens<'a> = std::iter::Peekable<Box<dyn Iterator<Item = Token<'a>> + 'a>>;

fn tokens(sql: &str) -> Tokens<'_> {
    let tokens: Box<dyn Iterator<Item = Token<'_>>> =
        Box::new(Lexer::new(Dialect::Sqlite, sql).map(|(token, _)| token));
    tokens.peekable()
}

/// Returns the first word of each member of a list in parentheses; the next token is `(`.
fn list(tokens: &mut Tokens<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0_u32;
    let mut first = true;
    for token in tokens {
        match token {
            Token::Symbol(b'(') => depth = depth.saturating_add(1),
            Token::Symbol(b')') if depth <= 1 => break,
            Token::Symbol(b')') => depth = depth.saturating_sub(1),
            Token::Symbol(b',') if depth == 1 => first = true,
            token if first => {
                names.extend(name(token));
                first = false;
            }
            _ => {}
        }
    }
    names
}

fn unique_index_columns(sql: &str) -> Option<Vec<String>> {
    let mut tokens = tokens(sql);
    tokens.next();
    if !is(tokens.next()?, "unique") {
        return None;
    }
    while *tokens.peek()? != Token::Symbol(b'(') {
        tokens.next();
    }
    Some(list(&mut tokens))
}

/// Returns the named UNIQUE and PRIMARY KEY constraints of a CREATE TABLE, with their columns.
fn named_constraints(sql: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut tokens = tokens(sql);
    let mut depth = 0_u32;
    let mut column = None;
    let mut at_start = false;
    let mut pending = None;
    while let Some(token) = tokens.next() {
        match token {
            Token::Symbol(b'(') => {
                depth = depth.saturating_add(1);
                at_start |= depth == 1;
            }
            Token::Symbol(b')') => depth = depth.saturating_sub(1),
            Token::Symbol(b',') if depth == 1 => at_start = true,
            _ if depth != 1 => {}
            token if is(token, "constraint") => {
                at_start = false;
                pending = tokens.next().and_then(name);
            }
            token if is(token, "unique") || is(token, "primary") => {
                at_start = false;
                if is(token, "primary") {
                    tokens.next_if(|next| is(*next, "key"));
                }
                let columns = if tokens.peek() == Some(&Token::Symbol(b'(')) {
                    list(&mut tokens)
                } else {
                    column.clone().into_iter().collect()
                };
                found.extend(pending.take().map(|name| (name, columns)));
            }
            token if at_start => {
                column = name(token);
                at_start = false;
                pending = None;
            }
            token if is(token, "check") || is(token, "references") || is(token, "foreign") || is(token, "not") => {
                pending = None;
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_name_of_a_constraint_is_found() {
        let sql = "CREATE TABLE items (id TEXT CONSTRAINT items_pk PRIMARY KEY, price NUMERIC(10, 2) CONSTRAINT positive \
                   CHECK (price > 0), \"e mail\" TEXT CONSTRAINT items_email_key UNIQUE, owner TEXT UNIQUE, title TEXT, \
                   CONSTRAINT \"items_owner_title_key\" UNIQUE (owner, title COLLATE NOCASE), CHECK (title <> ''))";
        let found = named_constraints(sql);
        let expected = [
            ("items_pk", vec!["id"]),
            ("items_email_key", vec!["e mail"]),
            ("items_owner_title_key", vec!["owner", "title"]),
        ];
        let found: Vec<(&str, Vec<&str>)> =
            found.iter().map(|(name, columns)| (name.as_str(), columns.iter().map(String::as_str).collect())).collect();
        assert_eq!(found, expected);
        let index = "CREATE UNIQUE INDEX \"i\" ON t (a, lower(b))";
        assert_eq!(unique_index_columns(index), Some(vec!["a".to_owned(), "lower".to_owned()]));
        assert_eq!(unique_index_columns("CREATE INDEX i ON t (a)"), None);
    }
}
