//! Sessions. Owns the SQL on `sessions`; `auth::session` owns the format of refresh tokens.

use std::time::Duration;

use sqlx::{ColumnIndex, FromRow, Row};
use uuid::Uuid;

use super::audit::{Entry, append};
use super::factor::{HAS_FACTOR, has_factor};
use super::row::row;
use super::session_end::{END_OTHER_SESSIONS, EndedSession, publish_ends};
use super::user::{UserRow, columns, locking};
use super::{Db, on};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{SessionId, UserId};

/// The most sessions of one account. The ones that were used last are kept.
const MAX_SESSIONS: i64 = 100;

row! {
    /// One session.
    #[derive(Debug, Clone)]
    pub(crate) struct SessionRow {
        pub(crate) id: SessionId,
        pub(crate) user_id: UserId,
        pub(crate) secret_hash: Vec<u8>,
        pub(crate) previous_hash: Option<Vec<u8>>,
        pub(crate) rotation_nonce: Option<Vec<u8>>,
        pub(crate) rotated_at: Option<Timestamp>,
        pub(crate) created_at: Timestamp,
        pub(crate) last_used_at: Timestamp,
        pub(crate) expires_at: Timestamp,
        pub(crate) user_agent: Option<String>,
        pub(crate) strength: String,
    }
}

/// A session to be added.
#[derive(Debug)]
pub(crate) struct NewSession<'a> {
    pub(crate) id: SessionId,
    pub(crate) user_id: UserId,
    pub(crate) family_hash: &'a [u8],
    pub(crate) secret_hash: &'a [u8],
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) strength: &'a str,
}

/// The values that a refresh changes.
#[derive(Debug)]
pub(crate) struct Rotation<'a> {
    pub(crate) old_hash: &'a [u8],
    pub(crate) new_hash: &'a [u8],
    pub(crate) nonce: &'a [u8],
    pub(crate) at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

row! {
    /// The facts about a session that each request needs. All but the last are `None` if the account does not have this session, or
    /// no longer.
    #[derive(Debug)]
    pub(crate) struct SessionFacts {
        pub(crate) session_expires_at: Option<Timestamp>,
        pub(crate) session_created_at: Option<Timestamp>,
        pub(crate) session_strength: Option<String>,
        pub(crate) session_stepped_up_at: Option<Timestamp>,
        /// Whether the account has a second factor, whatever the session.
        pub(crate) has_second_factor: bool,
    }
}

/// An account and one of its sessions.
#[derive(Debug)]
pub(crate) struct SignedIn {
    pub(crate) user: UserRow,
    pub(crate) session: SessionFacts,
}

impl<'r, R: Row> FromRow<'r, R> for SignedIn
where
    &'static str: ColumnIndex<R>,
    UserRow: FromRow<'r, R>,
    SessionFacts: FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self { user: UserRow::from_row(row)?, session: SessionFacts::from_row(row)? })
    }
}

macro_rules! session_columns {
    () => {
        "id, user_id, secret_hash, previous_hash, rotation_nonce, rotated_at, created_at, last_used_at, expires_at, \
         user_agent, strength"
    };
}

const SIGNED_IN: &str = concat!(
    "SELECT ",
    columns!(),
    ", sessions.expires_at AS session_expires_at, sessions.created_at AS session_created_at, \
     sessions.strength AS session_strength, sessions.stepped_up_at AS session_stepped_up_at, ",
    has_factor!("users.id"),
    " AS has_second_factor FROM users \
     LEFT JOIN sessions ON sessions.id = $2 AND sessions.user_id = users.id WHERE users.id = $1"
);
const BY_FAMILY: &str = concat!("SELECT ", session_columns!(), " FROM sessions WHERE family_hash = $1");
const OF_USER: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE user_id = $1 AND expires_at > $2 ORDER BY created_at DESC, id LIMIT $3 OFFSET $4"
);
const INSERT: &str = "INSERT INTO sessions \
    (id, user_id, family_hash, secret_hash, created_at, last_used_at, expires_at, user_agent, strength) \
    VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8)";

