//! API keys: credentials of machines. Owns their life, their permissions and the record of their use. The form of a key
//! is that of `auth::api_key_text`.
//!
//! A key has the permissions in its list. If it belongs to an account, it has only those of them that the account has at
//! that moment, so it never exceeds its owner. A key that belongs to nobody has all of them until it is revoked. A key
//! is created by a session, never by another key: a stolen key cannot renew itself. The permissions of roles that
//! require a second factor belong to a key only if the session that created it had one, and the owner has one now.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::Auth;
use super::api_key_text::{self, ParsedKey};
use super::caller::{Caller, Credential, Strength};
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db;
use crate::db::api_key::{InsertOutcome, KeyFilter, KeyRow};
use crate::db::audit::Entry;
use crate::error::{Error, Result, code};
use crate::id::{KeyId, UserId};
use crate::initiator::Initiator;
use crate::permission::{HostPermission, Permission, PermissionSet};

/// The maximum number of keys of one account.
const MAX_OF_ACCOUNT: i64 = 100;

/// The maximum number of keys that belong to nobody.
const MAX_OF_NOBODY: i64 = 1000;

/// How long an expired key stays in the list.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// A key that somebody wants to create.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// A name for people.
    pub name: String,
    /// Whether it belongs to the account that creates it, or to nobody.
    pub is_own: bool,
    /// The permissions.
    pub permissions: Vec<Permission>,
    /// The lifetime; `None` means that it does not expire.
    pub lifetime: Option<Duration>,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The id.
    pub id: KeyId,
    /// The part of its text that is no secret.
    pub prefix: String,
    /// The name.
    pub name: String,
    /// The account that it belongs to; `None` means nobody.
    pub owner: Option<UserId>,
    /// The account that created it.
    pub created_by: UserId,
    /// The permissions.
    pub permissions: Vec<Permission>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; `None` means never.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl Auth {
    /// Creates a key. Returns it with its text, which is not stored and cannot be read again.
    ///
    /// # Errors
    /// 403: the caller is not a session, or lacks one of the permissions; a conflict `too_many_keys`.
    pub async fn create_key(&self, by: &Initiator, caller: &Caller, new: NewKey) -> Result<(ApiKey, Secret)> {
        let inner = &*self.0;
        let session = caller.session()?;
        let creator = caller.user()?.id;
        let mut permissions = new.permissions;
        permissions.sort_unstable();
        permissions.dedup();
        // Every account may call the routes that this permission is about, without a key.
        let given = permissions.iter().filter(|one| **one != Permission::Host(HostPermission::RoutesCall));
        let now = inner.clock.now();
        if let Err(error) = caller.require_all(&given.cloned().collect()) {
            let detail = json!({ "name": new.name, "permissions": permissions });
            return self.refused(error, Entry::of(by, now, "key.create", "keys").with_detail(detail)).await;
        }
        let id = KeyId(inner.random.uuid()?);
        let (text, secret_hash) = api_key_text::write(id, [inner.random.bytes()?, inner.random.bytes()?]);
        let row = KeyRow {
            id,
            user_id: new.is_own.then_some(creator),
            created_by: creator,
            name: new.name,
            secret_hash: secret_hash.to_vec(),
            permissions: serde_json::to_string(&permissions).map_err(Error::internal)?,
            strength: session.strength.as_str().to_owned(),
            created_at: now,
            expires_at: new.lifetime.map(|lifetime| now.plus(lifetime)),
            last_used_at: None,
        };
        let described = json!({
            "name": row.name, "owner": row.user_id, "permissions": permissions, "expires_at": row.expires_at,
        });
        let entry = Entry::of(by, now, "key.create", object(id)).with_change(None, Some(described));
        let max = if new.is_own { MAX_OF_ACCOUNT } else { MAX_OF_NOBODY };
        match db::api_key::insert(&inner.db, &row, max, now.minus(FORGET_AFTER), &entry).await? {
            InsertOutcome::Added => Ok((ApiKey::from(row), text)),
            InsertOutcome::TooMany => Err(Error::conflict(code::TOO_MANY_KEYS, "There are too many API keys")),
            InsertOutcome::CreatorGone => Err(Error::invalid_token()),
        }
    }

    /// Returns a page of the keys of one account, or of all keys, newest first, and their total number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn keys(&self, owner: Option<UserId>, skip: i64, limit: i64) -> Result<(Vec<ApiKey>, i64)> {
        let filter = owner.map_or(KeyFilter::All, KeyFilter::Of);
        let (rows, count) = db::api_key::list(&self.0.db, filter, skip, limit).await?;
        Ok((rows.into_iter().map(ApiKey::from).collect(), count))
    }

    /// Revokes a key of one account, or any key.
    ///
    /// # Errors
    /// `key_not_found`: there is no such key, or it does not belong to the account.
    pub async fn revoke_key(&self, by: &Initiator, owner: Option<UserId>, id: KeyId) -> Result<()> {
        let inner = &*self.0;
        let unknown = || Error::not_found(code::KEY_NOT_FOUND, "API key not found");
        let row = db::api_key::find(&inner.db, id).await?.ok_or_else(unknown)?;
        if owner.is_some() && row.user_id != owner {
            return Err(unknown());
        }
        let described = json!({ "name": row.name, "owner": row.user_id, "permissions": permissions(&row) });
        let entry = Entry::of(by, inner.clock.now(), "key.revoke", object(id)).with_change(Some(described), None);
        let _forget = inner.token_cache.invalidate_after(subject(&row));
        if db::api_key::delete(&inner.db, id, &entry).await? { Ok(()) } else { Err(unknown()) }
    }

    /// Returns the caller of a key whose form and checksum are right.
    pub(super) async fn authenticate_key(&self, text: &str, now: Timestamp) -> Result<Arc<Caller>> {
        let inner = &*self.0;
        let cache_key = super::token_cache::key(text);
        if let Some(caller) = inner.token_cache.get(&cache_key, now) {
            self.record_use(&caller, now);
            return Ok(caller);
        }
        let ParsedKey { id, secret_hash } = api_key_text::parse(text).ok_or_else(Error::invalid_token)?;
        let invalid = || Error::invalid_token().with_internal("an unknown, revoked or expired API key");
        // The generation belongs to the owner, which only the row names. It is read before everything that depends on it
        // is read, so that any later change makes the cached result invalid.
        let owner = db::api_key::find(&inner.db, id).await?.ok_or_else(invalid)?;
        let generation = inner.token_cache.generation(subject(&owner).0);
        let row = db::api_key::find(&inner.db, id).await?.ok_or_else(invalid)?;
        if !bool::from(row.secret_hash.as_slice().ct_eq(&secret_hash)) {
            return Err(invalid());
        }
        if row.expires_at.is_some_and(|end| end <= now) {
            return Err(invalid());
        }
        let ends = row.expires_at.unwrap_or(Timestamp(i64::MAX));
        let caller = Arc::new(self.key_caller(row).await?);
        inner.token_cache.insert(cache_key, Arc::clone(&caller), generation, now, ends);
        self.record_use(&caller, now);
        Ok(caller)
    }

    async fn key_caller(&self, row: KeyRow) -> Result<Caller> {
        let scope = permissions(&row);
        let credential = Credential::Key { id: row.id, name: row.name };
        let Some(owner) = row.user_id else {
            let permissions: PermissionSet = scope.into_iter().collect();
            return Ok(Caller { user: None, credential, roles: Vec::new(), permissions, withheld: false });
        };
        // Deleting an account deletes its keys, so the key was valid a moment ago.
        let user = db::user::find(&self.0.db, owner).await?.ok_or_else(Error::invalid_token)?;
        if !user.is_active {
            return Err(Error::forbidden(code::INACTIVE_USER, "Inactive user"));
        }
        // The second factor that the session had may be gone meanwhile.
        let strength = match Strength::of_stored(&row.strength) {
            Strength::Multi if self.factors(owner).await?.methods().is_empty() => Strength::Single,
            strength => strength,
        };
        let held = self.effect_of_roles(owner, strength).await?.permissions;
        let may = |one: &Permission| *one == Permission::Host(HostPermission::RoutesCall) || held.contains(one);
        let permissions = scope.into_iter().filter(may).collect();
        // A role means more than the permissions of the key, so a plugin learns of no role.
        Ok(Caller { user: Some(user.into()), credential, roles: Vec::new(), permissions, withheld: false })
    }

    /// Records the use of a key in the background, as often as `auth::key_uses` says.
    fn record_use(&self, caller: &Caller, now: Timestamp) {
        let Credential::Key { id, .. } = caller.credential else { return };
        if !self.0.key_uses.is_due(id, now) {
            return;
        }
        let auth = self.clone();
        tokio::spawn(async move {
            if let Err(error) = db::api_key::record_use(&auth.0.db, id, now).await {
                tracing::debug!(key = %id, error = error.report(), "the use of an API key was not recorded");
            }
        });
    }
}

/// Returns the id whose generation in the token cache the key follows: that of its owner, or else its own.
fn subject(row: &KeyRow) -> UserId {
    row.user_id.unwrap_or(UserId(row.id.0))
}

fn object(id: KeyId) -> String {
    format!("key:{id}")
}

/// Returns the permissions in the list of a key. A permission that this version of the host does not know is left out.
fn permissions(row: &KeyRow) -> Vec<Permission> {
    let listed: Vec<String> = serde_json::from_str(&row.permissions).unwrap_or_default();
    listed.iter().filter_map(|text| text.parse().ok()).collect()
}

impl From<KeyRow> for ApiKey {
    fn from(row: KeyRow) -> Self {
        Self {
            id: row.id,
            prefix: api_key_text::public_part(row.id),
            permissions: permissions(&row),
            name: row.name,
            owner: row.user_id,
            created_by: row.created_by,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
        }
    }
}
