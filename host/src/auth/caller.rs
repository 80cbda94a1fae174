//! A user and an authenticated caller, as the rest of the host sees them. They contain no secret. This module never
//! decides who is authenticated: `auth` creates a [`Caller`] from an access token.

use crate::clock::Timestamp;
use crate::db::user::UserRow;
use crate::id::{PluginName, SessionId, UserId};

/// An account without its password hash, which never leaves `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id.
    pub id: UserId,
    /// The address as given, with the domain in lower case.
    pub email: String,
    /// Whether the account is active. Inactive accounts cannot sign in, and their tokens are refused.
    pub is_active: bool,
    /// Whether the user has every privilege.
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

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The session of the token.
    pub session: SessionId,
}

impl Caller {
    /// Returns whether the caller has `permission` of `plugin`. Superusers have all permissions. Other users have none,
    /// because roles cannot be assigned yet.
    pub fn has_permission(&self, _plugin: &PluginName, _permission: &str) -> bool {
        self.user.is_superuser
    }
}
