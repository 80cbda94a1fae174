//! `wharf:sql`: the plugin's own database, see `db::plugin_data`.
//!
//! A transaction is a handle in the call's table. Every end of the call (a response, a trap, the deadline, a client
//! that disconnects) drops the table, which rolls back an uncommitted transaction. The events and jobs that a call hands
//! over while it has a transaction are in that transaction too.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, Resource};

use super::budget::MemoryReservation;
use super::parameter::parameters;
use super::{Boot, CallContext, Candidate, Capability, Dependency, Guest, HostCalls, Limit};
use crate::db::plugin_data::{
    DataError, LimitKind, PluginData, PluginDatabase, Rows, Statement, StatementLimits, Transaction, Value,
};
use crate::error::Result;
use crate::id::PluginName;
use crate::signals::Signals;

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
    /// The limits that a grant may change.
    Quota {
        rows: usize = sql_rows,
        bytes: usize = sql_bytes,
        time: Duration = sql_time,
        connections: u32 = sql_connections,
        disk: u64 = sql_disk_bytes,
    }
}

/// The capability.
pub struct Sql {
    data: Arc<PluginData>,
    signals: Signals,
}

/// The state of one release.
pub struct SqlRelease {
    database: Arc<PluginDatabase>,
    signals: Signals,
}

impl Capability for Sql {
    const NAME: &'static str = "sql";
    const MEANING: &'static str = "may store data in its own database, and cannot reach any other";
    const INTERFACES: &'static [&'static str] = &["wharf:sql/database@0.1.0"];
    type Grant = Quota;
    type Release = SqlRelease;
    type Call = SqlCall;

    async fn open(boot: &Boot) -> Result<Self> {
        Ok(Self { data: Arc::clone(&boot.data), signals: boot.db.signals().clone() })
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        database::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, quota: Quota) -> Result<SqlRelease> {
        let database = self.data.plugin(candidate.plugin).await?;
        let Quota { rows, bytes, time, connections, disk } = quota;
        let database = Arc::new(database.with_limits(StatementLimits { rows, bytes, time, connections, disk }));
        Ok(SqlRelease { database, signals: self.signals.clone() })
    }

    fn max_input_bytes(release: &SqlRelease) -> usize {
        release.database.limits().bytes
    }

    fn serve(release: &SqlRelease) {
        release.database.apply_connections();
    }

    fn enter(release: &SqlRelease, _: &Arc<CallContext>) -> SqlCall {
        SqlCall { database: Arc::clone(&release.database), signals: release.signals.clone(), transaction: None }
    }

    async fn close(&self, plugin: &PluginName) -> Result<()> {
        self.data.forbid_login(plugin).await
    }

    async fn reopen(&self, plugin: &PluginName) -> Result<()> {
        self.data.allow_login(plugin).await
    }
}

/// The state of one call.
pub struct SqlCall {
    database: Arc<PluginDatabase>,
    signals: Signals,
    /// The call's open transaction, perhaps a failed one.
    transaction: Option<OpenTransaction>,
}

/// A transaction in the call's table.
#[derive(Debug)]
struct OpenTransaction {
    /// The number of its handle.
    handle: u32,
    /// Whether it contains events, jobs or mails.
    has_messages: bool,
    /// Counts the messages that the host keeps for the commit. They have no other bound than the memory of the call.
    memory: MemoryReservation,
}

type SqlResult<T> = wasmtime::Result<Result<T, database::Error>>;

impl Guest {
    /// Counts a call and returns the database. After a revocation it cannot be reached.
    fn database(&mut self) -> wasmtime::Result<Result<Arc<PluginDatabase>, DataError>> {
        self.charge(HostCalls::sql)?;
        let call = self.entered.sql()?;
        Ok(call.map(|call| Arc::clone(&call.database)).map_err(|_revoked| DataError::Unavailable))
    }

