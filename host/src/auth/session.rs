//! Sessions and their refresh tokens.
//!
//! A refresh token has 16 bytes that all tokens of its session share, and 32 bytes that change with every refresh. Both
//! are stored only as SHA-256. The shared part identifies the session of every token that was ever issued for it. A
//! token that is neither the current one nor the previous one within [`GRACE`] indicates theft of that token or its
//! successor, and ends the session. A successor is derived from the token and a stored nonce, so concurrent refreshes
//! get the same successor instead of invalidating each other. The database alone reveals no token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Auth;
use super::access_token::{self, Claims};
use super::caller::{Caller, Strength};
use super::client::Client;
use super::throttle::Action;
use crate::clock::Timestamp;
use crate::config::Secret;
use crate::db::audit::Entry;
use crate::db::session::{self, NewSession, Rotation, SessionRow};
use crate::db::user::UserRow;
use crate::error::{Error, Result, code};
use crate::id::{SessionId, UserId};
use crate::initiator::Initiator;

/// How long the previous token works after a refresh, because browser tabs and retries refresh at the same time.
const GRACE: Duration = Duration::from_secs(10);

/// The maximum number of stored characters of a `User-Agent`.
const USER_AGENT_CHARS: usize = 255;

const FAMILY_LEN: usize = 16;
const SECRET_LEN: usize = 32;

/// The tokens that a client gets at a sign-in or a refresh.
#[derive(Debug, Clone)]
pub struct IssuedTokens {
    /// The bearer token of every request.
    pub access_token: Secret,
    /// The lifetime of the access token.
    pub expires_in: Duration,
    /// Valid once, for [`Auth::refresh`].
    pub refresh_token: Secret,
}

/// A session without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The id.
    pub id: SessionId,
    /// When the user signed in.
    pub created_at: Timestamp,
    /// When it was last refreshed.
    pub last_used_at: Timestamp,
    /// When it expires unless it is refreshed. A refresh moves it no further than the absolute lifetime.
    pub expires_at: Timestamp,
    /// The `User-Agent` of the client.
    pub user_agent: Option<String>,
    /// The number of factors of the sign-in.
    pub strength: Strength,
}

struct RefreshToken {
    family: [u8; FAMILY_LEN],
    secret: [u8; SECRET_LEN],
}

impl RefreshToken {
    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (family, secret) = bytes.split_first_chunk()?;
        Some(Self { family: *family, secret: secret.try_into().ok()? })
    }

    fn text(&self) -> Secret {
        Secret::new(URL_SAFE_NO_PAD.encode([self.family.as_slice(), &self.secret].concat()))
    }

    fn family_hash(&self) -> [u8; 32] {
        Sha256::digest(self.family).into()
    }

    fn secret_hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    fn is(&self, hash: &[u8]) -> bool {
        self.secret_hash().as_slice().ct_eq(hash).into()
    }

    fn successor(&self, nonce: &[u8]) -> Self {
        let secret = Sha256::new().chain_update(b"wharf refresh").chain_update(self.secret).chain_update(nonce);
        Self { family: self.family, secret: secret.finalize().into() }
    }
}

impl Auth {
    /// Adds a session. `None` means that the account is no longer active, has another password hash than `user`, or has
    /// no second factor although the session has one, or the other way round.
    pub(super) async fn begin_session(
        &self,
        user: &UserRow,
        client: &Client,
        strength: Strength,
    ) -> Result<Option<IssuedTokens>> {
        let now = self.0.clock.now();
        let token = RefreshToken { family: self.0.random.bytes()?, secret: self.0.random.bytes()? };
        let id = SessionId(self.0.random.uuid()?);
        let user_agent: Option<String> = client
            .user_agent
            .as_ref()
            .map(|name| name.chars().filter(|c| !c.is_control()).take(USER_AGENT_CHARS).collect());
        let by = Initiator { actor: Some(user.id), ..client.initiator() };
        let entry = Entry::of(&by, now, "session.begin", format!("session:{id}"));
        let entry = entry.with_detail(json!({ "strength": strength.as_str() }));
        let surplus = Entry::of(&Initiator::host(), now, "session.end", format!("user:{}", user.id))
            .with_detail(json!({ "reason": "the account had the maximum number of sessions" }));
        let row = NewSession {
            id,
            user_id: user.id,
            family_hash: &token.family_hash(),
            secret_hash: &token.secret_hash(),
            created_at: now,
            expires_at: self.session_end(now, now),
            user_agent: user_agent.as_deref(),
            strength: strength.as_str(),
        };
        let _forget = self.0.token_cache.invalidate_after(user.id);
        if !session::insert(&self.0.db, &row, &user.password_hash, &entry, &surplus).await? {
            return Ok(None);
        }
        self.remember_client(user.id, client.address).await;
        // Signing in is rare and slow, so it also deletes expired sessions.
        if let Err(error) = session::delete_expired(&self.0.db, now).await {
            tracing::warn!(error = error.report(), "expired sessions were not deleted");
        }
        self.issue_tokens(user.id, id, &token, now, row.expires_at).await.map(Some)
    }

