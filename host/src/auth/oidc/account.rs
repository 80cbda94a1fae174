//! The account that an identity belongs to. Owns the rules:
//!
//! - An identity is found by issuer and subject, never by its address.
//! - An unknown identity is linked by an address that the issuer has verified, and by no other.
//! - Never to an account with a password: its owner must confirm by linking it while signed in. Otherwise an issuer
//!   with lax rules would open every account.
//! - Of the accounts without a password, only to one whose present address was verified, or whose owner was invited by
//!   it. Otherwise somebody could give their own account the address of a victim and wait for the victim to sign in.
//! - A new account has no password until its owner sets one by a recovery mail.

use serde_json::json;

use super::id_token::Vouched;
use super::{Inner, themselves};
use crate::address::Address;
use crate::auth::client::Client;
use crate::auth::password_hashing::NO_PASSWORD;
use crate::clock::Timestamp;
use crate::config::Issuer;
use crate::db::audit::{self, Entry};
use crate::db::identity::{self, Linked, NewIdentity};
use crate::db::user::{self, NewUser};
use crate::error::{Error, Kind, Result, code};
use crate::id::{IdentityId, UserId};

/// The account of an identity.
pub(super) struct VouchedAccount {
    pub(super) user: UserId,
    /// Whether the account existed, and the identity was linked to it just now.
    pub(super) is_linked_now: bool,
}

impl Inner {
    /// Returns the account of an identity, and creates it or links it where the rules allow.
    ///
    /// # Errors
    /// `inactive_user`, `address_not_verified`, `link_not_confirmed`, `no_account`.
    pub(super) async fn account_of(
        &self,
        issuer: &Issuer,
        vouched: &Vouched,
        client: &Client,
    ) -> Result<VouchedAccount> {
        let db = &self.auth.0.db;
        let now = self.auth.0.clock.now();
        let address = address(vouched);
        let email = address.as_ref().map(stored);
        if let Some(known) = identity::find(db, &issuer.url, &vouched.subject).await? {
            let user = user::find(db, known.user_id).await?;
            if user.is_none_or(|user| !user.is_active) {
                return Err(Error::bad_request(code::INACTIVE_USER, "Inactive user"));
            }
            identity::touch(db, known.id, email.as_ref(), now).await?;
            return Ok(VouchedAccount { user: known.user_id, is_linked_now: false });
        }
        let Some(address) = address else {
            let text = format!("{} has not verified your email address, so it cannot be used here", issuer.label);
            return Err(Error::forbidden(code::ADDRESS_NOT_VERIFIED, text));
        };
        let identity = self.new_identity(issuer, vouched, email, now)?;
        match user::find_by_key(db, &address.key()).await? {
            Some(user) if !user.is_active => Err(Error::bad_request(code::INACTIVE_USER, "Inactive user")),
            Some(user) => {
                let entry = self.linked(issuer, vouched, user.id, client, now);
                if identity::link_vouched(db, user.id, &identity, NO_PASSWORD, &entry).await? {
                    return Ok(VouchedAccount { user: user.id, is_linked_now: true });
                }
                Err(not_confirmed(issuer))
            }
            None if issuer.create_accounts.unwrap_or(self.is_signup_open) => {
                let user = self.create(issuer, vouched, address, &identity, client).await?;
                Ok(VouchedAccount { user, is_linked_now: false })
            }
            None => {
                let text = "You have no account here; ask the operator for an invitation";
                Err(Error::forbidden(code::NO_ACCOUNT, text))
            }
        }
    }

