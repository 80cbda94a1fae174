//! Proofs that the owner of an account reads the mail of an address: the tokens of links that verify the address of an
//! account, and the new addresses that accounts asked for. Owns the SQL on `verification_tokens` and `address_changes`;
//! only the hashes of tokens get here.

use super::audit::{Entry, append};
use super::email::{NewMail, enqueue};
use super::intake::publish;
use super::row::row;
use super::user::{END_ADDRESS_CHANGE, END_RESET_TOKENS, END_VERIFICATION_TOKENS, UserRow, locking, refused};
use super::{Db, on};
use crate::address::Address;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::UserId;
use crate::message::host_event::HostEvent;

/// The result of a link that comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProofOutcome {
    /// The address is verified.
    Verified,
    /// The new address has replaced the old one.
    Changed,
    /// The account is inactive; the token stays valid.
    Inactive,
    /// The token does not exist or has expired, or the account has another address now.
    Unknown,
}

row! {
    /// An account that asked for a new address.
    #[derive(Debug)]
    pub(crate) struct ChangeRow {
        pub(crate) user_id: UserId,
        pub(crate) email: String,
        pub(crate) email_key: String,
    }
}

/// Adds a token for the address that the account has now, and deletes the tokens that have expired.
pub(crate) async fn insert_token(
    db: &Db,
    token_hash: &[u8],
    user: UserId,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    const SQL: &str = "INSERT INTO verification_tokens (token_hash, user_id, email_key, expires_at) \
        SELECT $1, id, email_key, $3 FROM users WHERE id = $2";
    on!(db, pool => {
        sqlx::query("DELETE FROM verification_tokens WHERE expires_at <= $1").bind(now).execute(pool).await?;
        sqlx::query(SQL).bind(token_hash).bind(user).bind(expires_at).execute(pool).await?;
    });
    Ok(())
}

/// Remembers the new address that an account asks for, in place of an earlier one, and queues the mail to it. The link to
/// the same address stays valid, because the mail is not repeated at once. Deletes the changes that have expired.
///
/// # Errors
/// `mail_queue_full`.
pub(crate) async fn request_change(
    db: &Db,
    user: UserId,
    email: &Address,
    now: Timestamp,
    expires_at: Timestamp,
    mail: &NewMail,
    entry: &Entry,
) -> Result<()> {
    const SQL: &str = "INSERT INTO address_changes (user_id, email, email_key, token_hash, expires_at) \
        VALUES ($1, $2, $3, NULL, $4) ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, \
        email_key = excluded.email_key, expires_at = excluded.expires_at, \
        token_hash = CASE WHEN address_changes.email = excluded.email THEN address_changes.token_hash END";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query("DELETE FROM address_changes WHERE expires_at <= $1").bind(now).execute(&mut *tx).await?;
        sqlx::query(SQL)
            .bind(user)
            .bind(email.as_str())
            .bind(email.key().as_str().to_owned())
            .bind(expires_at)
            .execute(&mut *tx)
            .await?;
        enqueue!(&mut *tx, mail);
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(())
}

/// Forgets the new address that an account asked for, if it asked for one.
pub(crate) async fn cancel_change(db: &Db, user: UserId, entry: &Entry) -> Result<()> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let ended = sqlx::query(END_ADDRESS_CHANGE).bind(user).execute(&mut *tx).await?.rows_affected();
        if ended > 0 {
            append!(entry).execute(&mut *tx).await?;
        }
        tx.commit().await?;
    });
    Ok(())
}

