//! One connection of a plugin's role. Owns what is known of the statements prepared on it, and whether it is clean: a
//! statement that did not come to its end leaves it unclean, and then the server's side is ended, not only ours.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow, PgStatement};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Either, Executor, PgPool, Row, SqlSafeStr, Statement as _, ValueRef,
};

use super::column::Form;
use super::failure;
use super::parameter::{Parameter, bind};
use crate::db::plugin_data::slots::Reuse;
use crate::db::plugin_data::value::{Budget, Limits};
use crate::db::plugin_data::{DataError, Rows, Value};

/// Statements kept prepared on each connection, and described here.
pub(super) const CACHED_STATEMENTS: usize = 128;

#[derive(Clone)]
struct Plan(Arc<Described>);

struct Described {
    statement: PgStatement,
    parameters: Vec<Parameter>,
    columns: Vec<(String, Form)>,
}

/// What a statement came to; a stale plan may be tried again on another connection.
pub(super) enum Failure {
    StalePlan,
    Data(DataError),
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

pub(super) struct Backend {
    connection: PgConnection,
    process: i32,
    plans: HashMap<Box<str>, Plan>,
    /// A message was sent whose answer has not been read to its end.
    unclean: bool,
    in_transaction: bool,
    /// The deadline of statements that the server was told.
    time: Duration,
}

/// How long a statement waits for others, in milliseconds: shorter than its deadline, which else ends first and hides that
/// it only waited.
pub(super) fn lock_time(time: Duration) -> u128 {
    (time.as_millis().saturating_mul(4) / 5).max(1)
}

impl Reuse for Backend {
    fn reset(&mut self) -> bool {
        !self.unclean && !self.in_transaction
    }
}

impl Backend {
    /// `time` is the deadline of statements that `options` tell the server.
    pub(super) async fn connect(options: &PgConnectOptions, time: Duration) -> sqlx::Result<Self> {
        let mut connection = options.connect().await?;
        let process =
            sqlx::query_scalar("SELECT pg_backend_pid()").persistent(false).fetch_one(&mut connection).await?;
        Ok(Self { connection, process, plans: HashMap::new(), unclean: false, in_transaction: false, time })
    }

    pub(super) fn time(&self) -> Duration {
        self.time
    }

    /// Tells the server another deadline of statements.
    pub(super) async fn set_time(&mut self, limits: &Limits) -> Result<(), DataError> {
        let (time, lock_time) = (limits.time.as_millis(), lock_time(limits.time));
        self.unclean = true;
        let sql = format!("SET statement_timeout = {time}; SET lock_timeout = {lock_time}");
        let done = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
        self.settle(done, limits)?;
        self.time = limits.time;
        Ok(())
    }

    /// Whether the server still answers.
    pub(super) async fn answers(&mut self) -> bool {
        self.unclean = true;
        let answers = sqlx::Connection::ping(&mut self.connection).await.is_ok();
        self.unclean = !answers;
        answers
    }

    pub(super) fn is_unclean(&self) -> bool {
        self.unclean
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Ends the server's side of an unclean connection: it would notice only when it next writes to us. Roles may not
    /// signal the host's backends, but the host may signal its roles'.
    pub(super) async fn terminate(self, host: &PgPool) {
        let ended = sqlx::query("SELECT pg_terminate_backend($1)").bind(self.process).execute(host).await;
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "a plugin's statement could not be ended");
        }
        drop(self.connection);
    }

    /// BEGIN, COMMIT, ROLLBACK and the like.
    pub(super) async fn host(&mut self, sql: &'static str, limits: &Limits) -> Result<(), DataError> {
        self.unclean = true;
        let done = self.connection.execute(sqlx::raw_sql(sql)).await;
        self.settle(done, limits).map(drop)
    }

    pub(super) async fn begin(&mut self, sql: &'static str, limits: &Limits) -> Result<(), DataError> {
        self.in_transaction = true;
        let begun = self.host(sql, limits).await;
        self.in_transaction = begun.is_ok();
        begun
    }

    /// COMMIT or ROLLBACK. The server ends the transaction whatever it answers.
    pub(super) async fn end(&mut self, sql: &'static str, limits: &Limits) -> Result<(), DataError> {
        let ended = self.host(sql, limits).await;
        self.in_transaction = false;
        ended
    }

    /// Runs a plugin's statement, counting its answer while it arrives.
    pub(super) async fn statement(
        &mut self,
        sql: &str,
        values: &[Value],
        limits: &Limits,
        budget: &mut Budget<'_>,
    ) -> Result<(Rows, u64), Failure> {
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
            && failure::is_stale_plan(error)
        {
            return Err(Failure::StalePlan);
        }
        self.settle(ended, limits)?;
        Ok((rows, affected))
    }

    /// How many columns the statement answers with.
    pub(super) async fn answers_with(&mut self, sql: &str, limits: &Limits) -> Result<usize, DataError> {
        Ok(self.plan(sql, limits).await?.0.columns.len())
    }

    async fn plan(&mut self, sql: &str, limits: &Limits) -> Result<Plan, DataError> {
        if let Some(plan) = self.plans.get(sql) {
            return Ok(plan.clone());
        }
        self.unclean = true;
        let prepared = self.connection.prepare(AssertSqlSafe(sql).into_sql_str()).await;
        let statement = self.settle(prepared, limits)?;
        let parameters = match statement.parameters() {
            Some(Either::Left(types)) => types.iter().map(Parameter::of).collect(),
            _ => Vec::new(),
        };
        let columns = statement
            .columns()
            .iter()
            .map(|column| Ok((column.name().to_owned(), Form::of(column.name(), column.type_info())?)))
            .collect::<Result<_, DataError>>()?;
        let plan = Plan(Arc::new(Described { statement, parameters, columns }));
        if self.plans.len() >= CACHED_STATEMENTS {
            self.plans.clear();
        }
        self.plans.insert(sql.into(), plan.clone());
        Ok(plan)
    }

    /// A statement came to its end, be it an error: the connection is clean unless the error is its own.
    fn settle<T>(&mut self, ended: sqlx::Result<T>, limits: &Limits) -> Result<T, DataError> {
        self.unclean = ended.as_ref().err().is_some_and(|error| !failure::leaves_connection(error));
        ended.map_err(|error| failure::of(error, limits))
    }
}

fn cells(row: &PgRow, columns: &[(String, Form)], budget: &mut Budget<'_>) -> Result<Vec<Value>, DataError> {
    budget.row()?;
    let mut cells = Vec::with_capacity(columns.len());
    for (index, (name, form)) in columns.iter().enumerate() {
        let raw = row.try_get_raw(index).map_err(|error| DataError::invalid(error.to_string()))?;
        let cell = if raw.is_null() {
            Value::Null
        } else {
            let bytes = raw.as_bytes().map_err(|error| DataError::invalid(error.to_string()))?;
            budget.admits(bytes.len())?;
            form.read(bytes).ok_or_else(|| {
                DataError::invalid(format!(
                    "column {name} holds a value that cannot be shown; cast column {name} to text"
                ))
            })?
        };
        budget.bytes(cell.weight())?;
        cells.push(cell);
    }
    Ok(cells)
}
