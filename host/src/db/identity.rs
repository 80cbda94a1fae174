//! Accounts at OpenID Connect issuers, the links that begin or end, and the codes after a sign-in. Owns the SQL on
//! `identities`, `pending_links` and `login_codes`; `auth::oidc` decides which account an identity may belong to.
//!
//! Everything that depends on the state of an account happens under the account's lock (`db::user`).

use super::audit::{Entry, append};
use super::intake::publish;
use super::role::GIVE_DEFAULTS;
use super::row::row;
use super::user::{self, NewUser, UserRow, locking};
use super::{Db, is_duplicate, on};
use crate::address::AddressKey;
use crate::clock::Timestamp;
use crate::error::{Error, Result, code};
use crate::id::{IdentityId, SessionId, UserId};
use crate::message::host_event::HostEvent;

/// The most identities of one account.
const MAX_IDENTITIES: i64 = 20;

row! {
    /// One identity.
    #[derive(Debug, Clone)]
    pub(crate) struct IdentityRow {
        pub(crate) id: IdentityId,
        pub(crate) user_id: UserId,
        pub(crate) issuer: String,
        pub(crate) email: Option<String>,
        pub(crate) created_at: Timestamp,
        pub(crate) last_used_at: Timestamp,
    }
}

row! {
    /// A link that a user began.
    struct PendingLinkRow {
        user_id: UserId,
        session_id: SessionId,
    }
}

row! {
    /// The account of a code, and the challenge of the frontend that asked for it.
    #[derive(Debug)]
    pub(crate) struct LoginCodeRow {
        pub(crate) user_id: UserId,
        pub(crate) challenge: String,
    }
}

/// An account at an issuer, as the issuer describes it.
#[derive(Debug, Clone)]
pub(crate) struct NewIdentity {
    pub(crate) id: IdentityId,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    /// The address that the issuer verified, and its key.
    pub(crate) email: Option<(String, String)>,
    pub(crate) at: Timestamp,
}

/// A link to be remembered while its user is at the issuer.
#[derive(Debug)]
pub(crate) struct PendingLink<'a> {
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    pub(crate) browser_hash: &'a [u8],
    pub(crate) issuer: &'a str,
    pub(crate) expires_at: Timestamp,
}

/// The outcome of ending a link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    /// The identity belongs to this account.
    Yes(UserId),
    /// The link is unknown, used or expired, or its session has ended.
    Unknown,
    /// The account has the maximum number of identities.
    TooMany,
}

/// The outcome of removing an identity.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unlinked {
    /// It was removed.
    Yes,
    /// The account has no such identity.
    Unknown,
    /// The account has no password, no other identity and no passkey.
    Last,
}

macro_rules! identity_columns {
    () => {
        "id, user_id, issuer, email, created_at, last_used_at"
    };
}

const BY_SUBJECT: &str = concat!("SELECT ", identity_columns!(), " FROM identities WHERE issuer = $1 AND subject = $2");
const OF_USER: &str =
    concat!("SELECT ", identity_columns!(), " FROM identities WHERE user_id = $1 ORDER BY created_at, id");
const INSERT: &str = "INSERT INTO identities \
    (id, user_id, issuer, subject, email, email_key, created_at, last_used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)";

/// The ways of an account to sign in without a password.
pub(super) const COUNT_WITHOUT_PASSWORD: &str = "SELECT (SELECT COUNT(*) FROM identities WHERE user_id = $1) \
    + (SELECT COUNT(*) FROM passkeys WHERE user_id = $1)";

/// Adds an identity in a transaction.
macro_rules! insert {
    ($tx:expr, $identity:expr, $user:expr) => {{
        let identity: &NewIdentity = $identity;
        let (email, key) = identity.email.clone().unzip();
        sqlx::query(INSERT)
            .bind(identity.id)
            .bind($user)
            .bind(identity.issuer.as_str())
            .bind(identity.subject.as_str())
            .bind(email)
            .bind(key)
            .bind(identity.at)
            .execute($tx)
            .await
            .map_err(refused)
    }};
}

