//! One connection to a plugin's file: opening it locked down, running statements on it. Blocks; whoever calls it is on a
//! thread that may. Never waits for another connection of this process: the pool sees to it that one connection writes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, OpenFlags, StatementStatus, ToSql};

use super::authorizer::authorizer;
use super::control::{Control, Mode};
use super::heap::Meter;
use super::plan::Plan;
use super::{failure, function};
use crate::db::plugin_data::slots::Reuse;
use crate::db::plugin_data::value::{Budget, Limits};
use crate::db::plugin_data::{DataError, Rows, Value};

/// Statements kept compiled, and descriptions kept of them.
const CACHED_STATEMENTS: usize = 128;

/// What a row may take beyond the bytes of its values.
const ROW_OVERHEAD: usize = 64 * 1024;

/// The most pages that a file of SQLite may have (<https://sqlite.org/limits.html>, 13).
const MAX_PAGES: i64 = 4_294_967_294;

/// What the log may take beside as much as the file: SQLite begins it anew after 4 MiB, if nobody reads.
const LOG_BYTES: u64 = 64 * 1024 * 1024;
/// How long who reads is waited for then.
const LOG_TIME: Duration = Duration::from_millis(100);

/// How many instructions of SQLite's machine run between two looks at the deadline. One may take ten milliseconds, with the
/// longest values; it is fifty times as quick as a look, with short ones.
const INSTRUCTIONS_PER_LOOK: i32 = 50;

/// Nothing is asked between instructions that follow each other without a jump, and a long text may have as many as it has
/// letters. Beyond so many bytes, the longer the text, the shorter the values.
const TEXT_BYTES: usize = 2 * 1024;

/// How many steps LIKE and GLOB may take, pattern × text, which no deadline interrupts: some seconds.
const LIKE_STEPS: usize = 1 << 31;

/// Between two tries to open a file that another process is opening or closing.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// What came of a statement.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) rows: Rows,
    pub(super) affected: u64,
}

/// Why a statement did not run.
#[derive(Debug)]
pub(super) enum Refusal {
    Failed(DataError),
    /// It writes, and this connection only reads.
    Writes,
}

impl From<DataError> for Refusal {
    fn from(error: DataError) -> Self {
        Self::Failed(error)
    }
}

pub(super) struct Connection {
    pub(super) raw: rusqlite::Connection,
    pub(super) control: Arc<Control>,
    plans: HashMap<Box<str>, Arc<Plan>>,
    writable: bool,
    /// The bytes of disk that SQLite's own limit on pages was set for.
    disk: u64,
    log: PathBuf,
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
    pub(super) fn open(file: &Path, limits: &Limits, writable: bool) -> Result<Self, DataError> {
        Self::try_open(file, limits, writable).map_err(|error| {
            tracing::error!(file = %file.display(), error = &error as &dyn std::error::Error, "a plugin's database does not open");
            DataError::Unavailable
        })
    }

    fn try_open(file: &Path, limits: &Limits, writable: bool) -> rusqlite::Result<Self> {
        // The connection is used by one thread at a time; a path is a path and never a URI.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let raw = rusqlite::Connection::open_with_flags(file, flags)?;
        // Only another process can hold a lock: a backup, or a host that is just going.
        raw.busy_timeout(limits.time)?;
        write_ahead(&raw, limits.time)?;
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
        raw.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
        let control = Arc::new(Control::new());
        function::bound(&raw, &control)?;
        raw.authorizer(Some(authorizer(Arc::clone(&control))))?;
        let stop = Arc::clone(&control);
        raw.progress_handler(INSTRUCTIONS_PER_LOOK, Some(move || stop.must_stop()))?;
        let connection = Self { raw, control, plans: HashMap::new(), writable, disk: u64::MAX, log: log_of(file) };
        connection.bound_values(limits.bytes, 0)?;
        Ok(connection)
    }

    pub(super) fn in_transaction(&self) -> bool {
        !self.raw.is_autocommit()
    }

