//! Roles. Owns the SQL on `roles`, `role_permissions` and `user_roles`.

use std::collections::BTreeMap;

use super::row::row;
use super::{Db, on};
use crate::error::Result;
use crate::id::{RoleName, UserId};

row! {
    /// A role of an account with one of its permissions, as a join returns them.
    #[derive(Debug, Clone)]
    struct HeldRow {
        role: RoleName,
        requires_second_factor: bool,
        permission: Option<String>,
    }
}

/// A role that an account has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeldRole {
    /// Whether it gives its permissions only to sessions with two factors.
    pub(crate) requires_second_factor: bool,
    /// Its permissions as stored. A plugin may define a permission no longer.
    pub(crate) permissions: Vec<String>,
}

/// The built-in role whose members are the accounts with the flag `is_superuser`.
pub(crate) const SUPERUSER: &str = "superuser";

// The role superuser is held through the flag of the account, and in no other way.
const HELD: &str = "SELECT roles.name AS role, roles.requires_second_factor, role_permissions.permission FROM roles \
    LEFT JOIN role_permissions ON role_permissions.role = roles.name \
    WHERE (roles.name <> 'superuser' AND roles.name IN (SELECT role FROM user_roles WHERE user_id = $1)) \
    OR (roles.name = 'superuser' AND EXISTS (SELECT 1 FROM users WHERE id = $1 AND is_superuser))";

/// Returns the roles of an account with their permissions.
pub(crate) async fn held(db: &Db, user: UserId) -> Result<BTreeMap<RoleName, HeldRole>> {
    let rows = on!(db, pool => sqlx::query_as::<_, HeldRow>(HELD).bind(user).fetch_all(pool).await)?;
    let mut roles = BTreeMap::<RoleName, HeldRole>::new();
    for row in rows {
        let role = roles.entry(row.role).or_default();
        role.requires_second_factor = row.requires_second_factor;
        role.permissions.extend(row.permission);
    }
    Ok(roles)
}

/// The statement that gives an account the default roles, in the transaction that adds the account.
pub(super) const GIVE_DEFAULTS: &str =
    "INSERT INTO user_roles (user_id, role) SELECT $1, name FROM roles WHERE is_default AND name <> 'superuser'";
