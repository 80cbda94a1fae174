//! Migrates a plugin's schema in one transaction of the plugin's own role, under a lock of the host that keeps other
//! nodes out and that no plugin can take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::time::{Instant, timeout, timeout_at};
use wharf_sql_text::{Dialect, Lexer, Token, canonical, check_migration};

use super::allowlist::Allowlist;
use super::{Postgres, error_mapping, role};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::migration::{
    Applied, CREATE_RECORD, MIGRATION_TIME, Migration, MigrationError, READ_RECORD, WRITE_RECORD, digest, pending,
};
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::db::session_settings;
use crate::error::Error;

/// The longest wait of a table change for running statements on the table; all later statements wait behind it.
const LOCK_TIME: Duration = Duration::from_secs(5);

/// The additional time of a commit that has begun. The server ends it before the host stops waiting, so that the host
/// learns the outcome.
const COMMIT_TIME: Duration = Duration::from_secs(15);
const COMMIT_WAIT: Duration = Duration::from_secs(20);

/// A host that is killed cannot cancel its statement, which would continue and keep its locks. With this setting the
/// server checks every second whether the client is still connected. Servers before PostgreSQL 14 have no such setting.
const CHECK_CLIENT_CONNECTION: &str = "SELECT set_config(name, '1s', FALSE) FROM pg_settings \
     WHERE name = 'client_connection_check_interval'";

/// The maximum number of tables, partitions, indexes, views and sequences of a plugin. A statement locks each that it
/// touches, in a table of locks that all plugins share: by default it has room for 6,400.
const MAX_RELATIONS: i64 = 500;
const COUNT_RELATIONS: &str = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = current_schema() AND c.relkind <> 'c'";

impl Postgres {
    pub(in crate::db::plugin_data) async fn migrate(
        &self,
        migrations: &[Migration],
    ) -> Result<Vec<String>, MigrationError> {
        let (due, commits) = (Instant::now() + MIGRATION_TIME, AtomicBool::new(false));
        let mut work = std::pin::pin!(self.migrate_locked(migrations, due, &commits));
        if let Ok(result) = timeout_at(due, &mut work).await {
            return result;
        }
        // Nothing is applied without a commit.
        if !commits.load(Ordering::Relaxed) {
            return Err(MigrationError::Database(DataError::time(MIGRATION_TIME)));
        }
        let result = timeout(COMMIT_WAIT, work).await;
        result.unwrap_or_else(|_elapsed| Err(MigrationError::Unclear(DataError::time(MIGRATION_TIME))))
    }

