//! The schedules of the live releases. Owns the SQL on `schedules`; `plugin::schedules` owns their times. The job of a
//! schedule and its next time are stored together, by the intake (`db::intake::store_scheduled`).
//!
//! A row with an empty declaration only keeps a pause, for a later release that declares the schedule again. Such a row is
//! always paused, so it is never due, and no function here returns it.

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::PluginName;

row! {
    /// A schedule, as stored.
    #[derive(Debug, Clone)]
    pub struct StoredSchedule {
        /// The plugin.
        pub plugin: PluginName,
        /// The name.
        pub name: String,
        /// The declaration, as JSON.
        pub declared: String,
        /// The next time.
        pub next_at: Timestamp,
        /// The latest time at which its job was enqueued.
        pub last_at: Option<Timestamp>,
        /// An operator paused it.
        pub paused: bool,
    }
}

row! {
    /// A schedule whose time has come.
    #[derive(Debug, Clone)]
    pub struct DueSchedule {
        /// The plugin.
        pub plugin: PluginName,
        /// The name.
        pub name: String,
        /// The declaration, as JSON.
        pub declared: String,
        /// The time that has come.
        pub next_at: Timestamp,
        /// `live` or `removed`: the state of the plugin.
        pub state: String,
        /// An operator paused the plugin.
        pub plugin_paused: bool,
    }
}

/// Deletes the schedules of a plugin that is removed.
pub(super) const DELETE_OF_PLUGIN: &str = "DELETE FROM schedules WHERE plugin = $1";

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT plugin, name, declared, next_at, last_at, paused FROM schedules ", $rest)
    };
}

/// Returns all declared schedules, in the order of plugins and names.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db) -> Result<Vec<StoredSchedule>> {
    const SQL: &str = select!("WHERE declared <> '' ORDER BY plugin, name");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredSchedule>(SQL).fetch_all(pool).await)?)
}

/// Returns the declared schedules of a plugin.
///
/// # Errors
/// The database fails.
pub async fn of_plugin(db: &Db, plugin: &PluginName) -> Result<Vec<StoredSchedule>> {
    const SQL: &str = select!("WHERE plugin = $1 AND declared <> '' ORDER BY name");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredSchedule>(SQL).bind(plugin.clone()).fetch_all(pool).await)?)
}

/// Returns one declared schedule.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, plugin: &PluginName, name: &str) -> Result<Option<StoredSchedule>> {
    const SQL: &str = select!("WHERE plugin = $1 AND name = $2 AND declared <> ''");
    Ok(on!(db, pool => {
        sqlx::query_as::<_, StoredSchedule>(SQL).bind(plugin.clone()).bind(name).fetch_optional(pool).await
    })?)
}

/// Returns up to `limit` schedules whose time has come, the earliest first. One that an operator paused is left out.
///
/// # Errors
/// The database fails.
pub async fn due(db: &Db, now: Timestamp, limit: i64) -> Result<Vec<DueSchedule>> {
    const SQL: &str = "SELECT s.plugin AS plugin, s.name AS name, s.declared AS declared, s.next_at AS next_at, \
        p.state AS state, p.paused AS plugin_paused FROM schedules s JOIN plugins p ON p.name = s.plugin \
        WHERE NOT s.paused AND s.next_at <= $1 ORDER BY s.next_at LIMIT $2";
    Ok(on!(db, pool => sqlx::query_as::<_, DueSchedule>(SQL).bind(now).bind(limit).fetch_all(pool).await)?)
}

/// Adds a schedule, or changes its declaration and its next time. One that is paused stays paused.
///
/// # Errors
/// The database fails.
pub async fn set(db: &Db, plugin: &PluginName, name: &str, declared: &str, next_at: Timestamp) -> Result<()> {
    const SQL: &str = "INSERT INTO schedules (plugin, name, declared, next_at) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (plugin, name) DO UPDATE SET declared = excluded.declared, next_at = excluded.next_at";
    on!(db, pool => {
        let set = sqlx::query(SQL).bind(plugin.clone()).bind(name).bind(declared).bind(next_at);
        set.execute(pool).await.map(drop)
    })?;
    Ok(())
}

/// Ends the declaration of a paused schedule and keeps the pause, unless the plugin has `most` kept pauses already. Returns
/// whether the pause is kept.
///
/// # Errors
/// The database fails.
pub async fn keep_pause(db: &Db, plugin: &PluginName, name: &str, most: i64) -> Result<bool> {
    const SQL: &str = "UPDATE schedules SET declared = '' WHERE plugin = $1 AND name = $2 AND paused \
        AND (SELECT COUNT(*) FROM schedules kept WHERE kept.plugin = $1 AND kept.declared = '') < $3";
    let kept = on!(db, pool => {
        let keep = sqlx::query(SQL).bind(plugin.clone()).bind(name).bind(most);
        keep.execute(pool).await.map(|done| done.rows_affected())
    })?;
    Ok(kept == 1)
}

/// Deletes a schedule.
///
/// # Errors
/// The database fails.
pub async fn delete(db: &Db, plugin: &PluginName, name: &str) -> Result<()> {
    const SQL: &str = "DELETE FROM schedules WHERE plugin = $1 AND name = $2";
    on!(db, pool => sqlx::query(SQL).bind(plugin.clone()).bind(name).execute(pool).await.map(drop))?;
    Ok(())
}

/// Deletes the schedules of plugins that were removed while their schedules were being stored.
///
/// # Errors
/// The database fails.
pub async fn delete_of_removed(db: &Db) -> Result<()> {
    const SQL: &str = "DELETE FROM schedules WHERE NOT EXISTS \
        (SELECT 1 FROM plugins WHERE plugins.name = schedules.plugin AND plugins.state = 'live')";
    on!(db, pool => sqlx::query(SQL).execute(pool).await.map(drop))?;
    Ok(())
}

/// Pauses or resumes a schedule, whose next time is then `next_at`. Returns whether there is one of this name.
///
/// # Errors
/// The database fails.
pub async fn set_paused(db: &Db, plugin: &PluginName, name: &str, paused: bool, next_at: Timestamp) -> Result<bool> {
    const SQL: &str =
        "UPDATE schedules SET paused = $3, next_at = $4 WHERE plugin = $1 AND name = $2 AND declared <> ''";
    let changed = on!(db, pool => {
        let set = sqlx::query(SQL).bind(plugin.clone()).bind(name).bind(paused).bind(next_at);
        set.execute(pool).await.map(|done| done.rows_affected())
    })?;
    Ok(changed == 1)
}
