//! Second factors of accounts. Owns the SQL on `totp_factors` and `recovery_codes`; `db::passkey` owns that on `passkeys`,
//! and `auth::factor` the algorithms.
//!
//! A factor that waits for its first code is no factor yet. With the last factor of an account, its recovery codes go,
//! and its sessions count as sessions with one factor.

use std::time::Duration;

use super::audit::{Entry, append};
use super::role::check_outranked;
use super::row::row;
use super::session_end::{END_OTHER_SESSIONS, END_SESSIONS, EndedSession, publish_ends};
use super::user::{UserRow, locking};
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{SessionId, UserId};
use crate::permission::PermissionSet;

row! {
    /// The key of an authenticator app.
    #[derive(Debug, Clone)]
    pub(crate) struct TotpRow {
        pub(crate) secret: Vec<u8>,
        pub(crate) created_at: Timestamp,
        /// `None` until the first code.
        pub(crate) confirmed_at: Option<Timestamp>,
        /// The wrong codes since the last right one.
        pub(crate) failures: i64,
        pub(crate) last_tried_at: Timestamp,
    }
}

row! {
    /// The attempts of one session.
    #[derive(Debug)]
    struct SessionTries {
        code_failures: i64,
        code_tried_at: Timestamp,
    }
}

/// The outcome of asking for an attempt.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The attempt is counted as wrong until [`accept_totp`] or [`confirm_totp`].
    Counted(TotpRow),
    /// Too many codes were wrong. The duration is the wait before the next attempt.
    Wait(Duration),
    /// The account has no such factor.
    NoFactor,
}

/// The app and the codes of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// When the authenticator app was confirmed; `None` means that there is none.
    pub(crate) totp_since: Option<Timestamp>,
    /// The number of unused recovery codes.
    pub(crate) recovery_codes: i64,
}

/// The condition on which the account `$1` has a second factor.
macro_rules! has_factor {
    ($user:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM totp_factors WHERE user_id = ",
            $user,
            " AND confirmed_at IS NOT NULL) OR EXISTS (SELECT 1 FROM passkeys WHERE user_id = ",
            $user,
            "))"
        )
    };
}
pub(super) use has_factor;

/// The number 1 if the account `$1` has a second factor, otherwise 0.
pub(super) const HAS_FACTOR: &str =
    concat!("SELECT CAST(CASE WHEN ", has_factor!("$1"), " THEN 1 ELSE 0 END AS BIGINT)");
const TOTP: &str =
    "SELECT secret, created_at, confirmed_at, failures, last_tried_at FROM totp_factors WHERE user_id = $1";
const TOTP_LOCKED: &str = "SELECT secret, created_at, confirmed_at, failures, last_tried_at FROM totp_factors \
    WHERE user_id = $1 FOR UPDATE";
const DELETE_CODES: &str = "DELETE FROM recovery_codes WHERE user_id = $1";
pub(super) const INSERT_CODE: &str = "INSERT INTO recovery_codes (user_id, code_hash) VALUES ($1, $2)";
pub(super) const COUNT_CODES: &str = "SELECT COUNT(*) FROM recovery_codes WHERE user_id = $1";
/// Without factors, nothing is left to recover.
pub(super) const DELETE_USELESS_CODES: &str =
    concat!("DELETE FROM recovery_codes WHERE user_id = $1 AND NOT ", has_factor!("$1"));
/// The session in which a factor was added has proved it.
pub(super) const RAISE_SESSION: &str =
    "UPDATE sessions SET strength = 'multi', stepped_up_at = $3 WHERE id = $1 AND user_id = $2";
pub(super) const WEAKEN_SESSIONS: &str = concat!(
    "UPDATE sessions SET strength = 'single', stepped_up_at = NULL WHERE user_id = $1 AND NOT ",
    has_factor!("$1")
);

/// Stores recovery codes in a transaction, unless the account has some. Evaluates to whether it stored them.
macro_rules! store_codes {
    ($tx:expr, $user:expr, $codes:expr) => {{
        let count = sqlx::query_scalar::<_, i64>($crate::db::factor::COUNT_CODES).bind($user);
        let first = count.fetch_one(&mut *$tx).await? == 0;
        for code in $codes.iter().filter(|_| first) {
            sqlx::query($crate::db::factor::INSERT_CODE).bind($user).bind(code.as_slice()).execute(&mut *$tx).await?;
        }
        first
    }};
}

pub(super) use store_codes;

/// Returns the app and the codes of an account.
pub(crate) async fn summary(db: &Db, user: UserId) -> Result<Summary> {
    const SINCE: &str = "SELECT confirmed_at FROM totp_factors WHERE user_id = $1 AND confirmed_at IS NOT NULL";
    on!(db, pool => {
        let totp_since = sqlx::query_scalar::<_, Timestamp>(SINCE).bind(user).fetch_optional(pool).await?;
        let recovery_codes = sqlx::query_scalar::<_, i64>(COUNT_CODES).bind(user).fetch_one(pool).await?;
        Ok(Summary { totp_since, recovery_codes })
    })
}

