//! Migrations: the form of their text, their names, and the statements that they may contain.
//!
//! Editors and checkouts change the form of a text and not its meaning: a byte order mark at the start, and CRLF for a line
//! ending. [`canonical`] removes both.

use std::borrow::Cow;
use std::fmt;

use crate::lexer::{Dialect, Lexer, Token};
use crate::rules::{RESERVED, Refused, TokenRules, begins_with, check_text, verb_of};

/// The longest name of a migration in characters.
const MAX_NAME: usize = 200;

/// A statement of a migration that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedStatement {
    /// Its number, from 1.
    pub statement: usize,
    /// The reason.
    pub reason: Refused,
}

impl fmt::Display for RefusedStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement {}: {}", self.statement, self.reason)
    }
}

impl std::error::Error for RefusedStatement {}

/// Returns the text of a migration without a byte order mark and with LF as its line ending.
pub fn canonical(sql: &str) -> Cow<'_, str> {
    let text = sql.strip_prefix('\u{feff}').unwrap_or(sql);
    if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() }
}

/// Checks the names of migrations, in their order.
///
/// # Errors
/// The first name that is refused, and the reason.
pub fn check_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<(), (&'n str, String)> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err((name, format!("a name has 1 to {MAX_NAME} characters")));
        }
        if !seen.insert(name) {
            return Err((name, "the name is used twice".to_owned()));
        }
    }
    Ok(())
}

/// The objects that a migration may comment on: those that always belong to the plugin's own schema.
const COMMENTED: &[&str] = &["table", "column", "view", "type", "domain"];
const NO_COMMENT: &str = "a migration may comment only on tables, columns, views, types and domains";

/// Splits a migration into its statements and checks each of them.
///
/// # Errors
/// The first statement that is refused.
pub fn check_migration(dialect: Dialect, sql: &str) -> Result<Vec<&str>, RefusedStatement> {
    check_text(sql).map_err(|reason| RefusedStatement { statement: 1, reason })?;
    let statements = split(dialect, sql);
    for (number, statement) in (1..).zip(&statements) {
        check_statement(dialect, statement).map_err(|reason| RefusedStatement { statement: number, reason })?;
    }
    Ok(statements)
}

fn check_statement(dialect: Dialect, statement: &str) -> Result<(), Refused> {
    let mut rules = TokenRules::new(dialect);
    for (token, range) in Lexer::new(dialect, statement) {
        if matches!(token, Token::Parameter(_)) {
            return Err(Refused::invalid("a migration cannot have parameters"));
        }
        rules.check(token)?;
        // SQLite accepts a string for a name, and its authorizer learns neither the new name of a table nor the table of
        // a REFERENCES.
        let string = statement.get(range).and_then(|text| text.strip_prefix('\''));
        if dialect == Dialect::Sqlite && string.is_some_and(|string| begins_with(string, RESERVED)) {
            return Err(Refused::invalid(format!(
                "a string that begins with {RESERVED} can be a name on SQLite, and such names are reserved for the host"
            )));
        }
    }
    check_definition(dialect, statement)
}

/// Returns the statements of a text without their semicolons; empty ones are left out. A SQLite trigger contains
/// statements of its own between BEGIN and END.
fn split(dialect: Dialect, sql: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let mut start = None;
    let mut end = 0;
    let mut body = TriggerBody::default();
    for (token, range) in Lexer::new(dialect, sql) {
        if token == Token::Symbol(b';') && !body.is_open() {
            if let Some(start) = start.take() {
                statements.extend(sql.get(start..end));
            }
            body = TriggerBody::default();
            continue;
        }
        start.get_or_insert(range.start);
        end = range.end;
        if dialect == Dialect::Sqlite
            && let Token::Word(word) = token
        {
            body.word(word);
        }
    }
    if let Some(start) = start {
        statements.extend(sql.get(start..end));
    }
    statements
}

