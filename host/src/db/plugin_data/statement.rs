//! Checks the statements of plugins by their text, by the rules of the crate `wharf-sql-text`. At run time a statement is one SELECT, VALUES, WITH, INSERT, UPDATE
//! or DELETE; a migration may also CREATE, ALTER and DROP tables and the like. Statements that affect a session, a
//! transaction, a role or code are refused. The rules are the same on both databases. They keep plugins portable, and
//! away from actions that PostgreSQL allows to every role. The security boundary is the database's own access control:
//! SQLite's authorizer, PostgreSQL's role.

pub(super) use wharf_sql_text::Verb;
use wharf_sql_text::{Dialect, Lexer, Token, TokenRules, check_text, not_allowed, verb_of};

use super::error::DataError;
use super::statement_limits::StatementLimits;
use super::value::Statement;

/// The refusal of a statement that would wait for its own call.
const OWN_TRANSACTION: &str = "this call has an open transaction: use it, or end it first";

/// Keywords of statements that make a table larger; no other statement does at run time.
const GROWING: &[&str] = &["insert", "update"];

/// The facts that the text of a statement tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) verb: Verb,
    /// The statement may make the database larger: it inserts or updates, perhaps within a WITH.
    pub(super) grows: bool,
}

/// Checks a run-time statement and its values, and reduces the text to exactly one statement without a semicolon.
pub(super) fn admit(
    dialect: Dialect,
    statement: &mut Statement,
    limits: &StatementLimits,
) -> Result<Admitted, DataError> {
    let (admitted, text) = check(dialect, &statement.sql, statement.params.len())?;
    if text.len() != statement.sql.len() {
        statement.sql = text.to_owned();
    }
    statement.check_values(limits)?;
    Ok(admitted)
}

/// Refuses a statement that its call runs outside its own open transaction and that may write. On SQLite it would wait
/// until its deadline for that transaction, which waits for it; the rule is the same on both databases.
pub(super) fn check_outside_transaction(dialect: Dialect, statement: &Statement) -> Result<(), DataError> {
    const WRITING: &[&str] = &["insert", "update", "delete"];
    let (Admitted { verb, .. }, text) = check(dialect, &statement.sql, statement.params.len())?;
    let writes = !verb.reads()
        && Lexer::new(dialect, text).any(|(token, _)| match token {
            Token::Word(word) => WRITING.iter().any(|writing| word.eq_ignore_ascii_case(writing)),
            _ => false,
        });
    if writes { Err(own_transaction()) } else { Ok(()) }
}

pub(super) fn own_transaction() -> DataError {
    DataError::invalid(OWN_TRANSACTION)
}

fn check(dialect: Dialect, sql: &str, values: usize) -> Result<(Admitted, &str), DataError> {
    check_text(sql)?;
    let mut rules = TokenRules::new(dialect);
    let mut start = None;
    let mut end = 0;
    let mut verb = None;
    let mut grows = false;
    let mut parameters = Parameters::default();
    let mut tokens = Lexer::new(dialect, sql);
    while let Some((token, range)) = tokens.next() {
        if token == Token::Symbol(b';') {
            match tokens.next() {
                None => break,
                Some(_) => return Err(DataError::invalid("more than one statement; use a batch")),
            }
        }
        start.get_or_insert(range.start);
        end = range.end;
        if verb.is_none() {
            match token {
                Token::Symbol(b'(') => {}
                Token::Word(word) => verb = Some(verb_of(word)?),
                _ => return Err(not_allowed().into()),
            }
        }
        if let Token::Word(word) = token {
            grows |= GROWING.iter().any(|growing| word.eq_ignore_ascii_case(growing));
        }
        if let Token::Parameter(number) = token {
            parameters.note(number);
        }
        rules.check(token)?;
    }
    let (Some(verb), Some(start)) = (verb, start) else { return Err(not_allowed().into()) };
    parameters.check(values)?;
    let grows = grows && !verb.reads();
    Ok((Admitted { verb, grows }, sql.get(start..end).unwrap_or_default()))
}

/// The numbers of the parameters that a statement uses.
#[derive(Default)]
struct Parameters {
    used: Vec<u16>,
}

