//! Plugins and their state in the host's database: which release is live, which is on trial, what is paused or removed.

use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::PluginName;

/// A plugin, as stored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredPlugin {
    /// The plugin.
    pub name: PluginName,
    /// Where its live release is or was.
    pub mount: String,
    /// `live` or `removed`.
    pub state: String,
    /// Answers 503 until it is resumed.
    pub paused: bool,
    /// The number of its live release.
    pub live_release: i64,
    /// The release on trial and how, as JSON.
    pub canary: Option<String>,
    /// Capabilities that were taken back, a JSON list.
    pub revoked: String,
    /// The migrations that its database has seen, a JSON list.
    pub schema: String,
}

impl StoredPlugin {
    /// The capabilities that were taken back.
    ///
    /// # Errors
    /// The column is not readable, which only another program can have done.
    pub fn revoked(&self) -> Result<Vec<String>> {
        serde_json::from_str(&self.revoked)
            .map_err(|error| Error::internal("a list of revoked grants is not readable").with_source(error))
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT name, mount, state, paused, live_release, canary, revoked, schema FROM plugins ", $rest)
    };
}

/// One plugin, removed or not.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, plugin: &PluginName) -> Result<Option<StoredPlugin>> {
    const SQL: &str = select!("WHERE name = $1");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredPlugin>(SQL).bind(plugin.clone()).fetch_optional(pool).await)?)
}

/// Keeps which migrations the plugin's database has seen.
///
/// # Errors
/// The database fails.
pub async fn set_schema(db: &Db, plugin: &PluginName, schema: &str) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET schema = $2 WHERE name = $1";
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).bind(schema).execute(pool).await?; });
    Ok(())
}

/// Keeps which capabilities were taken back.
///
/// # Errors
/// The database fails.
pub async fn set_revoked(db: &Db, plugin: &PluginName, revoked: &[String]) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET revoked = $2 WHERE name = $1";
    let revoked = serde_json::Value::from(revoked).to_string();
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).bind(&revoked).execute(pool).await?; });
    Ok(())
}

/// Every plugin, removed ones included.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db) -> Result<Vec<StoredPlugin>> {
    const SQL: &str = select!("ORDER BY name");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredPlugin>(SQL).fetch_all(pool).await)?)
}

/// Makes a recorded release the live one, and ends a trial.
///
/// # Errors
/// The database fails.
pub async fn set_live(db: &Db, plugin: &PluginName, release: i64, now: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET live_release = $2, state = 'live', canary = NULL,
        mount = (SELECT mount FROM releases WHERE plugin = $1 AND number = $2) WHERE name = $1";
    const AT: &str = "UPDATE releases SET live_at = $3 WHERE plugin = $1 AND number = $2";
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        sqlx::query(SQL).bind(plugin.clone()).bind(release).execute(&mut *transaction).await?;
        sqlx::query(AT).bind(plugin.clone()).bind(release).bind(now).execute(&mut *transaction).await?;
        transaction.commit().await?;
    });
    Ok(())
}

/// Pauses or resumes.
///
/// # Errors
/// The database fails.
pub async fn set_paused(db: &Db, plugin: &PluginName, paused: bool) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET paused = $2 WHERE name = $1";
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).bind(paused).execute(pool).await?; });
    Ok(())
}

/// Begins, changes or ends a trial.
///
/// # Errors
/// The database fails.
pub async fn set_canary(db: &Db, plugin: &PluginName, canary: Option<&str>) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET canary = $2 WHERE name = $1";
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).bind(canary).execute(pool).await?; });
    Ok(())
}

/// Marks a plugin as removed; its releases stay.
///
/// # Errors
/// The database fails.
pub async fn mark_removed(db: &Db, plugin: &PluginName) -> Result<()> {
    const SQL: &str =
        "UPDATE plugins SET state = 'removed', paused = FALSE, canary = NULL, revoked = '[]' WHERE name = $1";
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).execute(pool).await?; });
    Ok(())
}