fn refused(error: sqlx::Error) -> Error {
    if is_duplicate(&error) {
        let text = "This account of the issuer belongs to another account here";
        Error::conflict(code::IDENTITY_TAKEN, text).with_source(error)
    } else {
        error.into()
    }
}

/// Returns the identity with this subject.
pub(crate) async fn find(db: &Db, issuer: &str, subject: &str) -> Result<Option<IdentityRow>> {
    let row = on!(db, pool => {
        sqlx::query_as::<_, IdentityRow>(BY_SUBJECT).bind(issuer).bind(subject).fetch_optional(pool).await
    })?;
    Ok(row)
}

/// Returns the identities of an account, oldest first.
pub(crate) async fn list(db: &Db, user: UserId) -> Result<Vec<IdentityRow>> {
    Ok(on!(db, pool => sqlx::query_as::<_, IdentityRow>(OF_USER).bind(user).fetch_all(pool).await)?)
}

/// Records a sign-in, and the address that the issuer verifies at present.
pub(crate) async fn touch(db: &Db, id: IdentityId, email: Option<&(String, String)>, at: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE identities SET last_used_at = $2, email = $3, email_key = $4 WHERE id = $1";
    let (email, key) = email.cloned().unzip();
    on!(db, pool => sqlx::query(SQL).bind(id).bind(at).bind(email).bind(key).execute(pool).await.map(drop))?;
    Ok(())
}

/// Adds an account with the default roles and its identity, with both audit entries.
///
/// # Errors
/// Conflicts `email_taken` and `identity_taken`.
pub(crate) async fn create_account(
    db: &Db,
    user: &NewUser,
    identity: &NewIdentity,
    entries: &[Entry; 2],
) -> Result<()> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        user::insert_with(user::INSERT, user).execute(&mut *tx).await.map_err(user::refused)?;
        sqlx::query(GIVE_DEFAULTS).bind(user.id).execute(&mut *tx).await?;
        insert!(&mut *tx, identity, user.id)?;
        for entry in entries {
            append!(entry).execute(&mut *tx).await?;
        }
        let [created, _] = entries;
        publish!(db, tx, created.cause(), HostEvent::UserCreated { id: user.id });
        tx.commit().await?;
    });
    Ok(())
}

/// Adds an identity to an account that has no password, and whose address was verified or invited; returns whether it
/// did. An invitation is accepted then. `no_password` is the hash of an account without a password.
///
/// # Errors
/// A conflict `identity_taken`.
pub(crate) async fn link_vouched(
    db: &Db,
    user: UserId,
    identity: &NewIdentity,
    no_password: &str,
    entry: &Entry,
) -> Result<bool> {
    const ACCEPT: &str = "UPDATE users SET invited_at = NULL, email_verified_at = COALESCE(email_verified_at, $2) \
        WHERE id = $1";
    let Some((_, key)) = &identity.email else { return Ok(false) };
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        let may_be_linked = row.is_some_and(|row| {
            let is_same = AddressKey::of(&row.email).is_some_and(|own| own.as_str() == key);
            let is_vouched = row.email_verified_at.is_some() || row.invited_at.is_some();
            is_same && is_vouched && row.is_active && row.password_hash == no_password
        });
        if !may_be_linked {
            return Ok(false);
        }
        sqlx::query(ACCEPT).bind(user).bind(identity.at).execute(&mut *tx).await?;
        insert!(&mut *tx, identity, user)?;
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(true)
}

