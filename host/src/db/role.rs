//! Roles. Owns the SQL on `roles`, `role_permissions` and `user_roles`, and the check inside of a transaction that a
//! caller has every permission of an account.

use std::collections::BTreeMap;

use super::row::row;
use super::{Db, on};
use crate::error::{Error, Result, code};
use crate::id::{RoleName, UserId};
use crate::permission::{Permission, PermissionSet};

row! {
    /// A role of an account with one of its permissions, as a join returns them.
    #[derive(Debug, Clone)]
    pub(super) struct HeldRow {
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
pub(super) const HELD: &str = "SELECT roles.name AS role, roles.requires_second_factor, role_permissions.permission \
    FROM roles LEFT JOIN role_permissions ON role_permissions.role = roles.name \
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

const ROLES_OF: &str =
    "SELECT name FROM roles WHERE name IN (SELECT role FROM user_roles WHERE user_id = $1) ORDER BY name";
const ROLES_OF_SHARED: &str =
    "SELECT name FROM roles WHERE name IN (SELECT role FROM user_roles WHERE user_id = $1) ORDER BY name FOR SHARE";

/// Returns the statement that reads the roles of an account and, on PostgreSQL, keeps them as they are for the rest of
/// the transaction.
pub(super) fn sharing(db: &Db) -> &'static str {
    db.dialect(ROLES_OF, ROLES_OF_SHARED)
}

/// Checks that `by` includes every permission of the account `$user`, in a transaction that has locked the account.
/// Permissions that were compared earlier can have changed meanwhile. `None` is the host itself, or the owner.
macro_rules! check_outranked {
    ($tx:expr, $db:expr, $user:expr, $by:expr) => {
        if let Some(by) = $by {
            let roles = sqlx::query_scalar::<_, $crate::id::RoleName>($crate::db::role::sharing($db)).bind($user);
            roles.fetch_all(&mut *$tx).await?;
            let held = sqlx::query_as::<_, $crate::db::role::HeldRow>($crate::db::role::HELD).bind($user);
            $crate::db::role::require_outranked(by, held.fetch_all(&mut *$tx).await?)?;
        }
    };
}
pub(super) use check_outranked;

/// Checks that a set includes every permission of an account with these roles. A stored permission that cannot be read
/// gives nothing.
pub(super) fn require_outranked(by: &PermissionSet, held: Vec<HeldRow>) -> Result<()> {
    let everything = held.iter().any(|row| row.role.as_str() == SUPERUSER);
    let permissions = held.into_iter().filter_map(|row| row.permission?.parse::<Permission>().ok()).collect();
    let permissions = if everything { PermissionSet::Everything } else { permissions };
    if by.includes(&permissions) { Ok(()) } else { Err(outranked()) }
}

/// Returns the refusal to change an account with more permissions than the caller's.
pub(crate) fn outranked() -> Error {
    Error::forbidden(code::EXCEEDS_OWN_PERMISSIONS, "The account has permissions that you do not have")
}
