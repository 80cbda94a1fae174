//! Roles as operators read and change them. Owns the rules of a change: nobody creates, changes, gives, takes or deletes
//! a role with a permission that they do not hold, so that no operator gains a privilege or takes one from somebody with
//! more. A refusal is recorded in the audit log.
//!
//! The permissions of plugins are known to `plugin`, above this module; callers pass those that a role may name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Auth, Caller};
use crate::clock::Timestamp;
use crate::db::audit::{self, Entry};
use crate::db::role::SUPERUSER;
use crate::db::role_change::{self, RoleRow, RoleUpdate, RolesChange, StoredRole, WantedRoles};
use crate::db::user::UserRow;
use crate::error::{Error, FieldError, Loc, Result, code};
use crate::id::{RoleName, UserId};
use crate::initiator::Initiator;
use crate::permission::{Permission, PermissionSet};

/// The built-in roles. Migration 15 creates them.
const BUILT_IN: [&str; 3] = [SUPERUSER, "operator", "member"];

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The name.
    pub name: RoleName,
    /// The purpose, for people.
    pub description: String,
    /// Its permissions by name. The superusers' role has none here, because it has all.
    pub permissions: Vec<String>,
    /// Whether new accounts get it.
    pub is_default: bool,
    /// Whether its permissions need a session with two factors.
    pub requires_second_factor: bool,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Role {
    /// Returns whether the role has every permission.
    pub fn has_everything(&self) -> bool {
        self.name.as_str() == SUPERUSER
    }

    /// Returns whether the role always exists.
    pub fn is_built_in(&self) -> bool {
        is_built_in(&self.name)
    }
}

impl From<StoredRole> for Role {
    fn from(StoredRole { row, permissions }: StoredRole) -> Self {
        Self {
            name: row.name,
            description: row.description,
            permissions,
            is_default: row.is_default,
            requires_second_factor: row.requires_second_factor,
            created_at: row.created_at,
        }
    }
}

/// A new role.
#[derive(Debug, Clone)]
pub struct NewRole {
    /// The name.
    pub name: RoleName,
    /// The purpose, for people.
    pub description: String,
    /// Its permissions.
    pub permissions: BTreeSet<Permission>,
    /// Whether new accounts get it.
    pub is_default: bool,
    /// Whether its permissions need a session with two factors.
    pub requires_second_factor: bool,
}

/// A change of a role. `None` keeps a member.
#[derive(Debug, Clone, Default)]
pub struct RoleChange {
    /// A new purpose.
    pub description: Option<String>,
    /// New permissions in place of the present ones.
    pub permissions: Option<BTreeSet<Permission>>,
    /// Whether new accounts get it.
    pub is_default: Option<bool>,
    /// Whether its permissions need a session with two factors.
    pub requires_second_factor: Option<bool>,
}

impl Auth {
    /// Returns a page of all roles by name, and the number of all.
    ///
    /// # Errors
    /// The database fails.
    pub async fn roles(&self, skip: i64, limit: i64) -> Result<(Vec<Role>, i64)> {
        let (roles, count) = role_change::list(&self.0.db, skip, limit).await?;
        Ok((roles.into_iter().map(Role::from).collect(), count))
    }

    /// Returns a role, and the number of accounts that have it.
    ///
    /// # Errors
    /// `role_not_found`.
    pub async fn role(&self, name: &RoleName) -> Result<(Role, i64)> {
        let (role, mut users) = role_change::find(&self.0.db, name).await?.ok_or_else(role_change::role_not_found)?;
        let role = Role::from(role);
        if role.has_everything() {
            users = role_change::count_superusers(&self.0.db).await?;
        }
        Ok((role, users))
    }

    /// Returns every permission that roles name, with these roles.
    ///
    /// # Errors
    /// The database fails.
    pub async fn permissions_in_roles(&self) -> Result<BTreeMap<String, Vec<RoleName>>> {
        let mut found: BTreeMap<String, Vec<RoleName>> = BTreeMap::new();
        for (permission, role) in role_change::named_permissions(&self.0.db).await? {
            found.entry(permission).or_default().push(role);
        }
        Ok(found)
    }

    /// Creates a role.
    ///
    /// # Errors
    /// 403 `exceeds_own_permissions`; 409 `role_exists`.
    pub async fn create_role(&self, caller: &Caller, new: NewRole, initiator: &Initiator) -> Result<Role> {
        let permissions: Vec<String> = new.permissions.iter().map(ToString::to_string).collect();
        let row = RoleRow {
            name: new.name,
            description: new.description,
            is_default: new.is_default,
            requires_second_factor: new.requires_second_factor,
            created_at: self.0.clock.now(),
        };
        let role = StoredRole { row, permissions };
        let entry = self.role_entry(initiator, "role.create", &role.row.name);
        if let Err(error) = check_holds(caller, &role.permissions) {
            return self.refused(error, entry.with_change(None, Some(state(&role)))).await;
        }
        let entry = entry.with_change(None, Some(state(&role)));
        let check = |replaced: Option<&StoredRole>| with_replaced(caller, entry.clone(), replaced);
        match role_change::insert(&self.0.db, &role, check).await {
            Ok(()) => Ok(role.into()),
            Err(error) => self.refused(error, entry).await,
        }
    }

