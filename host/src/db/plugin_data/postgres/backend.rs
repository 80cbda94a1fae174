//! One connection of a plugin's role. Owns the plans of its prepared statements, and the knowledge whether it is clean:
//! a statement that did not run to its end leaves it unclean, and then it is ended on the server too.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow, PgStatement};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Either, Executor, Row, SqlSafeStr, Statement as _, ValueRef};

use super::allowlist::{Allowlist, CurrentAllowlist};
use super::column::ColumnType;
use super::error_mapping;
use super::parameter::{Parameter, bind};
use crate::db::host_pool::PgHostPool;
use crate::db::plugin_data::connection_pool::Reusable;
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::kept_statements::KeptStatements;
use crate::db::plugin_data::result_budget::ResultBudget;
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::plugin_data::value::{Rows, Value};
use crate::db::session_settings::{self, Setting};

/// The memory that the server takes for a statement, as a multiple of its text: the text, its parsed form and its plan.
/// Other statements than lists of short literals take less. Such a list takes a hundred times its text, so it can exceed
/// the limits six times.
const SERVER_BYTES_PER_CHARACTER: usize = 16;

#[derive(Clone)]
struct Plan(Arc<Described>);

struct Described {
    statement: PgStatement,
    parameters: Vec<Parameter>,
    columns: Vec<(String, ColumnType)>,
}

/// The error of a statement. A stale plan can be retried on another connection.
pub(super) enum RunError {
    StalePlan,
    Data(DataError),
}

impl From<DataError> for RunError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

/// The process of a backend on the server. The operating system reuses the numbers, so the start is part of the identity.
#[derive(Debug, Clone, Copy)]
struct Process {
    number: i32,
    /// Microseconds since 1970.
    started: i64,
}

const OWN_PROCESS: &str = "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_activity \
                           WHERE pid = pg_backend_pid()";
const HAS_PROCESS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                           WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2)";
const END_PROCESS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2";

/// The times between looks whether a backend has ended.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(5);

pub(super) struct Backend {
    connection: PgConnection,
    allowlist: Arc<Allowlist>,
    process: Process,
    kept: KeptStatements<Plan>,
    /// A message was sent, and its response has not been read to the end.
    unclean: bool,
    in_transaction: bool,
    /// The statement deadline that is set on the server.
    time: Duration,
}

/// Returns how long a statement waits for locks, in milliseconds: shorter than its deadline, which would otherwise hide
/// that the statement only waited.
pub(super) fn lock_time(time: Duration) -> u128 {
    (time.as_millis().saturating_mul(4) / 5).max(1)
}

impl Reusable for Backend {
    fn reset(&mut self) -> bool {
        // They stay as large as the largest parameter and row so far.
        sqlx::Connection::shrink_buffers(&mut self.connection);
        !self.unclean && !self.in_transaction
    }
}

impl Backend {
    /// Connects. `time` is the statement deadline that `settings` set on the server.
    pub(super) async fn connect(
        options: &PgConnectOptions,
        settings: &[Setting],
        time: Duration,
        allowlist: &CurrentAllowlist,
    ) -> sqlx::Result<Self> {
        let mut connection = options.connect().await?;
        session_settings::apply(&mut connection, settings).await?;
        let allowlist = allowlist.of(connection.server_version_num()).await?;
        let (number, started) = sqlx::query_as(OWN_PROCESS).persistent(false).fetch_one(&mut connection).await?;
        let process = Process { number, started };
        Ok(Self {
            connection,
            allowlist,
            process,
            kept: KeptStatements::new(),
            unclean: false,
            in_transaction: false,
            time,
        })
    }

    pub(super) fn time(&self) -> Duration {
        self.time
    }

    /// Sets another statement deadline on the server.
    pub(super) async fn set_time(&mut self, limits: &StatementLimits) -> Result<(), DataError> {
        let (time, lock_time) = (limits.time.as_millis(), lock_time(limits.time));
        self.unclean = true;
        let sql = format!("SET statement_timeout = {time}; SET lock_timeout = {lock_time}");
        let done = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
        self.settle(done, limits)?;
        self.time = limits.time;
        Ok(())
    }

