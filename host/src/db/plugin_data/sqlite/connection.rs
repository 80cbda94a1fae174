//! One connection to a plugin's file. Opens it with restrictive settings and runs statements on it. Blocks, so it must
//! be called on a thread that may. Never waits for another connection of this process: only one connection writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, OpenFlags, StatementStatus, ToSql};

use super::authorizer::authorizer;
use super::control::{Control, Mode};
use super::log_pages::LogPages;
use super::place;
use super::plan::Plan;
use super::{bounded_functions, error_mapping};
use crate::db::plugin_data::connection_pool::Reusable;
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::kept_statements::{KeptStatements, MAX_STATEMENTS};
use crate::db::plugin_data::result_budget::ResultBudget;
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::plugin_data::value::{Rows, Value};
use crate::db::sqlite_file;
use crate::db::sqlite_memory::{Meter, MeteredStatement};

/// The bytes that a row may take in addition to its values.
const ROW_OVERHEAD: usize = 64 * 1024;

/// The maximum number of pages of a SQLite file (<https://sqlite.org/limits.html>, 13).
const MAX_PAGES: i64 = 4_294_967_294;

/// The number of SQLite's virtual machine instructions between two checks of the deadline. With the longest values one
/// instruction may take ten milliseconds; with short ones it is fifty times as fast as a check.
const INSTRUCTIONS_PER_CHECK: i32 = 50;

/// SQLite checks no deadline between instructions without a jump, and a long text may have as many of these as
/// characters. Beyond this number of bytes, a longer text allows only shorter values.
const TEXT_BYTES: usize = 2 * 1024;

/// The maximum number of steps of LIKE and GLOB, pattern × text, which no deadline interrupts: some seconds.
const LIKE_STEPS: usize = 1 << 31;

/// The maximum number of the host's own statements that stay compiled, beyond those of the plugin.
const HOST_STATEMENTS: usize = 8;

/// The result of a statement.
#[derive(Debug, Default)]
pub(super) struct StatementResult {
    pub(super) rows: Rows,
    pub(super) affected: u64,
}

/// The reason why a statement did not run.
#[derive(Debug)]
pub(super) enum RunError {
    Failed(DataError),
    /// The statement writes, and this connection only reads.
    NeedsWriter,
}

impl From<DataError> for RunError {
    fn from(error: DataError) -> Self {
        Self::Failed(error)
    }
}

pub(super) struct Connection {
    pub(super) raw: rusqlite::Connection,
    pub(super) control: Arc<Control>,
    /// Set once the table of the outbox is there, committed. Only the deletion of the file removes it.
    pub(super) has_outbox: bool,
    pub(super) kept: KeptStatements<Arc<Plan>>,
    pub(super) log: LogPages,
    /// How long it waits for other processes, on a thread.
    pub(super) patience: Duration,
    /// The texts of the host's own statements, see [`Connection::host_statement`].
    host_texts: Vec<&'static str>,
    writable: bool,
    /// The limit on disk for which SQLite's limit on pages was set.
    disk: u64,
    pub(super) file: PathBuf,
    pub(super) wal: PathBuf,
    /// Set if the log was within its limit before the latest transaction of the plugin, until a statement writes.
    pub(super) is_wal_short: bool,
}

