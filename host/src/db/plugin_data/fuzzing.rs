//! Entry points for the fuzz targets (`tests/fuzz`), compiled only for them: the checks of a plugin's SQL, and the
//! conversion of values to and from the databases' formats, without a database server. Has no state and no checks of
//! its own: the fuzz target states the properties that must hold.

use std::ops::Range;

use wharf_sql_text::{Lexer, Token};

use super::error::DataError;
pub use super::postgres::fuzzing as postgres;
pub use super::sqlite::fuzzing as sqlite;
use super::statement;
use super::statement_limits::StatementLimits;
use super::value::{Statement, Value};

/// The database whose rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

impl From<Dialect> for wharf_sql_text::Dialect {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Sqlite => Self::Sqlite,
            Dialect::Postgres => Self::Postgres,
        }
    }
}

/// The kind of a token, as far as a fuzz target can check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword, a bare or a quoted name, a literal.
    Text,
    /// `$7`
    Parameter(u16),
    /// Any other character.
    Symbol(u8),
    /// A spelling that is refused.
    Refused,
}

/// Returns the tokens of a text, each with its byte range.
pub fn tokens(dialect: Dialect, sql: &str) -> Vec<(TokenKind, Range<usize>)> {
    let kind = |token| match token {
        Token::Word(_) | Token::Name(_) | Token::Literal => TokenKind::Text,
        Token::Parameter(number) => TokenKind::Parameter(number),
        Token::Symbol(byte) => TokenKind::Symbol(byte),
        Token::Refused(_) => TokenKind::Refused,
    };
    Lexer::new(dialect.into(), sql).map(|(token, range)| (kind(token), range)).collect()
}

/// Returns the text of a run-time statement as it goes to the database, and whether it certainly reads or certainly
/// writes.
///
/// # Errors
/// The statement is refused.
pub fn admitted(
    dialect: Dialect,
    sql: &str,
    params: Vec<Value>,
    limits: &StatementLimits,
) -> Result<(String, bool, bool), DataError> {
    let mut statement = Statement::new(sql, params);
    let verb = statement::admit(dialect.into(), &mut statement, limits)?.verb;
    Ok((statement.sql, verb.reads(), verb.surely_writes()))
}

/// Returns the statements of a migration.
///
/// # Errors
/// The migration is refused.
pub fn migration(dialect: Dialect, sql: &str) -> Result<Vec<&str>, DataError> {
    wharf_sql_text::check_migration(dialect.into(), sql).map_err(|refused| refused.reason.into())
}