    /// Returns whether the server still responds.
    pub(super) async fn is_alive(&mut self) -> bool {
        self.unclean = true;
        let alive = sqlx::Connection::ping(&mut self.connection).await.is_ok();
        self.unclean = !alive;
        alive
    }

    pub(super) fn is_unclean(&self) -> bool {
        self.unclean
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Ends an unclean connection on the server, which would notice the closed socket only at its next write. A
    /// plugin's role may not signal the host's backends, but the host may signal its roles' backends.
    ///
    /// Returns only when the process is gone: in some functions a backend looks for no signal, and computes on. Its caller
    /// keeps the permit as long, so that such statements cannot pile up. The number of permits bounds the waiting tasks.
    pub(super) async fn terminate(self, host: &PgHostPool) {
        let Process { number, started } = self.process;
        drop(self.connection);
        let mut wait = FIRST_LOOK;
        loop {
            let ended = sqlx::query(END_PROCESS).bind(number).bind(started).execute(host).await;
            tokio::time::sleep(wait).await;
            let left = sqlx::query_scalar::<_, bool>(HAS_PROCESS).bind(number).bind(started).fetch_one(host).await;
            match ended.and(left) {
                Ok(true) => {}
                Ok(false) => return,
                Err(sqlx::Error::PoolClosed) => return,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a plugin's statement could not be ended");
                }
            }
            wait = wait.saturating_mul(2).min(LAST_LOOK);
        }
    }

    /// Runs a statement of the host's own without values, such as BEGIN, COMMIT and ROLLBACK.
    pub(super) async fn run_host(&mut self, sql: impl SqlSafeStr, limits: &StatementLimits) -> Result<(), DataError> {
        let statement = sqlx::raw_sql(sql);
        self.unclean = true;
        let done = self.connection.execute(statement).await;
        self.settle(done, limits).map(drop)
    }

    /// Runs a query of the host's own and returns its rows.
    pub(super) async fn query_host(
        &mut self,
        query: Query<'_, sqlx::Postgres, PgArguments>,
        limits: &StatementLimits,
    ) -> Result<Vec<PgRow>, DataError> {
        self.unclean = true;
        let rows = self.connection.fetch_all(query).await;
        self.settle(rows, limits)
    }

    pub(super) async fn begin(&mut self, sql: &'static str, limits: &StatementLimits) -> Result<(), DataError> {
        self.in_transaction = true;
        let begun = self.run_host(sql, limits).await;
        self.in_transaction = begun.is_ok();
        begun
    }

    /// Runs COMMIT or ROLLBACK. The server ends the transaction even if it reports an error.
    pub(super) async fn end(&mut self, sql: &'static str, limits: &StatementLimits) -> Result<(), DataError> {
        let ended = self.run_host(sql, limits).await;
        self.in_transaction = false;
        ended
    }

    /// Runs a plugin's statement.
    pub(super) async fn statement(
        &mut self,
        sql: &str,
        values: &[Value],
        limits: &StatementLimits,
        budget: &mut ResultBudget<'_>,
    ) -> Result<(Rows, u64), RunError> {
        let outcome = self.run_statement(sql, values, limits, budget).await;
        if !self.unclean && self.kept.is_too_large(sql) {
            // sqlx forgets only all statements of a connection. If that fails, the connection ends.
            let _ = self.forget_statements(limits).await;
        }
        outcome
    }

