//! The way in for fuzzers (`tests/fuzz`), and in no other build: what is read of a plugin's SQL, and values to and from
//! what the databases speak, without a database server. Owns nothing, decides nothing, and checks nothing of its own:
//! what must hold is said by the fuzz target.

use std::ops::Range;

use super::lexer::{self, Lexer, Token};
pub use super::postgres::fuzzing as postgres;
pub use super::sqlite::fuzzing as sqlite;
use super::statement;
use super::{DataError, Limits, Statement, Value};

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

impl From<Dialect> for lexer::Dialect {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Sqlite => Self::Sqlite,
            Dialect::Postgres => Self::Postgres,
        }
    }
}

/// What a token is, as far as a fuzzer can say what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A keyword, a bare or a quoted name, a literal.
    Text,
    /// `$7`
    Parameter(u16),
    /// Any other character.
    Symbol(u8),
    /// What is not taken.
    Refused,
}

/// The tokens of a text, each with where it stands.
pub fn tokens(dialect: Dialect, sql: &str) -> Vec<(Sort, Range<usize>)> {
    let sort = |token| match token {
        Token::Word(_) | Token::Name(_) | Token::Literal => Sort::Text,
        Token::Parameter(number) => Sort::Parameter(number),
        Token::Symbol(byte) => Sort::Symbol(byte),
        Token::Refused(_) => Sort::Refused,
    };
    Lexer::new(dialect.into(), sql).map(|(token, range)| (sort(token), range)).collect()
}

/// The text of a run-time statement as it goes to the database, and whether it surely reads or surely writes.
///
/// # Errors
/// It is refused.
pub fn admitted(
    dialect: Dialect,
    sql: &str,
    params: Vec<Value>,
    limits: &Limits,
) -> Result<(String, bool, bool), DataError> {
    let mut statement = Statement::new(sql, params);
    let verb = statement::admit(dialect.into(), &mut statement, limits)?.verb;
    Ok((statement.sql, verb.reads(), verb.surely_writes()))
}

/// The statements of a migration.
///
/// # Errors
/// It is refused.
pub fn migration(dialect: Dialect, sql: &str) -> Result<Vec<&str>, DataError> {
    statement::check_migration(dialect.into(), sql)
}
