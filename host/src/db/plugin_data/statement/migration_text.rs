//! Splits the text of a migration into statements and checks each.

use super::rules::{TokenRules, check_text, verb_of};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::lexer::{Dialect, Lexer, Token};

/// Splits a migration into its statements and checks each of them.
pub(in crate::db::plugin_data) fn check_migration(dialect: Dialect, sql: &str) -> Result<Vec<&str>, DataError> {
    check_text(sql)?;
    let statements = split(dialect, sql);
    for statement in &statements {
        let mut rules = TokenRules::new(dialect);
        for (token, _) in Lexer::new(dialect, statement) {
            if matches!(token, Token::Parameter(_)) {
                return Err(DataError::invalid("a migration cannot have parameters"));
            }
            rules.check(token)?;
        }
        check_definition(dialect, statement)?;
    }
    Ok(statements)
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
fn check_definition(dialect: Dialect, statement: &str) -> Result<(), DataError> {
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
        return Err(DataError::invalid(format!("a migration may not {first} {object}")));
    }
    if is(first, &["comment"]) || verb_of(first).is_ok() {
        return Ok(());
    }
    Err(DataError::invalid(format!(
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
    fn a_migration_may_only_define_and_change_data() {
        for dialect in BOTH {
            for sql in [
                "CREATE UNIQUE INDEX i ON t (a)",
                "ALTER TABLE t ADD COLUMN b int",
                "DROP TABLE t",
                "INSERT INTO t VALUES (1)",
            ] {
                assert!(check_migration(dialect, sql).is_ok(), "{sql}");
            }
            for sql in [
                "BEGIN",
                "COMMIT",
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
            ] {
                assert!(matches!(check_migration(dialect, sql), Err(DataError::Invalid(_))), "{dialect:?} {sql}");
            }
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
