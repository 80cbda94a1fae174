//! The audit log: each entry names an actor, an action, its object and its outcome. Entries are only ever appended; the
//! modules below seal, search and prune them.

pub mod chain;
pub mod link;
pub mod seal;
pub mod search;

use std::net::IpAddr;

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{KeyId, PluginName, UserId};
use crate::initiator::Initiator;
use crate::message::host_event::Cause;

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The time of the action.
    pub at: Timestamp,
    /// The user; `None` for the host itself, a caller who is not known, or an API key that belongs to nobody.
    pub actor: Option<UserId>,
    /// The API key that the request used.
    pub key: Option<KeyId>,
    /// The address of the client.
    pub address: Option<IpAddr>,
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
    /// The object before the action, without secrets.
    pub before: Option<serde_json::Value>,
    /// The object after the action, without secrets.
    pub after: Option<serde_json::Value>,
    /// The request of the action.
    pub request_id: Option<String>,
}

impl Entry {
    /// Creates an entry of a success. The other methods change or complete it.
    pub fn of(by: &Initiator, at: Timestamp, action: &str, object: impl ToString) -> Self {
        Self {
            at,
            actor: by.actor,
            key: by.key,
            address: by.address,
            plugin: None,
            action: action.to_owned(),
            object: object.to_string(),
            outcome: Outcome::Success,
            detail: serde_json::json!({}),
            before: None,
            after: None,
            request_id: Some(by.request_id.to_string()),
        }
    }

    /// Returns the time of the action and its request, if a client made it, for an event about it.
    pub(crate) fn cause(&self) -> Cause<'_> {
        Cause { at: self.at, request_id: self.address.and(self.request_id.as_deref()) }
    }

    /// Sets the outcome to "denied".
    #[must_use]
    pub fn denied(mut self) -> Self {
        self.outcome = Outcome::Denied;
        self
    }

    /// Sets the outcome to "failure".
    #[must_use]
    pub fn failed(mut self) -> Self {
        self.outcome = Outcome::Failure;
        self
    }

    /// Sets the details, a JSON object.
    #[must_use]
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = detail;
        self
    }

    /// Sets the object before and after the action. Neither may contain a secret.
    #[must_use]
    pub fn with_change(mut self, before: Option<serde_json::Value>, after: Option<serde_json::Value>) -> Self {
        (self.before, self.after) = (before, after);
        self
    }
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
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::Failure => "failure",
        }
    }
}

pub(crate) const INSERT: &str = "INSERT INTO audit \
    (at, actor, plugin, action, object, outcome, detail, request_id, actor_key, address, before, after) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

/// Returns the query that appends an entry, for a transaction that also makes the change: `append!(&entry)` in the body
/// of `on!`, `.execute(&mut *tx)`.
macro_rules! append {
    ($entry:expr) => {{
        let entry: &$crate::db::audit::Entry = $entry;
        sqlx::query($crate::db::audit::INSERT)
            .bind(entry.at)
            .bind(entry.actor)
            .bind(entry.plugin.clone())
            .bind(entry.action.clone())
            .bind(entry.object.clone())
            .bind(entry.outcome.as_str())
            .bind(entry.detail.to_string())
            .bind(entry.request_id.clone())
            .bind(entry.key)
            .bind(entry.address.map(|address| address.to_string()))
            .bind(entry.before.as_ref().map(ToString::to_string))
            .bind(entry.after.as_ref().map(ToString::to_string))
    }};
}
pub(crate) use append;

/// Appends an entry on its own.
///
/// # Errors
/// The database fails.
pub async fn insert(db: &Db, entry: &Entry) -> Result<()> {
    on!(db, pool => append!(entry).execute(pool).await.map(drop))?;
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

/// Declares a struct and reads it from a row of `audit a`: the given members, and between them those that an entry has
/// from the start. `entry_columns!` has the columns of the latter.
macro_rules! entry_row {
    (
        $(#[$about:meta])*
        pub struct $name:ident { $($first:tt)* } and { $($last:tt)* }
    ) => {
        $crate::db::row::row! {
            $(#[$about])*
            pub struct $name {
                $($first)*
                /// The time of the action.
                pub at: $crate::clock::Timestamp,
                /// The account that acted, or that the key belongs to.
                pub actor: Option<$crate::id::UserId>,
                /// The API key that acted.
                pub key: Option<$crate::id::KeyId>,
                /// The address of the client.
                pub address: Option<String>,
                /// The plugin that recorded the entry, or that the entry is about.
                pub plugin: Option<String>,
                /// The action.
                pub action: String,
                /// The object of the action.
                pub object: String,
                /// The outcome: `success`, `denied` or `failure`.
                pub outcome: String,
                /// The state before the action, as JSON text.
                pub before: Option<String>,
                /// The state after the action, as JSON text.
                pub after: Option<String>,
                /// Details, as JSON text.
                pub detail: String,
                /// The request of the action.
                pub request_id: Option<String>,
                $($last)*
            }
        }
    };
}
pub(super) use entry_row;

/// The columns of the members that an entry has from the start, as a literal for `concat!`.
macro_rules! entry_columns {
    () => {
        "a.at, a.actor, a.actor_key AS key, a.address, a.plugin, a.action, a.object, a.outcome, a.before, a.after, \
         a.detail, a.request_id"
    };
}
pub(super) use entry_columns;

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
