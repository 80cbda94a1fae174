//! `wharf:sql`: the plugin's own database, see `db::plugin_data`.
//!
//! A transaction is a handle in the call's table: whatever ends the call (an answer, a trap, the deadline, a client that
//! went away) drops the table, and with it rolls back what was not committed.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, Resource};

use super::budget::Held;
use super::parameter::parameters;
use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, Limit};
use crate::config::kind;
use crate::db::plugin_data::{
    Bound, DataError, Limits, PluginData, PluginDatabase, Rows, Statement, Transaction, Value,
};
use crate::error::Result;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-sql; world imports { import wharf:sql/database@0.1.0; }",
        path: "../wit",
        imports: { default: async | trappable },
        with: { "wharf:sql/database.transaction": crate::db::plugin_data::Transaction },
    });
}
use bindings::wharf::sql::database;

parameters! {
    /// What a grant may bound.
    Quota {
        /// Rows of one answer.
        rows: usize = kind::count(1..=10_000_000), else sql_rows;
        /// Bytes of one answer, and of one statement's parameters.
        bytes: usize = kind::bytes(64 << 10..=4 << 30), else sql_bytes;
        /// Time of one statement.
        time: Duration = kind::duration(Duration::from_millis(10)..=Duration::from_secs(600)), else sql_time;
        /// Database connections of the plugin.
        connections: u32 = kind::count(1..=1_000), else sql_connections;
        /// Disk that the plugin's database may take.
        disk: u64 = kind::bytes(1 << 20..=1 << 50), else sql_disk_bytes;
    }
}

/// The capability.
pub struct Sql(Arc<PluginData>);

impl Capability for Sql {
    const NAME: &'static str = "sql";
    const INTERFACES: &'static [&'static str] = &["wharf:sql/database@0.1.0"];
    type Grant = Quota;
    type Release = Arc<PluginDatabase>;
    type Call = Arc<PluginDatabase>;

    async fn open(boot: &Boot) -> Result<Self> {
        Ok(Self(Arc::clone(&boot.data)))
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        database::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<Arc<PluginDatabase>> {
        let database = self.0.plugin(candidate.plugin).await?;
        let Quota { rows, bytes, time, connections, disk } = quota;
        Ok(Arc::new(database.within(Limits { rows, bytes, time, connections, disk })))
    }

    fn brings(release: &Arc<PluginDatabase>) -> usize {
        release.limits().bytes
    }

    fn serve(release: &Arc<PluginDatabase>) {
        release.apply_connections();
    }

    fn enter(release: &Arc<PluginDatabase>, _: &Arc<CallContext>) -> Self::Call {
        Arc::clone(release)
    }
}

type Answer<T> = wasmtime::Result<Result<T, database::Error>>;

impl Guest {
    fn database(&mut self) -> wasmtime::Result<Arc<PluginDatabase>> {
        self.charge(HostCalls::sql)?;
        Ok(Arc::clone(self.entered.sql()?))
    }

    /// What the guest wants to be done, counted as long as it is.
    fn taken(&self, statement: database::Statement) -> wasmtime::Result<(Statement, Held)> {
        let statement = Statement::from(statement);
        let held = self.hold(statement.memory())?;
        Ok((statement, held))
    }

    /// What came of a query.
    fn handed(&mut self, rows: Result<Rows, DataError>) -> Answer<database::Rows> {
        if let Ok(rows) = &rows {
            self.hand(self.hold(rows.memory())?);
        }
        self.told(rows.map(Into::into))
    }

    /// The guest's error; a limit that was met is counted, and so is what the plugin may not say.
    fn told<T>(&self, result: Result<T, DataError>) -> Answer<T> {
        match &result {
            Err(DataError::Limit(bound, _)) => self.usage.hit(match bound {
                Bound::Rows => Limit::SqlRows,
                Bound::Bytes => Limit::SqlBytes,
                Bound::Time => Limit::SqlTime,
                Bound::Connections => Limit::SqlConnections,
                Bound::Disk => Limit::SqlDisk,
                Bound::Statements => Limit::SqlStatements,
            }),
            Err(DataError::Invalid(_)) => self.usage.refused_statement(),
            _ => {}
        }
        Ok(result.map_err(Into::into))
    }
}

