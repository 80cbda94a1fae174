//! The rules for the text of the SQL of plugins, without a database. The host applies them to each statement and
//! migration. The SDK applies those for migrations in `cargo test`, and `wharf plugin check` before a deploy, so that an
//! author learns of a refusal before an operator does.
//!
//! Owns the lexical rules of both databases ([`Lexer`]), the rules for every statement ([`TokenRules`]) and those for
//! migrations ([`check_migration`]).

mod lexer;
mod migration;
mod rules;

pub use lexer::{Dialect, Lexer, Token};
pub use migration::{RefusedStatement, canonical, check_migration, check_names};
pub use rules::{RESERVED, Refused, TokenRules, Verb, check_text, not_allowed, verb_of};