/// The parser's position in `CREATE [TEMP] TRIGGER … BEGIN …; …; END` (SQLite).
#[derive(Debug, Default)]
struct TriggerBody {
    words: u8,
    trigger: bool,
    /// Counts BEGIN and each CASE within it.
    depth: u32,
}

impl TriggerBody {
    fn is_open(&self) -> bool {
        self.depth > 0
    }

    fn word(&mut self, word: &str) {
        self.words = self.words.saturating_add(1);
        if self.words <= 3 && word.eq_ignore_ascii_case("trigger") {
            self.trigger = true;
        } else if !self.trigger {
            // Only a trigger has a body.
        } else if word.eq_ignore_ascii_case("begin") && self.depth == 0 {
            self.depth = 1;
        } else if word.eq_ignore_ascii_case("case") && self.depth > 0 {
            self.depth = self.depth.saturating_add(1);
        } else if word.eq_ignore_ascii_case("end") {
            self.depth = self.depth.saturating_sub(1);
        }
    }
}

/// Checks that a migration may contain the statement.
fn check_definition(dialect: Dialect, statement: &str) -> Result<(), Refused> {
    let mut words = Lexer::new(dialect, statement).map(|(token, _)| match token {
        Token::Word(word) => word,
        _ => "",
    });
    let first = words.next().unwrap_or_default();
    let is = |word: &str, names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
    if is(first, &["create", "alter", "drop"]) {
        let object = words.find(|word| !is(word, &["or", "replace", "unique", "materialized"])).unwrap_or_default();
        if is(object, &["table", "index", "view", "trigger", "sequence", "type", "domain", "virtual"]) {
            return Ok(());
        }
        return Err(Refused::invalid(format!("a migration may not {first} {object}")));
    }
    if is(first, &["comment"]) {
        // COMMENT ON ROLE and the like would tell whether an object of the whole database exists.
        let is_own = words.next().is_some_and(|word| is(word, &["on"]))
            && words.find(|word| !is(word, &["materialized"])).is_some_and(|object| is(object, COMMENTED));
        return if is_own { Ok(()) } else { Err(Refused::invalid(NO_COMMENT)) };
    }
    if verb_of(first).is_ok() {
        return Ok(());
    }
    Err(Refused::invalid(format!(
        "a migration may not contain {first}: only CREATE, ALTER and DROP of tables, indexes, views, triggers, sequences, \
         types and domains, and SELECT, INSERT, UPDATE and DELETE"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Dialect; 2] = [Dialect::Sqlite, Dialect::Postgres];

    #[test]
    fn a_migration_is_split_into_its_statements() {
        let trigger =
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET b = CASE WHEN 1 THEN 2 END; DELETE FROM c; END";
        let sql = format!("CREATE TABLE a (b text DEFAULT ';'); -- c; d\n\n{trigger}; INSERT INTO a VALUES ('x'); ;");
        assert_eq!(
            split(Dialect::Sqlite, &sql),
            ["CREATE TABLE a (b text DEFAULT ';')", trigger, "INSERT INTO a VALUES ('x')"]
        );
        assert_eq!(split(Dialect::Postgres, "SELECT $$;$$; SELECT 1 ; "), ["SELECT $$;$$", "SELECT 1"]);
    }

    #[test]
    fn a_byte_order_mark_and_the_line_endings_are_no_part_of_a_migration() {
        assert_eq!(canonical("\u{feff}a\r\nb\n"), "a\nb\n");
        assert!(matches!(canonical("a\nb"), Cow::Borrowed("a\nb")));
        // Other characters are.
        assert_eq!(canonical("a\rb \u{feff}\r\r\n"), "a\rb \u{feff}\r\n");
        for dialect in BOTH {
            assert!(check_migration(dialect, "\u{feff}DROP TABLE a").is_err());
            assert_eq!(check_migration(dialect, &canonical("\u{feff}DROP TABLE a;\r\n")).unwrap(), ["DROP TABLE a"]);
        }
    }

    #[test]
    fn the_names_of_migrations_differ_and_are_one_line() {
        assert_eq!(check_names(["1", "2"]), Ok(()));
        let long = "x".repeat(201);
        for names in [&["1", "1"][..], &[""], &["a\nb"], &[long.as_str()]] {
            assert!(check_names(names.iter().copied()).is_err());
        }
    }

    #[test]
    fn a_migration_may_only_define_and_change_data() {
        for dialect in BOTH {
            for sql in [
                "CREATE UNIQUE INDEX i ON t (a)",
                "ALTER TABLE t ADD COLUMN b int",
                "DROP TABLE t",
                "INSERT INTO t VALUES (1)",
                "COMMENT ON COLUMN t.a IS 'x'",
                "COMMENT ON MATERIALIZED VIEW v IS 'x'",
            ] {
                assert!(check_migration(dialect, sql).is_ok(), "{sql}");
            }
            for sql in [
                "BEGIN",
                "BEGIN IMMEDIATE",
                "START TRANSACTION",
                "COMMIT",
                "END",
                "ROLLBACK",
                "ABORT",
                "SAVEPOINT a",
                "RELEASE a",
                "LOCK TABLE t",
                "SET search_path = x",
                "GRANT ALL ON t TO x",
                "CREATE ROLE x",
                "CREATE EXTENSION x",
                "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "CREATE TEMP TABLE t (a int)",
                "CREATE SCHEMA x",
                "PRAGMA foreign_keys = off",
                "ATTACH 'x' AS y",
                "VACUUM",
                "DO $$ $$",
                "SELECT $1",
                "CREATE TABLE _wharf_migration (a int)",
                "SELECT 1; COMMIT",
                "COMMENT ON ROLE x IS 'x'",
                "COMMENT ON DATABASE x IS 'x'",
                "COMMENT ON SCHEMA x IS 'x'",
                "COMMENT",
            ] {
                let refused = check_migration(dialect, sql).unwrap_err();
                let expected = if sql.starts_with("SELECT 1;") { 2 } else { 1 };
                assert!(matches!(refused.reason, Refused::Invalid(_)), "{dialect:?} {sql}");
                assert_eq!(refused.statement, expected, "{dialect:?} {sql}");
            }
        }
    }

    #[test]
    fn no_string_is_a_reserved_name() {
        for sql in [
            "ALTER TABLE t RENAME TO '_wharf_outbox'",
            "CREATE TABLE '_WHARF_x' (a int)",
            "CREATE TABLE t (a REFERENCES /* */ '_wharf_outbox' (id))",
            "CREATE VIEW main.'_wharf_outbox' AS SELECT 1",
        ] {
            assert!(check_migration(Dialect::Sqlite, sql).is_err(), "{sql}");
        }
        assert!(check_migration(Dialect::Postgres, "INSERT INTO t VALUES ('_wharf_outbox')").is_ok());
        for dialect in BOTH {
            assert!(check_migration(dialect, "INSERT INTO t VALUES ('wharf', 'a _wharf', '')").is_ok());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(sql in r#"([a-zA-Z$0-9'"`\[\];:?(){}\\/*\- \n\u{0}-\u{10ffff}]|begin|end|case|select|create trigger|\$1|e'|/\*|--|\$\$){0,60}"#) {
            for dialect in BOTH {
                let _ = check_migration(dialect, &sql);
                for statement in split(dialect, &sql) {
                    prop_assert!(sql.contains(statement));
                }
            }
        }

        #[test]
        fn splitting_what_was_joined_gives_it_back(count in 0_usize..8, filler in "[a-z ]{0,10}") {
            let statements: Vec<String> = (0..count).map(|n| format!("SELECT '{filler};' AS \"c{n};\"")).collect();
            let joined = statements.join(" ;\n");
            for dialect in BOTH {
                prop_assert_eq!(split(dialect, &joined), statements.clone());
            }
        }
    }
}