    /// Checks statements that run outside the call's open transaction, if it has one: they must not wait for it.
    fn check_outside<'a>(
        &mut self,
        statements: impl IntoIterator<Item = &'a Statement>,
    ) -> wasmtime::Result<Result<(), DataError>> {
        let Ok(SqlCall { database, transaction, .. }) = self.entered.sql()? else {
            return Ok(Err(DataError::Unavailable));
        };
        if transaction.is_none() {
            return Ok(Ok(()));
        }
        Ok(statements.into_iter().try_for_each(|statement| database.check_outside_transaction(statement)))
    }

    /// Returns whether the call has an open transaction, and with it a connection. False after a revocation: no
    /// statement runs then.
    fn has_transaction(&mut self) -> wasmtime::Result<bool> {
        Ok(self.entered.sql()?.is_ok_and(|call| call.transaction.is_some()))
    }

    /// Takes a transaction out of the call's table, with its record. The record counts the memory of the messages until it is
    /// dropped. After a revocation there is no record.
    fn end_transaction(
        &mut self,
        handle: Resource<Transaction>,
    ) -> wasmtime::Result<(Transaction, Option<OpenTransaction>)> {
        let transaction = self.table.delete(handle)?;
        let ended = self.entered.sql()?.ok().and_then(|call| call.transaction.take());
        Ok((transaction, ended))
    }

    /// Announces that the plugin's outbox has messages.
    fn announce_messages(&mut self) -> wasmtime::Result<()> {
        if let Ok(call) = self.entered.sql()? {
            call.signals.outbox_filled(&self.context.plugin);
        }
        Ok(())
    }

    /// Appends an event, a job or a mail to the plugin's outbox: in the call's open transaction, if it has one. Counts a
    /// limit that it hit and a failure of the database. `reservation` counts the text.
    ///
    /// # Errors
    /// The release was not granted `sql`, which is a defect of the host, or the memory of the call does not suffice.
    pub(super) async fn append_message(
        &mut self,
        lane: Option<&str>,
        text: String,
        reservation: MemoryReservation,
    ) -> wasmtime::Result<Result<(), DataError>> {
        let Ok(call) = self.entered.sql()? else { return Ok(Err(DataError::Unavailable)) };
        let appended = match &mut call.transaction {
            Some(open) => {
                open.has_messages = true;
                let handle = Resource::<Transaction>::new_borrow(open.handle);
                let transaction = self.table.get_mut(&handle)?;
                let appended = transaction.append_message(lane, text).await;
                drop(reservation);
                open.memory.resize(transaction.message_memory())?;
                appended
            }
            None => {
                let appended = call.database.append_message(lane, text).await;
                // Also after an error: the message may be stored, and the response of the database got lost.
                call.signals.outbox_filled(&self.context.plugin);
                appended
            }
        };
        self.count_outcome(&appended)?;
        Ok(appended)
    }

    /// Reads a statement and counts its memory until the reservation is dropped.
    fn reserve_statement(&self, statement: database::Statement) -> wasmtime::Result<(Statement, MemoryReservation)> {
        let statement = Statement::from(statement);
        let reservation = self.reserve(statement.memory())?;
        Ok((statement, reservation))
    }

    /// Counts the memory of a query's rows and converts the outcome.
    fn rows_result(&mut self, rows: Result<Rows, DataError>) -> SqlResult<database::Rows> {
        if let Ok(rows) = &rows {
            self.hold_result(self.reserve(rows.memory())?);
        }
        self.sql_result(rows.map(Into::into))
    }

    /// Converts an outcome for the guest, and counts it.
    fn sql_result<T>(&mut self, result: Result<T, DataError>) -> SqlResult<T> {
        self.count_outcome(&result)?;
        Ok(result.map_err(Into::into))
    }

    /// Counts a limit that a statement hit, a statement that was refused, and a failure of the database.
    pub(super) fn count_outcome<T>(&mut self, result: &Result<T, DataError>) -> wasmtime::Result<()> {
        // Other calls have all connections: this one did not take them itself.
        let is_busy = matches!(result, Err(DataError::Limit(LimitKind::Connections, _))) && !self.has_transaction()?;
        if is_busy || matches!(result, Err(DataError::Unavailable)) {
            self.dependencies.record_failure(Dependency::Database);
        }
        match result {
            Err(DataError::Limit(bound, _)) => self.usage.hit(match bound {
                LimitKind::Rows => Limit::SqlRows,
                LimitKind::Bytes => Limit::SqlBytes,
                LimitKind::Time => Limit::SqlTime,
                LimitKind::Connections => Limit::SqlConnections,
                LimitKind::Disk => Limit::SqlDisk,
                LimitKind::Statements => Limit::SqlStatements,
            }),
            Err(DataError::Invalid(_)) => self.usage.count_refused_statement(),
            _ => {}
        }
        Ok(())
    }
}

