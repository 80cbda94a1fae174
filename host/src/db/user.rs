//! Accounts. Owns the SQL on `users`, and the changes to an account's sessions and reset tokens that belong to the same
//! transaction.
//!
//! Locks are taken in one order everywhere: first all active superusers by id (only by statements that could remove
//! one), then the account itself. A session is only added under the account's lock (`db::session`), so no session is
//! added during a change that ends all sessions.

use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::{Entry, append};
use super::email::{NewMail, enqueue};
use super::intake::publish;
use super::role::{GIVE_DEFAULTS, check_outranked};
use super::row::row;
use super::session_end::{END_OTHER_SESSIONS, END_SESSIONS, EndedSession, publish_ends};
use super::{Db, is_duplicate, on};
use crate::address::{Address, AddressKey};
use crate::clock::Timestamp;
use crate::error::{Error, Result, code};
use crate::id::{SessionId, UserId};
use crate::message::host_event::HostEvent;
use crate::permission::PermissionSet;

row! {
    /// One account.
    #[derive(Debug, Clone)]
    pub(crate) struct UserRow {
        pub(crate) id: UserId,
        pub(crate) email: String,
        pub(crate) is_active: bool,
        pub(crate) is_superuser: bool,
        pub(crate) full_name: Option<String>,
        pub(crate) password_hash: String,
        pub(crate) created_at: Timestamp,
        /// When the owner proved that they read the mail of the address, or an operator vouched for it.
        pub(crate) email_verified_at: Option<Timestamp>,
        /// When the owner was invited, until they have set a password.
        pub(crate) invited_at: Option<Timestamp>,
    }
}

/// An account to be added.
#[derive(Debug)]
pub(crate) struct NewUser {
    pub(crate) id: UserId,
    pub(crate) email: Address,
    pub(crate) is_active: bool,
    pub(crate) is_superuser: bool,
    pub(crate) full_name: Option<String>,
    pub(crate) password_hash: String,
    pub(crate) created_at: Timestamp,
    pub(crate) email_verified_at: Option<Timestamp>,
    pub(crate) invited_at: Option<Timestamp>,
}

/// A change of an account; `None` leaves a member unchanged.
#[derive(Debug, Default)]
pub(crate) struct UserUpdate {
    pub(crate) email: Option<Address>,
    /// When an operator vouched for the address, by a new address, a new password or the role of a superuser. Otherwise an
    /// operator could not let a person in while mail does not work.
    pub(crate) email_verified_at: Option<Timestamp>,
    /// The mail that announces a new address at the old one.
    pub(crate) announcement: Option<NewMail>,
    pub(crate) is_active: Option<bool>,
    pub(crate) is_superuser: Option<bool>,
    pub(crate) full_name: Option<Option<String>>,
    pub(crate) password_hash: Option<String>,
    /// Whether the API keys, passkeys and linked identities of the account end.
    pub(crate) ends_other_access: bool,
}

/// The columns of a [`UserRow`], as a literal for `concat!`.
macro_rules! columns {
    () => {
        "users.id, users.email, users.is_active, users.is_superuser, users.full_name, users.password_hash, \
         users.created_at, users.email_verified_at, users.invited_at"
    };
}
pub(super) use columns;

const BY_ID: &str = concat!("SELECT ", columns!(), " FROM users WHERE id = $1");
const BY_ID_LOCKED: &str = concat!("SELECT ", columns!(), " FROM users WHERE id = $1 FOR UPDATE");
const BY_KEY: &str = concat!("SELECT ", columns!(), " FROM users WHERE email_key = $1");
const LIST: &str = concat!("SELECT ", columns!(), " FROM users ORDER BY created_at DESC, id LIMIT $1 OFFSET $2");
macro_rules! insert {
    ($rest:literal) => {
        concat!(
            "INSERT INTO users \
             (id, email, email_key, full_name, is_active, is_superuser, password_hash, created_at, email_verified_at, \
             invited_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            $rest
        )
    };
}
pub(super) const INSERT: &str = insert!("");
pub(super) const INSERT_UNLESS_TAKEN: &str = insert!(" ON CONFLICT DO NOTHING");
const UPDATE: &str = "UPDATE users SET email = $2, email_key = COALESCE($3, email_key), full_name = $4, \
    is_active = $5, is_superuser = $6, password_hash = $7, email_verified_at = $8, invited_at = $9 WHERE id = $1";
