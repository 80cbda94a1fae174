//! Authentication: accounts, passwords, sessions, tokens, and links to reset a password.
//!
//! Identifies a caller by an access token that belongs to a session. Never knows HTTP or mail: it issues tokens and
//! returns [`Error`]s with the texts of the contract. The way of a credential: password or refresh token →
//! [`Auth::sign_in`], [`Auth::refresh`] → [`IssuedTokens`]; access token → [`Auth::authenticate`] → [`Caller`]. Every
//! change of an account or a session goes through this module, because it also invalidates the cached tokens.

mod access_token;
mod account;
mod first_superuser;
mod password_hashing;
mod password_reset;
mod session;
mod token_cache;

use std::sync::Arc;
use std::time::Duration;

pub use account::{AccountChange, NewAccount};
pub use first_superuser::NewSuperuser;
pub use password_hashing::{HashCost, MAX_CHARS as PASSWORD_MAX_CHARS, MIN_CHARS as PASSWORD_MIN_CHARS};
pub use session::{IssuedTokens, Session};

use self::access_token::SigningKeys;
use self::password_hashing::{PasswordHasher, PasswordMatch};
use self::token_cache::TokenCache;
use crate::address::Address;
use crate::clock::{Clock, Random, Timestamp};
use crate::config;
use crate::db::{self, Db};
use crate::error::{Error, Result, code};
use crate::id::{SessionId, UserId};

/// An account without its password hash, which never leaves `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub id: UserId,
    /// The address as given, with the domain in lower case.
    pub email: String,
    /// Whether the account is active. Inactive accounts cannot sign in, and their tokens are refused.
    pub is_active: bool,
    /// Whether the user has every privilege.
    pub is_superuser: bool,
    /// The display name.
    pub full_name: Option<String>,
    /// When the account was created.
    pub created_at: Timestamp,
}

impl From<db::user::UserRow> for User {
    fn from(row: db::user::UserRow) -> Self {
        Self {
            id: row.id,
            email: row.email,
            is_active: row.is_active,
            is_superuser: row.is_superuser,
            full_name: row.full_name,
            created_at: row.created_at,
        }
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The session of the token.
    pub session: SessionId,
}

impl Caller {
    /// Returns whether the caller has `permission` of `plugin`. Superusers have all permissions. Other users have none,
    /// because roles cannot be assigned yet.
    pub fn has_permission(&self, _plugin: &crate::id::PluginName, _permission: &str) -> bool {
        self.user.is_superuser
    }
}

/// The authentication service. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    db: Db,
    clock: Clock,
    random: Random,
    settings: config::Auth,
    passwords: PasswordHasher,
    keys: SigningKeys,
    token_cache: TokenCache,
}

impl Auth {
    /// Opens the service on a migrated database. Creates the signing key at the first start.
    ///
    /// # Errors
    /// The database fails, or a signing key in it cannot be read.
    pub async fn open(
        db: Db,
        settings: &config::Auth,
        clock: Clock,
        random: Random,
        passwords: HashCost,
    ) -> Result<Self> {
        let passwords = PasswordHasher::new(random.clone(), passwords)?;
        let keys = SigningKeys::open(&db, &random, clock.now()).await?;
        let token_cache = TokenCache::new(&db);
        Ok(Self(Arc::new(Inner { db, clock, random, settings: settings.clone(), passwords, keys, token_cache })))
    }

    /// Starts a session. The email is looked up in lower case. An unknown email takes as long as a known one.
    ///
    /// # Errors
    /// `incorrect_credentials`; `inactive_user`, only after the right password; `throttled`.
    pub async fn sign_in(&self, email: &str, password: &str, user_agent: Option<&str>) -> Result<IssuedTokens> {
        let incorrect = || Error::bad_request(code::INCORRECT_CREDENTIALS, "Incorrect email or password");
        let Inner { db, passwords, .. } = &*self.0;
        let user = self.find_by_email(email).await?;
        let hash = user.as_ref().map(|user| user.password_hash.as_str());
        let verdict = passwords.verify(password, hash).await?;
        let Some(mut user) = user.filter(|_| verdict != PasswordMatch::Wrong) else { return Err(incorrect()) };
        if !user.is_active {
            return Err(Error::bad_request(code::INACTIVE_USER, "Inactive user"));
        }
        if verdict == PasswordMatch::Outdated {
            let better = passwords.hash(password).await?;
            db::user::rehash(db, user.id, &user.password_hash, &better).await?;
            user.password_hash = better;
        }
        // `None`: the password was changed or the account was deactivated during the check.
        self.begin_session(user.id, &user.password_hash, user_agent).await?.ok_or_else(incorrect)
    }

    /// Returns the caller of an access token. Called for every request, so a cached token needs neither a query nor a
    /// signature check. Changes by this process take effect immediately, changes by another node within one second.
    ///
    /// # Errors
    /// `invalid_token` for a token that is malformed, forged, expired or revoked, or whose user does not exist; 403
    /// `inactive_user`.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Caller>> {
        let Inner { db, clock, keys, token_cache, .. } = &*self.0;
        let now = clock.now();
        let key = token_cache::key(token);
        if let Some(caller) = token_cache.get(&key, now) {
            return Ok(caller);
        }
        let claims = keys.verify(token, now)?;
        // Read before the look-up, so that any later change makes the cached result invalid.
        let generation = token_cache.generation(claims.sub);
        let found = db::session::signed_in(db, claims.sub, claims.sid).await?.ok_or_else(Error::invalid_token)?;
        if !found.user.is_active {
            return Err(Error::forbidden(code::INACTIVE_USER, "Inactive user"));
        }
        let session_ends = found.session_expires_at.filter(|end| *end > now).ok_or_else(Error::invalid_token)?;
        let caller = Arc::new(Caller { user: found.user.into(), session: claims.sid });
        let token_ends = Timestamp(claims.exp.saturating_mul(1_000_000));
        token_cache.insert(key, Arc::clone(&caller), generation, now, token_ends.min(session_ends));
        Ok(caller)
    }

    async fn find_by_email(&self, email: &str) -> Result<Option<db::user::UserRow>> {
        // PostgreSQL cannot store a NUL in a text, so no account has this address.
        if email.contains('\0') {
            return Ok(None);
        }
        db::user::find_by_key(&self.0.db, &Address::key_of(email)).await
    }

    fn access_ttl(&self) -> Duration {
        self.0.settings.access_token_ttl.min(self.0.settings.refresh_token_ttl)
    }
}

#[cfg(test)]
pub(crate) mod tests;
