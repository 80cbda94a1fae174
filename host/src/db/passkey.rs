//! Passkeys of accounts, and the requests for them that wait for a browser. Owns the SQL on `passkeys` and
//! `passkey_requests`; `auth::factor::passkey` owns the form of the states.

use super::audit::{Entry, append};
use super::factor::{DELETE_USELESS_CODES, RAISE_SESSION, WEAKEN_SESSIONS, store_codes};
use super::identity::COUNT_WITHOUT_PASSWORD;
use super::row::row;
use super::session_end::{END_OTHER_SESSIONS, EndedSession, publish_ends};
use super::user::{UserRow, locking};
use super::{Db, is_duplicate, on};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{PasskeyId, SessionId, UserId};

/// The number of passkeys that an account may have.
const MOST_OF_USER: i64 = 20;

/// The number of requests to use a passkey that may wait. They need no account, so their number has a bound.
const MOST_REQUESTS: i64 = 10_000;

/// The number of requests to add a passkey that may wait for one account. They have a bound of their own, so that no
/// flood of the others ends them.
const MOST_REQUESTS_OF_USER: i64 = 20;

row! {
    /// A passkey.
    #[derive(Debug, Clone)]
    pub(crate) struct PasskeyRow {
        pub(crate) id: PasskeyId,
        pub(crate) user_id: UserId,
        pub(crate) credential_id: Vec<u8>,
        pub(crate) name: String,
        pub(crate) static_state: Vec<u8>,
        pub(crate) dynamic_state: Vec<u8>,
        pub(crate) created_at: Timestamp,
        pub(crate) last_used_at: Option<Timestamp>,
    }
}

macro_rules! passkeys {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, credential_id, name, static_state, dynamic_state, created_at, last_used_at \
             FROM passkeys ",
            $rest
        )
    };
}

/// Returns the passkeys of an account, oldest first.
pub(crate) async fn list(db: &Db, user: UserId) -> Result<Vec<PasskeyRow>> {
    const SQL: &str = passkeys!("WHERE user_id = $1 ORDER BY created_at, id");
    Ok(on!(db, pool => sqlx::query_as::<_, PasskeyRow>(SQL).bind(user).fetch_all(pool).await)?)
}

/// Returns the passkey with this credential id.
pub(crate) async fn find(db: &Db, credential_id: &[u8]) -> Result<Option<PasskeyRow>> {
    const SQL: &str = passkeys!("WHERE credential_id = $1");
    Ok(on!(db, pool => sqlx::query_as::<_, PasskeyRow>(SQL).bind(credential_id).fetch_optional(pool).await)?)
}

/// A request for a passkey.
#[derive(Debug)]
pub(crate) struct NewRequest<'a> {
    pub(crate) challenge_hash: &'a [u8],
    /// The account that adds a passkey.
    pub(crate) user: Option<UserId>,
    pub(crate) state: &'a [u8],
    pub(crate) expires_at: Timestamp,
}

/// Stores a request. Deletes the requests that have expired and, if too many of its kind wait, the oldest ones.
pub(crate) async fn insert_request(db: &Db, request: &NewRequest<'_>, now: Timestamp) -> Result<()> {
    const EXPIRED: &str = "DELETE FROM passkey_requests WHERE expires_at <= $1";
    const SURPLUS: &str = "DELETE FROM passkey_requests WHERE user_id IS NULL AND expires_at <= \
        (SELECT expires_at FROM passkey_requests WHERE user_id IS NULL ORDER BY expires_at DESC LIMIT 1 OFFSET $1)";
    const SURPLUS_OF_USER: &str = "DELETE FROM passkey_requests WHERE user_id = $2 AND expires_at <= \
        (SELECT expires_at FROM passkey_requests WHERE user_id = $2 ORDER BY expires_at DESC LIMIT 1 OFFSET $1)";
    const SQL: &str =
        "INSERT INTO passkey_requests (challenge_hash, user_id, state, expires_at) VALUES ($1, $2, $3, $4)";
    on!(db, pool => {
        sqlx::query(EXPIRED).bind(now).execute(pool).await?;
        match request.user {
            None => sqlx::query(SURPLUS).bind(MOST_REQUESTS).execute(pool).await?,
            Some(user) => sqlx::query(SURPLUS_OF_USER).bind(MOST_REQUESTS_OF_USER).bind(user).execute(pool).await?,
        };
        sqlx::query(SQL)
            .bind(request.challenge_hash)
            .bind(request.user)
            .bind(request.state)
            .bind(request.expires_at)
            .execute(pool)
            .await?;
    });
    Ok(())
}

/// Takes the state of a request, once. `user` is the account that adds a passkey, or `None` for the use of one.
pub(crate) async fn take_request(
    db: &Db,
    challenge_hash: &[u8],
    user: Option<UserId>,
    now: Timestamp,
) -> Result<Option<Vec<u8>>> {
    let sql = match user {
        Some(_) => {
            "DELETE FROM passkey_requests WHERE challenge_hash = $1 AND expires_at > $2 AND user_id = $3 RETURNING state"
        }
        None => {
            "DELETE FROM passkey_requests WHERE challenge_hash = $1 AND expires_at > $2 AND user_id IS NULL \
             RETURNING state"
        }
    };
    on!(db, pool => {
        let mut query = sqlx::query_scalar::<_, Vec<u8>>(sql).bind(challenge_hash).bind(now);
        if let Some(user) = user {
            query = query.bind(user);
        }
        Ok(query.fetch_optional(pool).await?)
    })
}

