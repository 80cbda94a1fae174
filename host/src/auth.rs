//! Authentication: accounts, passwords, sessions, tokens, and links that reset a password or prove an address.
//!
//! Identifies a caller by an access token that belongs to a session, or by an API key. Never knows HTTP or mail: it
//! issues tokens and returns [`Error`]s with the texts of the FastAPI full-stack template. The way of a credential:
//! password or refresh token → [`Auth::sign_in`], [`Auth::refresh`] → [`IssuedTokens`]; access token or API key →
//! [`Auth::authenticate`] → [`Caller`]. Every change of an account, a role or a session goes through this module, because
//! it also invalidates the cached tokens.

mod access_token;
mod account;
mod address_proof;
mod api_key;
mod api_key_text;
mod caller;
mod client;
mod common_password;
mod decoy;
mod factor;
mod first_superuser;
mod identity;
mod invitation;
mod key_rotation;
mod key_uses;
mod known_client;
mod oidc;
mod password_hashing;
mod password_reset;
mod repair;
mod role;
mod role_change;
mod session;
mod sign_in;
mod signing_keys;
mod stored_hash;
pub mod throttle;
mod token_cache;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

pub use account::{AccountChange, NewAccount, SignedUp};
pub use address_proof::AddressMail;
pub use api_key::{ApiKey, NewKey};
pub use caller::{Caller, Credential, SessionCredential, Strength, User};
pub use client::Client;
pub use factor::{Factors, Method, NewTotp, Passkey, Proof, RelyingParty, SecondFactorChallenge};
pub use first_superuser::NewSuperuser;
pub use identity::Identity;
pub use invitation::Invitation;
pub use key_rotation::PUBLISHED_KEYS_MAX_AGE;
pub use oidc::{Ended, MAX_RETURN_TO, OIDC_LIFETIME, Oidc, OidcAnswer};
pub use password_hashing::{HashCost, MAX_CHARS as PASSWORD_MAX_CHARS, MIN_CHARS as PASSWORD_MIN_CHARS};
pub use repair::SuperuserRepair;
pub use role_change::{NewRole, Role, RoleChange};
pub use session::{IssuedTokens, Session};
pub use sign_in::SignIn;
pub use signing_keys::{PublicSigningKey, SigningKeyState};
pub use transfer::{ImportOptions, ImportReport, LineFinding, Transfer};

use self::decoy::Decoys;
use self::key_uses::KeyUses;
use self::password_hashing::PasswordHasher;
use self::signing_keys::SigningKeys;
use self::throttle::Throttle;
use self::token_cache::TokenCache;
use crate::address::AddressKey;
use crate::clock::{Clock, Random, Timestamp};
use crate::config;
use crate::db::{self, Db};
use crate::error::{Error, Result, code};

/// The authentication service. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    db: Db,
    clock: Clock,
    random: Random,
    settings: config::Auth,
    passwords: PasswordHasher,
    decoys: Decoys,
    throttle: Throttle,
    keys: SigningKeys,
    key_uses: KeyUses,
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
        db::user::renew_keys(&db).await?;
        let passwords = PasswordHasher::new(random.clone(), passwords, settings)?;
        let keys = SigningKeys::open(&db, &random, clock.now()).await?;
        db::session::shorten(&db, settings.session_ttl).await?;
        let token_cache = TokenCache::new(&db);
        let decoys = Decoys::open(&db, &random, clock.now()).await?;
        let throttle = Throttle::new(settings, &clock);
        let (settings, key_uses) = (settings.clone(), KeyUses::default());
        let inner = Inner { db, clock, random, settings, passwords, decoys, throttle, keys, key_uses, token_cache };
        Ok(Self(Arc::new(inner)))
    }

    /// Returns the rate limits of attempts.
    pub fn throttle(&self) -> &Throttle {
        &self.0.throttle
    }

    /// Returns the caller of an access token or an API key. Called for every request, so a cached credential needs
    /// neither a query nor a signature check. Changes by this process take effect immediately, changes by another node
    /// within one second.
    ///
    /// # Errors
    /// `invalid_token` for a token that is malformed, forged, expired or revoked, or whose user does not exist; 403
    /// `inactive_user`.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Caller>> {
        let Inner { db, clock, keys, token_cache, .. } = &*self.0;
        let now = clock.now();
        if Self::is_api_key(token) {
            return self.authenticate_key(token, now).await;
        }
        let key = token_cache::key(token);
        if let Some(caller) = token_cache.get(&key, now) {
            return Ok(caller);
        }
        // Each is read before the step that it is about, so that any later change makes the cached result invalid.
        let of_all = token_cache.generation_of_all();
        let claims = access_token::verify(keys, token, now).await?;
        let generation = token_cache.generation_since(of_all, claims.sub.0);
        let found = db::session::signed_in(db, claims.sub, claims.sid).await?.ok_or_else(Error::invalid_token)?;
        if !found.user.is_active {
            return Err(Error::forbidden(code::INACTIVE_USER, "Inactive user"));
        }
        let facts = found.session;
        let session_ends = facts.session_expires_at.filter(|end| *end > now).ok_or_else(Error::invalid_token)?;
        let strength = Strength::of_stored(facts.session_strength.as_deref().unwrap_or_default());
        let effect = self.effect_of_roles(claims.sub, strength).await?;
        let credential = Credential::Session(SessionCredential {
            id: claims.sid,
            strength,
            authenticated_at: facts.session_created_at.unwrap_or(now),
            stepped_up_at: facts.session_stepped_up_at,
            has_second_factor: facts.has_second_factor,
        });
        let caller = Arc::new(Caller {
            user: Some(found.user.into()),
            credential,
            roles: effect.roles,
            permissions: effect.permissions,
            withheld: effect.withheld,
        });
        let token_ends = Timestamp(claims.exp.saturating_mul(1_000_000));
        token_cache.insert(key, Arc::clone(&caller), generation, now, token_ends.min(session_ends));
        Ok(caller)
    }

    /// Returns whether a bearer token has the form of an API key.
    pub fn is_api_key(token: &str) -> bool {
        token.starts_with(api_key_text::PREFIX)
    }

    /// Returns the account that a text names, in whatever way the text writes the address.
    async fn find_by_email(&self, email: &str) -> Result<Option<db::user::UserRow>> {
        match AddressKey::of(email) {
            Some(key) => db::user::find_by_key(&self.0.db, &key).await,
            None => Ok(None),
        }
    }

    fn access_ttl(&self) -> Duration {
        self.0.settings.access_token_ttl.min(self.0.settings.refresh_token_ttl)
    }
}

#[cfg(test)]
pub(crate) mod tests;
