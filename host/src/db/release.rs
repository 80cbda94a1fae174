//! Releases and component files in the host's database. Both are only ever added, and collected as a whole.

use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PluginName, UserId};

/// A release, as stored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredRelease {
    /// The plugin.
    pub plugin: PluginName,
    /// Counts up from 1.
    pub number: i64,
    /// SHA-256 in hexadecimal.
    pub digest: String,
    /// Path.
    pub mount: String,
    /// JSON.
    pub declaration: String,
    /// JSON.
    pub grants: String,
    /// JSON.
    pub settings: String,
    /// Its migrations, a JSON list.
    pub migrations: String,
    /// Bytes of its component.
    pub size: i64,
    /// When.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: Option<UserId>,
    /// The trusted keys that signed its component then, a JSON list.
    pub signed_by: String,
    /// What bounds its calls, JSON.
    pub limits: String,
}

/// What a new release becomes.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The live one.
    Live,
    /// On trial beside the live one; how, as JSON.
    Canary(&'a str),
}

/// What is recorded of the plugin with a new release, both JSON lists.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Capabilities that stay taken back.
    pub revoked: &'a str,
    /// The migrations that its database has seen.
    pub schema: &'a str,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT plugin, number, digest, mount, declaration, grants, settings, migrations, size, created_at, created_by,
             signed_by, limits FROM releases WHERE plugin = $1 ",
            $rest
        )
    };
}

/// One release.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, plugin: &PluginName, number: i64) -> Result<Option<StoredRelease>> {
    const SQL: &str = select!("AND number = $2");
    Ok(on!(db, pool => {
        sqlx::query_as::<_, StoredRelease>(SQL).bind(plugin.clone()).bind(number).fetch_optional(pool).await
    })?)
}

/// Every kept release of a plugin, newest first.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db, plugin: &PluginName) -> Result<Vec<StoredRelease>> {
    const SQL: &str = select!("ORDER BY number DESC");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredRelease>(SQL).bind(plugin.clone()).fetch_all(pool).await)?)
}

/// The newest release before `number` that once was the live one.
///
/// # Errors
/// The database fails.
pub async fn live_before(db: &Db, plugin: &PluginName, number: i64) -> Result<Option<i64>> {
    const SQL: &str = "SELECT MAX(number) FROM releases WHERE plugin = $1 AND number < $2 AND live_at IS NOT NULL";
    Ok(on!(db, pool => sqlx::query_scalar(SQL).bind(plugin.clone()).bind(number).fetch_one(pool).await)?)
}

/// The number the next release of a plugin will have. Numbers of collected releases do not come back: the newest release
/// is never collected.
///
/// # Errors
/// The database fails.
pub async fn next_number(db: &Db, plugin: &PluginName) -> Result<i64> {
    const SQL: &str = "SELECT MAX(number) FROM releases WHERE plugin = $1";
    let newest: Option<i64> = on!(db, pool => sqlx::query_scalar(SQL).bind(plugin.clone()).fetch_one(pool).await)?;
    Ok(newest.unwrap_or(0) + 1)
}

/// Records a release and gives it its place, all or nothing.
///
/// # Errors
/// The database fails, or another node took the number.
pub async fn insert(
    db: &Db,
    release: &StoredRelease,
    component: &[u8],
    place: Place<'_>,
    around: &Around<'_>,
) -> Result<()> {
    const LIVE: &str = "INSERT INTO plugins (name, mount, state, live_release) VALUES ($1, $2, 'live', $3)
        ON CONFLICT (name) DO UPDATE SET mount = $2, state = 'live', live_release = $3, canary = NULL";
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        sqlx::query("INSERT INTO artifacts (digest, component) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING")
            .bind(&release.digest)
            .bind(component)
            .execute(&mut *transaction)
            .await?;
        match place {
            Place::Live => {
                sqlx::query(LIVE)
                    .bind(release.plugin.clone())
                    .bind(&release.mount)
                    .bind(release.number)
                    .execute(&mut *transaction)
                    .await?
            }
            Place::Canary(plan) => {
                sqlx::query("UPDATE plugins SET canary = $2 WHERE name = $1")
                    .bind(release.plugin.clone())
                    .bind(plan)
                    .execute(&mut *transaction)
                    .await?
            }
        };
        sqlx::query("UPDATE plugins SET revoked = $2, schema = $3 WHERE name = $1")
            .bind(release.plugin.clone())
            .bind(around.revoked)
            .bind(around.schema)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO releases (plugin, number, digest, mount, declaration, grants, settings, migrations, size,
             created_at, created_by, live_at, signed_by, limits)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(release.plugin.clone())
        .bind(release.number)
        .bind(&release.digest)
        .bind(&release.mount)
        .bind(&release.declaration)
        .bind(&release.grants)
        .bind(&release.settings)
        .bind(&release.migrations)
        .bind(release.size)
        .bind(release.created_at)
        .bind(release.created_by)
        .bind(matches!(place, Place::Live).then_some(release.created_at))
        .bind(&release.signed_by)
        .bind(&release.limits)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
    });
    Ok(())
}

/// The component file of a digest.
///
/// # Errors
/// The database fails.
pub async fn component(db: &Db, digest: &str) -> Result<Option<Vec<u8>>> {
    Ok(on!(db, pool => {
        sqlx::query_scalar("SELECT component FROM artifacts WHERE digest = $1").bind(digest).fetch_optional(pool).await
    })?)
}

/// Collects releases of a plugin that are neither among its newest `keep` nor younger than `since`, and the components
/// that nothing runs any more. `spared` stay whatever their age. Answers the numbers of those that went.
///
/// # Errors
/// The database fails.
pub async fn collect(db: &Db, plugin: &PluginName, keep: usize, since: Timestamp, spared: &[i64]) -> Result<Vec<i64>> {
    const NUMBERS: &str = "SELECT number, created_at FROM releases WHERE plugin = $1 ORDER BY number DESC";
    let mut collected = Vec::new();
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        let all: Vec<(i64, Timestamp)> =
            sqlx::query_as(NUMBERS).bind(plugin.clone()).fetch_all(&mut *transaction).await?;
        // The newest stays, so that its number is not given twice.
        for (number, created_at) in all.into_iter().skip(keep.max(1)) {
            if created_at >= since || spared.contains(&number) {
                continue;
            }
            sqlx::query("DELETE FROM releases WHERE plugin = $1 AND number = $2")
                .bind(plugin.clone())
                .bind(number)
                .execute(&mut *transaction)
                .await?;
            collected.push(number);
        }
        if !collected.is_empty() {
            sqlx::query("DELETE FROM artifacts WHERE digest NOT IN (SELECT digest FROM releases)")
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    });
    Ok(collected)
}