struct Parameter<'a>(&'a Value);

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Boolean(value) => ValueRef::Integer(i64::from(*value)),
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Connection {
    pub(super) fn open(file: &Path, limits: &StatementLimits, writable: bool) -> Result<Self, DataError> {
        Self::try_open(file, limits, writable).map_err(|error| {
            tracing::error!(
                file = %file.display(),
                error = &error as &dyn std::error::Error,
                "cannot open a plugin's database"
            );
            DataError::Unavailable
        })
    }

    fn try_open(file: &Path, limits: &StatementLimits, writable: bool) -> rusqlite::Result<Self> {
        // One thread at a time uses the connection. Without the URI flag a path is always a path.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        sqlite_file::open(file, flags, |raw| Self::set_up(raw, file, limits, writable))
    }

    fn set_up(
        raw: rusqlite::Connection,
        file: &Path,
        limits: &StatementLimits,
        writable: bool,
    ) -> rusqlite::Result<Self> {
        // Only another process can hold a lock: a backup, or a host that is shutting down.
        sqlite_file::open_log(&raw, limits.time)?;
        raw.pragma_update(None, "synchronous", "NORMAL")?;
        raw.pragma_update(None, "foreign_keys", true)?;
        raw.pragma_update(None, "query_only", !writable)?;
        for (setting, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
            (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
            // Without it SQLite compiles a statement anew each time that a value is bound which its planner looked at,
            // such as every `LIMIT $1`. In return the planner knows no bound value: a partial index needs its condition
            // as a literal, `LIKE $1` and `GLOB $1` use no index, and the statistics of ANALYZE, which a plugin cannot
            // run, tell nothing about a parameter.
            (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
        ] {
            raw.set_db_config(setting, on)?;
        }
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_SQL_LENGTH, 1024 * 1024 + 1),
            (Limit::SQLITE_LIMIT_COLUMN, 1_000),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, 500),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 200),
            (Limit::SQLITE_LIMIT_VDBE_OP, 1_000_000),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 50),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            raw.set_limit(limit, value)?;
        }
        raw.set_prepared_statement_cache_capacity(MAX_STATEMENTS.saturating_add(HOST_STATEMENTS));
        let control = Arc::new(Control::new());
        bounded_functions::install(&raw, &control)?;
        raw.authorizer(Some(authorizer(Arc::clone(&control))))?;
        let stop = Arc::clone(&control);
        raw.progress_handler(INSTRUCTIONS_PER_CHECK, Some(move || stop.must_stop()))?;
        LogPages::watch(&raw);
        let wal = sqlite_file::log_path(file);
        let connection = Self {
            raw,
            control,
            has_outbox: false,
            kept: KeptStatements::new(),
            log: LogPages::default(),
            patience: limits.time,
            host_texts: Vec::new(),
            writable,
            disk: u64::MAX,
            file: file.to_owned(),
            wal,
            is_wal_short: false,
        };
        connection.limit_values(limits.bytes, 0)?;
        Ok(connection)
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(super) fn in_transaction(&self) -> bool {
        !self.raw.is_autocommit()
    }

    /// Compiles a statement of the host's own, which stays compiled. No statement of the plugin may have its text from
    /// now on: SQLite asks the authorizer when it compiles, so the plugin would run the statement unchecked.
    pub(super) fn host_statement(&mut self, sql: &'static str) -> rusqlite::Result<CachedStatement<'_>> {
        self.control.set_mode(Mode::Host);
        if !self.host_texts.contains(&sql) {
            self.host_texts.push(sql);
        }
        self.raw.prepare_cached(sql)
    }

    /// Begins a transaction that writes, unless a transaction is open.
    pub(super) fn begin(&mut self, limits: &StatementLimits) -> Result<(), DataError> {
        if self.in_transaction() { Ok(()) } else { self.start("BEGIN IMMEDIATE", limits) }
    }

    /// Runs `work` in a transaction of its own, which the statement `begin` begins. Commits it, or rolls it back after
    /// an error.
    pub(super) fn transaction<T>(
        &mut self,
        begin: &'static str,
        limits: &StatementLimits,
        work: impl FnOnce(&mut Self) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        let done = self.start(begin, limits).and_then(|()| work(self)).and_then(|result| {
            self.commit()?;
            Ok(result)
        });
        if done.is_err() {
            self.rollback();
        }
        done
    }

    /// Begins a transaction. The wait for other processes has the time of a statement.
    fn start(&mut self, begin: &'static str, limits: &StatementLimits) -> Result<(), DataError> {
        // The deadline of an earlier statement may have passed.
        self.control.set_deadline(limits.time);
        self.run_host(begin)
    }

    /// Runs a statement of the host's own: BEGIN, COMMIT, ROLLBACK.
    pub(super) fn run_host(&mut self, sql: &'static str) -> Result<(), DataError> {
        let done = self.host_statement(sql).and_then(|mut statement| statement.raw_execute());
        done.map(drop).map_err(|error| error_mapping::to_data_error(&self.raw, &self.control, error, None))
    }

    /// Commits. The deadline no longer applies: the commit succeeds or fails.
    pub(super) fn commit(&mut self) -> Result<(), DataError> {
        self.control.clear_deadline();
        self.control.end_in_place();
        self.run_host("COMMIT")
    }

    /// Rolls back a failed transaction; SQLite may have done so already. Returns whether no transaction is open.
    pub(super) fn rollback(&mut self) -> bool {
        self.control.clear_deadline();
        self.control.end_in_place();
        !self.in_transaction() || self.run_host("ROLLBACK").is_ok() || !self.in_transaction()
    }

    /// Runs a plugin's statement.
    pub(super) fn statement(
        &mut self,
        sql: &str,
        params: &[Value],
        limits: &StatementLimits,
        budget: &mut ResultBudget<'_>,
    ) -> Result<StatementResult, RunError> {
        self.control.restart_checks();
        let (began, is_in_place) = (Instant::now(), self.control.is_in_place());
        let outcome = self.run_statement(sql, params, limits, budget);
        if let Some(in_place) = self.kept.get(sql).as_ref().and_then(|plan| plan.in_place.as_ref()) {
            in_place.count(self.was_quick(began, is_in_place && outcome.is_err()));
        }
        if self.kept.is_too_large(sql) {
            self.forget(sql);
        }
        outcome
    }

    /// Forgets all compiled statements of the plugin, and so what is known of them.
    pub(super) fn forget_all(&mut self) {
        self.kept.clear();
        self.raw.flush_prepared_statement_cache();
    }

    /// Forgets a compiled statement.
    fn forget(&mut self, sql: &str) {
        self.kept.remove(sql);
        // Finds the statement in the cache.
        if let Ok(statement) = self.raw.prepare_cached(sql) {
            statement.discard();
        }
    }

    /// Outside a transaction, a statement that writes gets its own transaction. If its result hits a limit, the write must be
    /// rolled back. SQLite looks at the deadline also after the last instruction, so without one, a statement that was
    /// stopped could have committed.
    fn run_statement(
        &mut self,
        sql: &str,
        params: &[Value],
        limits: &StatementLimits,
        budget: &mut ResultBudget<'_>,
    ) -> Result<StatementResult, RunError> {
        self.apply_limits(limits, limits.bytes, sql.len())?;
        self.control.set_mode(Mode::Statement);
        let plan = self.plan(sql, limits)?;
        if !plan.reads && !self.writable {
            return Err(RunError::NeedsWriter);
        }
        if !plan.reads {
            let is_known_short = std::mem::take(&mut self.is_wal_short) && self.in_transaction();
            if !is_known_short {
                self.limit_wal(limits)?;
            }
        }
        if plan.reads || self.in_transaction() {
            return Ok(self.run(sql, &plan, params, limits, budget)?);
        }
        self.run_host("BEGIN IMMEDIATE")?;
        self.control.set_mode(Mode::Statement);
        let outcome = self.run(sql, &plan, params, limits, budget).and_then(|outcome| {
            self.commit()?;
            Ok(outcome)
        });
        if outcome.is_err() {
            self.rollback();
        }
        Ok(outcome?)
    }

    /// Begins the time of a statement of `text` bytes whose values have at most `bytes` bytes, and limits the file.
    pub(super) fn apply_limits(
        &mut self,
        limits: &StatementLimits,
        bytes: usize,
        text: usize,
    ) -> Result<(), DataError> {
        self.control.set_deadline(limits.time);
        let mut applied = self.limit_values(bytes, text);
        if applied.is_ok() && self.writable && self.disk != limits.disk {
            applied = self.limit_disk(limits.disk);
        }
        applied.map_err(|error| error_mapping::to_data_error(&self.raw, &self.control, error, Some(limits)))
    }

    /// Limits the length of SQLite's values to the need of a result of `bytes` bytes, for a statement of `text` bytes.
    pub(super) fn limit_values(&self, bytes: usize, text: usize) -> rusqlite::Result<()> {
        let bytes = bytes.saturating_mul(TEXT_BYTES) / text.max(TEXT_BYTES);
        let bytes = bytes.saturating_add(ROW_OVERHEAD);
        let is_in_place = self.control.is_in_place();
        let longest = i32::try_from(if is_in_place { place::BYTES } else { bytes }).unwrap_or(i32::MAX);
        if self.control.longest() == longest {
            return Ok(());
        }
        self.raw.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest)?;
        let pattern = i32::try_from((LIKE_STEPS / bytes).clamp(50, 1_000)).unwrap_or(1_000);
        let pattern = if is_in_place { place::PATTERN } else { pattern };
        self.raw.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, pattern)?;
        self.control.set_longest(longest);
        Ok(())
    }

    /// Limits the number of pages. A file that is larger already stays, and may shrink.
    pub(super) fn limit_disk(&mut self, disk: u64) -> rusqlite::Result<()> {
        self.control.set_mode(Mode::Host);
        let page: i64 = self.raw.pragma_query_value(None, "page_size", |row| row.get(0))?;
        // SQLite can number no more pages.
        let pages = (i64::try_from(disk).unwrap_or(i64::MAX) / page.max(1)).clamp(1, MAX_PAGES);
        self.raw.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        self.disk = disk;
        Ok(())
    }

    fn plan(&mut self, sql: &str, limits: &StatementLimits) -> Result<Arc<Plan>, DataError> {
        if let Some(plan) = self.kept.get(sql) {
            return Ok(plan);
        }
        if self.host_texts.contains(&sql.trim()) {
            return Err(DataError::invalid("not authorized"));
        }
        if self.kept.is_full() {
            self.forget_all();
        }
        let _meter = Meter::start(&self.control, limits.bytes);
        let failed = |error| error_mapping::to_data_error(&self.raw, &self.control, error, Some(limits));
        let statement = self.raw.prepare_cached(sql).map_err(failed)?;
        let mut parameters = Vec::with_capacity(statement.parameter_count());
        for position in 1..=statement.parameter_count() {
            let name = statement.parameter_name(position).and_then(|name| name.strip_prefix('$')?.parse().ok());
            parameters.push(name.ok_or_else(|| DataError::invalid("parameters are written $1, $2, …"))?);
        }
        let bytes = memory(&statement);
        let plan = Arc::new(Plan::of(&statement, parameters, self.quick_runs(sql)));
        drop(statement);
        self.kept.insert(sql, Arc::clone(&plan), plan.columns.len(), bytes);
        Ok(plan)
    }

    fn run(
        &mut self,
        sql: &str,
        plan: &Plan,
        params: &[Value],
        limits: &StatementLimits,
        budget: &mut ResultBudget<'_>,
    ) -> Result<StatementResult, DataError> {
        let _meter = Meter::start(&self.control, limits.bytes);
        let failed = |error| error_mapping::to_data_error(&self.raw, &self.control, error, Some(limits));
        let mut statement = self.raw.prepare_cached(sql).map_err(failed)?;
        for (position, number) in (1_usize..).zip(&plan.parameters) {
            let value = number.checked_sub(1).and_then(|index| params.get(index)).unwrap_or(&Value::Null);
            statement.raw_bind_parameter(position, Parameter(value)).map_err(failed)?;
        }
        let mut values = Vec::new();
        let mut renewed = None;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            if values.is_empty() {
                renewed = plan.renewed(row.as_ref(), || self.quick_runs(sql));
            }
            budget.row()?;
            values.push(cells(row, renewed.as_ref().unwrap_or(plan), budget, failed)?);
        }
        drop(rows);
        let affected = if plan.reads { 0 } else { self.raw.changes() };
        if let Some(plan) = renewed.or_else(|| plan.renewed(&statement, || self.quick_runs(sql))) {
            statement.reset_status(StatementStatus::RePrepare);
            let columns = plan.columns.clone();
            let bytes = memory(&statement);
            drop(statement);
            self.kept.insert(sql, Arc::new(plan), columns.len(), bytes);
            return Ok(StatementResult { rows: Rows { columns, values }, affected });
        }
        Ok(StatementResult { rows: Rows { columns: plan.columns.clone(), values }, affected })
    }
}

