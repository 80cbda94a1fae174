//! The audit log: each entry names an actor, an action, its object and its outcome. Entries are only ever appended.

use sqlx::Executor as _;

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PluginName, UserId};

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The time of the action.
    pub at: Timestamp,
    /// The user; `None` for the host itself or an anonymous caller.
    pub actor: Option<UserId>,
    /// The plugin that recorded the entry, or that the entry is about.
    pub plugin: Option<PluginName>,
    /// The action: `plugin.deploy`, `item.delete`.
    pub action: String,
    /// The object of the action.
    pub object: String,
    /// The outcome.
    pub outcome: Outcome,
    /// Details, a JSON object.
    pub detail: serde_json::Value,
    /// The request of the action.
    pub request_id: Option<String>,
}

/// The outcome of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The action was done.
    Success,
    /// The actor was not permitted.
    Denied,
    /// The action failed.
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
/// The database fails.
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

row! {
    /// An entry, as stored.
    #[derive(Debug, Clone)]
    pub struct StoredEntry {
        /// The time of the action.
        pub at: Timestamp,
        /// The user.
        pub actor: Option<UserId>,
        /// The user's email address, while the account exists.
        pub actor_email: Option<String>,
        /// The action.
        pub action: String,
        /// The outcome.
        pub outcome: String,
        /// Details, as JSON.
        pub detail: String,
        /// The request of the action.
        pub request_id: Option<String>,
    }
}

/// The entries of a plugin's history. The index `audit_history` has the same condition, so that the entries that the
/// plugin recorded itself cost nothing.
macro_rules! history {
    ($select:literal, $rest:literal) => {
        concat!($select, " WHERE a.plugin = $1 AND a.object = a.plugin AND substr(a.action, 1, 7) = 'plugin.' ", $rest)
    };
}

const COUNT: &str = history!("SELECT COUNT(*) FROM audit a", "");
const LIST: &str = history!(
    "SELECT a.at, a.actor, u.email AS actor_email, a.action, a.outcome, a.detail, a.request_id
     FROM audit a LEFT JOIN users u ON u.id = a.actor",
    "ORDER BY a.id DESC LIMIT $2 OFFSET $3"
);

/// Returns the actions of operators and the host on a plugin, newest first, and the number of all such entries. Entries
/// that the plugin recorded itself are left out.
///
/// # Errors
/// The database fails.
pub async fn history(db: &Db, plugin: &PluginName, skip: i64, limit: i64) -> Result<(Vec<StoredEntry>, i64)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_history_does_not_read_the_entries_that_the_plugin_recorded() {
        let (_dir, db) = crate::db::tests::sqlite().await;
        let Db::Sqlite(pool) = &db else { unreachable!() };
        for sql in [COUNT, LIST] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(explain).bind("shop").bind(10_i64).bind(0_i64).fetch_all(pool).await.unwrap();
            assert!(plan.iter().any(|step| step.3.contains("audit_history")), "{plan:?}");
            assert!(plan.iter().all(|step| !step.3.contains("TEMP B-TREE")), "{plan:?}");
        }
    }
}
