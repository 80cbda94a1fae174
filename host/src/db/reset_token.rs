//! Tokens of the links that set a password. Owns the SQL on `reset_tokens`; only the hashes of tokens get here.

use super::audit::{Entry, append};
use super::role::check_outranked;
use super::session_end::{END_SESSIONS, EndedSession, publish_ends};
use super::user::{
    END_ADDRESS_CHANGE, END_RESET_TOKENS, END_UNPROVEN_ACCESS, END_VERIFICATION_TOKENS, SET_PASSWORD, UserRow, columns,
    locking,
};
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::UserId;
use crate::permission::PermissionSet;

/// The outcome of using a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConsumeOutcome {
    /// The password was changed.
    Reset,
    /// The account is inactive; the token stays valid.
    Inactive,
    /// The token does not exist or has expired.
    Unknown,
}

const ACCOUNT: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM reset_tokens JOIN users ON users.id = reset_tokens.user_id \
     WHERE reset_tokens.token_hash = $1 AND reset_tokens.expires_at > $2"
);

/// Adds a token with its audit entry, and deletes all tokens that have expired. `by` are the permissions of a caller
/// who gets the token of another account.
///
/// # Errors
/// The account has permissions that `by` does not include (`exceeds_own_permissions`).
pub(crate) async fn insert(
    db: &Db,
    token_hash: &[u8],
    user: UserId,
    now: Timestamp,
    expires_at: Timestamp,
    by: Option<&PermissionSet>,
    entry: Option<&Entry>,
) -> Result<()> {
    const SQL: &str = "INSERT INTO reset_tokens (token_hash, user_id, expires_at) VALUES ($1, $2, $3)";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        // Under the lock of the account, a change that gives it permissions ends the token.
        sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        check_outranked!(tx, db, user, by);
        sqlx::query("DELETE FROM reset_tokens WHERE expires_at <= $1").bind(now).execute(&mut *tx).await?;
        sqlx::query(SQL).bind(token_hash).bind(user).bind(expires_at).execute(&mut *tx).await?;
        if let Some(entry) = entry {
            append!(entry).execute(&mut *tx).await?;
        }
        tx.commit().await?;
    });
    Ok(())
}

/// Returns the account of a valid token.
pub(crate) async fn find_account(db: &Db, token_hash: &[u8], now: Timestamp) -> Result<Option<UserRow>> {
    let row = on!(db, pool => {
        sqlx::query_as::<_, UserRow>(ACCOUNT).bind(token_hash).bind(now).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Consumes a token of `user`: sets the password and ends all of the account's sessions and tokens. The address is verified
/// then, because the link was sent to it; if it was not before, the API keys and the linked identities end too. Of
/// concurrent calls with one token, only one succeeds.
pub(crate) async fn consume(
    db: &Db,
    token_hash: &[u8],
    user: UserId,
    now: Timestamp,
    password_hash: &str,
    entry: &Entry,
) -> Result<ConsumeOutcome> {
    const SQL: &str = "DELETE FROM reset_tokens WHERE token_hash = $1 AND user_id = $2 AND expires_at > $3";
    const VERIFY: &str = "UPDATE users SET email_verified_at = $2 WHERE id = $1 AND email_verified_at IS NULL";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        // As everywhere, the account is locked first; the token is deleted under that lock.
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        let used = sqlx::query(SQL).bind(token_hash).bind(user).bind(now).execute(&mut *tx).await?.rows_affected();
        if used == 0 {
            return Ok(ConsumeOutcome::Unknown);
        }
        let Some(row) = row.filter(|row| row.is_active) else { return Ok(ConsumeOutcome::Inactive) };
        if row.email_verified_at.is_none() {
            for sql in END_UNPROVEN_ACCESS {
                sqlx::query(*sql).bind(user).execute(&mut *tx).await?;
            }
        }
        sqlx::query(SET_PASSWORD).bind(user).bind(password_hash).execute(&mut *tx).await?;
        let ended = sqlx::query_as::<_, EndedSession>(END_SESSIONS).bind(user).fetch_all(&mut *tx).await?;
        sqlx::query(END_RESET_TOKENS).bind(user).execute(&mut *tx).await?;
        sqlx::query(END_ADDRESS_CHANGE).bind(user).execute(&mut *tx).await?;
        sqlx::query(END_VERIFICATION_TOKENS).bind(user).execute(&mut *tx).await?;
        sqlx::query(VERIFY).bind(user).bind(now).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), user, &ended);
        tx.commit().await?;
    });
    Ok(ConsumeOutcome::Reset)
}