    /// Replaces a refresh token by a new one and issues an access token.
    ///
    /// # Errors
    /// `invalid_token`: unknown, expired, revoked, or used before, which ends its session; `too_many_attempts`.
    pub async fn refresh(&self, token: &str) -> Result<IssuedTokens> {
        let db = &self.0.db;
        let token = RefreshToken::parse(token).ok_or_else(Error::invalid_token)?;
        let now = self.0.clock.now();
        let find = async || {
            let found = session::find_by_family(db, &token.family_hash()).await?;
            found.filter(|row| row.expires_at > now).ok_or_else(Error::invalid_token)
        };
        let mut row = find().await?;
        if token.is(&row.secret_hash) {
            self.0.throttle.check_subject(Action::Refresh, row.id.0.as_bytes())?;
            let nonce: [u8; 32] = self.0.random.bytes()?;
            let next = token.successor(&nonce);
            let rotation = Rotation {
                old_hash: &row.secret_hash,
                new_hash: &next.secret_hash(),
                nonce: &nonce,
                at: now,
                expires_at: self.session_end(row.created_at, now),
            };
            if session::rotate(db, row.id, &rotation).await? {
                return self.issue_tokens(row.user_id, row.id, &next, now, rotation.expires_at).await;
            }
            // A concurrent refresh with the same token was faster.
            row = find().await?;
        }
        match successor_in_grace(&token, &row, now) {
            Some(next) => self.issue_tokens(row.user_id, row.id, &next, now, row.expires_at).await,
            None => {
                tracing::warn!(user = %row.user_id, session = %row.id, "a refresh token was reused; session ended");
                let reason = json!({ "reason": "a refresh token was reused" });
                self.revoke_session(&Initiator::host(), row.user_id, row.id, reason).await?;
                Err(Error::invalid_token().with_internal("a refresh token was reused"))
            }
        }
    }

    /// Ends the caller's session.
    ///
    /// # Errors
    /// `needs_session`.
    pub async fn sign_out(&self, by: &Initiator, caller: &Caller) -> Result<()> {
        let reason = json!({ "reason": "signed out" });
        self.revoke_session(by, caller.user()?.id, caller.session()?.id, reason).await.map(drop)
    }

    /// Ends the session of a refresh token, whether or not the token was replaced meanwhile.
    ///
    /// # Errors
    /// `invalid_token`: no session has the token.
    pub async fn sign_out_by_refresh_token(&self, token: &str, client: &Client) -> Result<()> {
        let token = RefreshToken::parse(token).ok_or_else(Error::invalid_token)?;
        let row = session::find_by_family(&self.0.db, &token.family_hash()).await?.ok_or_else(Error::invalid_token)?;
        let by = Initiator { actor: Some(row.user_id), ..client.initiator() };
        let reason = json!({ "reason": "signed out" });
        self.revoke_session(&by, row.user_id, row.id, reason).await.map(drop)
    }

    /// Returns a page of the sessions of a user that have not expired, newest first, and their total number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sessions(&self, user: UserId, skip: i64, limit: i64) -> Result<(Vec<Session>, i64)> {
        let (rows, count) = session::list(&self.0.db, user, self.0.clock.now(), skip, limit).await?;
        Ok((rows.into_iter().map(Session::from).collect(), count))
    }

    /// Ends one session of a user.
    ///
    /// # Errors
    /// `session_not_found`: the user has no such session.
    pub async fn end_session(&self, by: &Initiator, user: UserId, session: SessionId) -> Result<()> {
        if self.revoke_session(by, user, session, json!({})).await? {
            Ok(())
        } else {
            Err(Error::not_found(code::SESSION_NOT_FOUND, "Session not found"))
        }
    }

    /// Ends all sessions of a user but the one that is `kept`.
    ///
    /// # Errors
    /// `user_not_found`.
    pub async fn end_sessions(&self, by: &Initiator, user: UserId, kept: Option<SessionId>) -> Result<()> {
        let entry = Entry::of(by, self.0.clock.now(), "session.end", format!("user:{user}"));
        let entry = entry.with_detail(json!({ "all": true, "kept": kept }));
        let _forget = self.0.token_cache.invalidate_after(user);
        if session::delete_all(&self.0.db, user, kept, &entry).await? {
            Ok(())
        } else {
            Err(Error::not_found(code::USER_NOT_FOUND, "User not found"))
        }
    }

    async fn revoke_session(
        &self,
        by: &Initiator,
        user: UserId,
        session: SessionId,
        detail: serde_json::Value,
    ) -> Result<bool> {
        let entry = Entry::of(by, self.0.clock.now(), "session.end", format!("session:{session}")).with_detail(detail);
        let _forget = self.0.token_cache.invalidate_after(user);
        session::delete(&self.0.db, user, session, &entry).await
    }

    /// Returns the end of a session that began at `created_at` and is refreshed `now`: idle or absolute, the earlier.
    fn session_end(&self, created_at: Timestamp, now: Timestamp) -> Timestamp {
        let settings = &self.0.settings;
        now.plus(settings.refresh_token_ttl).min(created_at.plus(settings.session_ttl))
    }

    async fn issue_tokens(
        &self,
        user: UserId,
        session: SessionId,
        refresh: &RefreshToken,
        now: Timestamp,
        session_ends: Timestamp,
    ) -> Result<IssuedTokens> {
        let expires_in = self.access_ttl().min(session_ends.since(now));
        let claims = Claims::new(user, session, now, expires_in);
        let access_token = access_token::sign(&self.0.keys, &claims, now).await?;
        Ok(IssuedTokens { access_token: Secret::new(access_token), expires_in, refresh_token: refresh.text() })
    }
}

/// Returns the current token if `token` is its predecessor and was replaced within [`GRACE`].
fn successor_in_grace(token: &RefreshToken, row: &SessionRow, now: Timestamp) -> Option<RefreshToken> {
    let (previous, nonce, rotated_at) =
        (row.previous_hash.as_deref()?, row.rotation_nonce.as_deref()?, row.rotated_at?);
    let next = token.successor(nonce);
    (token.is(previous) && now < rotated_at.plus(GRACE) && next.is(&row.secret_hash)).then_some(next)
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self {
            id: row.id,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            expires_at: row.expires_at,
            user_agent: row.user_agent,
            strength: Strength::of_stored(&row.strength),
        }
    }
}
