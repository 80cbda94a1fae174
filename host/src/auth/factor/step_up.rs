//! Step-up: a fresh proof that the person at the session is its user. Owns the rules who has to give one: before
//! dangerous operations, users who have a second factor; before changes of their own factors, identities and address, all
//! users. An API key never has to, because nobody sits at it.

use super::Proof;
use crate::auth::Auth;
use crate::auth::caller::{Caller, Credential, SessionCredential};
use crate::auth::password_hashing::PasswordMatch;
use crate::db::{self, session};
use crate::error::{Error, Result, code};
use crate::initiator::Initiator;

impl Auth {
    /// Checks that a dangerous operation may run: the caller has no second factor, or proved it recently.
    ///
    /// # Errors
    /// 403 `step_up_required`.
    pub fn require_step_up(&self, caller: &Caller) -> Result<()> {
        match &caller.credential {
            Credential::Session(session) if session.has_second_factor => self.require_recent_proof(session),
            Credential::Session(_) | Credential::Key { .. } => Ok(()),
        }
    }

    /// Checks that the user signed in or stepped up recently; with a second factor, if they have one.
    ///
    /// # Errors
    /// 403 `step_up_required`.
    pub(in crate::auth) fn require_recent_proof(&self, session: &SessionCredential) -> Result<()> {
        let ttl = self.0.settings.step_up_ttl;
        if session.proven_at().is_some_and(|at| self.0.clock.now() < at.plus(ttl)) {
            return Ok(());
        }
        let text = "Prove again that it is you (POST /api/v1/login/step-up), then repeat the request";
        Err(Error::forbidden(code::STEP_UP_REQUIRED, text))
    }

    /// Steps up the caller's session with a second factor.
    ///
    /// # Errors
    /// `incorrect_code`; `throttled`; `needs_session`.
    pub async fn step_up(&self, caller: &Caller, proof: &Proof, by: &Initiator) -> Result<()> {
        let (user, session) = (caller.user()?.id, caller.session()?);
        self.check_proof(user, Some(session.id), proof, by).await?;
        self.record_step_up(user, session, true, by).await
    }

    /// Steps up the caller's session with the password, if the account has no second factor.
    ///
    /// # Errors
    /// `incorrect_password`; `second_factor_required`; `needs_session`.
    pub async fn step_up_by_password(&self, caller: &Caller, password: &str, by: &Initiator) -> Result<()> {
        let (user, session) = (caller.user()?.id, caller.session()?);
        if !self.factors(user).await?.methods().is_empty() {
            let text = "The account has a second factor; prove it instead of the password";
            return Err(Error::forbidden(code::SECOND_FACTOR_REQUIRED, text));
        }
        let row = db::user::find(&self.0.db, user).await?.ok_or_else(Error::invalid_token)?;
        if self.0.passwords.verify(password, Some(&row.password_hash)).await? == PasswordMatch::Wrong {
            let entry = self.entry(by, "session.refuse", user).denied();
            db::audit::insert(&self.0.db, &entry).await?;
            return Err(Error::bad_request(code::INCORRECT_PASSWORD, "Incorrect password"));
        }
        self.record_step_up(user, session, false, by).await
    }

    async fn record_step_up(
        &self,
        user: crate::id::UserId,
        session: &SessionCredential,
        multi: bool,
        by: &Initiator,
    ) -> Result<()> {
        let now = self.0.clock.now();
        let entry = db::audit::Entry::of(by, now, "session.step-up", format!("session:{}", session.id));
        let _forget = self.0.token_cache.invalidate_after(user);
        if session::step_up(&self.0.db, user, session.id, multi, now, &entry).await? {
            Ok(())
        } else {
            Err(Error::invalid_token())
        }
    }
}
