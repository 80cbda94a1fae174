//! Plugins and their state in the host's database: the live release, the canary, whether the plugin is paused or
//! removed.

use super::intake::publish;
use super::row::row;
use super::schedule;
use super::{Db, on};
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::message::host_event::{Cause, HostEvent};

row! {
    /// A plugin, as stored.
    #[derive(Debug, Clone)]
    pub struct StoredPlugin {
        /// The plugin's name.
        pub name: PluginName,
        /// The mount path of its live release, or of the last one.
        pub mount: String,
        /// `live` or `removed`.
        pub state: String,
        /// Requests get 503 until the plugin is resumed.
        pub paused: bool,
        /// The number of its live release.
        pub live_release: i64,
        /// The canary release and its plan, as JSON.
        pub canary: Option<String>,
        /// Revoked capabilities, a JSON list.
        pub revoked: String,
        /// The migrations that were applied to its database, a JSON list.
        pub schema: String,
    }
}

impl StoredPlugin {
    /// Returns the revoked capabilities.
    ///
    /// # Errors
    /// The column cannot be parsed; only another program can have written such a value.
    pub fn revoked(&self) -> Result<Vec<String>> {
        serde_json::from_str(&self.revoked)
            .map_err(|error| Error::internal("a list of revoked capabilities cannot be parsed").with_source(error))
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT name, mount, state, paused, live_release, canary, revoked, schema FROM plugins ", $rest)
    };
}

/// Returns one plugin, even if it is removed.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, plugin: &PluginName) -> Result<Option<StoredPlugin>> {
    const SQL: &str = select!("WHERE name = $1");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredPlugin>(SQL).bind(plugin.clone()).fetch_optional(pool).await)?)
}

/// Records the migrations that were applied to the plugin's database.
///
/// # Errors
/// The database fails.
pub async fn set_schema(db: &Db, plugin: &PluginName, schema: &str) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET schema = $2 WHERE name = $1";
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).bind(schema).execute(pool).await?; });
    Ok(())
}

/// Records the revoked capabilities, after a revocation or a restoration. A revocation ends a canary.
///
/// # Errors
/// The database fails.
pub async fn set_revoked(db: &Db, plugin: &PluginName, revoked: &[String], ends_canary: bool) -> Result<()> {
    const SQL: &str =
        "UPDATE plugins SET revoked = $2, canary = CASE WHEN $3 THEN NULL ELSE canary END WHERE name = $1";
    let revoked = serde_json::Value::from(revoked).to_string();
    on!(db, pool => {
        sqlx::query(SQL).bind(plugin.clone()).bind(&revoked).bind(ends_canary).execute(pool).await?;
    });
    Ok(())
}

/// Returns every plugin, removed ones included.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db) -> Result<Vec<StoredPlugin>> {
    const SQL: &str = select!("ORDER BY name");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredPlugin>(SQL).fetch_all(pool).await)?)
}

/// Makes a recorded release the live one, and ends a canary. `replaced` is the release that a rollback serves again;
/// `None` keeps the recorded one. `cause` gives the time and the request.
///
/// # Errors
/// The database fails.
pub async fn set_live(
    db: &Db,
    plugin: &PluginName,
    release: i64,
    replaced: Option<i64>,
    cause: Cause<'_>,
) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET live_release = $2, state = 'live', canary = NULL,
        mount = (SELECT mount FROM releases WHERE plugin = $1 AND number = $2) WHERE name = $1";
    const AT: &str =
        "UPDATE releases SET live_at = $3, replaced = COALESCE($4, replaced) WHERE plugin = $1 AND number = $2";
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        sqlx::query(SQL).bind(plugin.clone()).bind(release).execute(&mut *transaction).await?;
        sqlx::query(AT)
            .bind(plugin.clone())
            .bind(release)
            .bind(cause.at)
            .bind(replaced)
            .execute(&mut *transaction)
            .await?;
        publish!(db, transaction, cause, HostEvent::ReleaseActivated { plugin: plugin.clone(), release });
        transaction.commit().await?;
    });
    Ok(())
}

/// Pauses or resumes a plugin. A pause ends a canary.
///
/// # Errors
/// The database fails.
pub async fn set_paused(db: &Db, plugin: &PluginName, paused: bool) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET paused = $2, canary = CASE WHEN $2 THEN NULL ELSE canary END WHERE name = $1";
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).bind(paused).execute(pool).await?; });
    Ok(())
}

/// Starts, changes or ends a canary.
///
/// # Errors
/// The database fails.
pub async fn set_canary(db: &Db, plugin: &PluginName, canary: Option<&str>) -> Result<()> {
    const SQL: &str = "UPDATE plugins SET canary = $2 WHERE name = $1";
    on!(db, pool => { sqlx::query(SQL).bind(plugin.clone()).bind(canary).execute(pool).await?; });
    Ok(())
}

/// Marks a plugin as removed and deletes its schedules, in one transaction: if it comes back at once, none of them is paused.
/// Its releases stay.
///
/// # Errors
/// The database fails.
pub async fn mark_removed(db: &Db, plugin: &PluginName) -> Result<()> {
    const SQL: &str =
        "UPDATE plugins SET state = 'removed', paused = FALSE, canary = NULL, revoked = '[]' WHERE name = $1";
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        sqlx::query(SQL).bind(plugin.clone()).execute(&mut *transaction).await?;
        sqlx::query(schedule::DELETE_OF_PLUGIN).bind(plugin.clone()).execute(&mut *transaction).await?;
        transaction.commit().await?;
    });
    Ok(())
}
