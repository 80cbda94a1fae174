//! API keys. Owns the SQL on `api_keys`; `auth::api_key_text` owns the form of a key, and only hashes get here.

use super::audit::{Entry, append};
use super::row::row;
use super::user::{UserRow, locking};
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{KeyId, UserId};

row! {
    /// One key.
    #[derive(Debug, Clone)]
    pub(crate) struct KeyRow {
        pub(crate) id: KeyId,
        pub(crate) user_id: Option<UserId>,
        pub(crate) created_by: UserId,
        pub(crate) name: String,
        pub(crate) secret_hash: Vec<u8>,
        /// A JSON list of permissions.
        pub(crate) permissions: String,
        pub(crate) strength: String,
        pub(crate) created_at: Timestamp,
        pub(crate) expires_at: Option<Timestamp>,
        pub(crate) last_used_at: Option<Timestamp>,
    }
}

/// The keys to list or to revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFilter {
    /// All keys.
    All,
    /// The keys of one account.
    Of(UserId),
}

/// The outcome of the attempt to add a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InsertOutcome {
    /// It was added.
    Added,
    /// The owner, or nobody, has as many keys as allowed.
    TooMany,
    /// The account that adds it was deleted or deactivated meanwhile.
    CreatorGone,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, created_by, name, secret_hash, permissions, strength, created_at, expires_at, \
             last_used_at FROM api_keys ",
            $rest
        )
    };
}

const BY_ID: &str = select!("WHERE id = $1");
const ALL: &str = select!("ORDER BY created_at DESC, id LIMIT $1 OFFSET $2");
const OF_USER: &str = select!("WHERE user_id = $3 ORDER BY created_at DESC, id LIMIT $1 OFFSET $2");
const INSERT: &str = "INSERT INTO api_keys \
    (id, user_id, created_by, name, secret_hash, permissions, strength, created_at, expires_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Returns the key with this id.
pub(crate) async fn find(db: &Db, id: KeyId) -> Result<Option<KeyRow>> {
    Ok(on!(db, pool => sqlx::query_as::<_, KeyRow>(BY_ID).bind(id).fetch_optional(pool).await)?)
}

/// Returns a page of keys, newest first, and their total number.
pub(crate) async fn list(db: &Db, filter: KeyFilter, skip: i64, limit: i64) -> Result<(Vec<KeyRow>, i64)> {
    Ok(match filter {
        KeyFilter::All => on!(db, pool => {
            let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM api_keys").fetch_one(pool).await?;
            let rows = sqlx::query_as::<_, KeyRow>(ALL).bind(limit).bind(skip).fetch_all(pool).await?;
            (rows, count)
        }),
        KeyFilter::Of(user) => on!(db, pool => {
            let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM api_keys WHERE user_id = $1")
                .bind(user)
                .fetch_one(pool)
                .await?;
            let rows =
                sqlx::query_as::<_, KeyRow>(OF_USER).bind(limit).bind(skip).bind(user).fetch_all(pool).await?;
            (rows, count)
        }),
    })
}

/// Adds a key with its audit entry, unless its owner has `max` keys. Deletes keys that expired before `forgotten`.
pub(crate) async fn insert(
    db: &Db,
    key: &KeyRow,
    max: i64,
    forgotten: Timestamp,
    entry: &Entry,
) -> Result<InsertOutcome> {
    const COUNT: &str = "SELECT COUNT(*) FROM api_keys WHERE user_id = $1";
    const COUNT_OF_NOBODY: &str = "SELECT COUNT(*) FROM api_keys WHERE user_id IS NULL";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        // The lock on the account orders this after a deactivation, and two creations by one account after each other.
        let creator = sqlx::query_as::<_, UserRow>(locking(db)).bind(key.created_by).fetch_optional(&mut *tx).await?;
        if creator.is_none_or(|user| !user.is_active) {
            return Ok(InsertOutcome::CreatorGone);
        }
        sqlx::query("DELETE FROM api_keys WHERE expires_at <= $1").bind(forgotten).execute(&mut *tx).await?;
        let count = match key.user_id {
            Some(user) => sqlx::query_scalar::<_, i64>(COUNT).bind(user).fetch_one(&mut *tx).await?,
            None => sqlx::query_scalar::<_, i64>(COUNT_OF_NOBODY).fetch_one(&mut *tx).await?,
        };
        if count >= max {
            return Ok(InsertOutcome::TooMany);
        }
        sqlx::query(INSERT)
            .bind(key.id)
            .bind(key.user_id)
            .bind(key.created_by)
            .bind(&key.name)
            .bind(&key.secret_hash)
            .bind(&key.permissions)
            .bind(&key.strength)
            .bind(key.created_at)
            .bind(key.expires_at)
            .execute(&mut *tx)
            .await?;
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(InsertOutcome::Added)
}

/// Deletes a key with its audit entry. Returns false if it does not exist any more.
pub(crate) async fn delete(db: &Db, id: KeyId, entry: &Entry) -> Result<bool> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let deleted = sqlx::query("DELETE FROM api_keys WHERE id = $1").bind(id).execute(&mut *tx).await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(true)
}

/// Records a use of a key. A later use that is recorded already stays.
pub(crate) async fn record_use(db: &Db, id: KeyId, at: Timestamp) -> Result<()> {
    const SQL: &str =
        "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";
    on!(db, pool => sqlx::query(SQL).bind(id).bind(at).execute(pool).await.map(drop))?;
    Ok(())
}