    async fn migrate_locked(
        &self,
        migrations: &[Migration],
        due: Instant,
        commits: &AtomicBool,
    ) -> Result<Vec<String>, MigrationError> {
        let limits = StatementLimits { time: MIGRATION_TIME, ..self.limits.clone() };
        let failed = |error| MigrationError::Database(error_mapping::to_data_error(error, &limits));
        let mut connection = self.options.connect().await.map_err(failed)?;
        // Before the lock, which holds a connection of the host's pool: the list may need one too.
        let allowlist = self.allowlist.of(connection.server_version_num()).await.map_err(failed)?;
        let mut lock = self.host.begin().await.map_err(Error::from)?;
        role::lock(&mut lock, &self.plugin, MIGRATION_TIME).await.map_err(failed)?;
        let mut settings = self.settings.clone();
        settings.extend([
            ("statement_timeout", MIGRATION_TIME.as_millis().to_string()),
            ("lock_timeout", LOCK_TIME.as_millis().to_string()),
        ]);
        session_settings::apply(&mut connection, &settings).await.map_err(failed)?;
        // The migrations are also applied if the server's operating system does not support the setting.
        let _ = sqlx::query(CHECK_CLIENT_CONNECTION).execute(&mut connection).await;
        // On an error the connection is dropped and closes, which rolls everything back.
        let schema = role::schema(&self.plugin);
        let mut transaction = connection.begin().await.map_err(failed)?;
        let applied = apply(&mut transaction, migrations, &allowlist, &schema, &limits).await?;
        let time = due.saturating_duration_since(Instant::now()).saturating_add(COMMIT_TIME);
        sqlx::query("SELECT set_config('statement_timeout', $1, TRUE)")
            .bind(time.as_millis().to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        commits.store(true, Ordering::Relaxed);
        transaction.commit().await.map_err(|error| match error {
            // The database has refused it.
            sqlx::Error::Database(_) => failed(error),
            _ => MigrationError::Unclear(error_mapping::to_data_error(error, &limits)),
        })?;
        // They are applied now, whether or not these two succeed. The lock ends with its connection at the latest.
        let _ = connection.close().await;
        let _ = lock.commit().await;
        Ok(applied)
    }
}

/// Applies the migrations in the transaction of the connection.
async fn apply(
    connection: &mut PgConnection,
    migrations: &[Migration],
    allowlist: &Allowlist,
    schema: &str,
    limits: &StatementLimits,
) -> Result<Vec<String>, MigrationError> {
    let failed = |error| MigrationError::Database(error_mapping::to_data_error(error, limits));
    sqlx::raw_sql(CREATE_RECORD).execute(&mut *connection).await.map_err(failed)?;
    let applied: Vec<(String, String)> =
        sqlx::query_as(READ_RECORD).fetch_all(&mut *connection).await.map_err(failed)?;
    let applied: Vec<Applied> = applied.into_iter().map(|(name, digest)| Applied { name, digest }).collect();
    let pending = pending(migrations, &applied)?;
    for (position, migration) in (applied.len().saturating_add(1)..).zip(pending) {
        run(&mut *connection, migration, allowlist, schema, limits).await?;
        sqlx::query(WRITE_RECORD)
            .bind(i32::try_from(position).unwrap_or(i32::MAX))
            .bind(&migration.name)
            .bind(digest(&migration.sql))
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    if !pending.is_empty() {
        let relations: i64 = sqlx::query_scalar(COUNT_RELATIONS).fetch_one(&mut *connection).await.map_err(failed)?;
        if relations > MAX_RELATIONS {
            return Err(MigrationError::Database(DataError::invalid(format!(
                "the schema has {relations} tables, partitions, indexes, views and sequences; the maximum is {MAX_RELATIONS}"
            ))));
        }
    }
    Ok(pending.iter().map(|migration| migration.name.clone()).collect())
}

async fn run(
    connection: &mut PgConnection,
    migration: &Migration,
    allowlist: &Allowlist,
    schema: &str,
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
        check_schemas(sql, schema).map_err(|error| at(number, error))?;
        // A prepared statement: the server accepts only one at a time, even if the splitter were wrong.
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .execute(&mut *connection)
            .await
            .map_err(|error| at(number, error_mapping::to_data_error(error, limits)))?;
    }
    Ok(())
}

/// Refuses a DROP or an ALTER … IF EXISTS that names another schema: PostgreSQL would succeed if there is no such schema,
/// and fail if there is one. In all other statements both are errors, which `error_mapping` makes equal.
fn check_schemas(sql: &str, schema: &str) -> Result<(), DataError> {
    let own = schema.trim_matches('"');
    let mut first: Option<String> = None;
    // The last two names or words, unless one after a dot or another token came since.
    let (mut before, mut last): (Option<String>, Option<String>) = (None, None);
    let mut after_dot = false;
    for (token, _) in Lexer::new(Dialect::Postgres, sql) {
        let name = match token {
            Token::Word(word) => Some(word.to_ascii_lowercase()),
            Token::Name(quoted) => Some(quoted.trim_matches('"').to_owned()),
            _ => None,
        };
        if first.is_none() {
            first.clone_from(&name);
        }
        if token == Token::Symbol(b'.') {
            let after_exists = matches!(before.as_deref(), Some("exists" | "only"));
            let names_schema = match first.as_deref() {
                Some("drop") => true,
                Some("alter") => after_exists,
                _ => false,
            };
            if names_schema && last.as_deref().is_some_and(|name| name != own) {
                return Err(DataError::invalid(error_mapping::OUTSIDE));
            }
        }
        (before, last) = (last.take(), name.filter(|_| !after_dot));
        after_dot = token == Token::Symbol(b'.');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_nothing_without_a_schema_may_name_only_the_own_one() {
        let is_allowed = |sql: &str| check_schemas(sql, "\"plugin_a-b\"").is_ok();
        for sql in [
            "DROP TABLE IF EXISTS x, \"plugin_a-b\".y",
            "DROP TRIGGER t ON \"plugin_a-b\".x",
            "ALTER TABLE IF EXISTS \"plugin_a-b\".x ADD a int",
            "ALTER TABLE x ADD CHECK (x.a > 1.5)",
            "ALTER TABLE IF EXISTS x ADD CHECK (x.a > 1.5)",
            "CREATE VIEW v AS SELECT plugin_two.a FROM plugin_two",
            "COMMENT ON COLUMN x.a IS 'a.b'",
        ] {
            assert!(is_allowed(sql), "{sql}");
        }
        for sql in [
            "DROP TABLE IF EXISTS plugin_two.x",
            "drop table if exists x, Plugin_Two /* */ . x",
            "DROP TYPE IF EXISTS \"plugin_two\".x",
            "DROP TRIGGER IF EXISTS t ON plugin_two.x",
            "ALTER TABLE IF EXISTS plugin_two.x ADD a int",
            "ALTER TABLE IF EXISTS ONLY plugin_two.x ADD a int",
        ] {
            assert!(!is_allowed(sql), "{sql}");
        }
    }
}
