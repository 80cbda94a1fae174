//! The keys that sign access tokens, shared by all nodes. Owns the SQL on `signing_keys`; `auth::signing_keys` decides
//! which key signs.

use super::audit::{Entry, append};
use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;

/// The maximum number of keys that verify tokens at one time. It bounds the published key set.
const MAX_KEYS: usize = 10;

row! {
    /// One key pair.
    pub(crate) struct SigningKeyRow {
        pub(crate) kid: String,
        /// Ed25519, PKCS #8 DER.
        pub(crate) private_key: Vec<u8>,
        pub(crate) created_at: Timestamp,
        /// The time from which it signs, unless a newer key does.
        pub(crate) signs_from: Timestamp,
        /// The time until which it verifies; `None` means that no other key has replaced it.
        pub(crate) expires_at: Option<Timestamp>,
    }
}

/// A key pair to be added.
pub(crate) struct NewSigningKey<'a> {
    pub(crate) kid: &'a str,
    pub(crate) private_key: &'a [u8],
    pub(crate) created_at: Timestamp,
    pub(crate) signs_from: Timestamp,
}

/// The fate of the keys that a new key replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OldKeys {
    /// They verify until this time.
    ExpireAt(Timestamp),
    /// They are deleted with the rotation, so that every token that they signed is invalid.
    Revoke,
}

/// The outcome of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationOutcome {
    /// The new key was stored.
    Rotated,
    /// The newest key does not sign yet. Nothing was changed.
    Pending,
    /// Too many keys still verify tokens. Nothing was changed.
    TooMany,
}

/// Returns all keys in order of generation.
pub(crate) async fn list(db: &Db) -> Result<Vec<SigningKeyRow>> {
    const SQL: &str = "SELECT kid, private_key, created_at, signs_from, expires_at FROM signing_keys \
        ORDER BY generation";
    Ok(on!(db, pool => sqlx::query_as::<_, SigningKeyRow>(SQL).fetch_all(pool).await)?)
}

/// Stores the first key, unless another node was faster: [`list`] returns the key that was stored.
pub(crate) async fn insert_first(db: &Db, kid: &str, private_key: &[u8], now: Timestamp) -> Result<()> {
    const SQL: &str = "INSERT INTO signing_keys (generation, kid, private_key, created_at) VALUES (1, $1, $2, $3) \
        ON CONFLICT (generation) DO NOTHING";
    on!(db, pool => sqlx::query(SQL).bind(kid).bind(private_key).bind(now).execute(pool).await.map(drop))?;
    Ok(())
}

/// Adds a key that replaces the others, and deletes keys that have expired. The audit entry belongs to the same
/// transaction.
pub(crate) async fn rotate(db: &Db, new: &NewSigningKey<'_>, old: OldKeys, entry: &Entry) -> Result<RotationOutcome> {
    const LIST: &str = "SELECT generation, signs_from FROM signing_keys ORDER BY generation";
    const INSERT: &str = "INSERT INTO signing_keys (generation, kid, private_key, created_at, signs_from) \
        VALUES ($1, $2, $3, $4, $5)";
    // Two rotations at once would take the same generation. SQLite has one writer and needs no lock.
    let lock = db.dialect("SELECT 1", "SELECT 1 FROM pg_advisory_xact_lock(hashtext('wharf:signing-keys'))");
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query(lock).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM signing_keys WHERE expires_at <= $1").bind(new.created_at).execute(&mut *tx).await?;
        let keys = sqlx::query_as::<_, (i64, Timestamp)>(LIST).fetch_all(&mut *tx).await?;
        let newest = keys.last().copied();
        match old {
            OldKeys::ExpireAt(_) if newest.is_some_and(|(_, signs_from)| signs_from > new.created_at) => {
                return Ok(RotationOutcome::Pending);
            }
            OldKeys::ExpireAt(_) if keys.len() >= MAX_KEYS => return Ok(RotationOutcome::TooMany),
            OldKeys::ExpireAt(end) => {
                sqlx::query("UPDATE signing_keys SET expires_at = $1 WHERE expires_at IS NULL")
                    .bind(end)
                    .execute(&mut *tx)
                    .await?;
            }
            OldKeys::Revoke => {
                sqlx::query("DELETE FROM signing_keys").execute(&mut *tx).await?;
            }
        }
        sqlx::query(INSERT)
            .bind(newest.map_or(0, |(generation, _)| generation).saturating_add(1))
            .bind(new.kid)
            .bind(new.private_key)
            .bind(new.created_at)
            .bind(new.signs_from)
            .execute(&mut *tx)
            .await?;
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(RotationOutcome::Rotated)
}