    async fn create(
        &self,
        issuer: &Issuer,
        vouched: &Vouched,
        email: Address,
        identity: &NewIdentity,
        client: &Client,
    ) -> Result<UserId> {
        let id = UserId(self.auth.0.random.uuid()?);
        let created = json!({ "email": email.as_str(), "full_name": vouched.name, "is_active": true,
            "is_superuser": false });
        let account = NewUser {
            id,
            email,
            is_active: true,
            is_superuser: false,
            full_name: vouched.name.clone(),
            password_hash: NO_PASSWORD.to_owned(),
            created_at: identity.at,
            email_verified_at: Some(identity.at),
            invited_at: None,
        };
        let entries = [
            self.auth.entry(&themselves(id, client), "user.create", id).with_change(None, Some(created)),
            self.linked(issuer, vouched, id, client, identity.at),
        ];
        match identity::create_account(&self.auth.0.db, &account, identity, &entries).await {
            Ok(()) => Ok(id),
            // This person signed in, or somebody signed up with the address, a moment ago.
            Err(error) if *error.kind() == Kind::Conflict => {
                match identity::find(&self.auth.0.db, &issuer.url, &vouched.subject).await? {
                    Some(known) => Ok(known.user_id),
                    None => Err(not_confirmed(issuer).with_source(error)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Links an identity to the account whose owner began the link in this browser. Returns the account.
    ///
    /// # Errors
    /// `login_expired`, `identity_taken`, `too_many_identities`.
    pub(super) async fn link(
        &self,
        issuer: &Issuer,
        vouched: &Vouched,
        browser_hash: &[u8],
        client: &Client,
    ) -> Result<UserId> {
        let now = self.auth.0.clock.now();
        let identity = self.new_identity(issuer, vouched, address(vouched).as_ref().map(stored), now)?;
        let entry = |user| self.linked(issuer, vouched, user, client, now);
        match identity::finish_link(&self.auth.0.db, browser_hash, &identity, entry).await? {
            Linked::Yes(user) => Ok(user),
            Linked::Unknown => {
                let text = "The link took too long, or its session has ended; start again";
                Err(Error::bad_request(code::LOGIN_EXPIRED, text))
            }
            Linked::TooMany => {
                Err(Error::conflict(code::TOO_MANY_IDENTITIES, "The account has too many linked identities"))
            }
        }
    }

    /// Records in the audit log that an issuer vouched for somebody who may not sign in.
    pub(super) async fn record_refusal(
        &self,
        issuer: &Issuer,
        vouched: &Vouched,
        error: &Error,
        client: &Client,
    ) -> Result<()> {
        let now = self.auth.0.clock.now();
        let entry = Entry::of(&client.initiator(), now, "session.refuse", format!("issuer:{}", issuer.name)).denied();
        let detail = json!({ "subject": vouched.subject, "reason": error.code().as_str() });
        audit::insert(&self.auth.0.db, &entry.with_detail(detail)).await
    }

    fn new_identity(
        &self,
        issuer: &Issuer,
        vouched: &Vouched,
        email: Option<(String, String)>,
        at: Timestamp,
    ) -> Result<NewIdentity> {
        let id = IdentityId(self.auth.0.random.uuid()?);
        Ok(NewIdentity { id, issuer: issuer.url.clone(), subject: vouched.subject.clone(), email, at })
    }

    fn linked(&self, issuer: &Issuer, vouched: &Vouched, user: UserId, client: &Client, at: Timestamp) -> Entry {
        let detail = json!({ "issuer": issuer.name.as_str(), "url": issuer.url, "subject": vouched.subject });
        Entry::of(&themselves(user, client), at, "identity.link", format!("user:{user}")).with_detail(detail)
    }
}

fn not_confirmed(issuer: &Issuer) -> Error {
    let text = format!(
        "An account with your email address exists; sign in to it and link {} in its settings first",
        issuer.label
    );
    Error::forbidden(code::LINK_NOT_CONFIRMED, text)
}

/// Returns the verified address, if an account can have it.
fn address(vouched: &Vouched) -> Option<Address> {
    vouched.email.as_ref()?.parse().ok()
}

/// Returns an address and its key as they are stored.
fn stored(address: &Address) -> (String, String) {
    (address.as_str().to_owned(), address.key().as_str().to_owned())
}