// An invited superuser who has not accepted cannot sign in, so they do not count.
macro_rules! superusers {
    ($lock:literal) => {
        concat!("SELECT id FROM users WHERE is_superuser AND is_active AND invited_at IS NULL ORDER BY id", $lock)
    };
}
const SUPERUSERS: &str = superusers!("");
const SUPERUSERS_LOCKED: &str = superusers!(" FOR UPDATE");
pub(super) const SET_PASSWORD: &str = "UPDATE users SET password_hash = $2, invited_at = NULL WHERE id = $1";
pub(super) const END_RESET_TOKENS: &str = "DELETE FROM reset_tokens WHERE user_id = $1";
pub(super) const END_VERIFICATION_TOKENS: &str = "DELETE FROM verification_tokens WHERE user_id = $1";
pub(super) const END_ADDRESS_CHANGE: &str = "DELETE FROM address_changes WHERE user_id = $1";

/// The deletions of everything that opens an account besides its password and its sessions.
const END_OTHER_ACCESS: &[&str] = &[
    "DELETE FROM api_keys WHERE user_id = $1",
    "DELETE FROM passkeys WHERE user_id = $1",
    // Codes without an app or a passkey would count again with the next factor.
    "DELETE FROM recovery_codes WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM totp_factors WHERE user_id = $1)",
    "DELETE FROM passkey_requests WHERE user_id = $1",
    "DELETE FROM identities WHERE user_id = $1",
    "DELETE FROM pending_links WHERE user_id = $1",
    "DELETE FROM login_codes WHERE user_id = $1",
];

/// The deletions of everything that opens an account whose address nobody had proven, and that is no second factor: its
/// creator may have used the address of somebody else. An identity with the same verified address proves the address.
pub(super) const END_UNPROVEN_ACCESS: &[&str] = &[
    "DELETE FROM api_keys WHERE user_id = $1",
    "DELETE FROM identities WHERE user_id = $1 \
     AND (email_key IS NULL OR email_key <> (SELECT users.email_key FROM users WHERE users.id = $1))",
    "DELETE FROM login_codes WHERE user_id = $1",
];

/// Returns the statement that reads an account and, on PostgreSQL, locks it for the rest of the transaction.
pub(super) fn locking(db: &Db) -> &'static str {
    db.dialect(BY_ID, BY_ID_LOCKED)
}

/// Converts the error of a statement that sets an address.
pub(super) fn refused(error: sqlx::Error) -> Error {
    if is_duplicate(&error) {
        Error::conflict(code::EMAIL_TAKEN, "User with this email already exists").with_source(error)
    } else {
        error.into()
    }
}

/// Returns the statement that reads all active superusers and, on PostgreSQL, locks them.
pub(super) fn superusers(db: &Db) -> &'static str {
    db.dialect(SUPERUSERS, SUPERUSERS_LOCKED)
}

pub(super) fn last_superuser() -> Error {
    Error::conflict(code::LAST_SUPERUSER, "The last superuser cannot be removed")
}

pub(crate) async fn find(db: &Db, id: UserId) -> Result<Option<UserRow>> {
    Ok(on!(db, pool => sqlx::query_as::<_, UserRow>(BY_ID).bind(id).fetch_optional(pool).await)?)
}

/// Returns the account with this key.
pub(crate) async fn find_by_key(db: &Db, key: &AddressKey) -> Result<Option<UserRow>> {
    Ok(on!(db, pool => sqlx::query_as::<_, UserRow>(BY_KEY).bind(key.as_str()).fetch_optional(pool).await)?)
}

/// Computes the keys of the accounts whose keys an earlier version computed in another way. The migration `address keys`
/// lists those that it found. A process of that version may have added more since. A key that another account has stays
/// as it is.
pub(crate) async fn renew_keys(db: &Db) -> Result<()> {
    const OLD: &str = "SELECT users.id, users.email FROM users JOIN old_address_keys ON users.id = user_id LIMIT 1000";
    const DONE: &str = "DELETE FROM old_address_keys WHERE user_id = $1";
    loop {
        let old = on!(db, pool => sqlx::query_as::<_, (UserId, String)>(OLD).fetch_all(pool).await)?;
        if old.is_empty() {
            break;
        }
        for (id, email) in old {
            if let Some(key) = AddressKey::of(&email) {
                renew_key(db, id, &key).await?;
            }
            on!(db, pool => sqlx::query(DONE).bind(id).execute(pool).await.map(drop))?;
        }
    }
    renew_unlisted_keys(db).await
}

