//! Identity: who is calling, proven by an access token that is tied to a session.
//!
//! Owns accounts and their passwords, sessions and their tokens, and links to set a password. Never knows HTTP or mail: it
//! hands out tokens and answers with [`Error`]s whose texts are the contract's. Way of a credential: password or refresh
//! token → [`Auth::sign_in`], [`Auth::refresh`] → [`IssuedTokens`]; access token → [`Auth::authenticate`] → [`Caller`]. Every change
//! of an account or a session goes through here, because here what is known of verified tokens is forgotten with it.

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

/// An account as the rest of the host sees it; the password hash never leaves `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Identity.
    pub id: UserId,
    /// As given, domain lower-cased.
    pub email: String,
    /// Inactive accounts cannot sign in, and their tokens are refused.
    pub is_active: bool,
    /// May do everything.
    pub is_superuser: bool,
    /// A name for people.
    pub full_name: Option<String>,
    /// When the account was made.
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

/// A verified caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The session its token belongs to.
    pub session: SessionId,
}

impl Caller {
    /// Whether the caller has `permission` of `plugin`. Superusers have all; nobody else has any until roles can be
    /// assigned.
    pub fn has_permission(&self, _plugin: &crate::id::PluginName, _permission: &str) -> bool {
        self.user.is_superuser
    }
}

/// Identity as a service. Cheap to clone.
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
    /// Opens identity on a migrated database; makes the signing key at the first start.
    ///
    /// # Errors
    /// The database, or a signing key in it that cannot be read.
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

    /// Begins a session. The email is looked up by its lower-cased whole; an unknown one takes as long as a known one.
    ///
    /// # Errors
    /// `incorrect_credentials`; `inactive_user`, only after the right password; too many at once.
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
        // None: the password was changed or the account deactivated while this one was being checked.
        self.begin_session(user.id, &user.password_hash, user_agent).await?.ok_or_else(incorrect)
    }

    /// The caller that an access token stands for. Called for every request: a token seen lately costs no query and no
    /// signature check, yet every change made through this process counts at once, one made by another node within a
    /// second.
    ///
    /// # Errors
    /// `invalid_token` for whatever is malformed, forged, expired, revoked or of nobody; 403 `inactive_user`.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Caller>> {
        let Inner { db, clock, keys, token_cache, .. } = &*self.0;
        let now = clock.now();
        let key = token_cache::key(token);
        if let Some(caller) = token_cache.get(&key, now) {
            return Ok(caller);
        }
        let claims = keys.verify(token, now)?;
        // Taken before the look-up: what changes from here on makes the answer void for the cache.
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
        // PostgreSQL has no text with a NUL in it, so there is nobody of that name.
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