    /// A statement of the host's own: BEGIN, COMMIT, ROLLBACK.
    pub(super) fn host(&mut self, sql: &'static str) -> Result<(), DataError> {
        self.control.set_mode(Mode::Host);
        let done = self.raw.prepare_cached(sql).and_then(|mut statement| statement.raw_execute());
        done.map(drop).map_err(|error| failure::of(&self.raw, &self.control, error, None))
    }

    /// Not interrupted any more: it lasts or it fails.
    pub(super) fn commit(&mut self) -> Result<(), DataError> {
        self.control.unlimit();
        self.host("COMMIT")
    }

    /// Ends a transaction that failed; SQLite may have done so already.
    pub(super) fn rollback(&mut self) -> bool {
        self.control.unlimit();
        !self.in_transaction() || self.host("ROLLBACK").is_ok() || !self.in_transaction()
    }

    /// A plugin's statement. One that writes and answers, outside a transaction, gets one around it: what it answers may
    /// be beyond a limit, and then it must not have happened.
    pub(super) fn statement(
        &mut self,
        sql: &str,
        params: &[Value],
        limits: &Limits,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, Refusal> {
        self.control.limit(limits.time);
        self.bound_values(limits.bytes, sql.len())
            .map_err(|error| failure::of(&self.raw, &self.control, error, Some(limits)))?;
        if self.writable && self.disk != limits.disk {
            self.bound_disk(limits.disk).map_err(|error| failure::of(&self.raw, &self.control, error, Some(limits)))?;
        }
        self.control.set_mode(Mode::Statement);
        let plan = self.plan(sql, limits)?;
        if !plan.reads && !self.writable {
            return Err(Refusal::Writes);
        }
        if !plan.reads {
            self.bound_log(limits)?;
        }
        if plan.reads || plan.columns.is_empty() || self.in_transaction() {
            return Ok(self.run(sql, &plan, params, limits, budget)?);
        }
        self.host("BEGIN IMMEDIATE")?;
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

    /// The log too: while somebody always reads an older state, it is never begun anew.
    fn bound_log(&mut self, limits: &Limits) -> Result<(), DataError> {
        let most = limits.disk.saturating_add(LOG_BYTES);
        let is_long = || std::fs::metadata(&self.log).is_ok_and(|log| log.len() > most);
        if !is_long() {
            return Ok(());
        }
        // Within a transaction there is no way; it will be rolled back.
        self.control.set_mode(Mode::Host);
        let emptied = self.raw.busy_timeout(LOG_TIME).and_then(|()| {
            let emptied = self.raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
            self.raw.busy_timeout(limits.time)?;
            emptied
        });
        self.control.set_mode(Mode::Statement);
        if emptied.is_ok_and(|busy| busy == 0) || !is_long() { Ok(()) } else { Err(DataError::disk(limits)) }
    }

    /// SQLite makes no longer values from here on than an answer of so many bytes may need, by a text of so many.
    pub(super) fn bound_values(&self, bytes: usize, text: usize) -> rusqlite::Result<()> {
        let bytes = bytes.saturating_mul(TEXT_BYTES) / text.max(TEXT_BYTES);
        let longest = i32::try_from(bytes.saturating_add(ROW_OVERHEAD)).unwrap_or(i32::MAX);
        if self.control.longest() == longest {
            return Ok(());
        }
        self.raw.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest)?;
        let pattern = LIKE_STEPS / bytes.saturating_add(ROW_OVERHEAD);
        let pattern = i32::try_from(pattern.clamp(50, 1_000)).unwrap_or(1_000);
        self.raw.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, pattern)?;
        self.control.set_longest(longest);
        Ok(())
    }

    /// SQLite takes no more pages from here on; a file that is larger already may stay, and become smaller.
    pub(super) fn bound_disk(&mut self, disk: u64) -> rusqlite::Result<()> {
        self.control.set_mode(Mode::Host);
        let page: i64 = self.raw.pragma_query_value(None, "page_size", |row| row.get(0))?;
        // As many as SQLite can number.
        let pages = (i64::try_from(disk).unwrap_or(i64::MAX) / page.max(1)).clamp(1, MAX_PAGES);
        self.raw.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        self.disk = disk;
        Ok(())
    }

