//! Migrates a plugin's file in one transaction on the writing connection, which also keeps other migrations and writers
//! out.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, params};
use wharf_sql_text::{Dialect, canonical, check_migration};

use super::connection::Connection;
use super::control::{Control, Mode};
use super::{Sqlite, error_mapping};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::migration::{
    Applied, CREATE_RECORD, MIGRATION_TIME, Migration, MigrationError, READ_RECORD, WRITE_RECORD, digest, pending,
};
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::sqlite_memory::Meter;

impl Sqlite {
    pub(in crate::db::plugin_data) async fn migrate(
        &self,
        migrations: Vec<Migration>,
    ) -> Result<Vec<String>, MigrationError> {
        let leased = self.lease(&self.writer, &self.limits).await?;
        let readers = Arc::clone(&self.readers);
        let limits = StatementLimits { time: MIGRATION_TIME, ..self.limits.clone() };
        let (leased, result) = self
            .on_thread(leased, MIGRATION_TIME, move |connection| {
                let result = apply(connection, &migrations, &limits);
                if result.is_err() {
                    connection.rollback();
                }
                // The counts of quick runs hold for the tables that a statement was compiled for.
                connection.forget_all();
                drop(readers.stale(Duration::ZERO));
                result
            })
            .await
            // The thread may still run.
            .map_err(MigrationError::Unclear)?;
        leased.end();
        result
    }
}

fn apply(
    connection: &mut Connection,
    migrations: &[Migration],
    limits: &StatementLimits,
) -> Result<Vec<String>, MigrationError> {
    connection.control.set_deadline(limits.time);
    connection
        .limit_disk(u64::MAX)
        .and_then(|()| connection.limit_values(limits.bytes, 0))
        .map_err(|error| error_mapping::to_data_error(&connection.raw, &connection.control, error, Some(limits)))?;
    connection.run_host("BEGIN IMMEDIATE")?;
    let (raw, control) = (&connection.raw, &connection.control);
    let failed = |error| error_mapping::to_data_error(raw, control, error, Some(limits));
    raw.execute_batch(CREATE_RECORD).map_err(failed)?;
    // A migration may rebuild a table by dropping it. That must not affect rows that refer to it; they are checked at
    // the end.
    raw.pragma_update(None, "defer_foreign_keys", true).map_err(failed)?;
    let applied = read(raw).map_err(failed)?;
    let pending = pending(migrations, &applied)?;
    for (position, migration) in (applied.len().saturating_add(1)..).zip(pending) {
        connection.control.set_mode(Mode::Migration);
        run(raw, control, migration, limits)?;
        connection.control.set_mode(Mode::Host);
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        raw.execute(WRITE_RECORD, params![position, migration.name, digest(&migration.sql)]).map_err(failed)?;
    }
    raw.execute_batch("COMMIT").map_err(failed)?;
    Ok(pending.iter().map(|migration| migration.name.clone()).collect())
}

fn read(raw: &rusqlite::Connection) -> rusqlite::Result<Vec<Applied>> {
    let mut statement = raw.prepare(READ_RECORD)?;
    statement.query_map([], |row| Ok(Applied { name: row.get(0)?, digest: row.get(1)? }))?.collect()
}

fn run(
    raw: &rusqlite::Connection,
    control: &Arc<Control>,
    migration: &Migration,
    limits: &StatementLimits,
) -> Result<(), MigrationError> {
    let at = |statement: usize| {
        move |error: DataError| MigrationError::Statement { name: migration.name.clone(), statement, error }
    };
    let text = canonical(&migration.sql);
    let refused = |refused| MigrationError::refused(migration, refused);
    let statements = check_migration(Dialect::Sqlite, &text).map_err(refused)?;
    let _meter = Meter::start(control, limits.bytes);
    for (number, sql) in (1..).zip(statements) {
        // `prepare` would recurse over a text with several statements. If the splitter were wrong, `Batch` still would
        // not.
        let mut batch = Batch::new(raw, sql);
        let failed = |error| at(number)(error_mapping::to_data_error(raw, control, error, Some(limits)));
        while let Some(mut statement) = batch.next().map_err(failed)? {
            let mut rows = statement.raw_query();
            while rows.next().map_err(failed)?.is_some() {}
        }
    }
    Ok(())
}
