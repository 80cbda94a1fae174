//! A plugin's SQL as the host reads it, against SQLite itself. The input is the text.
//!
//! Holds for both databases: tokens stand one behind the other, with nothing but blanks and comments between them; a
//! statement that passes is a part of the text without a semicolon of its own, and passes again; a migration's statements
//! are found again when they are joined. Holds for SQLite: what passes as one statement is one to SQLite, has the
//! parameters that were counted, and touches neither transactions nor files.
//! PostgreSQL itself is not asked: it takes a server.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use wharf::db::plugin_data::fuzzing::{self, Dialect, Sort};
use wharf::db::plugin_data::{DataError, Limits, Value};

/// What is there to speak about.
const SCHEMA: &str = "
    CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c REAL, d BLOB, e BOOLEAN);
    CREATE TABLE x (a, b, c);
    CREATE VIEW v AS SELECT a, b FROM t;
";

const LIMITS: Limits =
    Limits { rows: 100, bytes: 1 << 20, time: Duration::from_secs(1), connections: 1, disk: u64::MAX };

thread_local! {
    static REACHED: Cell<bool> = const { Cell::new(false) };
    static SQLITE: RefCell<Connection> = RefCell::new(open());
}

fn open() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    // Nothing is run; what SQLite asks for while it compiles is noted.
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
    for (sort, range) in fuzzing::tokens(dialect, sql) {
        assert!(range.start >= at && range.end > range.start && range.end <= sql.len(), "{range:?} after {at}");
        let (between, token) = (&sql[at..range.start], &sql[range.clone()]);
        let comments = between.trim().is_empty()
            || between.contains("--")
            || between.contains("/*")
            || between.trim_matches('\x0b').trim().is_empty();
        assert!(comments, "{between:?} is skipped");
        match sort {
            Sort::Symbol(byte) => assert_eq!(token.as_bytes(), [byte]),
            Sort::Parameter(number) => assert_eq!(token, format!("${number}")),
            Sort::Text | Sort::Refused => {}
        }
        at = range.end;
    }
}

/// The statement as it goes to the database, and how many values it takes.
fn check_statement(dialect: Dialect, sql: &str) -> Option<(String, usize)> {
    let values = fuzzing::tokens(dialect, sql).into_iter().filter_map(|(sort, _)| match sort {
        Sort::Parameter(number) => Some(usize::from(number)),
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
    assert!(!tokens.iter().any(|(sort, _)| matches!(sort, Sort::Refused | Sort::Symbol(b';'))), "{statement:?}");
    let first = tokens.iter().find(|(sort, _)| *sort != Sort::Symbol(b'(')).map(|(_, range)| &statement[range.clone()]);
    let first = first.unwrap_or_default().to_ascii_lowercase();
    assert!(["select", "values", "with", "insert", "update", "delete"].contains(&first.as_str()), "{first:?}");
    assert_eq!(reads, ["select", "values"].contains(&first.as_str()));
    assert_eq!(admit(&statement, values).as_ref(), Ok(&(statement.clone(), reads, writes)), "it does not pass again");
    assert!(admit(&statement, values + 1).is_err(), "a value too many passes");
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
    assert_eq!(fuzzing::migration(dialect, &joined).as_ref(), Ok(&statements), "joined, they are others");
}

fn ask_sqlite(sql: &str, values: usize) {
    SQLITE.with_borrow(|sqlite| {
        REACHED.set(false);
        let prepared = sqlite.prepare(sql);
        assert!(!REACHED.get(), "it reaches beyond the data: {sql:?}");
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
