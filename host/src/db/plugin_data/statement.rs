//! What a plugin may say to its database. Owns the rules: at run time one SELECT, VALUES, WITH, INSERT, UPDATE or DELETE;
//! in migrations also CREATE, ALTER and DROP of tables and the like, never anything that touches a session, a
//! transaction, a role or code. The rules are the same on both databases; the databases' own rights (the authorizer of
//! SQLite, the role on PostgreSQL) are the border, and this keeps plugins portable and out of what every role may do.

mod definition;

pub(super) use self::definition::check_migration;
use super::lexer::{Dialect, Lexer, Token};
use super::value::Limits;
use super::{Bound, DataError, Statement};

/// The longest text of one statement, and of one migration.
const MAX_TEXT: usize = 1024 * 1024;

/// How deep parentheses may stand in each other. SQLite takes what is nested apart by recursion.
const MAX_DEPTH: u32 = 200;

/// Names with this beginning are the host's, in every plugin's database.
pub(super) const RESERVED: &str = "_wharf";

/// Words of what makes a table larger; beside them, no statement does at run time.
const GROWING: &[&str] = &["insert", "update"];

/// The first word of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Select,
    Values,
    With,
    Insert,
    Update,
    Delete,
}

impl Verb {
    /// What the text alone says: SELECT and VALUES read, WITH may do either.
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::Select | Self::Values)
    }

    pub(super) fn surely_writes(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Delete)
    }
}

/// What the text of a statement says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) verb: Verb,
    /// It may make the database larger: it inserts or updates, perhaps behind a WITH.
    pub(super) grows: bool,
}

/// Checks a run-time statement and its values, and leaves exactly one statement without a semicolon in it.
pub(super) fn admit(dialect: Dialect, statement: &mut Statement, limits: &Limits) -> Result<Admitted, DataError> {
    let (admitted, text) = check(dialect, &statement.sql, statement.params.len())?;
    if text.len() != statement.sql.len() {
        statement.sql = text.to_owned();
    }
    statement.check_values(limits)?;
    Ok(admitted)
}

fn check(dialect: Dialect, sql: &str, values: usize) -> Result<(Admitted, &str), DataError> {
    check_text(sql)?;
    let mut scan = Scan::new(dialect);
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
                _ => return Err(not_allowed()),
            }
        }
        if let Token::Word(word) = token {
            grows |= GROWING.iter().any(|growing| word.eq_ignore_ascii_case(growing));
        }
        if let Token::Parameter(number) = token {
            parameters.note(number);
        }
        scan.token(token)?;
    }
    let (Some(verb), Some(start)) = (verb, start) else { return Err(not_allowed()) };
    parameters.check(values)?;
    let grows = grows && !verb.reads();
    Ok((Admitted { verb, grows }, sql.get(start..end).unwrap_or_default()))
}

fn check_text(sql: &str) -> Result<(), DataError> {
    if sql.len() > MAX_TEXT {
        return Err(DataError::Limit(Bound::Statements, format!("statement bytes: {MAX_TEXT}")));
    }
    if sql.as_bytes().contains(&0) {
        return Err(DataError::invalid("the statement contains the character NUL"));
    }
    Ok(())
}

fn not_allowed() -> DataError {
    DataError::invalid("only SELECT, VALUES, WITH, INSERT, UPDATE and DELETE are statements here")
}

fn verb_of(word: &str) -> Result<Verb, DataError> {
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

/// The parameters that a statement uses.
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
            return Err(DataError::invalid(format!("the statement does not use ${expected}, but a later parameter")));
        }
        if self.used.len() != values {
            let count = self.used.len();
            return Err(DataError::invalid(format!("the statement has {count} parameters, and {values} values came")));
        }
        Ok(())
    }
}

/// Rules on tokens that hold anywhere in a statement.
struct Scan<'a> {
    dialect: Dialect,
    previous: Option<Token<'a>>,
    depth: u32,
}

impl<'a> Scan<'a> {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, previous: None, depth: 0 }
    }

    fn token(&mut self, token: Token<'a>) -> Result<(), DataError> {
        if let Token::Refused(reason) = token {
            return Err(DataError::invalid(reason));
        }
        if let Some(name) = name_of(token)
            && begins_with(name, RESERVED)
        {
            return Err(DataError::invalid(format!("names that begin with {RESERVED} are the host's")));
        }
        match token {
            Token::Symbol(b'(') => self.depth = self.depth.saturating_add(1),
            Token::Symbol(b')') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth > MAX_DEPTH {
            return Err(DataError::invalid(format!("parentheses are nested deeper than {MAX_DEPTH}")));
        }
        if self.dialect == Dialect::Postgres {
            self.postgres(token)?;
        }
        self.previous = Some(token);
        Ok(())
    }

    fn postgres(&self, token: Token<'a>) -> Result<(), DataError> {
        // SELECT … INTO makes a table.
        if let Token::Word(word) = token
            && word.eq_ignore_ascii_case("into")
            && !matches!(self.previous, Some(Token::Word(before)) if before.eq_ignore_ascii_case("insert"))
        {
            return Err(DataError::invalid("SELECT INTO is not supported; a migration makes tables"));
        }
        if let Some(name) = name_of(token) {
            check_catalog(name)?;
        }
        if token == Token::Symbol(b'(')
            && let Some(name) = self.previous.and_then(name_of)
            && is_session_function(name)
        {
            return Err(DataError::invalid(format!("{name} is not allowed")));
        }
        Ok(())
    }
}

