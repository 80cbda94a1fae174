//! The identities of an account: its accounts at OpenID Connect issuers. `auth::oidc` adds them.

use serde_json::json;

use super::password_hashing::NO_PASSWORD;
use super::{Auth, Caller};
use crate::clock::Timestamp;
use crate::db;
use crate::db::identity::{self, IdentityRow, Unlinked};
use crate::error::{Error, Result, code};
use crate::id::{IdentityId, UserId};
use crate::initiator::Initiator;

/// An account at an issuer that belongs to an account of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The id.
    pub id: IdentityId,
    /// The URL of the issuer.
    pub issuer: String,
    /// The address that the issuer verified last.
    pub email: Option<String>,
    /// When it was linked.
    pub created_at: Timestamp,
    /// When the user last signed in with it.
    pub last_used_at: Timestamp,
}

impl Auth {
    /// Returns the identities of an account, oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn identities(&self, user: UserId) -> Result<Vec<Identity>> {
        Ok(identity::list(&self.0.db, user).await?.into_iter().map(Identity::from).collect())
    }

    /// Returns whether an account has a password.
    ///
    /// # Errors
    /// The database fails.
    pub async fn has_password(&self, user: UserId) -> Result<bool> {
        Ok(db::user::find(&self.0.db, user).await?.is_some_and(|user| user.password_hash != NO_PASSWORD))
    }

    /// Removes an identity from the caller's account.
    ///
    /// # Errors
    /// `needs_session`, `step_up_required`; `identity_not_found`; a conflict `last_sign_in_method`.
    pub async fn unlink(&self, caller: &Caller, id: IdentityId, by: &Initiator) -> Result<()> {
        self.require_recent_proof(caller.session()?)?;
        let user = caller.user()?.id;
        let entry = self.entry(by, "identity.unlink", user).with_detail(json!({ "identity": id }));
        match identity::unlink(&self.0.db, user, id, NO_PASSWORD, &entry).await? {
            Unlinked::Yes => Ok(()),
            Unlinked::Unknown => Err(Error::not_found(code::IDENTITY_NOT_FOUND, "Identity not found")),
            Unlinked::Last => {
                let text = "You could not sign in any more; set a password by a recovery mail first";
                Err(Error::conflict(code::LAST_SIGN_IN_METHOD, text))
            }
        }
    }
}

impl From<IdentityRow> for Identity {
    fn from(row: IdentityRow) -> Self {
        let IdentityRow { id, issuer, email, created_at, last_used_at, user_id: _ } = row;
        Self { id, issuer, email, created_at, last_used_at }
    }
}