/// Stores a key that no code has confirmed yet, in place of an earlier one of this kind. Returns false if the account has
/// a confirmed key; then it stays.
pub(crate) async fn propose_totp(db: &Db, user: UserId, secret: &[u8], now: Timestamp) -> Result<bool> {
    const SQL: &str = "INSERT INTO totp_factors (user_id, secret, created_at, last_step, failures, last_tried_at) \
        VALUES ($1, $2, $3, 0, 0, 0) ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, \
        created_at = excluded.created_at, failures = 0, last_tried_at = 0 WHERE totp_factors.confirmed_at IS NULL";
    let done = on!(db, pool => {
        sqlx::query(SQL).bind(user).bind(secret).bind(now).execute(pool).await?.rows_affected()
    });
    Ok(done > 0)
}

/// Counts an attempt to give a code, before the code is checked, so that concurrent attempts cannot exceed the limit.
/// `wait` returns the wait after the given number of wrong codes. An attempt to confirm a key does not count for a key
/// that is `confirmed`, and the other way round.
pub(crate) async fn attempt_totp(
    db: &Db,
    user: UserId,
    confirmed: bool,
    now: Timestamp,
    wait: impl Fn(i64) -> Duration,
) -> Result<Attempt> {
    const COUNT: &str = "UPDATE totp_factors SET failures = failures + 1, last_tried_at = $2 WHERE user_id = $1";
    let locking = db.dialect(TOTP, TOTP_LOCKED);
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let row = sqlx::query_as::<_, TotpRow>(locking).bind(user).fetch_optional(&mut *tx).await?;
        let row = row.filter(|row| row.confirmed_at.is_some() == confirmed);
        let Some(row) = row else { return Ok(Attempt::NoFactor) };
        if let Some(wait) = remaining(row.last_tried_at.plus(wait(row.failures)), now) {
            return Ok(Attempt::Wait(wait));
        }
        sqlx::query(COUNT).bind(user).bind(now).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Attempt::Counted(row))
    })
}

/// Does the same in a session, which has a count of its own. A step-up forgets it.
///
/// # Errors
/// `invalid_token`: the session ended.
pub(crate) async fn attempt_totp_in_session(
    db: &Db,
    user: UserId,
    session: SessionId,
    now: Timestamp,
    wait: impl Fn(i64) -> Duration,
) -> Result<Attempt> {
    const TRIES: &str = "SELECT code_failures, code_tried_at FROM sessions WHERE id = $1 AND user_id = $2";
    const TRIES_LOCKED: &str =
        "SELECT code_failures, code_tried_at FROM sessions WHERE id = $1 AND user_id = $2 FOR UPDATE";
    const COUNT: &str = "UPDATE sessions SET code_failures = code_failures + 1, code_tried_at = $2 WHERE id = $1";
    let tries = db.dialect(TRIES, TRIES_LOCKED);
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let tries = sqlx::query_as::<_, SessionTries>(tries).bind(session).bind(user).fetch_optional(&mut *tx).await?;
        let tries = tries.ok_or_else(Error::invalid_token)?;
        if let Some(wait) = remaining(tries.code_tried_at.plus(wait(tries.code_failures)), now) {
            return Ok(Attempt::Wait(wait));
        }
        let row = sqlx::query_as::<_, TotpRow>(TOTP).bind(user).fetch_optional(&mut *tx).await?;
        let Some(row) = row else { return Ok(Attempt::NoFactor) };
        sqlx::query(COUNT).bind(session).bind(now).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Attempt::Counted(row))
    })
}

/// Returns the time from `now` to `next`, if that is later.
fn remaining(next: Timestamp, now: Timestamp) -> Option<Duration> {
    (now < next).then(|| Duration::from_micros(next.0.saturating_sub(now.0).unsigned_abs()))
}

/// Accepts the code of a step, once. Returns false if a code of this step or a later one was accepted before.
/// `at_sign_in` forgets the wrong codes of the account.
pub(crate) async fn accept_totp(db: &Db, user: UserId, step: i64, at_sign_in: bool) -> Result<bool> {
    const SIGN_IN: &str = "UPDATE totp_factors SET last_step = $2, failures = 0 \
        WHERE user_id = $1 AND last_step < $2 AND confirmed_at IS NOT NULL";
    const STEP_UP: &str = "UPDATE totp_factors SET last_step = $2 \
        WHERE user_id = $1 AND last_step < $2 AND confirmed_at IS NOT NULL";
    let sql = if at_sign_in { SIGN_IN } else { STEP_UP };
    let done = on!(db, pool => sqlx::query(sql).bind(user).bind(step).execute(pool).await?.rows_affected());
    Ok(done > 0)
}