/// Every role may read what all others have, and update what its own session is set to, in the catalogs of PostgreSQL; types
/// and functions that look a name up there would tell as much.
fn check_catalog(name: &str) -> Result<(), DataError> {
    const HARMLESS: [&str; 4] = ["pg_typeof", "pg_sleep", "pg_input_is_valid", "pg_column_size"];
    const BEGINNINGS: [&str; 15] = [
        "pg_",
        "information_schema",
        "to_reg",
        "regclass",
        "regcollation",
        "regconfig",
        "regdictionary",
        "regnamespace",
        "regoper",
        "regproc",
        "regrole",
        "regtype",
        "database_to_xml",
        "schema_to_xml",
        "table_to_xml",
    ];
    let is = |known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known));
    let privilege = begins_with(name, "has_") && name.to_ascii_lowercase().ends_with("_privilege");
    if (privilege || BEGINNINGS.iter().any(|beginning| begins_with(name, beginning))) && !is(&HARMLESS) {
        return Err(DataError::invalid(format!("{name} is not allowed: the catalogs of PostgreSQL are the host's")));
    }
    Ok(())
}

/// Functions that every role may call and that reach beyond its data: they change the session other statements will use,
/// lock or notify the whole database, keep data outside the schema, or run SQL given as a string past this check.
fn is_session_function(name: &str) -> bool {
    const BEGINNINGS: [&str; 6] = ["set_config", "lo_", "query_to_xml", "cursor_to_xml", "ts_stat", "ts_rewrite"];
    BEGINNINGS.iter().any(|beginning| begins_with(name, beginning))
}

fn name_of(token: Token<'_>) -> Option<&str> {
    match token {
        Token::Word(word) => Some(word),
        Token::Name(quoted) => quoted.get(1..quoted.len().saturating_sub(1)),
        _ => None,
    }
}

fn begins_with(name: &str, beginning: &str) -> bool {
    name.get(..beginning.len()).is_some_and(|head| head.eq_ignore_ascii_case(beginning))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Dialect; 2] = [Dialect::Sqlite, Dialect::Postgres];

    #[test]
    fn one_statement_of_the_known_kinds_passes() {
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
    fn what_may_make_a_table_larger_is_seen_behind_a_with_too() {
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
    fn everything_else_is_refused() {
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
    fn parameters_are_counted() {
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
    fn what_a_string_hides_on_one_database_is_seen_on_the_other() {
        assert!(check(Dialect::Postgres, "SELECT $x$;$x$", 0).is_ok());
        assert!(check(Dialect::Postgres, r"SELECT E'\'; SELECT '", 0).is_ok());
        assert!(check(Dialect::Sqlite, r"SELECT '\'; SELECT ''", 0).is_err());
        assert!(check(Dialect::Postgres, "SELECT 1 /* /* */ ; SELECT 2 */", 0).is_ok());
        assert!(check(Dialect::Sqlite, "SELECT 1 /* /* */ ; SELECT 2", 0).is_err());
        assert!(check(Dialect::Sqlite, "SELECT [;], `;` FROM t", 0).is_ok());
    }

    #[test]
    fn functions_beyond_the_plugin_s_data_are_refused() {
        for sql in [
            "SELECT set_config('role', 'x', false)",
            "SELECT \"set_config\"('role', 'x', false)",
            "SELECT pg_catalog . set_config /* */ ('a', 'b', true)",
            "SELECT pg_advisory_lock(1)",
            "SELECT PG_NOTIFY('a', 'b')",
            "SELECT lo_import('/etc/passwd')",
            "SELECT query_to_xml('SELECT 1', true, true, '')",
            "SELECT * INTO t FROM x",
            "SELECT U&\"set\\005fconfig\"('a', 'b', true)",
            "UPDATE pg_catalog.\"pg_settings\" SET setting = 'off' WHERE name = 'standard_conforming_strings'",
            "SELECT E'a'\n'\\'', set_config('a', 'b', true), ''",
        ] {
            assert!(matches!(check(Dialect::Postgres, sql, 0), Err(DataError::Invalid(_))), "{sql}");
        }
        assert!(check(Dialect::Postgres, "SELECT lo_water FROM set_config", 0).is_ok());
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