/// Returns the account and one of its sessions with a single query.
pub(crate) async fn signed_in(db: &Db, user: UserId, session: SessionId) -> Result<Option<SignedIn>> {
    let row = on!(db, pool => {
        sqlx::query_as::<_, SignedIn>(SIGNED_IN).bind(user).bind(session).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Returns the session of the refresh tokens with this family hash.
pub(crate) async fn find_by_family(db: &Db, family_hash: &[u8]) -> Result<Option<SessionRow>> {
    let row = on!(db, pool => {
        sqlx::query_as::<_, SessionRow>(BY_FAMILY).bind(family_hash).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Returns a page of the account's sessions that have not expired, newest first, and their total number.
pub(crate) async fn list(
    db: &Db,
    user: UserId,
    now: Timestamp,
    skip: i64,
    limit: i64,
) -> Result<(Vec<SessionRow>, i64)> {
    const COUNT: &str = "SELECT COUNT(*) FROM sessions WHERE user_id = $1 AND expires_at > $2";
    on!(db, pool => {
        let count = sqlx::query_scalar::<_, i64>(COUNT).bind(user).bind(now).fetch_one(pool).await?;
        let rows = sqlx::query_as::<_, SessionRow>(OF_USER)
            .bind(user)
            .bind(now)
            .bind(limit)
            .bind(skip)
            .fetch_all(pool)
            .await?;
        Ok((rows, count))
    })
}

/// Adds a session and its audit entry if the account is still active, its password hash is still `password_hash`, and it
/// has a second factor exactly if the session has one; returns whether it did. The account is locked meanwhile, so a
/// change of the password either ends this session or prevents it. If the account has [`MAX_SESSIONS`], the one that was
/// used longest ago ends, with the audit entry `surplus`.
pub(crate) async fn insert(
    db: &Db,
    session: &NewSession<'_>,
    password_hash: &str,
    entry: &Entry,
    surplus: &Entry,
) -> Result<bool> {
    const END_SURPLUS: &str = "DELETE FROM sessions WHERE user_id = $1 AND id NOT IN \
        (SELECT id FROM sessions WHERE user_id = $1 ORDER BY last_used_at DESC, created_at DESC, id LIMIT $2) \
        RETURNING id, expires_at";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let user = sqlx::query_as::<_, UserRow>(locking(db)).bind(session.user_id).fetch_optional(&mut *tx).await?;
        if user.is_none_or(|user| !user.is_active || user.password_hash != password_hash) {
            return Ok(false);
        }
        // The first factor may have been added, or the last one removed, after the proof was checked.
        let has_factor = sqlx::query_scalar::<_, i64>(HAS_FACTOR).bind(session.user_id).fetch_one(&mut *tx).await? != 0;
        if has_factor != (session.strength == "multi") {
            return Ok(false);
        }
        let ended = sqlx::query_as::<_, EndedSession>(END_SURPLUS).bind(session.user_id);
        let ended = ended.bind(MAX_SESSIONS.saturating_sub(1)).fetch_all(&mut *tx).await?;
        if !ended.is_empty() {
            append!(surplus).execute(&mut *tx).await?;
        }
        sqlx::query(INSERT)
            .bind(session.id)
            .bind(session.user_id)
            .bind(session.family_hash)
            .bind(session.secret_hash)
            .bind(session.created_at)
            .bind(session.expires_at)
            .bind(session.user_agent)
            .bind(session.strength)
            .execute(&mut *tx)
            .await?;
        append!(entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), session.user_id, &ended);
        tx.commit().await?;
    });
    Ok(true)
}

/// Replaces the secret if it is still `old_hash`. Of concurrent refreshes with one token, only one returns true.
pub(crate) async fn rotate(db: &Db, id: SessionId, rotation: &Rotation<'_>) -> Result<bool> {
    const SQL: &str = "UPDATE sessions SET previous_hash = secret_hash, secret_hash = $3, rotation_nonce = $4, \
        rotated_at = $5, last_used_at = $5, expires_at = $6 WHERE id = $1 AND secret_hash = $2";
    let done = on!(db, pool => {
        sqlx::query(SQL)
            .bind(id)
            .bind(rotation.old_hash)
            .bind(rotation.new_hash)
            .bind(rotation.nonce)
            .bind(rotation.at)
            .bind(rotation.expires_at)
            .execute(pool)
            .await?
            .rows_affected()
    });
    Ok(done > 0)
}

/// Records a fresh proof of the user of a session; `with_factor` tells whether it was a second factor. Returns whether the
/// session existed.
pub(crate) async fn step_up(
    db: &Db,
    user: UserId,
    session: SessionId,
    with_factor: bool,
    at: Timestamp,
    entry: &Entry,
) -> Result<bool> {
    const BY_PASSWORD: &str = "UPDATE sessions SET stepped_up_at = $3 WHERE id = $1 AND user_id = $2";
    const BY_FACTOR: &str = "UPDATE sessions SET stepped_up_at = $3, strength = 'multi', code_failures = 0 \
        WHERE id = $1 AND user_id = $2";
    let sql = if with_factor { BY_FACTOR } else { BY_PASSWORD };
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        if sqlx::query(sql).bind(session).bind(user).bind(at).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    })
}

/// Ends one session of an account with its audit entry; returns whether it existed.
pub(crate) async fn delete(db: &Db, user: UserId, session: SessionId, entry: &Entry) -> Result<bool> {
    const SQL: &str = "DELETE FROM sessions WHERE id = $1 AND user_id = $2 RETURNING id, expires_at";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let ended = sqlx::query_as::<_, EndedSession>(SQL).bind(session).bind(user).fetch_all(&mut *tx).await?;
        if ended.is_empty() {
            return Ok(false);
        }
        append!(entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), user, &ended);
        tx.commit().await?;
    });
    Ok(true)
}

/// Ends all sessions of an account but the one that is `kept`, with an audit entry; returns whether the account exists.
/// The account is locked meanwhile, so a sign-in either ends here or begins afterwards.
pub(crate) async fn delete_all(db: &Db, user: UserId, kept: Option<SessionId>, entry: &Entry) -> Result<bool> {
    // No session has the nil id.
    let kept = kept.unwrap_or(SessionId(Uuid::nil()));
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        if sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?.is_none() {
            return Ok(false);
        }
        let ended = sqlx::query_as::<_, EndedSession>(END_OTHER_SESSIONS).bind(user).bind(kept);
        let ended = ended.fetch_all(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), user, &ended);
        tx.commit().await?;
    });
    Ok(true)
}

/// Makes no session last longer than `lifetime` after its sign-in: the setting may have been shortened.
pub(crate) async fn shorten(db: &Db, lifetime: Duration) -> Result<()> {
    const SQL: &str = "UPDATE sessions SET expires_at = created_at + $1 WHERE expires_at > created_at + $1";
    let micros = i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX / 2);
    on!(db, pool => sqlx::query(SQL).bind(micros).execute(pool).await.map(drop))?;
    Ok(())
}

/// Deletes the sessions that have expired; returns their number.
pub(crate) async fn delete_expired(db: &Db, now: Timestamp) -> Result<u64> {
    const SQL: &str = "DELETE FROM sessions WHERE expires_at <= $1";
    Ok(on!(db, pool => sqlx::query(SQL).bind(now).execute(pool).await?.rows_affected()))
}
