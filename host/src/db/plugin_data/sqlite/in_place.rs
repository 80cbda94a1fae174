//! Runs work with a connection in place, see `place`.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::connection::Connection;
use super::control::Mode;
use super::place::{BYTES, CHECKS, FILE, Instructions, QuickRuns, STATEMENTS, TEXT, TIME};
use crate::db::plugin_data::connection_pool::{Lease, Reusable as _};
use crate::db::plugin_data::value::Statement;

impl Connection {
    /// Returns whether a run that began then was quick. One that is retried was not.
    pub(super) fn was_quick(&self, began: Instant, is_retried: bool) -> bool {
        !is_retried && self.control.checks() < CHECKS && began.elapsed() < TIME
    }

    /// Returns whether these statements may be tried in place.
    pub(super) fn is_quick(&self, statements: &[Statement]) -> bool {
        let bytes = statements.iter().map(Statement::memory).fold(0, usize::saturating_add);
        let is_quick = |statement: &Statement| {
            let plan = self.kept.get(&statement.sql);
            let runs = plan.as_ref().and_then(|plan| plan.in_place.as_ref()).filter(|runs| runs.are_enough());
            runs.is_some_and(|runs| !runs.visits_tables || self.is_small())
        };
        statements.len() <= STATEMENTS && bytes <= BYTES && statements.iter().all(is_quick)
    }

    fn is_small(&self) -> bool {
        let bytes = |file: &Path| std::fs::metadata(file).map_or(u64::MAX, |file| file.len());
        bytes(&self.file).saturating_add(bytes(&self.wal)) <= FILE
    }

    /// Returns the counter of a new statement's quick runs; `None` if it never runs in place.
    pub(super) fn quick_runs(&self, sql: &str) -> Option<QuickRuns> {
        if sql.len() > TEXT {
            return None;
        }
        let mode = self.control.mode();
        self.control.set_mode(Mode::Host);
        let instructions = self.explain(sql);
        self.control.set_mode(mode);
        instructions.ok()?.quick_runs()
    }

    fn explain(&self, sql: &str) -> rusqlite::Result<Instructions> {
        let mut instructions = Instructions::default();
        let mut statement = self.raw.prepare(&format!("EXPLAIN {sql}"))?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let operand = row.get_ref("p4")?;
            instructions.add(row.get_ref("opcode")?.as_str()?, operand.as_str().unwrap_or_default());
        }
        Ok(instructions)
    }

    /// Returns whether a short transaction with these messages may be committed in place: nothing has to be done besides
    /// to append to the log.
    pub(super) fn commits_quickly(&self, messages: &[Box<str>]) -> bool {
        let bytes = messages.iter().map(|text| text.len()).fold(0, usize::saturating_add);
        let has_table = messages.is_empty() || self.has_outbox;
        self.log.only_grows() && has_table && messages.len() <= STATEMENTS && bytes <= BYTES
    }

    /// Runs work in place. Returns `None` if it failed; the caller cleans the connection.
    fn in_place<R, E>(&mut self, work: impl FnOnce(&mut Self) -> Result<R, E>) -> Option<R> {
        // Another process may hold a lock.
        let tried = self.raw.busy_timeout(Duration::ZERO).ok().and_then(|()| {
            self.control.begin_in_place();
            let done = work(self).ok();
            self.control.end_in_place();
            done
        });
        // It fails for a negative time only.
        let _ = self.raw.busy_timeout(self.patience);
        self.log.read();
        tried
    }
}

impl Lease<Connection> {
    /// Tries work in place, if the connection is open and `may_run` there. Returns `None` if nothing of it has happened: then
    /// it runs on a thread, which finds out the reason of a failure.
    pub(super) fn try_in_place<R, E>(
        &mut self,
        may_run: impl FnOnce(&Connection) -> bool,
        work: impl FnOnce(&mut Connection) -> Result<R, E>,
    ) -> Option<R> {
        let done = self.quick(may_run)?.in_place(work);
        if done.is_none() {
            self.clean();
        }
        done
    }

    /// Commits in place, if the connection is open and `may_run` there. Nothing interrupts a commit.
    pub(super) fn commit_in_place<R>(
        &mut self,
        may_run: impl FnOnce(&Connection) -> bool,
        commit: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        let connection = self.quick(may_run)?;
        // An earlier run may have been cancelled.
        connection.control.clear_deadline();
        let committed = commit(connection);
        connection.log.read();
        Some(committed)
    }

    fn quick(&mut self, may_run: impl FnOnce(&Connection) -> bool) -> Option<&mut Connection> {
        self.connection.as_deref_mut().filter(|connection| may_run(connection))
    }

