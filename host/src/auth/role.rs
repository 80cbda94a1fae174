//! Roles: the permissions that an account's roles give to a session. Owns the rule that a role which requires a second
//! factor gives nothing to a session without one. Never checks a permission of a request: `auth::Caller` does.

use std::collections::BTreeMap;

use super::Auth;
use super::caller::{Caller, Strength};
use crate::db::role::{self, HeldRole, SUPERUSER};
use crate::error::Result;
use crate::id::{RoleName, UserId};
use crate::permission::{Permission, PermissionSet};

/// The effect of an account's roles on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effect {
    /// The roles that count: those that require a second factor only in a session with two.
    pub(super) roles: Vec<RoleName>,
    /// The permissions.
    pub(super) permissions: PermissionSet,
    /// Whether a role withholds permissions from the session.
    pub(super) withheld: bool,
}

/// Returns the effect of roles on a session of this strength. A stored permission that cannot be read gives nothing.
fn effect(held: BTreeMap<RoleName, HeldRole>, strength: Strength) -> Effect {
    let (mut permissions, mut everything, mut withheld) = (Vec::<Permission>::new(), false, false);
    let mut roles = Vec::new();
    for (name, role) in held {
        let gives = name.as_str() == SUPERUSER || !role.permissions.is_empty();
        if role.requires_second_factor && strength == Strength::Single {
            withheld |= gives;
            continue;
        }
        everything |= name.as_str() == SUPERUSER;
        permissions.extend(role.permissions.iter().filter_map(|text| text.parse::<Permission>().ok()));
        roles.push(name);
    }
    let permissions = if everything { PermissionSet::Everything } else { permissions.into_iter().collect() };
    Effect { roles, permissions, withheld }
}

impl Auth {
    /// Returns the effect of the account's roles on a session of this strength.
    pub(super) async fn effect_of_roles(&self, user: UserId, strength: Strength) -> Result<Effect> {
        Ok(effect(role::held(&self.0.db, user).await?, strength))
    }

    /// Returns every permission of an account's roles, as a session with two factors has them.
    ///
    /// # Errors
    /// The database fails.
    pub async fn permissions_of(&self, user: UserId) -> Result<PermissionSet> {
        Ok(self.effect_of_roles(user, Strength::Multi).await?.permissions)
    }

    /// Checks that the caller has every permission of an account, so that they may change its address, password, factors
    /// or state. Without this check, somebody who may change accounts could take over an account with more permissions.
    ///
    /// # Errors
    /// 403 `exceeds_own_permissions`.
    pub(super) async fn require_outranks(&self, caller: &Caller, target: UserId) -> Result<()> {
        if caller.permissions.includes(&self.permissions_of(target).await?) {
            return Ok(());
        }
        Err(role::outranked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(roles: &[(&str, bool, &[&str])]) -> BTreeMap<RoleName, HeldRole> {
        let role = |(name, requires_second_factor, permissions): &(&str, bool, &[&str])| {
            let permissions = permissions.iter().map(ToString::to_string).collect();
            (name.parse().unwrap(), HeldRole { requires_second_factor: *requires_second_factor, permissions })
        };
        roles.iter().map(role).collect()
    }

    #[test]
    fn a_role_that_requires_a_second_factor_gives_nothing_without_one() {
        let roles = held(&[("auditor", true, &["audit:read"]), ("member", false, &["items:read-all"])]);
        let single = effect(roles.clone(), Strength::Single);
        assert_eq!(single.permissions, ["items:read-all".parse().unwrap()].into_iter().collect());
        // A plugin may look at roles instead of permissions.
        assert_eq!((single.withheld, single.roles), (true, vec!["member".parse().unwrap()]));
        let multi = effect(roles, Strength::Multi);
        assert!(multi.permissions.contains(&"audit:read".parse().unwrap()) && !multi.withheld);
        let superuser = effect(held(&[("superuser", true, &[])]), Strength::Single);
        assert_eq!((superuser.permissions, superuser.withheld), (PermissionSet::default(), true));
        assert_eq!(effect(held(&[("superuser", false, &[])]), Strength::Single).permissions, PermissionSet::Everything);
    }

    #[test]
    fn a_stored_permission_that_cannot_be_read_gives_nothing() {
        let roles = held(&[("odd", false, &["plugins:everything", "x", "items:read-all"])]);
        assert_eq!(
            effect(roles, Strength::Single).permissions,
            ["items:read-all".parse().unwrap()].into_iter().collect()
        );
    }
}