/// Returns the memory that SQLite takes for a compiled statement.
fn memory(statement: &rusqlite::Statement<'_>) -> usize {
    usize::try_from(statement.get_status(StatementStatus::MemUsed)).unwrap_or_default()
}

fn cells(
    row: &rusqlite::Row<'_>,
    plan: &Plan,
    budget: &mut ResultBudget<'_>,
    failed: impl Fn(rusqlite::Error) -> DataError,
) -> Result<Vec<Value>, DataError> {
    let mut cells = Vec::with_capacity(plan.columns.len());
    for (index, boolean) in plan.booleans.iter().enumerate() {
        let cell = value(row.get_ref(index).map_err(&failed)?, *boolean).ok_or_else(|| {
            let name = plan.columns.get(index).map_or("", String::as_str);
            DataError::invalid(format!("column {name} contains text that is not UTF-8; select it as a blob"))
        })?;
        budget.bytes(cell.weight())?;
        cells.push(cell);
    }
    Ok(cells)
}

impl Reusable for Connection {
    fn reset(&mut self) -> bool {
        self.rollback()
    }
}

fn value(cell: ValueRef<'_>, boolean: bool) -> Option<Value> {
    Some(match cell {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer @ (0 | 1)) if boolean => Value::Boolean(integer == 1),
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(bytes) => Value::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether the connection still has the compiled statement, and its memory.
    fn kept(connection: &Connection, sql: &str) -> Option<usize> {
        let statement = connection.raw.prepare_cached(sql).unwrap();
        let kept = (statement.get_status(StatementStatus::Run) > 0).then(|| memory(&statement));
        statement.discard();
        kept
    }

    fn limits() -> StatementLimits {
        StatementLimits { rows: 10_000, bytes: 8 << 20, time: Duration::from_secs(60), connections: 1, disk: u64::MAX }
    }

    #[test]
    fn a_statement_is_compiled_once_for_all_values() {
        crate::db::sqlite_memory::install().unwrap();
        let limits = limits();
        let mut connection = Connection::open(Path::new(":memory:"), &limits, true).unwrap();
        let sql = "WITH a (n) AS (VALUES (1), (2), (3)) SELECT n FROM a LIMIT $1";
        let mut run = |rows: i64| {
            let params = [Value::Integer(rows)];
            let result = connection.statement(sql, &params, &limits, &mut ResultBudget::new(&limits)).unwrap();
            (result.rows.values.len(), connection.kept.get(sql).unwrap())
        };
        let (first, second) = (run(1), run(2));
        assert_eq!((first.0, second.0), (1, 2));
        assert!(Arc::ptr_eq(&first.1, &second.1), "a statement that SQLite compiled anew has a new plan");
    }

    #[test]
    fn a_plugin_cannot_run_a_compiled_statement_of_the_host() {
        const SQL: &str = "DELETE FROM _wharf_outbox";
        crate::db::sqlite_memory::install().unwrap();
        let limits = limits();
        let mut connection = Connection::open(Path::new(":memory:"), &limits, true).unwrap();
        connection.raw.execute_batch("CREATE TABLE _wharf_outbox (id INTEGER)").unwrap();
        connection.host_statement(SQL).unwrap().execute([]).unwrap();
        for sql in [SQL, " DELETE FROM _wharf_outbox\n"] {
            let refused = connection.statement(sql, &[], &limits, &mut ResultBudget::new(&limits));
            assert!(matches!(&refused, Err(RunError::Failed(DataError::Invalid(_)))), "{refused:?}");
        }
    }

    #[test]
    fn a_connection_keeps_small_statements_and_a_bounded_memory() {
        crate::db::sqlite_memory::install().unwrap();
        let limits = limits();
        let mut connection = Connection::open(Path::new(":memory:"), &limits, true).unwrap();
        let mut run = |sql: &str| connection.statement(sql, &[], &limits, &mut ResultBudget::new(&limits)).unwrap();
        let small = "SELECT 1".to_owned();
        let list = |count: usize| format!("SELECT 1 WHERE 1 IN ({})", vec!["1 + 1"; count].join(", "));
        let medium: Vec<String> = (1_000..1_200).map(list).collect();
        let large: Vec<String> = (50_000..50_005).map(list).collect();
        for sql in medium.iter().chain(&large).chain([&small]) {
            run(sql);
        }
        assert!(kept(&connection, &small).is_some());
        assert_eq!(large.iter().filter_map(|sql| kept(&connection, sql)).count(), 0);
        let bytes: usize = medium.iter().filter_map(|sql| kept(&connection, sql)).sum();
        assert!(bytes < 4 << 20, "{bytes}");
    }
}