/// A passkey to be added.
#[derive(Debug)]
pub(crate) struct NewPasskey<'a> {
    pub(crate) id: PasskeyId,
    pub(crate) user: UserId,
    pub(crate) credential_id: &'a [u8],
    pub(crate) name: &'a str,
    pub(crate) static_state: &'a [u8],
    pub(crate) dynamic_state: &'a [u8],
    pub(crate) at: Timestamp,
    /// The session in which it happens. It has two factors from now on.
    pub(crate) session: SessionId,
    /// The recovery codes, which the account gets if it has none.
    pub(crate) codes: &'a [[u8; 32]],
    pub(crate) entry: &'a Entry,
}

/// The outcome of adding a passkey.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It was added. `true` means that the recovery codes were stored.
    Yes(bool),
    /// The credential exists already.
    Exists,
    /// The account has as many passkeys as it may have.
    TooMany,
}

/// Adds a passkey, and ends the other sessions of the account.
pub(crate) async fn insert(db: &Db, passkey: &NewPasskey<'_>) -> Result<Added> {
    const COUNT: &str = "SELECT COUNT(*) FROM passkeys WHERE user_id = $1";
    const SQL: &str = "INSERT INTO passkeys \
        (id, user_id, credential_id, name, static_state, dynamic_state, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query_as::<_, UserRow>(locking(db)).bind(passkey.user).fetch_optional(&mut *tx).await?;
        let count = sqlx::query_scalar::<_, i64>(COUNT).bind(passkey.user).fetch_one(&mut *tx).await?;
        if count >= MOST_OF_USER {
            return Ok(Added::TooMany);
        }
        let inserted = sqlx::query(SQL)
            .bind(passkey.id)
            .bind(passkey.user)
            .bind(passkey.credential_id)
            .bind(passkey.name)
            .bind(passkey.static_state)
            .bind(passkey.dynamic_state)
            .bind(passkey.at)
            .execute(&mut *tx)
            .await;
        match inserted {
            Err(error) if is_duplicate(&error) => return Ok(Added::Exists),
            inserted => inserted.map(drop)?,
        }
        let first = store_codes!(tx, passkey.user, passkey.codes);
        let raise = sqlx::query(RAISE_SESSION).bind(passkey.session).bind(passkey.user).bind(passkey.at);
        if raise.execute(&mut *tx).await?.rows_affected() == 0 {
            return Err(Error::invalid_token());
        }
        // Somebody else may have begun them with the password alone.
        let ended = sqlx::query_as::<_, EndedSession>(END_OTHER_SESSIONS).bind(passkey.user).bind(passkey.session);
        let ended = ended.fetch_all(&mut *tx).await?;
        append!(passkey.entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, passkey.entry.cause(), passkey.user, &ended);
        tx.commit().await?;
        Ok(Added::Yes(first))
    })
}

/// Stores the state after a use, if no other use changed it meanwhile; returns whether it did. So of two requests with
/// one state, such as those of a copied authenticator, only one succeeds.
pub(crate) async fn use_once(db: &Db, passkey: &PasskeyRow, dynamic_state: &[u8], now: Timestamp) -> Result<bool> {
    const SQL: &str = "UPDATE passkeys SET dynamic_state = $3, last_used_at = $4 \
        WHERE id = $1 AND dynamic_state = $2";
    let done = on!(db, pool => {
        sqlx::query(SQL)
            .bind(passkey.id)
            .bind(passkey.dynamic_state.as_slice())
            .bind(dynamic_state)
            .bind(now)
            .execute(pool)
            .await?
            .rows_affected()
    });
    Ok(done > 0)
}

/// The outcome of removing a passkey.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It was removed.
    Yes,
    /// The account has no such passkey.
    Unknown,
    /// The account has no password, no other passkey and no identity.
    Last,
}

/// Removes a passkey of an account, unless the account could not sign in any more. `no_password` is the hash of an
/// account without a password.
pub(crate) async fn delete(
    db: &Db,
    user: UserId,
    passkey: PasskeyId,
    no_password: &str,
    entry: &Entry,
) -> Result<Removed> {
    const SQL: &str = "DELETE FROM passkeys WHERE id = $1 AND user_id = $2";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        if sqlx::query(SQL).bind(passkey).bind(user).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(Removed::Unknown);
        }
        let left: i64 = sqlx::query_scalar(COUNT_WITHOUT_PASSWORD).bind(user).fetch_one(&mut *tx).await?;
        if left == 0 && row.is_none_or(|row| row.password_hash == no_password) {
            return Ok(Removed::Last);
        }
        sqlx::query(DELETE_USELESS_CODES).bind(user).execute(&mut *tx).await?;
        sqlx::query(WEAKEN_SESSIONS).bind(user).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Removed::Yes)
    })
}
