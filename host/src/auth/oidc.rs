//! Sign-in with OpenID Connect: the authorization code flow with PKCE and a nonce, at any issuer of the configuration.
//!
//! Data passes one way: [`Oidc::begin`] → the browser at the issuer → [`Oidc::finish`] → a code for the frontend →
//! [`Oidc::exchange`] → a session. `pending` owns the state in the browser, `provider` the conversation with the
//! issuer, `fetch` its HTTP client, `id_token` the check of ID tokens, `account` the rules by which an identity belongs
//! to an account. Never knows HTTP and cookies.
//!
//! The frontend's code works once, for a minute, and only with the verifier of the challenge that began the sign-in. So
//! a link that carries the code of somebody else signs nobody in.

mod account;
mod fetch;
mod id_token;
mod pending;
mod provider;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

pub use self::pending::{LIFETIME as OIDC_LIFETIME, MAX_RETURN_TO};
pub use self::provider::Answer as OidcAnswer;

use self::pending::{Pending, Purpose};
use self::provider::{Answer, Provider};
use super::client::Client;
use super::sign_in::SignIn;
use super::{Auth, Caller};
use crate::config::{Issuer, Secret};
use crate::db;
use crate::db::identity::{self, PendingLink};
use crate::egress::Egress;
use crate::error::{Error, Result, code};
use crate::id::{IssuerName, UserId};
use crate::initiator::Initiator;

/// How long a frontend may take to exchange a code.
const CODE_LIFETIME: Duration = Duration::from_secs(60);
const CODE_LEN: usize = 32;
/// The longest verifier of a frontend (RFC 7636, section 4.1).
const MAX_VERIFIER: usize = 128;

/// Sign-in at issuers. Cheap to clone.
#[derive(Clone)]
pub struct Oidc(Arc<Inner>);

struct Inner {
    auth: Auth,
    providers: Vec<Provider>,
    /// Whether anybody may sign up.
    is_signup_open: bool,
}

/// A sign-in that begins.
#[derive(Debug)]
pub struct Begun {
    /// The URL at the issuer.
    pub url: String,
    /// The state that the browser keeps until [`Oidc::finish`].
    pub cookie: Secret,
}

/// The end of a browser's visit at an issuer.
#[derive(Debug)]
pub struct Finished {
    /// The URL of the frontend where the browser goes on. The caller must check it.
    pub return_to: String,
    /// The result for the frontend.
    pub result: Result<Ended>,
}

/// The outcome of a visit.
#[derive(Debug)]
pub enum Ended {
    /// The issuer vouches for an account. The frontend exchanges the code for tokens.
    Code {
        /// The code.
        code: Secret,
        /// The account, if it existed and the identity is linked to it from now on.
        linked: Option<UserId>,
    },
    /// The identity is linked to the account whose owner asked for it.
    Linked(UserId),
}

impl Oidc {
    /// Opens the issuers of the configuration. Nothing is fetched before the first sign-in. `public_url` is the origin
    /// of this host.
    pub fn new(auth: Auth, egress: &Egress, issuers: &[Issuer], public_url: &str, is_signup_open: bool) -> Self {
        let provider = |issuer: &Issuer| Provider::new(issuer.clone(), public_url, egress.clone());
        Self(Arc::new(Inner { auth, providers: issuers.iter().map(provider).collect(), is_signup_open }))
    }

    /// Returns the names and labels of all issuers.
    pub fn issuers(&self) -> impl Iterator<Item = (&IssuerName, &str)> {
        self.0.providers.iter().map(|provider| (&provider.issuer.name, provider.issuer.label.as_str()))
    }

    /// Returns the issuer of the configuration with this URL.
    pub fn issuer_of_url(&self, url: &str) -> Option<&IssuerName> {
        self.0.providers.iter().map(|provider| &provider.issuer).find(|issuer| issuer.url == url).map(|it| &it.name)
    }

    /// Begins a sign-in for a frontend that keeps the verifier of `challenge` (PKCE, S256).
    ///
    /// # Errors
    /// `issuer_not_found`, `issuer_unavailable`.
    pub async fn begin(
        &self,
        issuer: &IssuerName,
        return_to: &str,
        challenge: &str,
        request_id: &Arc<str>,
    ) -> Result<Begun> {
        let (provider, pending) = self.pending(issuer, return_to, Purpose::SignIn(challenge.to_owned()))?;
        let url = provider.authorization_url(&pending, request_id).await?;
        Ok(Begun { url, cookie: Secret::new(pending.cookie()) })
    }

    /// Begins to link an identity to the caller's account. A recent sign-in is the owner's confirmation.
    ///
    /// # Errors
    /// `issuer_not_found`, `issuer_unavailable`, `needs_session`, `step_up_required`.
    pub async fn begin_link(
        &self,
        issuer: &IssuerName,
        return_to: &str,
        caller: &Caller,
        request_id: &Arc<str>,
    ) -> Result<Begun> {
        let (provider, pending) = self.pending(issuer, return_to, Purpose::Link)?;
        self.0.auth.require_recent_proof(caller.session()?)?;
        let (user, session) = (caller.user()?.id, caller.session()?.id);
        let url = provider.authorization_url(&pending, request_id).await?;
        let inner = &self.0.auth.0;
        let link = PendingLink {
            user,
            session,
            browser_hash: &pending.browser_hash(),
            issuer: &provider.issuer.url,
            expires_at: inner.clock.now().plus(OIDC_LIFETIME),
        };
        identity::begin_link(&inner.db, &link).await?;
        Ok(Begun { url, cookie: Secret::new(pending.cookie()) })
    }