/// A confirmation of a key by its first code.
#[derive(Debug)]
pub(crate) struct Confirmation<'a> {
    pub(crate) user: UserId,
    pub(crate) secret: &'a [u8],
    pub(crate) step: i64,
    pub(crate) at: Timestamp,
    /// The session in which it happens. It has two factors from now on.
    pub(crate) session: SessionId,
    /// The recovery codes, which the account gets if it has none.
    pub(crate) codes: &'a [[u8; 32]],
    pub(crate) entry: &'a Entry,
}

/// Makes a key a factor of the account, and ends its other sessions. `None` means that the key was replaced or confirmed
/// meanwhile. Otherwise returns whether the recovery codes were stored.
pub(crate) async fn confirm_totp(db: &Db, confirmation: &Confirmation<'_>) -> Result<Option<bool>> {
    const CONFIRM: &str = "UPDATE totp_factors SET confirmed_at = $2, last_step = $3, failures = 0 \
        WHERE user_id = $1 AND secret = $4 AND confirmed_at IS NULL";
    let Confirmation { user, secret, step, at, session, codes, entry } = *confirmation;
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        let confirmed =
            sqlx::query(CONFIRM).bind(user).bind(at).bind(step).bind(secret).execute(&mut *tx).await?.rows_affected();
        if confirmed == 0 {
            return Ok(None);
        }
        let first = store_codes!(tx, user, codes);
        let raised = sqlx::query(RAISE_SESSION).bind(session).bind(user).bind(at).execute(&mut *tx).await?;
        if raised.rows_affected() == 0 {
            return Err(Error::invalid_token());
        }
        // Somebody else may have begun them with the password alone.
        let ended = sqlx::query_as::<_, EndedSession>(END_OTHER_SESSIONS).bind(user).bind(session);
        let ended = ended.fetch_all(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), user, &ended);
        tx.commit().await?;
        Ok(Some(first))
    })
}

/// Removes the authenticator app of an account; returns whether it had one.
pub(crate) async fn remove_totp(db: &Db, user: UserId, entry: &Entry) -> Result<bool> {
    const SQL: &str = "DELETE FROM totp_factors WHERE user_id = $1 AND confirmed_at IS NOT NULL";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        if sqlx::query(SQL).bind(user).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(DELETE_USELESS_CODES).bind(user).execute(&mut *tx).await?;
        sqlx::query(WEAKEN_SESSIONS).bind(user).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    })
}

/// Removes all factors and recovery codes of an account and ends its sessions; returns whether it had a factor. `by`
/// are the permissions of a caller who changes the account of somebody else.
///
/// # Errors
/// The account has permissions that `by` does not include (`exceeds_own_permissions`).
pub(crate) async fn remove_all(db: &Db, user: UserId, by: Option<&PermissionSet>, entry: &Entry) -> Result<bool> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        check_outranked!(tx, db, user, by);
        if sqlx::query_scalar::<_, i64>(HAS_FACTOR).bind(user).fetch_one(&mut *tx).await? == 0 {
            return Ok(false);
        }
        sqlx::query("DELETE FROM totp_factors WHERE user_id = $1").bind(user).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM passkeys WHERE user_id = $1").bind(user).execute(&mut *tx).await?;
        sqlx::query(DELETE_CODES).bind(user).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM login_challenges WHERE user_id = $1").bind(user).execute(&mut *tx).await?;
        let ended = sqlx::query_as::<_, EndedSession>(END_SESSIONS).bind(user).fetch_all(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), user, &ended);
        tx.commit().await?;
        Ok(true)
    })
}

/// Replaces the recovery codes of an account. Returns false if it has no factor; then it gets none.
pub(crate) async fn replace_codes(db: &Db, user: UserId, codes: &[[u8; 32]], entry: &Entry) -> Result<bool> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        sqlx::query(DELETE_CODES).bind(user).execute(&mut *tx).await?;
        for code in codes {
            sqlx::query(INSERT_CODE).bind(user).bind(code.as_slice()).execute(&mut *tx).await?;
        }
        if sqlx::query(DELETE_USELESS_CODES).bind(user).execute(&mut *tx).await?.rows_affected() > 0 {
            return Ok(false);
        }
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    })
}

/// Uses up a recovery code; returns whether the account had it. Of concurrent calls, only one returns true.
pub(crate) async fn take_code(db: &Db, user: UserId, code: &[u8], entry: &Entry) -> Result<bool> {
    const SQL: &str = "DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = $2";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        if sqlx::query(SQL).bind(user).bind(code).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    })
}
