//! Who is calling. The host has verified it; nothing here sees a credential.

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
    /// The account.
    pub id: Uuid,
    /// As the account has it.
    pub email: String,
    /// May do everything.
    pub superuser: bool,
    /// Names of the roles the operator gave; empty until this host can give any.
    pub roles: Vec<String>,
}

impl Caller {
    /// Whether the caller has a permission of this plugin, named as in `permissions: { … }`; superusers have all.
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

    fn from_request(_request: &mut Request) -> Result<Self, Problem> {
        Caller::current()
    }
}