    /// Ends the visit of a browser at an issuer.
    ///
    /// # Errors
    /// `issuer_not_found`; `login_expired`: the response does not belong to this browser, or comes too late. Other
    /// errors are part of the result, because the frontend shows them.
    pub async fn finish(
        &self,
        issuer: &IssuerName,
        cookie: Option<&str>,
        answer: &Answer,
        client: &Client,
    ) -> Result<Finished> {
        let provider = self.provider(issuer)?;
        let now = self.0.auth.0.clock.now();
        let pending = cookie.and_then(|cookie| Pending::read(cookie, issuer, now));
        let state = answer.state.as_deref().unwrap_or_default();
        let pending = pending.filter(|pending| pending.is_state(state)).ok_or_else(|| {
            let text = "The sign-in took too long, or it began in another browser or tab; start again";
            Error::bad_request(code::LOGIN_EXPIRED, text)
        })?;
        let result = self.end(provider, &pending, answer, client).await;
        if let Err(error) = &result {
            tracing::warn!(%issuer, request_id = &*client.request_id, error = error.report(), "a sign-in at an issuer failed");
        }
        Ok(Finished { return_to: pending.return_to, result })
    }

    /// Begins the session of the account that an issuer vouched for.
    ///
    /// # Errors
    /// `invalid_login_code`; `inactive_user`; those of a second factor.
    pub async fn exchange(&self, code: &str, verifier: &str, client: &Client) -> Result<SignIn> {
        let invalid = || {
            let text = "The code is unknown, used or expired, or belongs to another sign-in";
            Error::bad_request(code::INVALID_LOGIN_CODE, text)
        };
        let auth = &self.0.auth;
        let code = URL_SAFE_NO_PAD.decode(code).ok().filter(|bytes| bytes.len() == CODE_LEN).ok_or_else(invalid)?;
        // The holder of a code has one try.
        let row = identity::take_code(&auth.0.db, &Sha256::digest(code), auth.0.clock.now()).await?;
        let row = row.filter(|_| verifier.len() <= MAX_VERIFIER).ok_or_else(invalid)?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        if !bool::from(challenge.as_bytes().ct_eq(row.challenge.as_bytes())) {
            return Err(invalid());
        }
        let user = db::user::find(&auth.0.db, row.user_id).await?.ok_or_else(invalid)?;
        if !user.is_active {
            return Err(Error::bad_request(code::INACTIVE_USER, "Inactive user"));
        }
        auth.complete_first_factor(&user, client).await?.ok_or_else(invalid)
    }

    async fn end(&self, provider: &Provider, pending: &Pending, answer: &Answer, client: &Client) -> Result<Ended> {
        let now = self.0.auth.0.clock.now();
        let vouched = provider.vouched(pending, answer, now, &client.request_id).await?;
        let ended = match &pending.purpose {
            Purpose::SignIn(challenge) => match self.0.account_of(&provider.issuer, &vouched, client).await {
                Ok(account) => {
                    let linked = account.is_linked_now.then_some(account.user);
                    self.code(account.user, challenge).await.map(|code| Ended::Code { code, linked })
                }
                Err(error) => Err(error),
            },
            Purpose::Link => {
                let linked = self.0.link(&provider.issuer, &vouched, &pending.browser_hash(), client).await;
                linked.map(Ended::Linked)
            }
        };
        if let Err(error) = &ended {
            self.0.record_refusal(&provider.issuer, &vouched, error, client).await?;
        }
        ended
    }

    async fn code(&self, user: UserId, challenge: &str) -> Result<Secret> {
        let inner = &self.0.auth.0;
        let code: [u8; CODE_LEN] = inner.random.bytes()?;
        let now = inner.clock.now();
        let ends = now.plus(CODE_LIFETIME);
        identity::add_code(&inner.db, &Sha256::digest(code), user, challenge, now, ends).await?;
        Ok(Secret::new(URL_SAFE_NO_PAD.encode(code)))
    }

    fn pending(&self, issuer: &IssuerName, return_to: &str, purpose: Purpose) -> Result<(&Provider, Pending)> {
        let inner = &self.0.auth.0;
        let provider = self.provider(issuer)?;
        let pending = Pending::new(issuer, return_to, purpose, &inner.random, inner.clock.now())?;
        Ok((provider, pending))
    }

    fn provider(&self, issuer: &IssuerName) -> Result<&Provider> {
        let found = self.0.providers.iter().find(|provider| provider.issuer.name == *issuer);
        found.ok_or_else(|| Error::not_found(code::ISSUER_NOT_FOUND, "No such issuer"))
    }
}

/// Returns a person who signs in as the initiator of what happens to their own account.
fn themselves(user: UserId, client: &Client) -> Initiator {
    Initiator { actor: Some(user), ..client.initiator() }
}