    /// Ends what failed in place. A connection that cannot be clean is closed, and its work fails.
    fn clean(&mut self) {
        if self.connection.as_deref_mut().is_some_and(|connection| !connection.reset()) {
            let connection = self.connection.take();
            drop(spawn_blocking(move || drop(connection)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::db::plugin_data::result_budget::ResultBudget;
    use crate::db::plugin_data::statement_limits::StatementLimits;

    const RUNS: usize = 40;
    /// The system can take the processor away for longer than a quick run may take.
    const ATTEMPTS: usize = 20;

    fn limits() -> StatementLimits {
        StatementLimits { rows: 10_000, bytes: 8 << 20, time: Duration::from_secs(60), connections: 1, disk: 1 << 40 }
    }

    fn open(directory: &tempfile::TempDir) -> Connection {
        crate::db::sqlite_memory::install().unwrap();
        let file = directory.path().join("a");
        std::fs::File::create(&file).unwrap();
        let mut connection = Connection::open(&file, &limits(), true).unwrap();
        let tables = "CREATE TABLE a (n, text); CREATE TABLE b (n);
            CREATE VIRTUAL TABLE search USING fts5 (text);
            CREATE TRIGGER found AFTER INSERT ON b BEGIN INSERT INTO search VALUES (new.n); END";
        connection.control.set_mode(Mode::Host);
        connection.raw.execute_batch(tables).unwrap();
        connection.log.read();
        connection
    }

    fn run(connection: &mut Connection, sql: &str) {
        let limits = limits();
        connection.statement(sql, &[], &limits, &mut ResultBudget::new(&limits)).unwrap();
    }

    fn becomes_quick(connection: &mut Connection, sql: &str) -> bool {
        (0..ATTEMPTS).any(|_| {
            (0..RUNS).for_each(|_| run(connection, sql));
            is_quick(connection, sql)
        })
    }

    fn is_quick(connection: &Connection, sql: &str) -> bool {
        connection.is_quick(&[Statement::new(sql, [])])
    }

    #[test]
    fn a_statement_runs_in_place_after_many_quick_runs_if_no_instruction_can_take_long() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open(&directory);
        let long = format!("SELECT 1 -- {}", "x".repeat(TEXT));
        let functions = format!("SELECT {}", ["abs(n)"; 20].join(" + ")) + " FROM a";
        for (sql, expected) in [
            ("SELECT n FROM a WHERE n = 1 ORDER BY n", true),
            ("INSERT INTO a VALUES (1, 'x')", true),
            ("UPDATE a SET n = 2 WHERE n = 3", true),
            ("SELECT count(*) FROM a", true),
            ("SELECT last_insert_rowid()", false),
            ("SELECT n, CHANGES() FROM a", false),
            ("SELECT text FROM search WHERE search MATCH 'x'", false),
            ("INSERT INTO b VALUES (1)", false),
            (&long, false),
            (&functions, false),
        ] {
            run(&mut connection, sql);
            assert!(!is_quick(&connection, sql), "{sql}");
            assert_eq!(becomes_quick(&mut connection, sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_large_table_is_not_counted_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open(&directory);
        const COUNT: &str = "SELECT count(*) FROM a";
        assert!(becomes_quick(&mut connection, COUNT));
        for _ in 0..3 {
            run(&mut connection, "INSERT INTO a VALUES (1, zeroblob(7000000))");
        }
        assert!(!is_quick(&connection, COUNT));
    }

    #[test]
    fn what_meets_a_bound_in_place_is_undone_and_has_to_be_quick_many_times_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open(&directory);
        let limits = limits();
        let in_place = |connection: &mut Connection, sql: &str| {
            let done = connection
                .in_place(|connection| connection.statement(sql, &[], &limits, &mut ResultBudget::new(&limits)));
            let quick = is_quick(connection, sql);
            connection.reset();
            (done.is_some(), quick)
        };
        for sql in [
            "INSERT INTO a WITH RECURSIVE i (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM i LIMIT 100000) SELECT n, 'x' FROM i",
            "INSERT INTO a VALUES (1, zeroblob(5000))",
            "INSERT INTO a SELECT 1, hex(zeroblob(3000))",
            "INSERT INTO a SELECT 1, 'x' LIKE '%1234567890123456789012345'",
            "INSERT INTO a SELECT 1, instr(hex(zeroblob(1900)), hex(zeroblob(1900)))",
        ] {
            assert_eq!(in_place(&mut connection, sql), (false, false), "{sql}");
        }
        assert!((0..ATTEMPTS).any(|_| in_place(&mut connection, "INSERT INTO a VALUES (1, 'x')").0));
        let count: i64 = connection.raw.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
        // On a thread it waits for other processes as before.
        connection.control.set_mode(Mode::Host);
        let patience: u32 = connection.raw.pragma_query_value(None, "busy_timeout", |row| row.get(0)).unwrap();
        assert_eq!(Duration::from_millis(patience.into()), limits.time);
        // Another process that writes is not waited for.
        let other = rusqlite::Connection::open(directory.path().join("a")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(!in_place(&mut connection, "INSERT INTO a VALUES (1, 'x')").0);
    }

    /// SQLite also asks whether to stop after the last instruction, when a statement without a transaction has committed.
    #[test]
    fn a_write_that_is_stopped_at_any_check_has_not_happened() {
        const SQL: &str = "INSERT INTO a VALUES (1, 'x')";
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open(&directory);
        let limits = limits();
        run(&mut connection, SQL);
        for stopped in 0.. {
            let (control, checks) = (Arc::clone(&connection.control), AtomicU32::new(0));
            let stop = move || control.is_in_place() && checks.fetch_add(1, Ordering::Relaxed) == stopped;
            connection.raw.progress_handler(1, Some(stop)).unwrap();
            let done = connection
                .in_place(|connection| connection.statement(SQL, &[], &limits, &mut ResultBudget::new(&limits)));
            connection.reset();
            let count: u32 = connection.raw.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
            if done.is_some() {
                assert!(stopped > 10, "SQLite checked {stopped} times");
                assert_eq!(count, 2);
                return;
            }
            assert_eq!(count, 1, "the statement wrote although it was stopped at check {stopped}");
        }
    }
}
