//! The audit log: who did what to which object, and how it went. Only ever appended to.

use sqlx::Executor as _;

use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PluginName, UserId};

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// Who; none for the host itself or an anonymous caller.
    pub actor: Option<UserId>,
    /// The plugin that recorded it, or that it is about.
    pub plugin: Option<PluginName>,
    /// What: `plugin.deploy`, `item.delete`.
    pub action: String,
    /// To which object.
    pub object: String,
    /// How it went.
    pub outcome: Outcome,
    /// More, as a JSON object.
    pub detail: serde_json::Value,
    /// The request that did it.
    pub request_id: Option<String>,
}

/// How an action went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Success,
    /// Not permitted.
    Denied,
    /// Tried and failed.
    Failure,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::Failure => "failure",
        }
    }
}

/// Appends an entry.
///
/// # Errors
/// The database does not take it.
pub async fn insert(db: &Db, entry: &Entry) -> Result<()> {
    on!(db, pool => {
        let query = sqlx::query(
            "INSERT INTO audit (at, actor, plugin, action, object, outcome, detail, request_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(entry.at)
        .bind(entry.actor)
        .bind(entry.plugin.clone())
        .bind(&entry.action)
        .bind(&entry.object)
        .bind(entry.outcome.as_str())
        .bind(entry.detail.to_string())
        .bind(&entry.request_id);
        pool.execute(query).await?;
    });
    Ok(())
}

/// An entry, as stored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Option<UserId>,
    /// The address of who it was, while the account is there.
    pub actor_email: Option<String>,
    /// What.
    pub action: String,
    /// How it went.
    pub outcome: String,
    /// JSON.
    pub detail: String,
    /// The request that did it.
    pub request_id: Option<String>,
}

/// What operators and the host did with a plugin, newest first, and how many entries there are. What the plugin recorded
/// itself is not among them.
///
/// # Errors
/// The database fails.
pub async fn history(db: &Db, plugin: &PluginName, skip: i64, limit: i64) -> Result<(Vec<StoredEntry>, i64)> {
    const COUNT: &str = "SELECT COUNT(*) FROM audit WHERE plugin = $1 AND object = $1 AND action LIKE 'plugin.%'";
    const LIST: &str = "SELECT a.at, a.actor, u.email AS actor_email, a.action, a.outcome, a.detail, a.request_id
        FROM audit a LEFT JOIN users u ON u.id = a.actor
        WHERE a.plugin = $1 AND a.object = $1 AND a.action LIKE 'plugin.%' ORDER BY a.id DESC LIMIT $2 OFFSET $3";
    on!(db, pool => {
        let count: i64 = sqlx::query_scalar(COUNT).bind(plugin.as_str()).fetch_one(pool).await?;
        let entries = sqlx::query_as::<_, StoredEntry>(LIST)
            .bind(plugin.as_str())
            .bind(limit)
            .bind(skip)
            .fetch_all(pool)
            .await?;
        Ok((entries, count))
    })
}
