//! Links to set a password. Owns the SQL on `reset_tokens`; only hashes of tokens come here.

use super::user::{END_RESET_TOKENS, END_SESSIONS, SET_PASSWORD, UserRow, columns, locking};
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::UserId;

/// What became of a token that was to be used up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Used {
    /// The password is the new one.
    Reset,
    /// The account is inactive; the token stays.
    Inactive,
    /// There is no such token (any more).
    Unknown,
}

const HOLDER: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM reset_tokens JOIN users ON users.id = reset_tokens.user_id \
     WHERE reset_tokens.token_hash = $1 AND reset_tokens.expires_at > $2"
);

/// Adds a token, and removes all that have expired.
pub(crate) async fn insert(
    db: &Db,
    token_hash: &[u8],
    user: UserId,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    const SQL: &str = "INSERT INTO reset_tokens (token_hash, user_id, expires_at) VALUES ($1, $2, $3)";
    on!(db, pool => {
        sqlx::query("DELETE FROM reset_tokens WHERE expires_at <= $1").bind(now).execute(pool).await?;
        sqlx::query(SQL).bind(token_hash).bind(user).bind(expires_at).execute(pool).await?;
    });
    Ok(())
}

/// The account that a living token is for.
pub(crate) async fn holder(db: &Db, token_hash: &[u8], now: Timestamp) -> Result<Option<UserRow>> {
    let row = on!(db, pool => {
        sqlx::query_as::<_, UserRow>(HOLDER).bind(token_hash).bind(now).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Uses a token of `user` up: sets the password and ends all of the account's sessions and tokens. Of concurrent uses, one
/// finds the token.
pub(crate) async fn consume(
    db: &Db,
    token_hash: &[u8],
    user: UserId,
    now: Timestamp,
    password_hash: &str,
) -> Result<Used> {
    const SQL: &str = "DELETE FROM reset_tokens WHERE token_hash = $1 AND user_id = $2 AND expires_at > $3";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        // The account's lock comes first, as everywhere; the token is looked for under it.
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        let used = sqlx::query(SQL).bind(token_hash).bind(user).bind(now).execute(&mut *tx).await?.rows_affected();
        if used == 0 {
            return Ok(Used::Unknown);
        }
        if row.is_none_or(|row| !row.is_active) {
            return Ok(Used::Inactive);
        }
        sqlx::query(SET_PASSWORD).bind(user).bind(password_hash).execute(&mut *tx).await?;
        sqlx::query(END_SESSIONS).bind(user).execute(&mut *tx).await?;
        sqlx::query(END_RESET_TOKENS).bind(user).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(Used::Reset)
}