impl database::Host for Guest {
    async fn query(&mut self, statement: database::Statement) -> SqlResult<database::Rows> {
        let database = match self.database()? {
            Ok(database) => database,
            Err(error) => return self.sql_result(Err(error)),
        };
        let (statement, _reservation) = self.reserve_statement(statement)?;
        let rows = match self.check_outside([&statement])? {
            Ok(()) => database.query(statement).await,
            Err(error) => Err(error),
        };
        self.rows_result(rows)
    }

    async fn execute(&mut self, statement: database::Statement) -> SqlResult<u64> {
        let database = match self.database()? {
            Ok(database) => database,
            Err(error) => return self.sql_result(Err(error)),
        };
        let (statement, _reservation) = self.reserve_statement(statement)?;
        let affected = match self.check_outside([&statement])? {
            Ok(()) => database.execute(statement).await,
            Err(error) => Err(error),
        };
        self.sql_result(affected)
    }

    async fn batch(&mut self, statements: Vec<database::Statement>) -> SqlResult<Vec<database::Rows>> {
        let database = match self.database()? {
            Ok(database) => database,
            Err(error) => return self.sql_result(Err(error)),
        };
        let statements: Vec<Statement> = statements.into_iter().map(Into::into).collect();
        let _reservation = self.reserve(sum(statements.iter().map(Statement::memory)))?;
        let results = match self.check_outside(&statements)? {
            Ok(()) => database.batch(statements).await,
            Err(error) => Err(error),
        };
        if let Ok(results) = &results {
            self.hold_result(self.reserve(sum(results.iter().map(Rows::memory)))?);
        }
        self.sql_result(results.map(|results| results.into_iter().map(Into::into).collect()))
    }
}

fn sum(parts: impl Iterator<Item = usize>) -> usize {
    parts.fold(0, usize::saturating_add)
}

impl database::HostTransaction for Guest {
    async fn begin(&mut self) -> SqlResult<Resource<Transaction>> {
        let database = self.database()?;
        if self.has_transaction()? {
            return self.sql_result(Err(PluginDatabase::second_transaction()));
        }
        let memory = self.reserve(0)?;
        let begun = match database {
            Ok(database) => database.begin().await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(transaction) => {
                let handle = self.table.push(transaction)?;
                if let Ok(call) = self.entered.sql()? {
                    call.transaction = Some(OpenTransaction { handle: handle.rep(), has_messages: false, memory });
                }
                Ok(Ok(handle))
            }
            Err(error) => self.sql_result(Err(error)),
        }
    }

    async fn query(
        &mut self,
        handle: Resource<Transaction>,
        statement: database::Statement,
    ) -> SqlResult<database::Rows> {
        if let Err(error) = self.database()? {
            return self.sql_result(Err(error));
        }
        let (statement, _reservation) = self.reserve_statement(statement)?;
        let rows = self.table.get_mut(&handle)?.query(statement).await;
        self.rows_result(rows)
    }

    async fn execute(&mut self, handle: Resource<Transaction>, statement: database::Statement) -> SqlResult<u64> {
        if let Err(error) = self.database()? {
            return self.sql_result(Err(error));
        }
        let (statement, _reservation) = self.reserve_statement(statement)?;
        let affected = self.table.get_mut(&handle)?.execute(statement).await;
        self.sql_result(affected)
    }

