//! The chains of the audit log: their heads, their links in order, and the deletion of links before a checkpoint. Never
//! decides how much is deleted, and never signs: `audit` does.

use super::link::Link;
use crate::clock::Timestamp;
use crate::db::row::row;
use crate::db::{Db, on};
use crate::error::Result;

/// The most rows that one statement deletes, so that other writers do not wait long.
const BATCH: i64 = 1000;

row! {
    /// A chain.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct StoredChain {
        /// The name.
        pub chain: String,
        /// The place of the last link.
        pub sequence: i64,
        /// The hash of the last link.
        pub hash: String,
        /// The place of the last link that was pruned; 0 if none was.
        pub checkpoint_sequence: i64,
        /// The signed checkpoint, as JSON.
        pub checkpoint: Option<String>,
    }
}

/// Returns chains in the order of their names, after the name `after`.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db, after: &str, limit: i64) -> Result<Vec<StoredChain>> {
    const SQL: &str = "SELECT chain, sequence, hash, checkpoint_sequence, checkpoint FROM audit_chains \
        WHERE chain > $1 ORDER BY chain LIMIT $2";
    Ok(on!(db, pool => sqlx::query_as::<_, StoredChain>(SQL).bind(after).bind(limit).fetch_all(pool).await)?)
}

/// Returns one chain.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, chain: &str) -> Result<Option<StoredChain>> {
    const SQL: &str =
        "SELECT chain, sequence, hash, checkpoint_sequence, checkpoint FROM audit_chains WHERE chain = $1";
    Ok(on!(db, pool => sqlx::query_as::<_, StoredChain>(SQL).bind(chain).fetch_optional(pool).await)?)
}

/// Returns the links of a chain in order, after the place `after`.
///
/// # Errors
/// The database fails.
pub async fn links(db: &Db, chain: &str, after: i64, limit: i64) -> Result<Vec<Link>> {
    const SQL: &str = "SELECT chain, sequence, id, node, at, actor, actor_key AS key, address, plugin, action, \
        object, outcome, before, after, detail, request_id, hash FROM audit \
        WHERE chain = $1 AND sequence > $2 ORDER BY sequence LIMIT $3";
    Ok(on!(db, pool => {
        sqlx::query_as::<_, Link>(SQL).bind(chain).bind(after).bind(limit).fetch_all(pool).await
    })?)
}

/// Returns the place of the first link after `after` that is not older than `time`.
///
/// # Errors
/// The database fails.
pub async fn first_since(db: &Db, chain: &str, after: i64, time: Timestamp) -> Result<Option<i64>> {
    const SQL: &str =
        "SELECT sequence FROM audit WHERE chain = $1 AND sequence > $2 AND at >= $3 ORDER BY sequence LIMIT 1";
    Ok(on!(db, pool => sqlx::query_scalar(SQL).bind(chain).bind(after).bind(time).fetch_optional(pool).await)?)
}

/// Records a checkpoint. It never moves back.
///
/// # Errors
/// The database fails.
pub async fn set_checkpoint(db: &Db, chain: &str, sequence: i64, checkpoint: &str) -> Result<()> {
    const SQL: &str = "UPDATE audit_chains SET checkpoint_sequence = $2, checkpoint = $3 \
        WHERE chain = $1 AND checkpoint_sequence < $2";
    on!(db, pool => sqlx::query(SQL).bind(chain).bind(sequence).bind(checkpoint).execute(pool).await.map(drop))?;
    Ok(())
}

/// Deletes some of the links up to the checkpoint of a chain. Returns their number; 0 means that none is left.
///
/// # Errors
/// The database fails.
pub async fn delete_pruned(db: &Db, chain: &str) -> Result<u64> {
    const SQL: &str = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE chain = $1 AND sequence <= \
        (SELECT checkpoint_sequence FROM audit_chains WHERE chain = $1) ORDER BY sequence LIMIT $2)";
    Ok(on!(db, pool => sqlx::query(SQL).bind(chain).bind(BATCH).execute(pool).await.map(|done| done.rows_affected()))?)
}
