//! Plugins, releases and component files in the host's database.

use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PluginName, UserId};

/// A plugin and its live release, as stored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredRelease {
    /// The plugin.
    pub plugin: PluginName,
    /// `live` or `removed`.
    pub state: String,
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
    /// When.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: Option<UserId>,
}

const SELECT: &str = "SELECT p.name AS plugin, p.state, r.number, r.digest, r.mount, r.declaration, r.grants,
    r.settings, r.created_at, r.created_by
    FROM plugins p JOIN releases r ON r.plugin = p.name AND r.number = p.live_release ORDER BY p.name";

/// Every plugin with its newest live release, removed ones included.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db) -> Result<Vec<StoredRelease>> {
    Ok(on!(db, pool => sqlx::query_as::<_, StoredRelease>(SELECT).fetch_all(pool).await)?)
}

/// The number the next release of a plugin will have.
///
/// # Errors
/// The database fails.
pub async fn next_number(db: &Db, plugin: &PluginName) -> Result<i64> {
    let newest: Option<i64> = on!(db, pool => {
        sqlx::query_scalar("SELECT MAX(number) FROM releases WHERE plugin = $1").bind(plugin.clone()).fetch_one(pool).await
    })?;
    Ok(newest.unwrap_or(0) + 1)
}

/// Records a release and makes it the live one.
///
/// # Errors
/// The database fails, or another node took the number.
pub async fn insert(db: &Db, release: &StoredRelease, component: &[u8]) -> Result<()> {
    on!(db, pool, begin => {
        let mut transaction = pool.begin_with(begin).await?;
        sqlx::query("INSERT INTO artifacts (digest, component) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING")
            .bind(&release.digest)
            .bind(component)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO plugins (name, mount, state, live_release) VALUES ($1, $2, 'live', $3)
             ON CONFLICT (name) DO UPDATE SET mount = $2, state = 'live', live_release = $3",
        )
        .bind(release.plugin.clone())
        .bind(&release.mount)
        .bind(release.number)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "INSERT INTO releases (plugin, number, digest, mount, declaration, grants, settings, created_at, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(release.plugin.clone())
        .bind(release.number)
        .bind(&release.digest)
        .bind(&release.mount)
        .bind(&release.declaration)
        .bind(&release.grants)
        .bind(&release.settings)
        .bind(release.created_at)
        .bind(release.created_by)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
    });
    Ok(())
}

/// Marks a plugin as removed; its releases stay.
///
/// # Errors
/// The database fails.
pub async fn mark_removed(db: &Db, plugin: &PluginName) -> Result<()> {
    on!(db, pool => {
        sqlx::query("UPDATE plugins SET state = 'removed' WHERE name = $1").bind(plugin.clone()).execute(pool).await?;
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
