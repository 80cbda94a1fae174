//! The host's parsing of a plugin's SQL, compared with SQLite itself. The input is the SQL text.
//!
//! Properties for both databases: tokens follow one another, with only blanks and comments between them. An accepted
//! statement is a part of the text without a semicolon of its own, and is accepted again. The statements of a migration
//! are found again after joining them. Properties for SQLite: an accepted statement is one statement to SQLite, has the
//! counted parameters, and touches neither transactions nor files. PostgreSQL itself is not called, because it needs a
//! server.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use wharf::db::plugin_data::fuzzing::{self, Dialect, TokenKind};
use wharf::db::plugin_data::{DataError, StatementLimits, Value};

/// The tables that statements can use.
const SCHEMA: &str = "
    CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c REAL, d BLOB, e BOOLEAN);
    CREATE TABLE x (a, b, c);
    CREATE VIEW v AS SELECT a, b FROM t;
";

const LIMITS: StatementLimits =
    StatementLimits { rows: 100, bytes: 1 << 20, time: Duration::from_secs(1), connections: 1, disk: u64::MAX };

thread_local! {
    static REACHED: Cell<bool> = const { Cell::new(false) };
    static SQLITE: RefCell<Connection> = RefCell::new(open());
}

fn open() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    // Statements are only prepared; the authorizer records the actions that SQLite asks for.
    let note = |context: AuthContext<'_>| {
        let beyond = matches!(
            context.action,
            AuthAction::Transaction { .. }
                | AuthAction::Savepoint { .. }
                | AuthAction::Attach { .. }
                | AuthAction::Detach { .. }
                | AuthAction::Pragma { pragma_value: Some(_), .. }
                | AuthAction::CreateTable { .. }
                | AuthAction::CreateTempTable { .. }
                | AuthAction::CreateView { .. }
                | AuthAction::CreateTrigger { .. }
                | AuthAction::DropTable { .. }
                | AuthAction::AlterTable { .. }
        );
        if beyond {
            REACHED.set(true);
        }
        Authorization::Allow
    };
    connection.authorizer(Some(note)).unwrap();
    connection
}

/// Checks one text.
pub fn check(data: &[u8]) {
    let Ok(sql) = std::str::from_utf8(data) else { return };
    for dialect in [Dialect::Sqlite, Dialect::Postgres] {
        check_tokens(dialect, sql);
        check_migration(dialect, sql);
        if let Some((statement, values)) = check_statement(dialect, sql)
            && dialect == Dialect::Sqlite
        {
            ask_sqlite(&statement, values);
        }
    }
}

fn check_tokens(dialect: Dialect, sql: &str) {
    let mut at = 0;
    for (kind, range) in fuzzing::tokens(dialect, sql) {
        assert!(range.start >= at && range.end > range.start && range.end <= sql.len(), "{range:?} after {at}");
        let (between, token) = (&sql[at..range.start], &sql[range.clone()]);
        let comments = between.trim().is_empty()
            || between.contains("--")
            || between.contains("/*")
            || between.trim_matches('\x0b').trim().is_empty();
        assert!(comments, "{between:?} was skipped");
        match kind {
            TokenKind::Symbol(byte) => assert_eq!(token.as_bytes(), [byte]),
            TokenKind::Parameter(number) => assert_eq!(token, format!("${number}")),
            TokenKind::Text | TokenKind::Refused => {}
        }
        at = range.end;
    }
}

/// Returns the statement that goes to the database, and the number of its values.
fn check_statement(dialect: Dialect, sql: &str) -> Option<(String, usize)> {
    let values = fuzzing::tokens(dialect, sql).into_iter().filter_map(|(kind, _)| match kind {
        TokenKind::Parameter(number) => Some(usize::from(number)),
        _ => None,
    });
    let values = values.max().unwrap_or(0);
    let admit = |sql: &str, values: usize| fuzzing::admitted(dialect, sql, vec![Value::Null; values], &LIMITS);
    let (statement, reads, writes) = match admit(sql, values) {
        Ok(admitted) => admitted,
        Err(error) => {
            assert!(matches!(error, DataError::Invalid(_) | DataError::Limit(..)), "{error:?}");
            return None;
        }
    };
    assert!(!(reads && writes) && sql.contains(&statement));
    assert!(!statement.contains('\0') && !statement.is_empty());
    let tokens = fuzzing::tokens(dialect, &statement);
    assert!(
        !tokens.iter().any(|(kind, _)| matches!(kind, TokenKind::Refused | TokenKind::Symbol(b';'))),
        "{statement:?}"
    );
    let first =
        tokens.iter().find(|(kind, _)| *kind != TokenKind::Symbol(b'(')).map(|(_, range)| &statement[range.clone()]);
    let first = first.unwrap_or_default().to_ascii_lowercase();
    assert!(["select", "values", "with", "insert", "update", "delete"].contains(&first.as_str()), "{first:?}");
    assert_eq!(reads, ["select", "values"].contains(&first.as_str()));
    assert_eq!(
        admit(&statement, values).as_ref(),
        Ok(&(statement.clone(), reads, writes)),
        "it was not accepted again"
    );
    assert!(admit(&statement, values + 1).is_err(), "one value too many was accepted");
    Some((statement, values))
}

fn check_migration(dialect: Dialect, sql: &str) {
    let Ok(statements) = fuzzing::migration(dialect, sql) else { return };
    for statement in &statements {
        assert!(sql.contains(statement) && !statement.is_empty());
        assert_eq!(fuzzing::migration(dialect, statement).as_ref(), Ok(&vec![*statement]), "it is not one statement");
        let first = statement.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_lowercase();
        let known = ["create", "alter", "drop", "comment", "select", "values", "with", "insert", "update", "delete"];
        assert!(known.contains(&first.as_str()), "{first:?}");
    }
    let joined = statements.join(";\n");
    assert_eq!(fuzzing::migration(dialect, &joined).as_ref(), Ok(&statements), "joining changed the statements");
}

fn ask_sqlite(sql: &str, values: usize) {
    SQLITE.with_borrow(|sqlite| {
        REACHED.set(false);
        let prepared = sqlite.prepare(sql);
        assert!(!REACHED.get(), "it requests a forbidden action: {sql:?}");
        match prepared {
            Ok(statement) => {
                let names: std::collections::BTreeSet<usize> = (1..=statement.parameter_count())
                    .map(|place| {
                        let name = statement
                            .parameter_name(place)
                            .unwrap_or_else(|| panic!("a parameter without a name: {sql:?}"));
                        name.strip_prefix('$')
                            .and_then(|name| name.parse().ok())
                            .unwrap_or_else(|| panic!("{name:?}: {sql:?}"))
                    })
                    .collect();
                assert_eq!(names, (1..=values).collect(), "SQLite counts other parameters: {sql:?}");
            }
            Err(rusqlite::Error::MultipleStatement) => panic!("it is more than one statement to SQLite: {sql:?}"),
            Err(_) => {}
        }
    });
}
