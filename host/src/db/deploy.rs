//! The state of each deploy: one row, written from its first stage on, so that the host finds and reports a deploy that
//! a crash interrupted.

use super::row::row;
use super::{Db, is_duplicate, on};
use crate::clock::Timestamp;
use crate::error::{Error, Result, code};
use crate::id::{PluginName, UserId};

row! {
    /// A deploy, as stored.
    #[derive(Debug, Clone)]
    pub struct StoredDeploy {
        /// The id, chosen by the client or by the host.
        pub id: String,
        /// The plugin, once the deploy knows it.
        pub plugin: Option<PluginName>,
        /// SHA-256 of the component file, in hexadecimal.
        pub digest: String,
        /// `running`, `succeeded`, `failed` or `interrupted`.
        pub state: String,
        /// The current stage, or the stage in which the deploy ended.
        pub stage: String,
        /// The completed stages, as JSON.
        pub stages: String,
        /// The release that the deploy created.
        pub release: Option<i64>,
        /// The stable error code of a failure.
        pub code: Option<String>,
        /// The reason of a failure, as text.
        pub reason: Option<String>,
        /// The deploy created the plugin's database or is about to: the plugin had none before.
        pub made_data: bool,
        /// The user who deploys.
        pub actor: Option<UserId>,
        /// The request of the deploy.
        pub request_id: String,
        /// The node that runs the deploy.
        pub node: String,
        /// The time at which the deploy started.
        pub started_at: Timestamp,
        /// The time of the latest update.
        pub changed_at: Timestamp,
    }
}

/// The columns of a [`StoredDeploy`], as a literal for `concat!`. A newer node may have added others.
macro_rules! columns {
    () => {
        "id, plugin, digest, state, stage, stages, release, code, reason, made_data, actor, request_id, node, \
         started_at, changed_at"
    };
}

/// Records a new deploy.
///
/// # Errors
/// The database fails, or a deploy with this id exists (409 `deploy_conflict`).
pub async fn insert(db: &Db, deploy: &StoredDeploy) -> Result<()> {
    on!(db, pool => {
        sqlx::query(
            "INSERT INTO deploys (id, plugin, digest, state, stage, stages, release, code, reason, made_data, actor,
             request_id, node, started_at, changed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        )
        .bind(&deploy.id)
        .bind(deploy.plugin.clone())
        .bind(&deploy.digest)
        .bind(&deploy.state)
        .bind(&deploy.stage)
        .bind(&deploy.stages)
        .bind(deploy.release)
        .bind(&deploy.code)
        .bind(&deploy.reason)
        .bind(deploy.made_data)
        .bind(deploy.actor)
        .bind(&deploy.request_id)
        .bind(&deploy.node)
        .bind(deploy.started_at)
        .bind(deploy.changed_at)
        .execute(pool)
        .await
        .map_err(refused)?;
    });
    Ok(())
}

/// Restarts a deploy that failed or was interrupted, with its new actor, node and time. Returns false if it is running or
/// has succeeded.
///
/// # Errors
/// The database fails.
pub async fn restart(db: &Db, deploy: &StoredDeploy) -> Result<bool> {
    const SQL: &str = "UPDATE deploys SET plugin = NULL, state = 'running', stage = $2, stages = $3, release = NULL,
        code = NULL, reason = NULL, made_data = FALSE, actor = $4, request_id = $5, node = $6, started_at = $7,
        changed_at = $7 WHERE id = $1 AND state IN ('failed', 'interrupted')";
    let begun = on!(db, pool => {
        sqlx::query(SQL)
            .bind(&deploy.id)
            .bind(&deploy.stage)
            .bind(&deploy.stages)
            .bind(deploy.actor)
            .bind(&deploy.request_id)
            .bind(&deploy.node)
            .bind(deploy.started_at)
            .execute(pool)
            .await?
            .rows_affected()
    });
    Ok(begun > 0)
}

fn refused(error: sqlx::Error) -> Error {
    if is_duplicate(&error) {
        Error::conflict(code::DEPLOY_CONFLICT, "The deploy of this id is running").with_source(error)
    } else {
        error.into()
    }
}

/// Records the progress of a deploy of its node. Returns false if the deploy does not have the given state any more.
///
/// # Errors
/// The database fails.
pub async fn update(db: &Db, deploy: &StoredDeploy, state: &str) -> Result<bool> {
    const SQL: &str = "UPDATE deploys SET plugin = $2, state = $3, stage = $4, stages = $5, release = $6, code = $7,
        reason = $8, made_data = $9, changed_at = $10 WHERE id = $1 AND state = $11 AND node = $12";
    let updated = on!(db, pool => {
        sqlx::query(SQL)
            .bind(&deploy.id)
            .bind(deploy.plugin.clone())
            .bind(&deploy.state)
            .bind(&deploy.stage)
            .bind(&deploy.stages)
            .bind(deploy.release)
            .bind(&deploy.code)
            .bind(&deploy.reason)
            .bind(deploy.made_data)
            .bind(deploy.changed_at)
            .bind(state)
            .bind(&deploy.node)
            .execute(pool)
            .await?
            .rows_affected()
    });
    Ok(updated > 0)
}

/// Renews the record of a running deploy of a node.
///
/// # Errors
/// The database fails.
pub async fn renew(db: &Db, id: &str, node: &str, now: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE deploys SET changed_at = $3 WHERE id = $1 AND node = $2 AND state = 'running'";
    on!(db, pool => { sqlx::query(SQL).bind(id).bind(node).bind(now).execute(pool).await?; });
    Ok(())
}

/// Returns one deploy.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, id: &str) -> Result<Option<StoredDeploy>> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM deploys WHERE id = $1");
    Ok(on!(db, pool => sqlx::query_as::<_, StoredDeploy>(SQL).bind(id).fetch_optional(pool).await)?)
}

/// Marks deploys as interrupted and returns them: those that this node was running when it ended, and those of other
/// nodes without an update since `silent`.
///
/// # Errors
/// The database fails.
pub async fn mark_interrupted(db: &Db, node: &str, silent: Timestamp, now: Timestamp) -> Result<Vec<StoredDeploy>> {
    const SQL: &str = concat!(
        "UPDATE deploys SET state = 'interrupted', changed_at = $3 \
         WHERE state = 'running' AND (node = $1 OR changed_at < $2) RETURNING ",
        columns!()
    );
    Ok(on!(db, pool => {
        sqlx::query_as::<_, StoredDeploy>(SQL).bind(node).bind(silent).bind(now).fetch_all(pool).await
    })?)
}

/// Deletes deploys that ended before `since`.
///
/// # Errors
/// The database fails.
pub async fn delete_ended_before(db: &Db, since: Timestamp) -> Result<()> {
    const SQL: &str = "DELETE FROM deploys WHERE state <> 'running' AND changed_at < $1";
    on!(db, pool => { sqlx::query(SQL).bind(since).execute(pool).await?; });
    Ok(())
}
