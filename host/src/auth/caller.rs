//! A user and an authenticated caller, as the rest of the host sees them. They contain no secret. This module never
//! decides who is authenticated: `auth` creates a [`Caller`] from a credential.

use std::fmt;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::db::user::UserRow;
use crate::error::{Error, Result, code};
use crate::id::{KeyId, PluginName, RoleName, SessionId, UserId};
use crate::permission::{HostPermission, Permission, PermissionSet};

/// An account without its password hash, which never leaves `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub id: UserId,
    /// The address as given, with the domain in lower case.
    pub email: String,
    /// Whether the account is active. Inactive accounts cannot sign in, and their tokens are refused.
    pub is_active: bool,
    /// Whether the account has the role `superuser`.
    pub is_superuser: bool,
    /// The display name.
    pub full_name: Option<String>,
    /// When the account was created.
    pub created_at: Timestamp,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
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

/// The number of factors of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// One: a password, or another server's word.
    Single,
    /// Two, or a passkey that verified its user.
    Multi,
}

impl Strength {
    /// Returns the stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Multi => "multi",
        }
    }

    /// Reads the stored word. Another word counts as one factor.
    pub fn of_stored(text: &str) -> Self {
        if text == "multi" { Self::Multi } else { Self::Single }
    }
}

/// The session of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCredential {
    /// The id.
    pub id: SessionId,
    /// The number of factors of the sign-in.
    pub strength: Strength,
    /// When the user signed in.
    pub authenticated_at: Timestamp,
    /// When the user last proved again that it is they.
    pub stepped_up_at: Option<Timestamp>,
    /// Whether the account has a second factor.
    pub has_second_factor: bool,
}

impl SessionCredential {
    /// Returns when the user last proved that it is they; with a second factor, if they have one. `None` means that they
    /// did not.
    pub fn proven_at(&self) -> Option<Timestamp> {
        if self.has_second_factor && self.strength == Strength::Single {
            return None;
        }
        Some(self.stepped_up_at.map_or(self.authenticated_at, |at| at.max(self.authenticated_at)))
    }
}

/// The credential of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// An access token of a session.
    Session(SessionCredential),
    /// An API key.
    Key {
        /// The id.
        id: KeyId,
        /// The name that its creator chose.
        name: String,
    },
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account; `None` for an API key that belongs to nobody.
    pub user: Option<User>,
    /// The credential.
    pub credential: Credential,
    /// The roles of the account that count for this credential, ordered by name. A role that withholds its permissions
    /// does not.
    pub roles: Vec<RoleName>,
    /// The permissions that this credential gives.
    pub permissions: PermissionSet,
    /// Whether a role withholds permissions because the sign-in had only one factor.
    pub withheld: bool,
}

impl Caller {
    /// Returns the id of the account, or of the API key that belongs to nobody.
    pub fn id(&self) -> Uuid {
        match (&self.user, &self.credential) {
            (Some(user), _) => user.id.0,
            (None, Credential::Key { id, .. }) => id.0,
            (None, Credential::Session(session)) => session.id.0,
        }
    }

    /// Returns the id of the account.
    pub fn user_id(&self) -> Option<UserId> {
        self.user.as_ref().map(|user| user.id)
    }

    /// Returns the id of the API key.
    pub fn key_id(&self) -> Option<KeyId> {
        match &self.credential {
            Credential::Key { id, .. } => Some(*id),
            Credential::Session(_) => None,
        }
    }

    /// Returns the account.
    ///
    /// # Errors
    /// 403 `needs_account`: the API key belongs to nobody.
    pub fn user(&self) -> Result<&User> {
        let text = "This needs an account; the API key belongs to nobody";
        self.user.as_ref().ok_or_else(|| Error::forbidden(code::NEEDS_ACCOUNT, text))
    }

    /// Returns the session.
    ///
    /// # Errors
    /// 403 `needs_session`: the credential is an API key.
    pub fn session(&self) -> Result<&SessionCredential> {
        match &self.credential {
            Credential::Session(session) => Ok(session),
            Credential::Key { .. } => {
                let text = "This needs a signed-in user; an API key cannot do it";
                Err(Error::forbidden(code::NEEDS_SESSION, text))
            }
        }
    }

    /// Checks that the credential may change an account. An API key changes nothing about its owner: with a password of
    /// its choice, it could sign in and outlive its own end.
    ///
    /// # Errors
    /// 403 `needs_session`: the API key belongs to the account.
    pub fn require_session_for_own(&self, account: UserId) -> Result<()> {
        if self.user_id() == Some(account) { self.session().map(|_| ()) } else { Ok(()) }
    }

    /// Returns whether the caller has every permission. An API key never has.
    pub fn is_superuser(&self) -> bool {
        self.permissions == PermissionSet::Everything
    }

    /// Returns whether the caller has a permission of the host.
    pub fn may(&self, permission: HostPermission) -> bool {
        self.permissions.has(permission)
    }

    /// Checks a permission of the host.
    ///
    /// # Errors
    /// As [`Caller::lacks`].
    pub fn require(&self, permission: HostPermission) -> Result<()> {
        if self.may(permission) { Ok(()) } else { Err(self.lacks(permission)) }
    }

    /// Returns whether the caller has `permission` of `plugin`. Superusers have all permissions.
    pub fn has_permission(&self, plugin: &PluginName, permission: &str) -> bool {
        match &self.permissions {
            PermissionSet::Everything => true,
            PermissionSet::Only(_) => permission
                .parse()
                .is_ok_and(|name| self.permissions.contains(&Permission::Plugin { plugin: plugin.clone(), name })),
        }
    }

    /// Checks that the caller has all these permissions themselves, so that they may give them to others.
    ///
    /// # Errors
    /// 403 `exceeds_own_permissions`.
    pub fn require_all(&self, permissions: &PermissionSet) -> Result<()> {
        if self.permissions.includes(permissions) {
            return Ok(());
        }
        let text = "Nobody can give permissions that they do not have";
        Err(Error::forbidden(code::EXCEEDS_OWN_PERMISSIONS, text))
    }

    /// Returns the refusal of a caller who lacks a permission, written as in a role. As [`Caller::refusal`], but it names the
    /// permission: in a member of its own, because clients compare the text.
    pub fn lacks(&self, permission: impl fmt::Display) -> Error {
        self.refusal().with_member("permission", permission.to_string())
    }

    /// Returns the refusal of a caller who lacks a privilege: 403 `second_factor_required` if a second factor might give it,
    /// otherwise 403 `forbidden`.
    pub fn refusal(&self) -> Error {
        if self.withheld {
            let text = "A role requires a second factor; sign in with one";
            return Error::forbidden(code::SECOND_FACTOR_REQUIRED, text);
        }
        Error::forbidden(code::FORBIDDEN, "The user doesn't have enough privileges")
    }
}
