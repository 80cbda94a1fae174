//! The caller of a request. The host has authenticated it; a plugin never sees a credential.

use super::{FromRequest, Needs};
use crate::{Problem, Request, Timestamp};
use uuid::Uuid;

use crate::host::auth as host;

/// The signed-in caller of this request. On a public route take `Option<Caller>`.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[get("/me")]
/// fn me(caller: Caller) -> Text {
///     Text(caller.email)
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The id of the account, or of the API key if that belongs to nobody.
    pub id: Uuid,
    /// The email address of the account. Empty if the caller is an API key that belongs to nobody.
    pub email: String,
    /// Whether the caller may do everything.
    pub superuser: bool,
    /// The names of the caller's roles, for display. A name authorizes nothing: an operator can create a role with any
    /// name and give any permission to any role. Check permissions (`wharf:auth/caller.has-permission`) instead.
    pub roles: Vec<String>,
}

/// The number of factors that a user proved at the sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// One, such as the password.
    SingleFactor,
    /// Two, such as the password and a one-time code.
    MultiFactor,
}

/// How a caller was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// By a session of a user.
    Session {
        /// The id of the session. It is no secret.
        id: Uuid,
        /// The number of factors.
        strength: Strength,
        /// When the user signed in.
        authenticated_at: Timestamp,
        /// When the user last confirmed who they are for a dangerous operation.
        stepped_up_at: Option<Timestamp>,
    },
    /// By an API key of a machine.
    Key {
        /// The id of the key. It is no secret.
        id: Uuid,
        /// Its name.
        name: String,
    },
}

impl Caller {
    /// Returns whether the caller has a permission of this plugin, named as in `permissions: { … }`. Superusers have
    /// all.
    pub fn has_permission(&self, name: &str) -> bool {
        self.superuser || host::has_permission(name)
    }

    /// Returns the permissions of this plugin that the caller has, in the order of `permissions: { … }`. Superusers have
    /// all.
    pub fn permissions(&self) -> Vec<String> {
        host::permissions()
    }

    /// Returns how the caller was authenticated: by a session and its strength, or by an API key.
    ///
    /// # Errors
    /// The host sent an id that is no UUID.
    pub fn authentication(&self) -> Result<Authentication, Problem> {
        let by = host::authentication().ok_or_else(|| Problem::internal("the host knows no caller"))?;
        let uuid = |text: &str| Uuid::parse_str(text).map_err(Problem::internal);
        Ok(match by {
            host::AuthenticatedBy::Session(session) => Authentication::Session {
                id: uuid(&session.id)?,
                strength: match session.strength {
                    host::Strength::SingleFactor => Strength::SingleFactor,
                    host::Strength::MultiFactor => Strength::MultiFactor,
                },
                authenticated_at: Timestamp::from_unix_micros(session.authenticated_at),
                stepped_up_at: session.stepped_up_at.map(Timestamp::from_unix_micros),
            },
            host::AuthenticatedBy::ApiKey(key) => Authentication::Key { id: uuid(&key.id)?, name: key.name },
        })
    }

    fn current() -> Result<Option<Self>, Problem> {
        let Some(principal) = host::current() else { return Ok(None) };
        let id = Uuid::parse_str(&principal.id).map_err(Problem::internal)?;
        Ok(Some(Self { id, email: principal.email, superuser: principal.superuser, roles: principal.roles }))
    }
}

impl FromRequest for Caller {
    const NEEDS: Needs = Needs::CALLER;

    fn from_request(_request: &mut Request) -> Result<Self, Problem> {
        Self::current()?.ok_or_else(|| Problem::new(401, "not_authenticated", "Not authenticated"))
    }
}

impl FromRequest for Option<Caller> {
    const NEEDS: Needs = Needs::NOTHING;
    const READS_CALLER: bool = true;

    fn from_request(_request: &mut Request) -> Result<Self, Problem> {
        Caller::current()
    }
}