/// Computes the keys of all accounts whose address is not ASCII. An index has them.
async fn renew_unlisted_keys(db: &Db) -> Result<()> {
    let sql = db.dialect(
        "SELECT id, email, email_key FROM users WHERE email GLOB '*[^ -~]*' AND id > $1 ORDER BY id LIMIT 1000",
        "SELECT id, email, email_key FROM users WHERE email ~ '[^ -~]' AND id > $1 ORDER BY id LIMIT 1000",
    );
    let mut last = UserId(Uuid::nil());
    loop {
        let some = on!(db, pool => {
            sqlx::query_as::<_, (UserId, String, String)>(sql).bind(last).fetch_all(pool).await
        })?;
        let Some((id, ..)) = some.last() else { return Ok(()) };
        last = *id;
        for (id, email, stored) in some {
            if let Some(key) = AddressKey::of(&email).filter(|key| key.as_str() != stored) {
                renew_key(db, id, &key).await?;
            }
        }
    }
}

async fn renew_key(db: &Db, id: UserId, key: &AddressKey) -> Result<()> {
    const RENEW: &str = "UPDATE users SET email_key = $2 WHERE id = $1 AND email_key <> $2";
    let renewed = on!(db, pool => sqlx::query(RENEW).bind(id).bind(key.as_str()).execute(pool).await.map(drop));
    match renewed {
        Err(error) if is_duplicate(&error) => {
            let text = "two accounts have the same address in different forms; this one cannot sign in";
            tracing::warn!(user = %id, "{text}: change its address or delete it");
            Ok(())
        }
        renewed => Ok(renewed?),
    }
}

/// Returns accounts, newest first; accounts of the same time are ordered by id.
pub(crate) async fn list(db: &Db, skip: i64, limit: i64) -> Result<Vec<UserRow>> {
    Ok(on!(db, pool => sqlx::query_as::<_, UserRow>(LIST).bind(limit).bind(skip).fetch_all(pool).await)?)
}

pub(crate) async fn count(db: &Db) -> Result<i64> {
    Ok(on!(db, pool => sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM users").fetch_one(pool).await)?)
}

/// Returns the password hashes of some accounts. Ids are random, so their order is too.
pub(crate) async fn sample_hashes(db: &Db, limit: i64) -> Result<Vec<String>> {
    const SQL: &str = "SELECT password_hash FROM users ORDER BY id LIMIT $1";
    Ok(on!(db, pool => sqlx::query_scalar::<_, String>(SQL).bind(limit).fetch_all(pool).await)?)
}

/// Returns whether a superuser exists, active or not.
pub(crate) async fn has_superuser(db: &Db) -> Result<bool> {
    const SQL: &str = "SELECT id FROM users WHERE is_superuser LIMIT 1";
    Ok(on!(db, pool => sqlx::query_scalar::<_, UserId>(SQL).fetch_optional(pool).await)?.is_some())
}

/// Adds an account with the default roles and its audit entry, and queues a mail for it: all or nothing.
///
/// # Errors
/// The address is taken: a conflict with the code `email_taken`.
pub(crate) async fn insert(db: &Db, user: &NewUser, mail: Option<&NewMail>, entry: &Entry) -> Result<()> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        insert_with(INSERT, user).execute(&mut *tx).await.map_err(refused)?;
        sqlx::query(GIVE_DEFAULTS).bind(user.id).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        if let Some(mail) = mail {
            enqueue!(&mut *tx, mail);
        }
        publish!(db, tx, entry.cause(), HostEvent::UserCreated { id: user.id });
        tx.commit().await?;
    });
    Ok(())
}

/// Adds an account unless a superuser or an account with this address exists; returns whether it did.
pub(crate) async fn insert_first_superuser(db: &Db, user: &NewUser, entry: &Entry) -> Result<bool> {
    // Several nodes may start at the same time; SQLite has one writer and needs no lock.
    let lock = db.dialect("SELECT 1", "SELECT 1 FROM pg_advisory_xact_lock(hashtext('wharf:superuser'))");
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        sqlx::query(lock).execute(&mut *tx).await?;
        let taken = sqlx::query_scalar::<_, UserId>("SELECT id FROM users WHERE is_superuser OR email_key = $1 LIMIT 1")
            .bind(user.email.key().as_str())
            .fetch_optional(&mut *tx)
            .await?;
        if taken.is_some() {
            return Ok(false);
        }
        insert_with(INSERT, user).execute(&mut *tx).await.map_err(refused)?;
        sqlx::query(GIVE_DEFAULTS).bind(user.id).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        publish!(db, tx, entry.cause(), HostEvent::UserCreated { id: user.id });
        tx.commit().await?;
    });
    Ok(true)
}