    /// Counts the result while it arrives.
    async fn run_statement(
        &mut self,
        sql: &str,
        values: &[Value],
        limits: &StatementLimits,
        budget: &mut ResultBudget<'_>,
    ) -> Result<(Rows, u64), RunError> {
        let plan = self.plan(sql, limits).await?;
        let arguments = bind(&plan.0.parameters, values)?;
        let mut rows =
            Rows { columns: plan.0.columns.iter().map(|(name, _)| name.clone()).collect(), values: Vec::new() };
        let mut affected = 0_u64;
        self.unclean = true;
        let mut stream = self.connection.fetch_many(plan.0.statement.query_with(arguments));
        let ended = loop {
            match stream.try_next().await {
                Ok(Some(Either::Left(done))) => affected = affected.saturating_add(done.rows_affected()),
                Ok(Some(Either::Right(row))) => rows.values.push(cells(&row, &plan.0.columns, budget)?),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(stream);
        if let Err(error) = &ended
            && error_mapping::is_stale_plan(error)
        {
            return Err(RunError::StalePlan);
        }
        self.settle(ended, limits)?;
        Ok((rows, affected))
    }

    /// Closes all prepared statements, also on the server.
    async fn forget_statements(&mut self, limits: &StatementLimits) -> Result<(), DataError> {
        self.unclean = true;
        self.kept.clear();
        let closed = sqlx::Connection::clear_cached_statements(&mut self.connection).await;
        self.settle(closed, limits)
    }

    /// Returns the number of columns of the statement's result.
    pub(super) async fn column_count(&mut self, sql: &str, limits: &StatementLimits) -> Result<usize, DataError> {
        Ok(self.plan(sql, limits).await?.0.columns.len())
    }

    async fn plan(&mut self, sql: &str, limits: &StatementLimits) -> Result<Plan, DataError> {
        if let Some(plan) = self.kept.get(sql) {
            return Ok(plan);
        }
        if self.kept.is_full() {
            self.forget_statements(limits).await?;
        }
        self.allowlist.check(sql)?;
        self.unclean = true;
        let prepared = self.connection.prepare(AssertSqlSafe(sql).into_sql_str()).await;
        let statement = self.settle(prepared, limits)?;
        let parameters = match statement.parameters() {
            Some(Either::Left(types)) => types.iter().map(Parameter::of).collect(),
            _ => Vec::new(),
        };
        let columns: Result<Vec<_>, DataError> = statement
            .columns()
            .iter()
            .map(|column| Ok((column.name().to_owned(), ColumnType::of(column.name(), column.type_info())?)))
            .collect();
        let columns = match columns {
            Ok(columns) => columns,
            Err(error) => {
                // sqlx and the server keep the statement, but it has no plan, so nothing would count it.
                let _ = self.forget_statements(limits).await;
                return Err(error);
            }
        };
        let plan = Plan(Arc::new(Described { statement, parameters, columns }));
        let bytes = sql.len().saturating_mul(SERVER_BYTES_PER_CHARACTER);
        self.kept.insert(sql, plan.clone(), plan.0.columns.len(), bytes);
        Ok(plan)
    }

    /// Ends a statement, possibly with an error: the connection is clean unless the error is about the connection.
    fn settle<T>(&mut self, ended: sqlx::Result<T>, limits: &StatementLimits) -> Result<T, DataError> {
        self.unclean = ended.as_ref().err().is_some_and(|error| !error_mapping::leaves_connection(error));
        ended.map_err(|error| error_mapping::to_data_error(error, limits))
    }
}

fn cells(
    row: &PgRow,
    columns: &[(String, ColumnType)],
    budget: &mut ResultBudget<'_>,
) -> Result<Vec<Value>, DataError> {
    budget.row()?;
    let mut cells = Vec::with_capacity(columns.len());
    for (index, (name, kind)) in columns.iter().enumerate() {
        let raw = row.try_get_raw(index).map_err(|error| DataError::invalid(error.to_string()))?;
        let cell = if raw.is_null() {
            Value::Null
        } else {
            let bytes = raw.as_bytes().map_err(|error| DataError::invalid(error.to_string()))?;
            budget.admits(bytes.len())?;
            kind.read(bytes).ok_or_else(|| {
                DataError::invalid(format!(
                    "column {name} contains a value that cannot be represented; cast column {name} to text"
                ))
            })?
        };
        budget.bytes(cell.weight())?;
        cells.push(cell);
    }
    Ok(cells)
}
