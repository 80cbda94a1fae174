//! The rules that hold for every statement of a plugin, at run time and in migrations: reserved names, depth, size, and
//! on PostgreSQL the catalogs and the calls by keyword.

use std::fmt;

use crate::lexer::{Dialect, Token};

/// The longest text of one statement, and of one migration.
const MAX_TEXT: usize = 1024 * 1024;

/// The deepest nesting of parentheses: SQLite parses nested expressions by recursion.
const MAX_DEPTH: u32 = 200;

/// The prefix of names that are reserved for the host in every plugin's database.
pub const RESERVED: &str = "_wharf";

/// The reason why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is wrong; its author must correct it.
    Invalid(String),
    /// It is longer than the limit, which is given in bytes.
    TooLong(usize),
}

impl Refused {
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) => f.write_str(text),
            Self::TooLong(limit) => write!(f, "it is longer than {limit} bytes"),
        }
    }
}

impl std::error::Error for Refused {}

/// The first word of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the word itself")]
pub enum Verb {
    Select,
    Values,
    With,
    Insert,
    Update,
    Delete,
}

impl Verb {
    /// Returns whether the statement certainly only reads: SELECT and VALUES do, a WITH may read or write.
    pub fn reads(self) -> bool {
        matches!(self, Self::Select | Self::Values)
    }

    /// Returns whether the statement certainly writes.
    pub fn surely_writes(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Delete)
    }
}

/// Checks the length and the characters of a text.
///
/// # Errors
/// It is too long, or contains a NUL.
pub fn check_text(sql: &str) -> Result<(), Refused> {
    if sql.len() > MAX_TEXT {
        return Err(Refused::TooLong(MAX_TEXT));
    }
    if sql.as_bytes().contains(&0) {
        return Err(Refused::invalid("the statement contains the character NUL"));
    }
    Ok(())
}

/// Returns the refusal of a statement of another kind.
pub fn not_allowed() -> Refused {
    Refused::invalid("only SELECT, VALUES, WITH, INSERT, UPDATE and DELETE are allowed here")
}

/// Returns the kind of the statement that begins with a word.
///
/// # Errors
/// Such a statement is not allowed at run time.
pub fn verb_of(word: &str) -> Result<Verb, Refused> {
    const VERBS: [(&str, Verb); 6] = [
        ("select", Verb::Select),
        ("values", Verb::Values),
        ("with", Verb::With),
        ("insert", Verb::Insert),
        ("update", Verb::Update),
        ("delete", Verb::Delete),
    ];
    let found = VERBS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    found.map(|(_, verb)| *verb).ok_or_else(not_allowed)
}

/// Checks the tokens of a statement, one after the other.
#[derive(Debug)]
pub struct TokenRules<'a> {
    dialect: Dialect,
    previous: Option<Token<'a>>,
    depth: u32,
}

impl<'a> TokenRules<'a> {
    /// Begins before the first token.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, previous: None, depth: 0 }
    }

    /// Checks the next token.
    ///
    /// # Errors
    /// No statement of a plugin may contain it here.
    pub fn check(&mut self, token: Token<'a>) -> Result<(), Refused> {
        if let Token::Refused(reason) = token {
            return Err(Refused::invalid(reason));
        }
        if let Some(name) = name_of(token)
            && begins_with(name, RESERVED)
        {
            return Err(Refused::invalid(format!("names that begin with {RESERVED} are reserved for the host")));
        }
        match token {
            Token::Symbol(b'(') => self.depth = self.depth.saturating_add(1),
            Token::Symbol(b')') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth > MAX_DEPTH {
            return Err(Refused::invalid(format!("parentheses are nested deeper than {MAX_DEPTH}")));
        }
        if self.dialect == Dialect::Postgres {
            self.postgres(token)?;
        }
        self.previous = Some(token);
        Ok(())
    }

    fn postgres(&self, token: Token<'a>) -> Result<(), Refused> {
        // SELECT … INTO creates a table.
        if let Token::Word(word) = token
            && word.eq_ignore_ascii_case("into")
            && !matches!(self.previous, Some(Token::Word(before)) if before.eq_ignore_ascii_case("insert"))
        {
            return Err(Refused::invalid("SELECT INTO is not supported; create tables in a migration"));
        }
        if let Some(name) = name_of(token) {
            check_catalog(name)?;
        }
        self.calls_by_keyword(token)
    }

    /// Refuses the two notations by which PostgreSQL calls a function that no name before a parenthesis tells:
    /// `TREAT(x AS f)` is `pg_catalog.f(x)`, and `COLLATION FOR (x)` reads a catalog. Other keywords, such as EXTRACT
    /// and XMLEXISTS, call functions of their own name, which `postgres::allowlist` checks.
    fn calls_by_keyword(&self, token: Token<'a>) -> Result<(), Refused> {
        let is = |token: Token<'_>, keyword: &str| match token {
            Token::Word(word) => word.eq_ignore_ascii_case(keyword),
            _ => false,
        };
        let Some(previous) = self.previous else { return Ok(()) };
        if token == Token::Symbol(b'(') && is(previous, "treat") {
            return Err(Refused::invalid("TREAT is not supported; write CAST, or quote the name \"treat\""));
        }
        if is(token, "for") && is(previous, "collation") {
            return Err(Refused::invalid("COLLATION FOR is not supported"));
        }
        Ok(())
    }
}

/// Refuses PostgreSQL's catalogs: every role can read there what other roles have, and change the settings of its own
/// session. `postgres::allowlist` checks the functions and types that look names up there.
fn check_catalog(name: &str) -> Result<(), Refused> {
    const HARMLESS: [&str; 2] = ["pg_sleep", "pg_column_size"];
    const BEGINNINGS: [&str; 2] = ["pg_", "information_schema"];
    let is_catalog = BEGINNINGS.iter().any(|beginning| begins_with(name, beginning));
    if is_catalog && !HARMLESS.iter().any(|harmless| name.eq_ignore_ascii_case(harmless)) {
        return Err(Refused::invalid(format!(
            "{name} is not allowed: the catalogs of PostgreSQL are reserved for the host"
        )));
    }
    Ok(())
}

fn name_of(token: Token<'_>) -> Option<&str> {
    match token {
        Token::Word(word) => Some(word),
        Token::Name(quoted) => quoted.get(1..quoted.len().saturating_sub(1)),
        _ => None,
    }
}

pub(crate) fn begins_with(name: &str, beginning: &str) -> bool {
    name.get(..beginning.len()).is_some_and(|head| head.eq_ignore_ascii_case(beginning))
}
