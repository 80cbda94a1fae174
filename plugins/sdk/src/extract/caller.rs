//! The caller of a request. The host has authenticated it; a plugin never sees a credential.

use super::{FromRequest, Needs};
use crate::{Problem, Request};
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
    /// The id of the account.
    pub id: Uuid,
    /// The email address of the account.
    pub email: String,
    /// Whether the caller may do everything.
    pub superuser: bool,
    /// The names of the caller's roles. Always empty: the host cannot assign roles yet.
    pub roles: Vec<String>,
}

impl Caller {
    /// Returns whether the caller has a permission of this plugin, named as in `permissions: { … }`. Superusers have
    /// all.
    pub fn has_permission(&self, name: &str) -> bool {
        self.superuser || host::has_permission(name)
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