/// Returns the statement that adds an account, [`INSERT`] or [`INSERT_UNLESS_TAKEN`], with its values.
pub(super) fn insert_with<'q, D>(sql: &'static str, user: &'q NewUser) -> sqlx::query::Query<'q, D, D::Arguments>
where
    D: sqlx::Database,
    UserId: sqlx::Encode<'q, D> + sqlx::Type<D>,
    Timestamp: sqlx::Encode<'q, D> + sqlx::Type<D>,
    Option<Timestamp>: sqlx::Encode<'q, D> + sqlx::Type<D>,
    String: sqlx::Encode<'q, D> + sqlx::Type<D>,
    &'q str: sqlx::Encode<'q, D> + sqlx::Type<D>,
    Option<&'q str>: sqlx::Encode<'q, D> + sqlx::Type<D>,
    bool: sqlx::Encode<'q, D> + sqlx::Type<D>,
{
    sqlx::query(sql)
        .bind(user.id)
        .bind(user.email.as_str())
        .bind(user.email.key().as_str().to_owned())
        .bind(user.full_name.as_deref())
        .bind(user.is_active)
        .bind(user.is_superuser)
        .bind(user.password_hash.as_str())
        .bind(user.created_at)
        .bind(user.email_verified_at)
        .bind(user.invited_at)
}

/// Changes an account; returns `None` if it does not exist. A new password or a deactivation ends its sessions. A new
/// password or address ends its reset tokens. `by` are the permissions of a caller who changes the account of somebody
/// else.
///
/// # Errors
/// The address is taken (`email_taken`); no active superuser would be left (`last_superuser`); the account has
/// permissions that `by` does not include (`exceeds_own_permissions`).
pub(crate) async fn update(
    db: &Db,
    id: UserId,
    change: &UserUpdate,
    by: Option<&PermissionSet>,
    entry: &Entry,
) -> Result<Option<UserRow>> {
    let demotes = change.is_superuser == Some(false) || change.is_active == Some(false);
    let superusers = superusers(db);
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let is_last = demotes && sqlx::query_scalar::<_, UserId>(superusers).fetch_all(&mut *tx).await? == [id];
        let Some(old) = sqlx::query_as::<_, UserRow>(locking(db)).bind(id).fetch_optional(&mut *tx).await? else {
            return Ok(None);
        };
        check_outranked!(tx, db, id, by);
        if is_last {
            return Err(last_superuser());
        }
        let new = changed(&old, change);
        sqlx::query(UPDATE)
            .bind(id)
            .bind(new.email.as_str())
            .bind(change.email.as_ref().map(|email| email.key().as_str().to_owned()))
            .bind(new.full_name.as_deref())
            .bind(new.is_active)
            .bind(new.is_superuser)
            .bind(new.password_hash.as_str())
            .bind(new.email_verified_at)
            .bind(new.invited_at)
            .execute(&mut *tx)
            .await
            .map_err(refused)?;
        let ended = match new.password_hash != old.password_hash || !new.is_active {
            true => sqlx::query_as::<_, EndedSession>(END_SESSIONS).bind(id).fetch_all(&mut *tx).await?,
            false => Vec::new(),
        };
        // A link that somebody got for an account with fewer permissions must not open it afterwards.
        if new.password_hash != old.password_hash
            || new.email != old.email
            || new.is_superuser != old.is_superuser
        {
            sqlx::query(END_RESET_TOKENS).bind(id).execute(&mut *tx).await?;
        }
        if new.password_hash != old.password_hash || new.email != old.email || !new.is_active {
            sqlx::query(END_ADDRESS_CHANGE).bind(id).execute(&mut *tx).await?;
        }
        if change.ends_other_access {
            for sql in END_OTHER_ACCESS {
                sqlx::query(*sql).bind(id).execute(&mut *tx).await?;
            }
        }
        if is_new_address(&old, change) {
            sqlx::query(END_VERIFICATION_TOKENS).bind(id).execute(&mut *tx).await?;
            if let Some(mail) = &change.announcement {
                enqueue!(&mut *tx, mail);
            }
        }
        let password = change.password_hash.is_some().then_some("changed");
        let (before, after) = (described(&old), described(&new));
        let is_changed = before != after;
        let mut detail = json!({ "password": password });
        if change.ends_other_access
            && let Some(members) = detail.as_object_mut()
        {
            members.insert("other_access".to_owned(), json!("ended"));
        }
        append!(&entry.clone().with_change(Some(before), Some(after)).with_detail(detail)).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), id, &ended);
        if is_changed {
            publish!(db, tx, entry.cause(), HostEvent::UserUpdated { id });
        }
        tx.commit().await?;
        Ok(Some(new))
    })
}