    async fn commit(&mut self, handle: Resource<Transaction>) -> SqlResult<()> {
        let usable = self.database()?;
        let (transaction, ended) = self.end_transaction(handle)?;
        // After a revocation the transaction is dropped, which rolls it back.
        let committed = match usable {
            Ok(_) => transaction.commit().await,
            Err(error) => Err(error),
        };
        // Also after an error: the commit may have succeeded, and the response of the database got lost.
        if ended.is_some_and(|ended| ended.has_messages) {
            self.announce_messages()?;
        }
        self.sql_result(committed)
    }

    async fn rollback(&mut self, handle: Resource<Transaction>) -> SqlResult<()> {
        let usable = self.database()?;
        let (transaction, _) = self.end_transaction(handle)?;
        let rolled_back = match usable {
            Ok(_) => transaction.rollback().await,
            Err(error) => Err(error),
        };
        self.sql_result(rolled_back)
    }

    async fn drop(&mut self, handle: Resource<Transaction>) -> wasmtime::Result<()> {
        self.end_transaction(handle)?;
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
            DataError::Unavailable | DataError::Failed => Self::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use uuid::Uuid;

    use super::database::HostTransaction;
    use super::*;
    use crate::capability::hand_over::{MessageServices, Refusal};
    use crate::capability::message_fixture::{Fixture, hits};
    use crate::clock::Timestamp;
    use crate::id::JobId;
    use crate::message::Message;

    fn services(fixture: &Fixture) -> MessageServices {
        let Boot { db, clock, random, .. } = &fixture.boot;
        MessageServices::new(db.clone(), clock.clone(), random.clone())
    }

    fn message() -> Message {
        Message::Cancel { job: JobId(Uuid::nil()), at: Timestamp(0) }
    }

    async fn begin(guest: &mut Guest) -> Resource<Transaction> {
        HostTransaction::begin(guest).await.unwrap().unwrap()
    }

    async fn committed(fixture: &Fixture) -> usize {
        fixture.boot.data.outbox(&fixture.plugin, 10).await.unwrap().len()
    }

    #[tokio::test]
    async fn a_message_of_a_transaction_is_handed_over_with_its_commit() {
        let fixture = Fixture::open(|_| ()).await;
        let (mut guest, services) = (fixture.call(&["sql"], None).await, services(&fixture));
        let transaction = begin(&mut guest).await;
        guest.hand_over(&services, message()).await.unwrap();
        assert_eq!(committed(&fixture).await, 0);
        assert!(fixture.boot.db.signals().filled_outboxes().now_or_never().is_none(), "it is not committed");
        HostTransaction::commit(&mut guest, transaction).await.unwrap().unwrap();
        assert_eq!(committed(&fixture).await, 1);
        assert!(fixture.boot.db.signals().filled_outboxes().now_or_never().is_some());

        let transaction = begin(&mut guest).await;
        HostTransaction::commit(&mut guest, transaction).await.unwrap().unwrap();
        assert!(fixture.boot.db.signals().filled_outboxes().now_or_never().is_none(), "it had no message");
        guest.hand_over(&services, message()).await.unwrap();
        assert_eq!(committed(&fixture).await, 2, "no transaction was open");
    }

    #[tokio::test]
    async fn a_message_of_a_transaction_that_is_rolled_back_is_lost() {
        let fixture = Fixture::open(|_| ()).await;
        let (mut guest, services) = (fixture.call(&["sql"], None).await, services(&fixture));
        let transaction = begin(&mut guest).await;
        guest.hand_over(&services, message()).await.unwrap();
        HostTransaction::rollback(&mut guest, transaction).await.unwrap().unwrap();
        let transaction = begin(&mut guest).await;
        guest.hand_over(&services, message()).await.unwrap();
        HostTransaction::drop(&mut guest, transaction).await.unwrap();
        let _ = begin(&mut guest).await;
        guest.hand_over(&services, message()).await.unwrap();
        drop(guest);
        assert_eq!(committed(&fixture).await, 0);
        assert!(fixture.boot.db.signals().filled_outboxes().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_message_of_a_transaction_takes_memory_of_the_call_until_its_end() {
        let fixture = Fixture::open(|_| ()).await;
        let (mut guest, services) = (fixture.call(&["sql"], None).await, services(&fixture));
        let all = 64 << 20;
        for commits in [true, false] {
            let transaction = begin(&mut guest).await;
            drop(guest.reserve(all).unwrap());
            guest.hand_over(&services, message()).await.unwrap();
            assert!(guest.reserve(all).is_err(), "the host keeps the message");
            if commits {
                HostTransaction::commit(&mut guest, transaction).await.unwrap().unwrap();
            } else {
                HostTransaction::rollback(&mut guest, transaction).await.unwrap().unwrap();
            }
            drop(guest.reserve(all).unwrap());
        }
        guest.hand_over(&services, message()).await.unwrap();
        drop(guest.reserve(all).unwrap());
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_commit_and_loses_the_row_and_the_message() {
        // The table and its row fit, and a long message does not.
        let fixture = Fixture::open(|config| config.plugins.sql_disk_bytes = 64 << 10).await;
        let migration = crate::db::plugin_data::Migration {
            name: "0001_note".to_owned(),
            sql: "CREATE TABLE note (id BIGINT PRIMARY KEY)".to_owned(),
        };
        fixture.boot.data.migrate(&fixture.plugin, &[migration]).await.unwrap();
        let mut guest = fixture.call(&["sql"], None).await;
        let transaction = begin(&mut guest).await;
        let insert = database::Statement { sql: "INSERT INTO note VALUES (1)".to_owned(), params: Vec::new() };
        let handle = Resource::new_borrow(transaction.rep());
        assert_eq!(HostTransaction::execute(&mut guest, handle, insert).await.unwrap().unwrap(), 1);
        let text = "x".repeat(200_000);
        let reservation = guest.reserve(text.len()).unwrap();
        guest.append_message(None, text, reservation).await.unwrap().unwrap();
        let committed = HostTransaction::commit(&mut guest, transaction).await.unwrap();
        assert!(
            matches!(&committed, Err(database::Error::Limit(limit)) if limit == "disk: 65536 bytes"),
            "{committed:?}"
        );
        assert_eq!(hits(&guest, Limit::SqlDisk), 1);
        let count = database::Statement { sql: "SELECT count(*) FROM note".to_owned(), params: Vec::new() };
        let rows = database::Host::query(&mut guest, count).await.unwrap().unwrap();
        assert!(matches!(rows.values.as_slice(), [row] if matches!(row.as_slice(), [database::Value::Integer(0)])));
        assert_eq!(fixture.boot.data.outbox(&fixture.plugin, 10).await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn a_message_is_refused_after_a_failure_of_its_transaction_and_after_a_revocation() {
        let fixture = Fixture::open(|_| ()).await;
        let (mut guest, services) = (fixture.call(&["sql"], None).await, services(&fixture));
        let transaction = begin(&mut guest).await;
        let wrong = database::Statement { sql: "SELECT nothing".to_owned(), params: Vec::new() };
        let handle = Resource::new_borrow(transaction.rep());
        assert!(HostTransaction::execute(&mut guest, handle, wrong).await.unwrap().is_err());
        let refused = guest.hand_over(&services, message()).await;
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
        assert!(HostTransaction::commit(&mut guest, transaction).await.unwrap().is_err());
        fixture.capabilities.forbid(&fixture.plugin, "sql");
        let refused = guest.hand_over(&services, message()).await;
        assert!(matches!(refused, Err(Refusal::Unavailable)), "{refused:?}");
        assert_eq!(committed(&fixture).await, 0);
    }
}
