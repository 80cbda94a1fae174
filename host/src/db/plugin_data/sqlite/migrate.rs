//! Migrations of a plugin's file: one transaction on the writing connection, which also keeps other migrators and
//! writers out.

use std::sync::Arc;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, params};

use super::connection::Connection;
use super::control::{Control, Mode};
use super::heap::Meter;
use super::{Sqlite, failure};
use crate::db::plugin_data::lexer::Dialect;
use crate::db::plugin_data::migration::{
    Applied, CREATE_RECORD, Migration, MigrationError, READ_RECORD, WRITE_RECORD, digest, pending,
};
use crate::db::plugin_data::value::Limits;
use crate::db::plugin_data::{DataError, MIGRATION_TIME, statement};

impl Sqlite {
    pub(in crate::db::plugin_data) async fn migrate(
        &self,
        migrations: Vec<Migration>,
    ) -> Result<Vec<String>, MigrationError> {
        let held = self.lease(&self.writer, &self.limits).await?;
        let limits = Limits { time: MIGRATION_TIME, ..self.limits.clone() };
        let (held, result) = self
            .on_thread(held, MIGRATION_TIME, move |connection| {
                let result = apply(connection, &migrations, &limits);
                if result.is_err() {
                    connection.rollback();
                }
                result
            })
            .await?;
        drop(held);
        result
    }
}

fn apply(
    connection: &mut Connection,
    migrations: &[Migration],
    limits: &Limits,
) -> Result<Vec<String>, MigrationError> {
    connection.control.limit(limits.time);
    connection
        .bound_disk(u64::MAX)
        .and_then(|()| connection.bound_values(limits.bytes, 0))
        .map_err(|error| failure::of(&connection.raw, &connection.control, error, Some(limits)))?;
    connection.host("BEGIN IMMEDIATE")?;
    let (raw, control) = (&connection.raw, &connection.control);
    let failed = |error| failure::of(raw, control, error, Some(limits));
    raw.execute_batch(CREATE_RECORD).map_err(failed)?;
    // A table is rebuilt by dropping it, which must not touch the rows that refer to it; they are checked at the end.
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
    limits: &Limits,
) -> Result<(), MigrationError> {
    let at = |statement: usize| {
        move |error: DataError| MigrationError::Statement { name: migration.name.clone(), statement, error }
    };
    let statements = statement::check_migration(Dialect::Sqlite, &migration.sql).map_err(at(1))?;
    let _meter = Meter::start(control, limits);
    for (number, sql) in (1..).zip(statements) {
        // `prepare` recurses over a text of many statements; were the splitter ever wrong, this does not.
        let mut batch = Batch::new(raw, sql);
        let failed = |error| at(number)(failure::of(raw, control, error, Some(limits)));
        while let Some(mut statement) = batch.next().map_err(failed)? {
            let mut rows = statement.raw_query();
            while rows.next().map_err(failed)?.is_some() {}
        }
    }
    Ok(())
}
