//! Migrates a plugin's schema in one transaction of the plugin's own role, under a lock of the host that keeps other
//! nodes out and that no plugin can take.

use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use wharf_sql_text::{Dialect, canonical, check_migration};

use super::{Allowlist, Postgres, error_mapping, role};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::migration::{
    Applied, CREATE_RECORD, MIGRATION_TIME, Migration, MigrationError, READ_RECORD, WRITE_RECORD, digest, pending,
};
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::session_settings;
use crate::error::Error;

/// The longest wait of a table change for running statements on the table; all later statements wait behind it.
const LOCK_TIME: Duration = Duration::from_secs(5);

/// A host that is killed cannot cancel its statement, which would continue and keep its locks. With this setting the
/// server checks every second whether the client is still connected. Servers before PostgreSQL 14 have no such setting.
const CHECK_CLIENT_CONNECTION: &str = "SELECT set_config(name, '1s', FALSE) FROM pg_settings \
     WHERE name = 'client_connection_check_interval'";

impl Postgres {
    pub(in crate::db::plugin_data) async fn migrate(
        &self,
        migrations: &[Migration],
    ) -> Result<Vec<String>, MigrationError> {
        match tokio::time::timeout(MIGRATION_TIME, self.migrate_locked(migrations)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(MigrationError::Unclear(DataError::time(MIGRATION_TIME))),
        }
    }

    async fn migrate_locked(&self, migrations: &[Migration]) -> Result<Vec<String>, MigrationError> {
        let limits = StatementLimits { time: MIGRATION_TIME, ..self.limits.clone() };
        let failed = |error| MigrationError::Database(error_mapping::to_data_error(error, &limits));
        let mut lock = self.host.begin().await.map_err(Error::from)?;
        role::lock(&mut lock, &self.plugin, MIGRATION_TIME).await.map_err(failed)?;
        let mut connection = self.options.connect().await.map_err(failed)?;
        let mut settings = self.settings.clone();
        settings.extend([
            ("statement_timeout", MIGRATION_TIME.as_millis().to_string()),
            ("lock_timeout", LOCK_TIME.as_millis().to_string()),
        ]);
        session_settings::apply(&mut connection, &settings).await.map_err(failed)?;
        // The migrations are also applied if the server's operating system does not support the setting.
        let _ = sqlx::query(CHECK_CLIENT_CONNECTION).execute(&mut connection).await;
        // On an error the connection is dropped and closes, which rolls everything back.
        let applied = apply(&mut connection, migrations, &self.allowlist, &limits).await?;
        // They are applied now, whether or not these two succeed. The lock ends with its connection at the latest.
        let _ = connection.close().await;
        let _ = lock.commit().await;
        Ok(applied)
    }
}

async fn apply(
    connection: &mut PgConnection,
    migrations: &[Migration],
    allowlist: &Allowlist,
    limits: &StatementLimits,
) -> Result<Vec<String>, MigrationError> {
    let failed = |error| MigrationError::Database(error_mapping::to_data_error(error, limits));
    let mut transaction = connection.begin().await.map_err(failed)?;
    sqlx::raw_sql(CREATE_RECORD).execute(&mut *transaction).await.map_err(failed)?;
    let applied: Vec<(String, String)> =
        sqlx::query_as(READ_RECORD).fetch_all(&mut *transaction).await.map_err(failed)?;
    let applied: Vec<Applied> = applied.into_iter().map(|(name, digest)| Applied { name, digest }).collect();
    let pending = pending(migrations, &applied)?;
    for (position, migration) in (applied.len().saturating_add(1)..).zip(pending) {
        run(&mut transaction, migration, allowlist, limits).await?;
        sqlx::query(WRITE_RECORD)
            .bind(i32::try_from(position).unwrap_or(i32::MAX))
            .bind(&migration.name)
            .bind(digest(&migration.sql))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(|error| match error {
        // The database has refused it.
        sqlx::Error::Database(_) => failed(error),
        _ => MigrationError::Unclear(error_mapping::to_data_error(error, limits)),
    })?;
    Ok(pending.iter().map(|migration| migration.name.clone()).collect())
}

async fn run(
    connection: &mut PgConnection,
    migration: &Migration,
    allowlist: &Allowlist,
    limits: &StatementLimits,
) -> Result<(), MigrationError> {
    let at = |statement: usize, error: DataError| MigrationError::Statement {
        name: migration.name.clone(),
        statement,
        error,
    };
    let text = canonical(&migration.sql);
    let refused = |refused| MigrationError::refused(migration, refused);
    let statements = check_migration(Dialect::Postgres, &text).map_err(refused)?;
    for (number, sql) in (1..).zip(statements) {
        allowlist.check(sql).map_err(|error| at(number, error))?;
        // A prepared statement: the server accepts only one at a time, even if the splitter were wrong.
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .execute(&mut *connection)
            .await
            .map_err(|error| at(number, error_mapping::to_data_error(error, limits)))?;
    }
    Ok(())
}
