//! The chains of the audit log: their heads, their links in order, and the deletion of links before a checkpoint. Never
//! decides how much is deleted, and never signs: `audit` does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::link::Link;
use super::{Entry, append, entry_columns};
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

row! {
    /// A sealed entry that has no place in a chain: somebody added or moved it past the host.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    pub struct StrayEntry {
        /// The id of the entry.
        pub id: i64,
        /// The chain that the entry names.
        pub chain: Option<String>,
        /// The place that the entry names.
        pub sequence: i64,
    }
}

/// A checkpoint to be recorded.
#[derive(Debug, Clone, Copy)]
pub struct NewCheckpoint<'a> {
    /// The chain.
    pub chain: &'a str,
    /// The place of the last link that is pruned.
    pub sequence: i64,
    /// The signed checkpoint, as JSON.
    pub checkpoint: &'a str,
    /// The public key of its signature.
    pub public_key: &'a str,
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

/// Returns the links of a chain in order, after the place `after`. Of two entries with one place, which only another program
/// can add, the older one comes first.
///
/// # Errors
/// The database fails.
pub async fn links(db: &Db, chain: &str, after: i64, limit: i64) -> Result<Vec<Link>> {
    const SQL: &str = concat!(
        "SELECT a.chain, a.sequence, a.id, a.node, ",
        entry_columns!(),
        ", a.hash FROM audit a WHERE a.chain = $1 AND a.sequence > $2 ORDER BY a.sequence, a.id LIMIT $3"
    );
    Ok(on!(db, pool => {
        sqlx::query_as::<_, Link>(SQL).bind(chain).bind(after).bind(limit).fetch_all(pool).await
    })?)
}

/// Returns sealed entries that name places of a chain behind its head, or up to the place `begun`, where it was pruned.
///
/// # Errors
/// The database fails.
pub async fn strays_of(db: &Db, chain: &str, begun: i64, limit: i64) -> Result<Vec<StrayEntry>> {
    // One statement, because the host seals meanwhile.
    const SQL: &str = "SELECT id, chain, sequence FROM audit WHERE chain = $1 AND sequence <= $2 \
        UNION ALL SELECT id, chain, sequence FROM audit WHERE chain = $1 AND sequence > \
        (SELECT audit_chains.sequence FROM audit_chains WHERE audit_chains.chain = $1) LIMIT $3";
    Ok(on!(db, pool => {
        sqlx::query_as::<_, StrayEntry>(SQL).bind(chain).bind(begun).bind(limit).fetch_all(pool).await
    })?)
}

/// Returns sealed entries that name no chain, or one that does not exist.
///
/// # Errors
/// The database fails.
pub async fn strays_without_chain(db: &Db, limit: i64) -> Result<Vec<StrayEntry>> {
    // Each step finds the next name in the index, so that a long log costs no more than a short one.
    const UNKNOWN: &str = "WITH RECURSIVE names (chain) AS (SELECT MIN(chain) FROM audit \
        UNION ALL SELECT (SELECT MIN(audit.chain) FROM audit WHERE audit.chain > names.chain) FROM names \
        WHERE names.chain IS NOT NULL) \
        SELECT names.chain AS chain FROM names WHERE names.chain IS NOT NULL AND NOT EXISTS \
        (SELECT 1 FROM audit_chains WHERE audit_chains.chain = names.chain) LIMIT $1";
    const OF_UNKNOWN: &str =
        "SELECT id, chain, sequence FROM audit WHERE chain = $1 AND sequence IS NOT NULL ORDER BY sequence LIMIT $2";
    const UNNAMED: &str = "SELECT id, chain, sequence FROM audit WHERE chain IS NULL AND sequence IS NOT NULL LIMIT $1";
    on!(db, pool => {
        let mut found = sqlx::query_as::<_, StrayEntry>(UNNAMED).bind(limit).fetch_all(pool).await?;
        let unknown: Vec<String> = sqlx::query_scalar(UNKNOWN).bind(limit).fetch_all(pool).await?;
        for chain in unknown {
            let strays = sqlx::query_as::<_, StrayEntry>(OF_UNKNOWN).bind(chain).bind(limit);
            found.extend(strays.fetch_all(pool).await?);
        }
        Ok(found)
    })
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

/// Records a checkpoint and its key, and appends the audit entry about the deletion. A checkpoint never moves back:
/// returns whether it was recorded.
///
/// # Errors
/// The database fails.
pub async fn set_checkpoint(db: &Db, new: &NewCheckpoint<'_>, entry: &Entry) -> Result<bool> {
    const SET: &str = "UPDATE audit_chains SET checkpoint_sequence = $2, checkpoint = $3 \
        WHERE chain = $1 AND checkpoint_sequence < $2";
    const KEEP_KEY: &str = "INSERT INTO audit_keys (public_key) VALUES ($1) ON CONFLICT DO NOTHING";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let done = sqlx::query(SET)
            .bind(new.chain)
            .bind(new.sequence)
            .bind(new.checkpoint)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(KEEP_KEY).bind(new.public_key).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(true)
}

/// Returns whether a public key signed a checkpoint of this installation.
///
/// # Errors
/// The database fails.
pub async fn is_checkpoint_key(db: &Db, public_key: &str) -> Result<bool> {
    const SQL: &str = "SELECT COUNT(*) FROM audit_keys WHERE public_key = $1";
    let count: i64 = on!(db, pool => sqlx::query_scalar(SQL).bind(public_key).fetch_one(pool).await)?;
    Ok(count > 0)
}

/// Deletes some of the links of a chain up to the signed place. Returns their number; 0 means that none is left.
///
/// # Errors
/// The database fails.
pub async fn delete_pruned(db: &Db, chain: &str, up_to: i64) -> Result<u64> {
    const SQL: &str = "DELETE FROM audit WHERE id IN \
        (SELECT id FROM audit WHERE chain = $1 AND sequence <= $2 ORDER BY sequence LIMIT $3)";
    Ok(on!(db, pool => {
        let done = sqlx::query(SQL).bind(chain).bind(up_to).bind(BATCH).execute(pool).await;
        done.map(|done| done.rows_affected())
    })?)
}
