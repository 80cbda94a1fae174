//! Sign-ins whose first factor was right and whose second factor is missing. Owns the SQL on `login_challenges`; only the
//! hashes of challenges get here.

use super::row::row;
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::UserId;

row! {
    /// A challenge.
    #[derive(Debug)]
    pub(crate) struct ChallengeRow {
        pub(crate) user_id: UserId,
        /// The digest of the account's password hash at the time of the first factor.
        pub(crate) password_digest: Vec<u8>,
    }
}

/// A challenge to be added.
#[derive(Debug)]
pub(crate) struct NewChallenge<'a> {
    pub(crate) hash: &'a [u8],
    pub(crate) user: UserId,
    pub(crate) password_digest: &'a [u8],
    pub(crate) expires_at: Timestamp,
}

/// Adds a challenge, and deletes all that have expired and all but the newest 99 of the account.
pub(crate) async fn insert(db: &Db, challenge: &NewChallenge<'_>, now: Timestamp) -> Result<()> {
    const EXPIRED: &str = "DELETE FROM login_challenges WHERE expires_at <= $1";
    const SURPLUS: &str = "DELETE FROM login_challenges WHERE user_id = $1 AND challenge_hash NOT IN \
        (SELECT challenge_hash FROM login_challenges WHERE user_id = $1 ORDER BY expires_at DESC LIMIT 99)";
    const SQL: &str = "INSERT INTO login_challenges (challenge_hash, user_id, password_digest, attempts, expires_at) \
        VALUES ($1, $2, $3, 0, $4)";
    on!(db, pool => {
        sqlx::query(EXPIRED).bind(now).execute(pool).await?;
        sqlx::query(SURPLUS).bind(challenge.user).execute(pool).await?;
        sqlx::query(SQL)
            .bind(challenge.hash)
            .bind(challenge.user)
            .bind(challenge.password_digest)
            .bind(challenge.expires_at)
            .execute(pool)
            .await?;
    });
    Ok(())
}

/// Counts an attempt, before its proof is checked. `None` means that the challenge does not exist, has expired, or had
/// `most` attempts.
pub(crate) async fn attempt(db: &Db, hash: &[u8], most: i64, now: Timestamp) -> Result<Option<ChallengeRow>> {
    const SQL: &str = "UPDATE login_challenges SET attempts = attempts + 1 \
        WHERE challenge_hash = $1 AND attempts < $2 AND expires_at > $3 RETURNING user_id, password_digest";
    let row = on!(db, pool => {
        sqlx::query_as::<_, ChallengeRow>(SQL).bind(hash).bind(most).bind(now).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Returns an attempt in which no proof was checked.
pub(crate) async fn return_attempt(db: &Db, hash: &[u8]) -> Result<()> {
    const SQL: &str = "UPDATE login_challenges SET attempts = attempts - 1 WHERE challenge_hash = $1 AND attempts > 0";
    on!(db, pool => sqlx::query(SQL).bind(hash).execute(pool).await.map(drop))?;
    Ok(())
}

/// Uses up a challenge. Of concurrent calls, only one returns true.
pub(crate) async fn consume(db: &Db, hash: &[u8]) -> Result<bool> {
    const SQL: &str = "DELETE FROM login_challenges WHERE challenge_hash = $1";
    Ok(on!(db, pool => sqlx::query(SQL).bind(hash).execute(pool).await?.rows_affected()) > 0)
}
