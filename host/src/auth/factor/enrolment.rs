//! Enrolment and removal of second factors, by their owner and by operators. An owner must have signed in or stepped up
//! recently, so that a stolen token alone changes no factor.

use super::{Factors, NewTotp, PATIENCE, Passkey, proof, recovery_code, totp};
use crate::auth::Auth;
use crate::auth::caller::Caller;
use crate::config::Secret;
use crate::db::audit::Entry;
use crate::db::factor::{self, Attempt, Confirmation};
use crate::db::passkey;
use crate::error::{Error, Result, code};
use crate::id::UserId;
use crate::initiator::Initiator;
use crate::permission::PermissionSet;

impl Auth {
    /// Returns the factors of an account.
    ///
    /// # Errors
    /// The database fails.
    pub async fn factors(&self, user: UserId) -> Result<Factors> {
        let factor::Summary { totp_since, recovery_codes } = factor::summary(&self.0.db, user).await?;
        let passkeys = passkey::list(&self.0.db, user).await?.into_iter().map(|row| Passkey {
            id: row.id,
            name: row.name,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
        });
        Ok(Factors { totp_since, passkeys: passkeys.collect(), recovery_codes })
    }

    /// Begins the enrolment of an authenticator app. `issuer` is the name that the app shows.
    ///
    /// # Errors
    /// `step_up_required`; `needs_session`; a conflict `factor_exists`.
    pub async fn begin_totp(&self, caller: &Caller, issuer: &str) -> Result<NewTotp> {
        let user = caller.user()?;
        self.require_recent_proof(caller.session()?)?;
        let key: [u8; totp::KEY_LEN] = self.0.random.bytes()?;
        if !factor::propose_totp(&self.0.db, user.id, &key, self.0.clock.now()).await? {
            let text = "The account has an authenticator app; remove it first";
            return Err(Error::conflict(code::FACTOR_EXISTS, text));
        }
        Ok(NewTotp { key: totp::key_text(&key), uri: totp::uri(&key, issuer, &user.email) })
    }

    /// Completes the enrolment of an authenticator app with its first code. Returns the new recovery codes, or none if
    /// the account keeps those that it has.
    ///
    /// # Errors
    /// `incorrect_code`; `factor_not_found`: no enrolment was begun, or it has expired; `step_up_required`;
    /// `needs_session`; `throttled`.
    pub async fn confirm_totp(&self, caller: &Caller, code: &str, by: &Initiator) -> Result<Vec<Secret>> {
        let (user, session) = (caller.user()?.id, caller.session()?);
        self.require_recent_proof(session)?;
        let now = self.0.clock.now();
        let no_enrolment = || {
            let text = "No enrolment of an authenticator app was begun, or it has expired";
            Error::not_found(code::FACTOR_NOT_FOUND, text)
        };
        let row = match factor::attempt_totp(&self.0.db, user, false, now, proof::wait).await? {
            Attempt::Counted(row) if row.confirmed_at.is_none() && now < row.created_at.plus(PATIENCE) => row,
            Attempt::Counted(_) | Attempt::NoFactor => return Err(no_enrolment()),
            Attempt::Wait(wait) => return Err(proof::throttled(wait)),
        };
        let step = totp::step_of(&row.secret, code, now).ok_or_else(proof::incorrect_code)?;
        let codes = recovery_code::generate(&self.0.random)?;
        let entry = self.entry(by, "factor.enrol", user).with_detail(serde_json::json!({ "factor": "totp" }));
        let confirmation = Confirmation {
            user,
            secret: &row.secret,
            step,
            at: now,
            session: session.id,
            codes: &recovery_code::hashes(&codes),
            entry: &entry,
        };
        let _forget = self.0.token_cache.invalidate_after(user);
        let stored = factor::confirm_totp(&self.0.db, &confirmation).await?.ok_or_else(no_enrolment)?;
        Ok(if stored { codes } else { Vec::new() })
    }

    /// Removes the caller's authenticator app. Without another factor, the recovery codes go too, and all sessions of the
    /// account count as sessions with one factor.
    ///
    /// # Errors
    /// `factor_not_found`; `step_up_required`; `needs_session`.
    pub async fn remove_totp(&self, caller: &Caller, by: &Initiator) -> Result<()> {
        let user = caller.user()?.id;
        self.require_recent_proof(caller.session()?)?;
        let entry = self.entry(by, "factor.remove", user).with_detail(serde_json::json!({ "factor": "totp" }));
        let _forget = self.0.token_cache.invalidate_after(user);
        if factor::remove_totp(&self.0.db, user, &entry).await? { Ok(()) } else { Err(no_factor()) }
    }

    /// Replaces the caller's recovery codes and returns the new ones.
    ///
    /// # Errors
    /// `factor_not_found`: without a factor there is nothing to recover; `step_up_required`; `needs_session`.
    pub async fn renew_recovery_codes(&self, caller: &Caller, by: &Initiator) -> Result<Vec<Secret>> {
        let user = caller.user()?.id;
        self.require_recent_proof(caller.session()?)?;
        let codes = recovery_code::generate(&self.0.random)?;
        let entry = self.entry(by, "factor.enrol", user).with_detail(serde_json::json!({ "factor": "recovery_code" }));
        if factor::replace_codes(&self.0.db, user, &recovery_code::hashes(&codes), &entry).await? {
            Ok(codes)
        } else {
            Err(no_factor())
        }
    }

    /// Removes all factors of an account and ends its sessions, for somebody who lost them. The host itself does it.
    ///
    /// # Errors
    /// `factor_not_found`.
    pub async fn remove_factors(&self, user: UserId, by: &Initiator) -> Result<()> {
        self.remove_all(user, None, by).await
    }

    /// Does the same for a caller who has every permission of the account.
    ///
    /// # Errors
    /// `factor_not_found`; 403 `exceeds_own_permissions`; 403 `needs_session`.
    pub async fn remove_factors_for(&self, caller: &Caller, user: UserId, by: &Initiator) -> Result<()> {
        caller.require_session_for_own(user)?;
        match self.remove_all(user, Some(&caller.permissions), by).await {
            Ok(()) => Ok(()),
            Err(error) => self.refused(error, self.removal_of_all(user, by)).await,
        }
    }

    fn removal_of_all(&self, user: UserId, by: &Initiator) -> Entry {
        self.entry(by, "factor.remove", user).with_detail(serde_json::json!({ "factor": "all" }))
    }

    async fn remove_all(&self, user: UserId, permissions: Option<&PermissionSet>, by: &Initiator) -> Result<()> {
        let entry = self.removal_of_all(user, by);
        let _forget = self.0.token_cache.invalidate_after(user);
        if factor::remove_all(&self.0.db, user, permissions, &entry).await? { Ok(()) } else { Err(no_factor()) }
    }
}

fn no_factor() -> Error {
    Error::not_found(code::FACTOR_NOT_FOUND, "The account has no such factor")
}