/// Sets the token of a change, if the account still asks for this address. Returns whether it does.
pub(crate) async fn set_change_token(
    db: &Db,
    token_hash: &[u8],
    user: UserId,
    email: &Address,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<bool> {
    const SQL: &str = "UPDATE address_changes SET token_hash = $1, expires_at = $5 \
        WHERE user_id = $2 AND email = $3 AND expires_at > $4";
    let done = on!(db, pool => {
        sqlx::query(SQL)
            .bind(token_hash)
            .bind(user)
            .bind(email.as_str())
            .bind(now)
            .bind(expires_at)
            .execute(pool)
            .await?
            .rows_affected()
    });
    Ok(done > 0)
}

/// Returns the account of a token that verifies an address.
pub(crate) async fn find_token(db: &Db, token_hash: &[u8], now: Timestamp) -> Result<Option<UserId>> {
    const SQL: &str = "SELECT user_id FROM verification_tokens WHERE token_hash = $1 AND expires_at > $2";
    Ok(on!(db, pool => {
        sqlx::query_scalar::<_, UserId>(SQL).bind(token_hash).bind(now).fetch_optional(pool).await
    })?)
}

/// Returns the change of a token.
pub(crate) async fn find_change(db: &Db, token_hash: &[u8], now: Timestamp) -> Result<Option<ChangeRow>> {
    const SQL: &str = "SELECT user_id, email, email_key FROM address_changes WHERE token_hash = $1 AND expires_at > $2";
    Ok(on!(db, pool => {
        sqlx::query_as::<_, ChangeRow>(SQL).bind(token_hash).bind(now).fetch_optional(pool).await
    })?)
}

/// Consumes a token of `user`: the address of the account is verified, and its other tokens end. Of concurrent calls with
/// one token, only one succeeds.
pub(crate) async fn verify(
    db: &Db,
    token_hash: &[u8],
    user: UserId,
    now: Timestamp,
    entry: &Entry,
) -> Result<ProofOutcome> {
    const USE: &str = "DELETE FROM verification_tokens WHERE token_hash = $1 AND user_id = $2 AND expires_at > $3 \
        AND email_key = (SELECT email_key FROM users WHERE id = $2)";
    const VERIFY: &str = "UPDATE users SET email_verified_at = COALESCE(email_verified_at, $2) WHERE id = $1";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        let used = sqlx::query(USE).bind(token_hash).bind(user).bind(now).execute(&mut *tx).await?.rows_affected();
        if used == 0 {
            return Ok(ProofOutcome::Unknown);
        }
        if row.is_none_or(|row| !row.is_active) {
            return Ok(ProofOutcome::Inactive);
        }
        sqlx::query(VERIFY).bind(user).bind(now).execute(&mut *tx).await?;
        sqlx::query(END_VERIFICATION_TOKENS).bind(user).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(ProofOutcome::Verified)
}

/// Consumes the token of a change: the account gets the new address, which is verified, and its links to the old one end.
/// Queues the mail to the old address in the same transaction.
///
/// # Errors
/// Another account has the address by now (`email_taken`); `mail_queue_full`.
pub(crate) async fn change(
    db: &Db,
    token_hash: &[u8],
    change: &ChangeRow,
    now: Timestamp,
    mail: Option<&NewMail>,
    entry: &Entry,
) -> Result<ProofOutcome> {
    const USE: &str = "DELETE FROM address_changes WHERE token_hash = $1 AND user_id = $2 AND expires_at > $3";
    const CHANGE: &str = "UPDATE users SET email = $2, email_key = $3, email_verified_at = $4 WHERE id = $1";
    let user = change.user_id;
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        let used = sqlx::query(USE).bind(token_hash).bind(user).bind(now).execute(&mut *tx).await?.rows_affected();
        if used == 0 {
            return Ok(ProofOutcome::Unknown);
        }
        if row.is_none_or(|row| !row.is_active) {
            return Ok(ProofOutcome::Inactive);
        }
        sqlx::query(CHANGE)
            .bind(user)
            .bind(change.email.as_str())
            .bind(change.email_key.as_str())
            .bind(now)
            .execute(&mut *tx)
            .await
            .map_err(refused)?;
        sqlx::query(END_RESET_TOKENS).bind(user).execute(&mut *tx).await?;
        sqlx::query(END_VERIFICATION_TOKENS).bind(user).execute(&mut *tx).await?;
        if let Some(mail) = mail {
            enqueue!(&mut *tx, mail);
        }
        append!(entry).execute(&mut *tx).await?;
        publish!(db, tx, entry.cause(), HostEvent::UserUpdated { id: user });
        tx.commit().await?;
    });
    Ok(ProofOutcome::Changed)
}