    /// Changes a role. Callers get the new permissions with their next request.
    ///
    /// # Errors
    /// `role_not_found`; 403 `exceeds_own_permissions`; 409 `role_built_in` for the permissions of the superusers' role.
    pub async fn update_role(
        &self,
        caller: &Caller,
        name: &RoleName,
        change: RoleChange,
        initiator: &Initiator,
    ) -> Result<Role> {
        let texts = |permissions: BTreeSet<Permission>| permissions.iter().map(ToString::to_string).collect();
        let update = RoleUpdate {
            description: change.description,
            is_default: change.is_default,
            requires_second_factor: change.requires_second_factor,
            permissions: change.permissions.map(texts),
        };
        if is_superuser(name) && (update.permissions.is_some() || update.is_default == Some(true)) {
            return Err(built_in("The role 'superuser' has all permissions, and new accounts cannot get it"));
        }
        let _forget = self.0.token_cache.invalidate_all_after();
        let entry = || self.role_entry(initiator, "role.update", name);
        let check = |old: &StoredRole, new: &StoredRole, replaced: Option<&StoredRole>| {
            check_holds_role(caller, old)?;
            check_holds_role(caller, new)?;
            with_replaced(caller, entry().with_change(Some(state(old)), Some(state(new))), replaced)
        };
        match role_change::update(&self.0.db, name, &update, check).await {
            Ok(role) => Ok(role.into()),
            Err(error) => self.refused(error, entry()).await,
        }
    }

    /// Deletes a role. With `take`, takes it from the accounts that have it.
    ///
    /// # Errors
    /// `role_not_found`; 403 `exceeds_own_permissions`; 409 `role_built_in`; 409 `role_in_use` if accounts have it, or if
    /// new accounts get it.
    pub async fn delete_role(&self, caller: &Caller, name: &RoleName, take: bool, initiator: &Initiator) -> Result<()> {
        if is_built_in(name) {
            return Err(built_in("A built-in role cannot be deleted"));
        }
        let _forget = self.0.token_cache.invalidate_all_after();
        let entry = || self.role_entry(initiator, "role.delete", name);
        let check = |role: &StoredRole, users: i64, some: &[UserId]| {
            check_holds_role(caller, role)?;
            if role.row.is_default {
                let text = format!("New accounts get the role '{name}'; make another role the default first");
                return Err(Error::conflict(code::ROLE_IN_USE, text));
            }
            if users > 0 && !take {
                let text = format!("The role '{name}' is in use by {}", accounts(users));
                return Err(Error::conflict(code::ROLE_IN_USE, text));
            }
            let some: Vec<String> = some.iter().map(ToString::to_string).collect();
            let detail = json!({ "taken_from": users, "accounts": some });
            Ok(entry().with_change(Some(state(role)), None).with_detail(detail))
        };
        match role_change::delete(&self.0.db, name, check).await {
            Ok(()) => Ok(()),
            Err(error) => self.refused(error, entry()).await,
        }
    }

    /// Returns the roles of an account by name, `superuser` included.
    ///
    /// # Errors
    /// `user_not_found`.
    pub async fn roles_of(&self, id: UserId) -> Result<BTreeSet<RoleName>> {
        let user = self.user(id).await?;
        let mut roles: BTreeSet<RoleName> = role_change::roles_of(&self.0.db, id).await?.into_iter().collect();
        if user.is_superuser {
            roles.insert(superuser()?);
        }
        Ok(roles)
    }