impl Parameters {
    fn note(&mut self, number: u16) {
        self.used.push(number);
    }

    fn check(mut self, values: usize) -> Result<(), DataError> {
        self.used.sort_unstable();
        self.used.dedup();
        if let Some((expected, _)) = (1..).zip(&self.used).find(|(expected, used)| expected != *used) {
            return Err(DataError::invalid(format!("the statement uses a later parameter but not ${expected}")));
        }
        if self.used.len() != values {
            let count = self.used.len();
            return Err(DataError::invalid(format!("the statement has {count} parameters but got {values} values")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Dialect; 2] = [Dialect::Sqlite, Dialect::Postgres];

    #[test]
    fn one_statement_of_an_allowed_kind_passes() {
        for dialect in BOTH {
            for (sql, verb, values) in [
                ("SELECT 1 FOR UPDATE", Verb::Select, 0),
                ("  -- why\n /* what */ select $1, $2, $1 ; -- end", Verb::Select, 2),
                ("VALUES ($1);\n-- end", Verb::Values, 1),
                ("WITH x AS (SELECT ';') SELECT * FROM x", Verb::With, 0),
                ("INSERT INTO \"a;b\" VALUES ('it''s; $9')", Verb::Insert, 0),
                ("(SELECT 1)", Verb::Select, 0),
            ] {
                assert_eq!(check(dialect, sql, values).map(|(admitted, _)| admitted.verb), Ok(verb), "{sql}");
            }
        }
    }

    #[test]
    fn a_with_that_inserts_or_updates_may_grow_the_database() {
        for dialect in BOTH {
            for (sql, grows) in [
                ("INSERT INTO t VALUES (1)", true),
                ("update t SET a = 1", true),
                ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", true),
                ("WITH x AS (UPDATE t SET a = 1 RETURNING a) SELECT * FROM x", true),
                ("WITH x AS (SELECT 'insert', \"update\" FROM t) SELECT * FROM x", false),
                ("DELETE FROM t", false),
                ("SELECT update FROM t", false),
            ] {
                assert_eq!(check(dialect, sql, 0).map(|(admitted, _)| admitted.grows), Ok(grows), "{sql}");
            }
        }
    }

    #[test]
    fn a_write_outside_the_own_transaction_is_refused() {
        for dialect in BOTH {
            for (sql, is_refused) in [
                ("SELECT 'insert' FROM \"update\"", false),
                ("WITH x AS (SELECT 1) SELECT * FROM x", false),
                ("DELETE FROM t", true),
                ("WITH x AS (DELETE FROM t RETURNING a) SELECT * FROM x", true),
                ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", true),
            ] {
                let result = check_outside_transaction(dialect, &Statement::new(sql, []));
                assert_eq!(result.is_err(), is_refused, "{sql}");
            }
        }
    }

    #[test]
    fn any_other_statement_is_refused() {
        for dialect in BOTH {
            for sql in [
                "",
                " ",
                ";",
                "-- nothing",
                "BEGIN",
                "COMMIT",
                "ROLLBACK",
                "SAVEPOINT a",
                "PRAGMA user_version",
                "ATTACH 'x' AS y",
                "VACUUM INTO 'x'",
                "CREATE TABLE t (a int)",
                "DROP TABLE t",
                "SET ROLE x",
                "RESET ROLE",
                "COPY t TO PROGRAM 'id'",
                "DO $$ BEGIN END $$",
                "LISTEN x",
                "EXPLAIN SELECT 1",
                "CALL x()",
                "REPLACE INTO t VALUES (1)",
                "SELECT 1; SELECT 2",
                "SELECT 1;;SELECT 2",
                "/* x */ BEGIN; SELECT 1",
                "SELECT * FROM _wharf_migration",
                "SELECT * FROM \"_WHARF_migration\"",
                "SELECT 1\0",
                "SELECT $01",
                "SELECT $0",
                "SELECT $99999",
            ] {
                assert!(matches!(check(dialect, sql, 0), Err(DataError::Invalid(_))), "{dialect:?} {sql}");
            }
        }
    }

    #[test]
    fn parameters_must_match_the_values() {
        for dialect in BOTH {
            for (sql, values) in
                [("SELECT $1", 0), ("SELECT $1", 2), ("SELECT $2", 2), ("SELECT $1, $3", 3), ("SELECT 1", 1)]
            {
                assert!(matches!(check(dialect, sql, values), Err(DataError::Invalid(_))), "{sql}");
            }
        }
        for sql in [
            "SELECT ?",
            "SELECT ?1",
            "SELECT :a",
            "SELECT @a",
            "SELECT #a",
            "SELECT $a",
            "SELECT $1::text",
            "SELECT $1(;)",
        ] {
            assert!(matches!(check(Dialect::Sqlite, sql, 1), Err(DataError::Invalid(_))), "{sql}");
        }
        assert!(check(Dialect::Postgres, "SELECT $1::text, '{}'::jsonb ? 'a', a[1:2]", 1).is_ok());
    }

    #[test]
    fn each_database_has_its_own_rules_for_strings_and_comments() {
        assert!(check(Dialect::Postgres, "SELECT $x$;$x$", 0).is_ok());
        assert!(check(Dialect::Postgres, r"SELECT E'\'; SELECT '", 0).is_ok());
        assert!(check(Dialect::Sqlite, r"SELECT '\'; SELECT ''", 0).is_err());
        assert!(check(Dialect::Postgres, "SELECT 1 /* /* */ ; SELECT 2 */", 0).is_ok());
        assert!(check(Dialect::Sqlite, "SELECT 1 /* /* */ ; SELECT 2", 0).is_err());
        assert!(check(Dialect::Sqlite, "SELECT [;], `;` FROM t", 0).is_ok());
    }

    #[test]
    fn statements_beyond_the_plugin_s_data_are_refused() {
        for sql in [
            "SELECT pg_catalog . set_config /* */ ('a', 'b', true)",
            "SELECT pg_advisory_lock(1)",
            "SELECT (1::bigint).pg_try_advisory_lock",
            // These take the name of a type as a text, and tell whether the object that the value names exists.
            "SELECT pg_input_is_valid('plugin_two', 'regnamespace')",
            "SELECT pg_input_error_info('plugin_two', 'regnamespace')",
            "SELECT PG_NOTIFY('a', 'b')",
            "SELECT * INTO t FROM x",
            // PostgreSQL before 15 takes these for two tokens.
            "SELECT 1into t",
            "SELECT 1.5into t",
            "SELECT 1e5into t",
            "SELECT .5into t",
            "SELECT 0x1into t",
            "SELECT 1e'\\'', ''",
            "SELECT U&\"set\\005fconfig\"('a', 'b', true)",
            "UPDATE pg_catalog.\"pg_settings\" SET setting = 'off' WHERE name = 'standard_conforming_strings'",
            "SELECT E'a'\n'\\'', 1, ''",
            // PostgreSQL takes the type for the name of a function of the catalogs.
            "SELECT * FROM TREAT('SELECT 1'::text AS ts_stat) x",
            "SELECT treat /* */ ('plugin_two'::text AS pg_catalog.to_regnamespace)",
            "SELECT TREAT\n(1 AS int8)",
            "SELECT collation /* */ FOR ('a')",
        ] {
            assert!(matches!(check(Dialect::Postgres, sql, 0), Err(DataError::Invalid(_))), "{sql}");
        }
        for sql in [
            "SELECT 1, 1.5, 1., .5, 1e5, 1.5E-7, 0x1F, 0b1, 0o7, 1_000",
            "SELECT a[1:2] FROM t LIMIT 1;",
            "SELECT treat FROM \"treat\" (a)",
        ] {
            assert!(check(Dialect::Postgres, sql, 0).is_ok(), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(sql in r#"([a-zA-Z$0-9'"`\[\];:?(){}\\/*\- \n\u{0}-\u{10ffff}]|begin|end|case|select|create trigger|\$1|e'|/\*|--|\$\$){0,60}"#) {
            for dialect in BOTH {
                let _ = check(dialect, &sql, 0);
            }
        }
    }
}