/// Returns an account as the audit log shows it.
pub(crate) fn described(user: &UserRow) -> Value {
    json!({ "email": user.email, "full_name": user.full_name, "is_active": user.is_active,
        "is_superuser": user.is_superuser })
}

/// Returns whether a change gives an account another address. Other letters of the same address are none.
fn is_new_address(old: &UserRow, change: &UserUpdate) -> bool {
    change.email.as_ref().is_some_and(|email| Some(email.key()) != AddressKey::of(&old.email))
}

fn changed(old: &UserRow, change: &UserUpdate) -> UserRow {
    let (has_new_address, has_new_password) = (is_new_address(old, change), change.password_hash.is_some());
    let is_trusted = has_new_password || change.is_superuser == Some(true);
    UserRow {
        email_verified_at: match has_new_address {
            true => change.email_verified_at,
            false => old.email_verified_at.or(change.email_verified_at.filter(|_| is_trusted)),
        },
        invited_at: old.invited_at.filter(|_| !has_new_password),
        id: old.id,
        email: change.email.as_ref().map_or_else(|| old.email.clone(), |email| email.as_str().to_owned()),
        is_active: change.is_active.unwrap_or(old.is_active),
        is_superuser: change.is_superuser.unwrap_or(old.is_superuser),
        full_name: change.full_name.clone().unwrap_or_else(|| old.full_name.clone()),
        password_hash: change.password_hash.clone().unwrap_or_else(|| old.password_hash.clone()),
        created_at: old.created_at,
    }
}

/// Deletes an account with its sessions and reset tokens; returns whether it existed. `by` are the permissions of a
/// caller who deletes the account of somebody else.
///
/// # Errors
/// The account is the last active superuser (`last_superuser`), or has permissions that `by` does not include
/// (`exceeds_own_permissions`).
pub(crate) async fn delete(db: &Db, id: UserId, by: Option<&PermissionSet>, entry: &Entry) -> Result<bool> {
    let superusers = superusers(db);
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let is_last = sqlx::query_scalar::<_, UserId>(superusers).fetch_all(&mut *tx).await? == [id];
        let Some(old) = sqlx::query_as::<_, UserRow>(locking(db)).bind(id).fetch_optional(&mut *tx).await? else {
            return Ok(false);
        };
        check_outranked!(tx, db, id, by);
        if is_last {
            return Err(last_superuser());
        }
        sqlx::query("DELETE FROM users WHERE id = $1").bind(id).execute(&mut *tx).await?;
        append!(&entry.clone().with_change(Some(described(&old)), None)).execute(&mut *tx).await?;
        publish!(db, tx, entry.cause(), HostEvent::UserDeleted { id });
        tx.commit().await?;
        Ok(true)
    })
}

/// Replaces a hash with one of another format or cost of the same password. Returns false if the hash changed meanwhile;
/// then it stays.
pub(crate) async fn rehash(db: &Db, id: UserId, old: &str, new: &str) -> Result<bool> {
    const SQL: &str = "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2";
    let done = on!(db, pool => sqlx::query(SQL).bind(id).bind(old).bind(new).execute(pool).await?.rows_affected());
    Ok(done > 0)
}

/// Replaces the password with the hash `old`, and ends every session but `kept` and all reset tokens. Returns false if
/// the password changed meanwhile; then it stays.
pub(crate) async fn change_password(
    db: &Db,
    id: UserId,
    old: &str,
    new: &str,
    kept: SessionId,
    entry: &Entry,
) -> Result<bool> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let user = sqlx::query_as::<_, UserRow>(locking(db)).bind(id).fetch_optional(&mut *tx).await?;
        if user.is_none_or(|user| user.password_hash != old) {
            return Ok(false);
        }
        sqlx::query(SET_PASSWORD).bind(id).bind(new).execute(&mut *tx).await?;
        let ended = sqlx::query_as::<_, EndedSession>(END_OTHER_SESSIONS).bind(id).bind(kept);
        let ended = ended.fetch_all(&mut *tx).await?;
        sqlx::query(END_RESET_TOKENS).bind(id).execute(&mut *tx).await?;
        sqlx::query(END_ADDRESS_CHANGE).bind(id).execute(&mut *tx).await?;
        append!(entry).execute(&mut *tx).await?;
        publish_ends!(db, tx, entry.cause(), id, &ended);
        tx.commit().await?;
    });
    Ok(true)
}
