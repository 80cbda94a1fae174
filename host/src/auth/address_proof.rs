//! Verification of addresses, and changes of addresses that need it. A token is 256 random bits in a link, works once,
//! and is stored only as SHA-256. Never sends mail: the mailer asks for a token just before it sends one.
//!
//! While `auth.verify_email` is on, an account whose owner has not proven that they read the mail of its address cannot
//! sign in, and a new address replaces the old one only when its link comes back. Neither a sign-up nor a change reveals
//! then that another account has an address: the owner of that account gets a mail instead.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Auth, User};
use crate::address::Address;
use crate::config::Secret;
use crate::db;
use crate::db::address_proof::{self, ProofOutcome};
use crate::db::email::NewMail;
use crate::error::{Error, Result, code};
use crate::id::UserId;
use crate::initiator::Initiator;

const LEN: usize = 32;

/// A mail about the address of an account.
#[derive(Debug, Clone, Copy)]
pub enum AddressMail<'a> {
    /// A link to confirm a new address, at that address.
    Confirm {
        /// The account.
        user: UserId,
        /// The new address.
        new: &'a str,
    },
    /// A note that an account has the address already, at that address.
    Taken {
        /// The address.
        address: &'a str,
    },
    /// A note about the new address of an account, at the old one.
    Announce {
        /// The old address.
        old: &'a str,
        /// The new address.
        new: &'a str,
    },
}

impl Auth {
    /// Issues a token that verifies the address of the account with this address, written in any way. Returns `None` if
    /// there is no such account, or its address is verified.
    ///
    /// # Errors
    /// The database fails.
    pub async fn issue_verification_token(&self, email: &str) -> Result<Option<(User, Secret)>> {
        let Some(row) = self.find_by_email(email).await?.filter(|row| row.email_verified_at.is_none()) else {
            return Ok(None);
        };
        let (token, hash) = self.new_proof_token()?;
        let now = self.0.clock.now();
        let ends = now.plus(self.0.settings.verification_ttl);
        address_proof::insert_token(&self.0.db, &hash, row.id, now, ends).await?;
        Ok(Some((row.into(), token)))
    }

    /// Issues a token that confirms a new address. Returns `None` if the account does not ask for this address any more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn issue_address_change_token(&self, user: UserId, email: &Address) -> Result<Option<Secret>> {
        let (token, hash) = self.new_proof_token()?;
        let now = self.0.clock.now();
        let ends = now.plus(self.0.settings.verification_ttl);
        let asked = address_proof::set_change_token(&self.0.db, &hash, user, email, now, ends).await?;
        Ok(asked.then_some(token))
    }

    fn new_proof_token(&self) -> Result<(Secret, [u8; LEN])> {
        let token: [u8; LEN] = self.0.random.bytes()?;
        Ok((Secret::new(URL_SAFE_NO_PAD.encode(token)), Sha256::digest(token).into()))
    }

    /// Remembers that an account asks for a new address, and queues a mail to that address: a link, or a note to the
    /// owner of the account that has the address. Both take the same work, and the result is the same.
    pub(super) async fn ask_for_address(
        &self,
        user: UserId,
        email: &Address,
        by: &Initiator,
        mail: &impl Fn(AddressMail<'_>) -> Result<Option<NewMail>>,
    ) -> Result<()> {
        let db = &self.0.db;
        let now = self.0.clock.now();
        let mail = match db::user::find_by_key(db, &email.key()).await? {
            Some(_) => mail(AddressMail::Taken { address: email.as_str() }),
            None => mail(AddressMail::Confirm { user, new: email.as_str() }),
        };
        let off = || Error::conflict(code::MAIL_OFF, "No mail server is configured, so no address can be confirmed");
        let mail = mail?.ok_or_else(off)?;
        let entry = self.entry(by, "address.request", user).with_detail(json!({ "email": email.as_str() }));
        let ends = now.plus(self.0.settings.verification_ttl);
        address_proof::request_change(db, user, email, now, ends, &mail, &entry).await
    }

    /// Takes a token that came back: verifies the address of its account, or gives the account its new address. `mail`
    /// returns the mail that announces the change of an address at the old one.
    ///
    /// # Errors
    /// `invalid_verification_token`: unknown, used or expired, or the account has another address now; `inactive_user`;
    /// a conflict `email_taken`; `mail_queue_full`.
    pub async fn prove_address(
        &self,
        token: &str,
        by: &Initiator,
        mail: impl FnOnce(AddressMail<'_>) -> Result<Option<NewMail>>,
    ) -> Result<()> {
        let invalid = || Error::bad_request(code::INVALID_VERIFICATION_TOKEN, "Invalid token");
        let db = &self.0.db;
        let token = URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() == LEN).ok_or_else(invalid)?;
        let hash = Sha256::digest(token);
        let now = self.0.clock.now();
        let outcome = if let Some(user) = address_proof::find_token(db, &hash, now).await? {
            let entry = self.entry(by, "address.verify", user);
            let _forget = self.0.token_cache.invalidate_after(user);
            address_proof::verify(db, &hash, user, now, &entry).await?
        } else if let Some(change) = address_proof::find_change(db, &hash, now).await? {
            let user = change.user_id;
            let old = self.user(user).await?.email;
            let entry = self
                .entry(by, "address.change", user)
                .with_change(Some(json!({ "email": old })), Some(json!({ "email": change.email })));
            let mail = mail(AddressMail::Announce { old: &old, new: &change.email })?;
            let _forget = self.0.token_cache.invalidate_after(user);
            address_proof::change(db, &hash, &change, now, mail.as_ref(), &entry).await?
        } else {
            ProofOutcome::Unknown
        };
        match outcome {
            ProofOutcome::Verified | ProofOutcome::Changed => Ok(()),
            ProofOutcome::Inactive => Err(Error::bad_request(code::INACTIVE_USER, "Inactive user")),
            ProofOutcome::Unknown => Err(invalid()),
        }
    }
}
