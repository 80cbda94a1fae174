//! The payloads of the topics of the host.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `user.created`: an account was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCreated {
    /// The account, as in [`Caller::id`](crate::Caller).
    pub id: Uuid,
}

/// `user.updated`: the address, the name, the activity, the roles or the privilege of an account changed. A change or a
/// deletion of a role publishes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserUpdated {
    /// The account.
    pub id: Uuid,
}

/// `user.deleted`: an account was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDeleted {
    /// The account that no longer exists.
    pub id: Uuid,
}

/// `session.revoked`: a session was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRevoked {
    /// The session.
    pub id: Uuid,
    /// The account whose session it was.
    pub user_id: Uuid,
}

/// `release.activated`: a release of a plugin became the live one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseActivated {
    /// The name of the plugin.
    pub plugin: String,
    /// The number of the release.
    pub release: i64,
}