    fn plan(&mut self, sql: &str, limits: &Limits) -> Result<Arc<Plan>, DataError> {
        if let Some(plan) = self.plans.get(sql) {
            return Ok(Arc::clone(plan));
        }
        let _meter = Meter::start(&self.control, limits);
        let failed = |error| failure::of(&self.raw, &self.control, error, Some(limits));
        let statement = self.raw.prepare_cached(sql).map_err(failed)?;
        let mut parameters = Vec::with_capacity(statement.parameter_count());
        for place in 1..=statement.parameter_count() {
            let name = statement.parameter_name(place).and_then(|name| name.strip_prefix('$')?.parse().ok());
            parameters.push(name.ok_or_else(|| DataError::invalid("parameters are written $1, $2, …"))?);
        }
        let plan = Arc::new(Plan::of(&statement, parameters));
        drop(statement);
        if self.plans.len() >= CACHED_STATEMENTS.saturating_mul(2) {
            self.plans.clear();
        }
        self.plans.insert(sql.into(), Arc::clone(&plan));
        Ok(plan)
    }

    fn run(
        &mut self,
        sql: &str,
        plan: &Plan,
        params: &[Value],
        limits: &Limits,
        budget: &mut Budget<'_>,
    ) -> Result<Outcome, DataError> {
        let _meter = Meter::start(&self.control, limits);
        let failed = |error| failure::of(&self.raw, &self.control, error, Some(limits));
        let mut statement = self.raw.prepare_cached(sql).map_err(failed)?;
        for (place, number) in (1_usize..).zip(&plan.parameters) {
            let value = number.checked_sub(1).and_then(|index| params.get(index)).unwrap_or(&Value::Null);
            statement.raw_bind_parameter(place, Parameter(value)).map_err(failed)?;
        }
        let mut values = Vec::new();
        let mut renewed = None;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            if values.is_empty() {
                renewed = plan.renewed(row.as_ref());
            }
            budget.row()?;
            values.push(cells(row, renewed.as_ref().unwrap_or(plan), budget, failed)?);
        }
        drop(rows);
        let affected = if plan.reads { 0 } else { self.raw.changes() };
        if let Some(plan) = renewed.or_else(|| plan.renewed(&statement)) {
            statement.reset_status(StatementStatus::RePrepare);
            let columns = plan.columns.clone();
            self.plans.insert(sql.into(), Arc::new(plan));
            return Ok(Outcome { rows: Rows { columns, values }, affected });
        }
        Ok(Outcome { rows: Rows { columns: plan.columns.clone(), values }, affected })
    }
}

/// Making the log of a new file, or cleaning it up with the last connection, SQLite asks for the file at once or not at
/// all, whatever its busy timeout is (<https://sqlite.org/wal.html>, section 8).
fn write_ahead(raw: &rusqlite::Connection, limit: Duration) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match raw.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && begun.elapsed() < limit => {
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

fn cells(
    row: &rusqlite::Row<'_>,
    plan: &Plan,
    budget: &mut Budget<'_>,
    failed: impl Fn(rusqlite::Error) -> DataError,
) -> Result<Vec<Value>, DataError> {
    let mut cells = Vec::with_capacity(plan.columns.len());
    for (index, boolean) in plan.booleans.iter().enumerate() {
        let cell = value(row.get_ref(index).map_err(&failed)?, *boolean).ok_or_else(|| {
            let name = plan.columns.get(index).map_or("", String::as_str);
            DataError::invalid(format!("column {name} holds text that is not UTF-8; select it as a blob"))
        })?;
        budget.bytes(cell.weight())?;
        cells.push(cell);
    }
    Ok(cells)
}

impl Reuse for Connection {
    fn reset(&mut self) -> bool {
        self.rollback()
    }
}

/// Where SQLite keeps what is not in the file yet.
pub(super) fn log_of(file: &Path) -> PathBuf {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    log.into()
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
