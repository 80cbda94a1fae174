//! The role and schema of each plugin. Owns the rows of `plugin_database` in the host's schema, the creation and
//! removal of roles, and their names. Runs on the host's connections; never runs a plugin's SQL.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Postgres};

use crate::clock::Random;
use crate::config::Secret;
use crate::db::host_pool::{HostConnection, PgHostPool, Transaction};
use crate::error::{Error, Result};
use crate::id::PluginName;

/// The maximum number of connections of a plugin's role from all nodes together; within one node the pool is the limit.
const MAX_CONNECTIONS: u32 = 1_000;

/// How much longer than a wait for a lock its statement may take.
const LOCK_GRACE: Duration = Duration::from_secs(5);

/// The time limit of the removal of a schema: each of its tables is a file or more.
const DROP_TIME: Duration = Duration::from_secs(300);

/// The credentials with which a node logs in as a plugin.
pub(super) struct Role {
    pub(super) name: String,
    pub(super) password: Secret,
}

/// Returns the quoted name of a plugin's schema. `-` is the only character in plugin names that needs the quotes.
pub(super) fn schema(plugin: &PluginName) -> String {
    format!("\"plugin_{plugin}\"")
}

/// Creates a plugin's row, role and schema as far as they are missing. Several nodes may do so at the same time: the
/// row is the lock, and PostgreSQL rolls back unfinished roles and schemas with the transaction.
pub(super) async fn ensure(pool: &PgHostPool, random: &Random, plugin: &PluginName) -> Result<Role> {
    if let Some(role) = existing(pool, plugin).await? {
        raise_limit(pool, &role.name).await;
        return Ok(role);
    }
    let mut transaction = pool.begin().await?;
    let instance = instance(&mut transaction, random).await?;
    let name = format!("wharf_{instance}_{plugin}");
    let password = hex(&random.bytes::<32>()?);
    sqlx::query(
        "INSERT INTO plugin_database (plugin, role, password) VALUES ($1, $2, $3) ON CONFLICT (plugin) DO NOTHING",
    )
    .bind(plugin)
    .bind(&name)
    .bind(&password)
    .execute(&mut *transaction)
    .await?;
    let (name, password): (String, String) =
        sqlx::query_as("SELECT role, password FROM plugin_database WHERE plugin = $1 FOR UPDATE")
            .bind(plugin)
            .fetch_one(&mut *transaction)
            .await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(&name)
        .fetch_one(&mut *transaction)
        .await?;
    let schema = schema(plugin);
    let mut statements = Vec::new();
    if !exists {
        statements.push(format!(
            "CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}' NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT \
             NOREPLICATION NOBYPASSRLS CONNECTION LIMIT {MAX_CONNECTIONS}"
        ));
        // Without membership the host could not create a schema for this role, drop its objects or end its backends.
        statements.push(format!("GRANT \"{name}\" TO CURRENT_USER"));
    }
    statements.push(format!("CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION \"{name}\""));
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await.map_err(not_allowed)?;
    }
    transaction.commit().await?;
    close_public(pool, &name).await?;
    Ok(Role { name, password: Secret::new(password) })
}

/// Raises the connection limit of a role from an earlier version. If that fails, the role keeps its limit and the host
/// starts.
async fn raise_limit(pool: &PgHostPool, role: &str) {
    let fewer = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolconnlimit BETWEEN 0 AND $2 - 1)";
    let raise = async {
        let most = i32::try_from(MAX_CONNECTIONS).unwrap_or(i32::MAX);
        if sqlx::query_scalar(fewer).bind(role).bind(most).fetch_one(pool).await? {
            let sql = format!("ALTER ROLE \"{role}\" CONNECTION LIMIT {MAX_CONNECTIONS}");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await?;
        }
        Ok::<_, sqlx::Error>(())
    };
    if let Err(error) = raise.await {
        tracing::warn!(
            role,
            error = &error as &dyn std::error::Error,
            "cannot raise the connection limit of a plugin's role"
        );
    }
}

/// Closes the schema `public`: databases from PostgreSQL before 15 let every role create tables in it.
async fn close_public(pool: &PgHostPool, role: &str) -> Result<()> {
    let open: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public' AND has_schema_privilege($1, oid, 'CREATE'))",
    )
    .bind(role)
    .fetch_one(pool)
    .await?;
    if open && let Err(error) = sqlx::raw_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC").execute(pool).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "plugins can create tables in the schema public; its owner should REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        );
    }
    Ok(())
}

/// Returns the role of a plugin, if the plugin has a row, a role and a schema.
pub(super) async fn existing(pool: &PgHostPool, plugin: &PluginName) -> Result<Option<Role>> {
    const SQL: &str = "SELECT role, password FROM plugin_database WHERE plugin = $1 \
                       AND EXISTS (SELECT FROM pg_roles WHERE rolname = role) \
                       AND EXISTS (SELECT FROM pg_namespace WHERE nspname = 'plugin_' || plugin)";
    let row: Option<(String, String)> = sqlx::query_as(SQL).bind(plugin).fetch_optional(pool).await?;
    Ok(row.map(|(name, password)| Role { name, password: Secret::new(password) }))
}

