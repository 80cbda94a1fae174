//! Migrations of a plugin's schema: one transaction of the plugin's own role, under a lock of the host's that keeps other
//! nodes out and that no plugin can take.

use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::{Postgres, failure, role};
use crate::db::plugin_data::lexer::Dialect;
use crate::db::plugin_data::migration::{
    Applied, CREATE_RECORD, Migration, MigrationError, READ_RECORD, WRITE_RECORD, digest, pending,
};
use crate::db::plugin_data::value::Limits;
use crate::db::plugin_data::{DataError, MIGRATION_TIME, statement};
use crate::error::Error;

/// How long a change of a table waits for the statements on it, while everybody else waits behind it.
const LOCK_TIME: Duration = Duration::from_secs(5);

/// A host that is killed cannot cancel its statement, which would go on and keep its locks: the server is to look once a
/// second whether anybody waits for it. Nothing on a server that is too old to (before PostgreSQL 14).
const END_WITH_THE_HOST: &str = "SELECT set_config(name, '1s', FALSE) FROM pg_settings \
     WHERE name = 'client_connection_check_interval'";

impl Postgres {
    pub(in crate::db::plugin_data) async fn migrate(
        &self,
        migrations: &[Migration],
    ) -> Result<Vec<String>, MigrationError> {
        match tokio::time::timeout(MIGRATION_TIME, self.migrate_locked(migrations)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(MigrationError::Database(DataError::time(MIGRATION_TIME))),
        }
    }

    async fn migrate_locked(&self, migrations: &[Migration]) -> Result<Vec<String>, MigrationError> {
        let limits = Limits { time: MIGRATION_TIME, ..self.limits.clone() };
        let failed = |error| MigrationError::Database(failure::of(error, &limits));
        let mut lock = self.host.begin().await.map_err(Error::from)?;
        role::lock(&mut lock, &self.plugin, MIGRATION_TIME).await.map_err(failed)?;
        let options = self.options.clone().options([
            ("statement_timeout", MIGRATION_TIME.as_millis().to_string()),
            ("lock_timeout", LOCK_TIME.as_millis().to_string()),
        ]);
        let mut connection = options.connect().await.map_err(failed)?;
        // Where the server's system cannot do it either, the migrations are applied all the same.
        let _ = sqlx::query(END_WITH_THE_HOST).execute(&mut connection).await;
        // Dropped on an error, the connection closes, which undoes all of it.
        let applied = apply(&mut connection, migrations, &limits).await?;
        connection.close().await.map_err(failed)?;
        lock.commit().await.map_err(Error::from)?;
        Ok(applied)
    }
}

async fn apply(
    connection: &mut PgConnection,
    migrations: &[Migration],
    limits: &Limits,
) -> Result<Vec<String>, MigrationError> {
    let failed = |error| MigrationError::Database(failure::of(error, limits));
    let mut transaction = connection.begin().await.map_err(failed)?;
    sqlx::raw_sql(CREATE_RECORD).execute(&mut *transaction).await.map_err(failed)?;
    let applied: Vec<(String, String)> =
        sqlx::query_as(READ_RECORD).fetch_all(&mut *transaction).await.map_err(failed)?;
    let applied: Vec<Applied> = applied.into_iter().map(|(name, digest)| Applied { name, digest }).collect();
    let pending = pending(migrations, &applied)?;
    for (position, migration) in (applied.len().saturating_add(1)..).zip(pending) {
        run(&mut transaction, migration, limits).await?;
        sqlx::query(WRITE_RECORD)
            .bind(i32::try_from(position).unwrap_or(i32::MAX))
            .bind(&migration.name)
            .bind(digest(&migration.sql))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(pending.iter().map(|migration| migration.name.clone()).collect())
}

async fn run(connection: &mut PgConnection, migration: &Migration, limits: &Limits) -> Result<(), MigrationError> {
    let at = |statement: usize, error: DataError| MigrationError::Statement {
        name: migration.name.clone(),
        statement,
        error,
    };
    let statements = statement::check_migration(Dialect::Postgres, &migration.sql).map_err(|error| at(1, error))?;
    for (number, sql) in (1..).zip(statements) {
        // As a prepared statement, of which the server takes one at a time whatever the splitter thought.
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .execute(&mut *connection)
            .await
            .map_err(|error| at(number, failure::of(error, limits)))?;
    }
    Ok(())
}