impl database::Host for Guest {
    async fn query(&mut self, statement: database::Statement) -> Answer<database::Rows> {
        let database = self.database()?;
        let (statement, _held) = self.taken(statement)?;
        let rows = database.query(statement).await;
        self.handed(rows)
    }

    async fn execute(&mut self, statement: database::Statement) -> Answer<u64> {
        let database = self.database()?;
        let (statement, _held) = self.taken(statement)?;
        let affected = database.execute(statement).await;
        self.told(affected)
    }

    async fn batch(&mut self, statements: Vec<database::Statement>) -> Answer<Vec<database::Rows>> {
        let database = self.database()?;
        let statements: Vec<Statement> = statements.into_iter().map(Into::into).collect();
        let _held = self.hold(sum(statements.iter().map(Statement::memory)))?;
        let answers = database.batch(statements).await;
        if let Ok(answers) = &answers {
            self.hand(self.hold(sum(answers.iter().map(Rows::memory)))?);
        }
        self.told(answers.map(|answers| answers.into_iter().map(Into::into).collect()))
    }
}

fn sum(parts: impl Iterator<Item = usize>) -> usize {
    parts.fold(0, usize::saturating_add)
}

impl database::HostTransaction for Guest {
    async fn begin(&mut self) -> Answer<Resource<Transaction>> {
        match self.database()?.begin().await {
            Ok(transaction) => Ok(Ok(self.table.push(transaction)?)),
            Err(error) => self.told(Err(error)),
        }
    }

    async fn query(&mut self, handle: Resource<Transaction>, statement: database::Statement) -> Answer<database::Rows> {
        self.charge(HostCalls::sql)?;
        let (statement, _held) = self.taken(statement)?;
        let rows = self.table.get_mut(&handle)?.query(statement).await;
        self.handed(rows)
    }

    async fn execute(&mut self, handle: Resource<Transaction>, statement: database::Statement) -> Answer<u64> {
        self.charge(HostCalls::sql)?;
        let (statement, _held) = self.taken(statement)?;
        let affected = self.table.get_mut(&handle)?.execute(statement).await;
        self.told(affected)
    }

    async fn commit(&mut self, handle: Resource<Transaction>) -> Answer<()> {
        self.charge(HostCalls::sql)?;
        let committed = self.table.delete(handle)?.commit().await;
        self.told(committed)
    }

    async fn rollback(&mut self, handle: Resource<Transaction>) -> Answer<()> {
        self.charge(HostCalls::sql)?;
        let rolled_back = self.table.delete(handle)?.rollback().await;
        self.told(rolled_back)
    }

    async fn drop(&mut self, handle: Resource<Transaction>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

impl From<database::Statement> for Statement {
    fn from(statement: database::Statement) -> Self {
        Self { sql: statement.sql, params: statement.params.into_iter().map(Into::into).collect() }
    }
}

impl From<database::Value> for Value {
    fn from(value: database::Value) -> Self {
        match value {
            database::Value::Null => Self::Null,
            database::Value::Boolean(value) => Self::Boolean(value),
            database::Value::Integer(value) => Self::Integer(value),
            database::Value::Real(value) => Self::Real(value),
            database::Value::Text(value) => Self::Text(value),
            database::Value::Blob(value) => Self::Blob(value),
        }
    }
}

impl From<Value> for database::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Boolean(value) => Self::Boolean(value),
            Value::Integer(value) => Self::Integer(value),
            Value::Real(value) => Self::Real(value),
            Value::Text(value) => Self::Text(value),
            Value::Blob(value) => Self::Blob(value),
        }
    }
}

impl From<Rows> for database::Rows {
    fn from(rows: Rows) -> Self {
        let values = rows.values.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect();
        Self { columns: rows.columns, values }
    }
}

impl From<DataError> for database::Error {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Invalid(reason) => Self::Invalid(reason),
            DataError::Constraint(name) => Self::Constraint(name),
            DataError::Conflict => Self::Conflict,
            DataError::Limit(_, limit) => Self::Limit(limit),
            DataError::Unavailable => Self::Unavailable,
        }
    }
}