    /// Gives an account these roles and takes its others, with effect on its next request.
    ///
    /// # Errors
    /// `user_not_found`; 422 for a role that does not exist; 403 `exceeds_own_permissions`; 403 `needs_session`; 409
    /// `last_superuser`.
    pub async fn set_roles_of(
        &self,
        caller: &Caller,
        id: UserId,
        roles: &[RoleName],
        initiator: &Initiator,
    ) -> Result<BTreeSet<RoleName>> {
        caller.require_session_for_own(id)?;
        let (superusers, others): (BTreeSet<_>, BTreeSet<_>) = roles.iter().cloned().partition(is_superuser);
        let wanted = WantedRoles { roles: others, is_superuser: !superusers.is_empty() };
        let unknown = |name: &RoleName| {
            let at = roles.iter().position(|role| role == name).unwrap_or_default();
            let at = u64::try_from(at).unwrap_or_default();
            let loc: [Loc; 3] = ["body".into(), "roles".into(), at.into()];
            Error::invalid(vec![FieldError::new("value_error", loc, format!("There is no role '{name}'"))])
        };
        let now = self.0.clock.now();
        let object = format!("user:{id}");
        let entry =
            |action: &str, role: &str| Entry::of(initiator, now, action, &object).with_detail(json!({ "role": role }));
        let check = |_: &UserRow, change: &RolesChange| {
            for role in change.given.iter().chain(&change.taken) {
                check_holds_role(caller, role)?;
            }
            if change.superuser.is_some() && !caller.is_superuser() {
                return Err(exceeds());
            }
            let given = change.given.iter().map(|role| ("role.give", role.row.name.as_str()));
            let taken = change.taken.iter().map(|role| ("role.take", role.row.name.as_str()));
            let flag = change.superuser.map(|given| (if given { "role.give" } else { "role.take" }, SUPERUSER));
            Ok(given.chain(taken).chain(flag).map(|(action, role)| entry(action, role)).collect())
        };
        let _forget = self.0.token_cache.invalidate_after(id);
        match role_change::set_roles(&self.0.db, id, &wanted, unknown, check).await {
            Ok(Some(_)) => self.roles_of(id).await,
            Ok(None) => Err(Error::not_found(code::USER_NOT_FOUND, "User not found")),
            Err(error) => {
                let names: Vec<&str> = roles.iter().map(RoleName::as_str).collect();
                let refused = Entry::of(initiator, now, "role.give", &object).with_detail(json!({ "roles": names }));
                self.refused(error, refused).await
            }
        }
    }

    fn role_entry(&self, initiator: &Initiator, action: &str, name: &RoleName) -> Entry {
        Entry::of(initiator, self.0.clock.now(), action, format!("role:{name}"))
    }

    /// Records an attempt to exceed one's own permissions, and returns the error. Other errors are not recorded.
    pub(super) async fn refused<T>(&self, error: Error, entry: Entry) -> Result<T> {
        if *error.code() == code::EXCEEDS_OWN_PERMISSIONS {
            audit::insert(&self.0.db, &entry.denied()).await?;
        }
        Err(error)
    }
}

fn is_superuser(name: &RoleName) -> bool {
    name.as_str() == SUPERUSER
}

fn is_built_in(name: &RoleName) -> bool {
    BUILT_IN.contains(&name.as_str())
}

fn superuser() -> Result<RoleName> {
    SUPERUSER.parse().map_err(Error::internal)
}

fn built_in(text: &'static str) -> Error {
    Error::conflict(code::ROLE_BUILT_IN, text)
}

fn exceeds() -> Error {
    Error::forbidden(code::EXCEEDS_OWN_PERMISSIONS, "The role has permissions that you do not hold")
}

fn accounts(count: i64) -> String {
    if count == 1 { "1 account".to_owned() } else { format!("{count} accounts") }
}

fn check_holds_role(caller: &Caller, role: &StoredRole) -> Result<()> {
    check_gives(caller, &role.row.name, &role.permissions)
}

/// Checks that the caller holds everything that a role with these permissions gives.
pub(super) fn check_gives(caller: &Caller, name: &RoleName, permissions: &[String]) -> Result<()> {
    if is_superuser(name) && !caller.is_superuser() {
        return Err(exceeds());
    }
    check_holds(caller, permissions)
}

/// Checks that the caller holds everything of the role that is no longer the default, and names it in the entry.
fn with_replaced(caller: &Caller, entry: Entry, replaced: Option<&StoredRole>) -> Result<Entry> {
    let Some(role) = replaced else { return Ok(entry) };
    check_holds_role(caller, role)?;
    Ok(entry.with_detail(json!({ "default_before": role.row.name.as_str() })))
}

/// Checks that the caller holds permissions. A text that is no permission of this version is only a superuser's.
fn check_holds(caller: &Caller, permissions: &[String]) -> Result<()> {
    if caller.is_superuser() {
        return Ok(());
    }
    let known: Option<PermissionSet> = permissions.iter().map(|text| text.parse::<Permission>().ok()).collect();
    caller.require_all(&known.ok_or_else(exceeds)?)
}

/// Returns a role for the audit log.
fn state(role: &StoredRole) -> Value {
    let StoredRole { row, permissions } = role;
    json!({
        "description": row.description,
        "permissions": permissions,
        "is_default": row.is_default,
        "requires_second_factor": row.requires_second_factor,
    })
}
