//! Reset tokens: 256-bit tokens in links to set a password. A token works once, is stored only as SHA-256, and becomes
//! invalid when the password changes.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::client::Client;
use super::common_password::words_about;
use super::{Auth, Caller};
use crate::config::Secret;
use crate::db::audit::Entry;
use crate::db::reset_token::{self, ConsumeOutcome};
use crate::error::{Error, Result, code};
use crate::id::UserId;
use crate::initiator::Initiator;
use crate::permission::PermissionSet;

const LEN: usize = 32;

impl Auth {
    /// Issues a URL-safe token to set the user's password.
    ///
    /// # Errors
    /// The database fails.
    pub async fn issue_reset_token(&self, user: UserId) -> Result<Secret> {
        self.issue_password_token(user, self.0.settings.reset_token_ttl).await
    }

    /// Issues such a token for an operator, who can set the password with it. The audit log names them.
    ///
    /// # Errors
    /// 403 `exceeds_own_permissions`: the account has permissions that the operator lacks; 403 `needs_session`.
    pub async fn issue_reset_token_for(&self, caller: &Caller, user: UserId, by: &Initiator) -> Result<Secret> {
        caller.require_session_for_own(user)?;
        let entry = self.entry(by, "password.link", user);
        let operator = Some((&caller.permissions, &entry));
        let issued = self.issue_token(user, self.0.settings.reset_token_ttl, operator).await;
        match issued {
            Ok(token) => Ok(token),
            Err(error) => self.refused(error, entry).await,
        }
    }

    /// Issues a token to set a password. It works for `ttl`.
    pub(super) async fn issue_password_token(&self, user: UserId, ttl: Duration) -> Result<Secret> {
        self.issue_token(user, ttl, None).await
    }

    async fn issue_token(
        &self,
        user: UserId,
        ttl: Duration,
        operator: Option<(&PermissionSet, &Entry)>,
    ) -> Result<Secret> {
        let token: [u8; LEN] = self.0.random.bytes()?;
        let now = self.0.clock.now();
        let (by, entry) = operator.unzip();
        reset_token::insert(&self.0.db, &Sha256::digest(token), user, now, now.plus(ttl), by, entry).await?;
        Ok(Secret::new(URL_SAFE_NO_PAD.encode(token)))
    }

    /// Sets the password of the account of the token, ends all its sessions and tokens, and returns the account. Its
    /// address is verified then. If it was not before, somebody else may have signed up with it, so the API keys and the
    /// linked identities of the account end too. An invited person accepts the invitation in this way.
    ///
    /// # Errors
    /// `invalid_reset_token`: unknown, used, expired, or issued before another change; `inactive_user`;
    /// `common_password`.
    pub async fn reset_password(&self, token: &str, password: &str, client: &Client) -> Result<UserId> {
        let invalid = || Error::bad_request(code::INVALID_RESET_TOKEN, "Invalid token");
        let inactive = || Error::bad_request(code::INACTIVE_USER, "Inactive user");
        let token = URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() == LEN).ok_or_else(invalid)?;
        let token_hash = Sha256::digest(token);
        // Looked up before hashing, so that a guessed token does not cost a hash.
        let holder =
            reset_token::find_account(&self.0.db, &token_hash, self.0.clock.now()).await?.ok_or_else(invalid)?;
        if !holder.is_active {
            return Err(inactive());
        }
        let words = words_about(&holder.email, holder.full_name.as_deref());
        let password_hash = self.0.passwords.hash_new(password, words).await?;
        let _forget = self.0.token_cache.invalidate_after(holder.id);
        let now = self.0.clock.now();
        // The link proves that its holder read the mail, or had it from an operator (`password.link`).
        let by = client.initiator();
        let action = if holder.invited_at.is_some() { "invitation.accept" } else { "password.reset" };
        let mut entry = self.entry(&by, action, holder.id);
        if holder.email_verified_at.is_none() {
            entry = entry.with_detail(json!({ "keys_and_identities": "ended" }));
        }
        match reset_token::consume(&self.0.db, &token_hash, holder.id, now, &password_hash, &entry).await? {
            ConsumeOutcome::Reset => {
                // Otherwise guesses of others could keep an owner out for ever who is in a new network.
                self.remember_client(holder.id, client.address).await;
                Ok(holder.id)
            }
            ConsumeOutcome::Inactive => Err(inactive()),
            ConsumeOutcome::Unknown => Err(invalid()),
        }
    }
}