/// Remembers a link. It replaces an earlier one of the same user.
pub(crate) async fn begin_link(db: &Db, link: &PendingLink<'_>) -> Result<()> {
    const SQL: &str = "INSERT INTO pending_links (user_id, session_id, browser_hash, issuer, expires_at) \
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_id) DO UPDATE SET session_id = excluded.session_id, \
        browser_hash = excluded.browser_hash, issuer = excluded.issuer, expires_at = excluded.expires_at";
    on!(db, pool => {
        sqlx::query(SQL)
            .bind(link.user)
            .bind(link.session)
            .bind(link.browser_hash)
            .bind(link.issuer)
            .bind(link.expires_at)
            .execute(pool)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// Ends a link of the browser with this secret: the identity belongs to the user who began it. A link works once.
///
/// # Errors
/// A conflict `identity_taken`.
pub(crate) async fn finish_link(
    db: &Db,
    browser_hash: &[u8],
    identity: &NewIdentity,
    entry: impl Fn(UserId) -> Entry,
) -> Result<Linked> {
    const FIND: &str = "SELECT user_id, session_id FROM pending_links \
        WHERE browser_hash = $1 AND issuer = $2 AND expires_at > $3";
    const TAKE: &str = "DELETE FROM pending_links WHERE user_id = $1 AND browser_hash = $2";
    const SESSION: &str = "SELECT id FROM sessions WHERE id = $1 AND user_id = $2 AND expires_at > $3";
    const COUNT: &str = "SELECT COUNT(*) FROM identities WHERE user_id = $1";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let Some(link) = sqlx::query_as::<_, PendingLinkRow>(FIND)
            .bind(browser_hash)
            .bind(identity.issuer.as_str())
            .bind(identity.at)
            .fetch_optional(&mut *tx)
            .await?
        else {
            return Ok(Linked::Unknown);
        };
        // As everywhere, the account is locked first; the link is deleted under that lock.
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(link.user_id).fetch_optional(&mut *tx).await?;
        let taken = sqlx::query(TAKE).bind(link.user_id).bind(browser_hash).execute(&mut *tx).await?.rows_affected();
        let session = sqlx::query_scalar::<_, SessionId>(SESSION)
            .bind(link.session_id)
            .bind(link.user_id)
            .bind(identity.at)
            .fetch_optional(&mut *tx)
            .await?;
        if taken == 0 || session.is_none() || row.is_none_or(|row| !row.is_active) {
            return Ok(Linked::Unknown);
        }
        let count: i64 = sqlx::query_scalar(COUNT).bind(link.user_id).fetch_one(&mut *tx).await?;
        if count >= MAX_IDENTITIES {
            return Ok(Linked::TooMany);
        }
        insert!(&mut *tx, identity, link.user_id)?;
        append!(&entry(link.user_id)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Linked::Yes(link.user_id))
    })
}

/// Removes an identity of an account, unless the account could not sign in any more. `no_password` is the hash of an
/// account without a password.
pub(crate) async fn unlink(
    db: &Db,
    user: UserId,
    id: IdentityId,
    no_password: &str,
    entry: &Entry,
) -> Result<Unlinked> {
    const DELETE: &str = "DELETE FROM identities WHERE id = $1 AND user_id = $2";
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let row = sqlx::query_as::<_, UserRow>(locking(db)).bind(user).fetch_optional(&mut *tx).await?;
        if sqlx::query(DELETE).bind(id).bind(user).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(Unlinked::Unknown);
        }
        let left: i64 = sqlx::query_scalar(COUNT_WITHOUT_PASSWORD).bind(user).fetch_one(&mut *tx).await?;
        if left == 0 && row.is_none_or(|row| row.password_hash == no_password) {
            return Ok(Unlinked::Last);
        }
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(Unlinked::Yes)
}

/// Adds a code, and deletes all that have expired.
pub(crate) async fn add_code(
    db: &Db,
    code_hash: &[u8],
    user: UserId,
    challenge: &str,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    const SQL: &str = "INSERT INTO login_codes (code_hash, user_id, challenge, expires_at) VALUES ($1, $2, $3, $4)";
    on!(db, pool => {
        sqlx::query("DELETE FROM login_codes WHERE expires_at <= $1").bind(now).execute(pool).await?;
        sqlx::query(SQL).bind(code_hash).bind(user).bind(challenge).bind(expires_at).execute(pool).await?;
    });
    Ok(())
}

/// Takes a code that has not expired. Of concurrent calls with one code, only one gets it.
pub(crate) async fn take_code(db: &Db, code_hash: &[u8], now: Timestamp) -> Result<Option<LoginCodeRow>> {
    const SQL: &str = "DELETE FROM login_codes WHERE code_hash = $1 AND expires_at > $2 RETURNING user_id, challenge";
    let row = on!(db, pool => {
        sqlx::query_as::<_, LoginCodeRow>(SQL).bind(code_hash).bind(now).fetch_optional(pool).await
    })?;
    Ok(row)
}