/// Returns whether a plugin has a row, a role that may log in, and a schema.
pub(super) async fn accepts_login(pool: &PgHostPool, plugin: &PluginName) -> Result<bool> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM plugin_database JOIN pg_roles ON rolname = role \
                       WHERE plugin = $1 AND rolcanlogin \
                       AND EXISTS (SELECT FROM pg_namespace WHERE nspname = 'plugin_' || plugin))";
    Ok(sqlx::query_scalar(SQL).bind(plugin).fetch_one(pool).await?)
}

/// Allows or forbids a plugin's role to log in, if it has one. If it is forbidden, the role's connections end.
pub(super) async fn set_login(pool: &PgHostPool, plugin: &PluginName, allowed: bool) -> Result<()> {
    const SQL: &str = "SELECT role, rolcanlogin FROM plugin_database JOIN pg_roles ON rolname = role WHERE plugin = $1";
    let row: Option<(String, bool)> = sqlx::query_as(SQL).bind(plugin).fetch_optional(pool).await?;
    let Some((role, can_login)) = row else { return Ok(()) };
    if can_login != allowed {
        let login = if allowed { "LOGIN" } else { "NOLOGIN" };
        let sql = format!("ALTER ROLE \"{role}\" {login}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map_err(not_allowed)?;
    }
    if !allowed {
        end_connections(pool, &role).await?;
    }
    Ok(())
}

/// Ends the connections of a role, those of other nodes included.
async fn end_connections(on: impl sqlx::PgExecutor<'_>, role: &str) -> Result<()> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    sqlx::query(sql).bind(role).execute(on).await.map_err(not_allowed)?;
    Ok(())
}

/// Returns an id that distinguishes the roles of this installation from others in the same cluster.
async fn instance(connection: &mut HostConnection<Postgres>, random: &Random) -> Result<String> {
    sqlx::query("INSERT INTO plugin_database_instance (id) VALUES ($1) ON CONFLICT (one) DO NOTHING")
        .bind(hex(&random.bytes::<4>()?))
        .execute(&mut *connection)
        .await?;
    Ok(sqlx::query_scalar("SELECT id FROM plugin_database_instance").fetch_one(connection).await?)
}

/// Keeps other nodes from migrating this plugin until the transaction ends, with a lock that no plugin can reach.
pub(super) async fn lock(
    transaction: &mut Transaction<Postgres>,
    plugin: &PluginName,
    wait: Duration,
) -> sqlx::Result<()> {
    transaction.extend_limit(wait.saturating_add(LOCK_GRACE)).await?;
    let wait = format!("SET LOCAL lock_timeout = {}", wait.as_millis());
    sqlx::raw_sql(AssertSqlSafe(wait)).execute(&mut **transaction).await?;
    sqlx::query("SELECT 1 FROM plugin_database WHERE plugin = $1 FOR UPDATE")
        .bind(plugin)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Drops all objects of the plugin, also those that its role owns outside its schema.
pub(super) async fn drop_all(pool: &PgHostPool, plugin: &PluginName) -> Result<()> {
    let mut transaction = pool.begin().await?;
    transaction.extend_limit(DROP_TIME).await?;
    let role: Option<String> = sqlx::query_scalar("DELETE FROM plugin_database WHERE plugin = $1 RETURNING role")
        .bind(plugin)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(role) = role else { return Ok(()) };
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(&role)
        .fetch_one(&mut *transaction)
        .await?;
    sqlx::raw_sql(AssertSqlSafe("SET LOCAL lock_timeout = '10s'".to_owned())).execute(&mut *transaction).await?;
    if exists {
        // A running statement would hold locks on the schema.
        end_connections(&mut *transaction, &role).await?;
    }
    let mut statements = vec![format!("DROP SCHEMA IF EXISTS {} CASCADE", schema(plugin))];
    if exists {
        statements.push(format!("DROP OWNED BY \"{role}\""));
        statements.push(format!("DROP ROLE \"{role}\""));
    }
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await.map_err(not_allowed)?;
    }
    transaction.commit().await?;
    Ok(())
}

fn not_allowed(error: sqlx::Error) -> Error {
    if error.as_database_error().and_then(|error| error.code()).as_deref() == Some("42501") {
        return Error::internal(
            "the role of database.url may not create the plugins' roles and schemas: it needs CREATEROLE and CREATE on the \
             database (ALTER ROLE … CREATEROLE; GRANT CREATE ON DATABASE … TO …)",
        )
        .with_source(error);
    }
    error.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
