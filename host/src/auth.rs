//! Identity: who is calling, proven by an access token that is tied to a session.

use crate::address::Address;
use crate::clock::Timestamp;
use crate::id::{SessionId, UserId};

/// An account as the rest of the host sees it; the password hash never leaves `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Identity.
    pub id: UserId,
    /// As given, domain lower-cased.
    pub email: String,
    /// Inactive accounts cannot sign in, and their tokens are refused.
    pub is_active: bool,
    /// May do everything.
    pub is_superuser: bool,
    /// A name for people.
    pub full_name: Option<String>,
    /// When the account was made.
    pub created_at: Timestamp,
}

/// A verified caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The session its token belongs to.
    pub session: SessionId,
}

impl Caller {
    /// Whether the caller has `permission` of `plugin`. Superusers have all; nobody else has any until roles can be
    /// assigned.
    pub fn has_permission(&self, _plugin: &crate::id::PluginName, _permission: &str) -> bool {
        self.user.is_superuser
    }
}

#[allow(unused)]
fn _unused(_: Address) {}
/// stub
pub struct Auth;
impl Auth {
    /// stub
    pub async fn authenticate(&self, _token: &str) -> crate::error::Result<std::sync::Arc<Caller>> {
        Err(crate::error::Error::invalid_token())
    }
}
