//! Roles, and the roles of accounts. A role groups permissions of the host and of plugins.
//!
//! `auth::role_change` owns the rules of a change. This file reads the input: a new permission of a role must be declared
//! by the host or a plugin, or be named by a role already.

use std::collections::BTreeSet;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pagination::Page;
use super::partial_update::Change;
use super::permissions::DeclaredPermissions;
use crate::auth::{NewRole, Role, RoleChange};
use crate::clock::Timestamp;
use crate::error::{Error, FieldError, Findings, Loc, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Message, Reply};
use crate::id::{RoleName, UserId};
use crate::permission::{HostPermission, Permission};

const TAG: &str = "roles";

/// Returns the routes of roles.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/roles/", read_roles)
            .permission(HostPermission::RolesRead)
            .named(TAG, "read_roles", "Read Roles")
            .described("Lists all roles by name.")
            .query::<Page>()
            .replies::<RolesPublic>(),
        HostRoute::post("/api/v1/roles/", create_role)
            .permission(HostPermission::RolesWrite)
            .named(TAG, "create_role", "Create Role")
            .described("Creates a role. Its permissions must be the caller's own.")
            .json::<RoleCreate>()
            .replies::<RolePublic>(),
        HostRoute::get("/api/v1/roles/{name}", read_role)
            .permission(HostPermission::RolesRead)
            .named(TAG, "read_role", "Read Role")
            .described("Returns a role, with the number of accounts that have it.")
            .path::<RoleName>("name")
            .replies::<RoleDetail>(),
        HostRoute::patch("/api/v1/roles/{name}", update_role)
            .permission(HostPermission::RolesWrite)
            .named(TAG, "update_role", "Update Role")
            .described(
                "Changes a role, with effect on the next requests of the accounts that have it. Absent members keep their \
                 values. The permissions before and after the change must be the caller's own.",
            )
            .path::<RoleName>("name")
            .json::<RoleUpdate>()
            .replies::<RolePublic>(),
        HostRoute::delete("/api/v1/roles/{name}", delete_role)
            .permission(HostPermission::RolesWrite)
            .named(TAG, "delete_role", "Delete Role")
            .described(
                "Deletes a role. If accounts have it, it is refused with `role_in_use`, unless `take` is true: then the \
                 role is taken from them.",
            )
            .path::<RoleName>("name")
            .query::<DeleteQuery>()
            .replies::<Message>(),
        HostRoute::get("/api/v1/users/me/roles", read_roles_me)
            .named(TAG, "read_roles_me", "Read Roles Me")
            .described("Returns the roles and the permissions of the caller, as they count for this request.")
            .replies::<OwnRoles>(),
        HostRoute::get("/api/v1/users/{user_id}/roles", read_roles_of_user)
            .permission(HostPermission::RolesRead)
            .named(TAG, "read_roles_of_user", "Read Roles Of User")
            .path::<UserId>("user_id")
            .replies::<AccountRoles>(),
        HostRoute::put("/api/v1/users/{user_id}/roles", set_roles_of_user)
            .permission(HostPermission::RolesWrite)
            .named(TAG, "set_roles_of_user", "Set Roles Of User")
            .described(
                "Gives an account these roles and takes its others, with effect on its next request. The permissions of \
                 each role that is given or taken must be the caller's own.",
            )
            .path::<UserId>("user_id")
            .json::<AccountRoles>()
            .replies::<AccountRoles>(),
    ]
}

/// A role.
#[derive(Serialize, JsonSchema)]
struct RolePublic {
    name: RoleName,
    description: String,
    /// The permissions by name, such as `plugins:deploy` or `items:read-all`.
    permissions: Vec<String>,
    /// Whether it has every permission, also those that are not listed: the role `superuser`.
    has_all_permissions: bool,
    /// Whether it always exists.
    is_built_in: bool,
    /// Whether new accounts get it. At most one role is the default.
    is_default: bool,
    /// Whether its permissions count only in a session with two factors.
    requires_second_factor: bool,
    created_at: Timestamp,
}

impl From<Role> for RolePublic {
    fn from(role: Role) -> Self {
        Self {
            has_all_permissions: role.has_everything(),
            is_built_in: role.is_built_in(),
            name: role.name,
            description: role.description,
            permissions: role.permissions,
            is_default: role.is_default,
            requires_second_factor: role.requires_second_factor,
            created_at: role.created_at,
        }
    }
}

/// A role with its details.
#[derive(Serialize, JsonSchema)]
struct RoleDetail {
    #[serde(flatten)]
    role: RolePublic,
    /// The number of accounts that have it.
    users: i64,
}

#[derive(Serialize, JsonSchema)]
struct RolesPublic {
    data: Vec<RolePublic>,
    /// The number of roles before pagination.
    count: i64,
}

#[derive(Deserialize, JsonSchema)]
struct RoleCreate {
    name: RoleName,
    #[serde(default)]
    #[schemars(length(max = 255))]
    description: String,
    /// Permissions such as `plugins:deploy` or `items:read-all`.
    #[serde(default)]
    #[schemars(length(max = 500), inner(length(max = 100)))]
    permissions: Vec<String>,
    /// Whether new accounts get it. The role that was the default before is it no longer.
    #[serde(default)]
    is_default: bool,
    /// Whether its permissions count only in a session with two factors.
    #[serde(default)]
    requires_second_factor: bool,
}

#[derive(Deserialize, JsonSchema)]
struct RoleUpdate {
    #[serde(default)]
    #[schemars(length(max = 255))]
    description: Change<String>,
    /// All permissions of the role after the change.
    #[serde(default)]
    #[schemars(length(max = 500), inner(length(max = 100)))]
    permissions: Change<Vec<String>>,
    #[serde(default)]
    is_default: Change<bool>,
    #[serde(default)]
    requires_second_factor: Change<bool>,
}

#[derive(Deserialize, JsonSchema)]
struct DeleteQuery {
    /// Takes the role from the accounts that have it.
    #[serde(default)]
    take: bool,
}

/// The roles of an account.
#[derive(Serialize, Deserialize, JsonSchema)]
struct AccountRoles {
    #[schemars(length(max = 100))]
    roles: Vec<RoleName>,
}

/// The roles and permissions of the caller.
#[derive(Serialize, JsonSchema)]
struct OwnRoles {
    roles: Vec<RoleName>,
    /// The permissions that count for this request, by name.
    permissions: Vec<String>,
    /// Whether a role withholds its permissions until the caller signs in with a second factor.
    withheld: bool,
}

async fn read_roles(host: Arc<Host>, call: Call) -> Result<Reply> {
    let page: Page = call.query()?;
    let (roles, count) = host.auth.roles(page.skip, page.limit).await?;
    Reply::json(&RolesPublic { data: roles.into_iter().map(RolePublic::from).collect(), count })
}

async fn read_role(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (role, users) = host.auth.role(&call.path("name")?).await?;
    Reply::json(&RoleDetail { role: role.into(), users })
}

async fn create_role(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: RoleCreate = call.json()?;
    let role = NewRole {
        name: body.name,
        description: body.description,
        permissions: permissions(&host, &body.permissions).await?,
        is_default: body.is_default,
        requires_second_factor: body.requires_second_factor,
    };
    // Otherwise a stolen token could give permissions to new accounts by a new default role.
    host.auth.require_step_up(call.caller()?)?;
    let role = host.auth.create_role(call.caller()?, role, &call.initiator()).await?;
    Reply::json(&RolePublic::from(role))
}

async fn update_role(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let body: RoleUpdate = call.json()?;
    let change = RoleChange {
        description: body.description.into_option(),
        permissions: match body.permissions.into_option() {
            Some(texts) => Some(permissions(&host, &texts).await?),
            None => None,
        },
        is_default: body.is_default.into_option(),
        requires_second_factor: body.requires_second_factor.into_option(),
    };
    let name: RoleName = call.path("name")?;
    host.auth.require_step_up(call.caller()?)?;
    let role = host.auth.update_role(call.caller()?, &name, change, &call.initiator()).await?;
    Reply::json(&RolePublic::from(role))
}

async fn delete_role(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (name, query): (RoleName, DeleteQuery) = (call.path("name")?, call.query()?);
    host.auth.require_step_up(call.caller()?)?;
    host.auth.delete_role(call.caller()?, &name, query.take, &call.initiator()).await?;
    Reply::message(&format!("Role '{name}' deleted"))
}

async fn read_roles_me(host: Arc<Host>, call: Call) -> Result<Reply> {
    let caller = call.caller()?;
    let declared = DeclaredPermissions::of(&host);
    let holds = |name: &&str| name.parse().is_ok_and(|permission: Permission| caller.permissions.contains(&permission));
    let permissions = declared.names().filter(holds).map(str::to_owned).collect();
    Reply::json(&OwnRoles { roles: caller.roles.clone(), permissions, withheld: caller.withheld })
}

async fn read_roles_of_user(host: Arc<Host>, call: Call) -> Result<Reply> {
    let roles = host.auth.roles_of(call.path("user_id")?).await?;
    Reply::json(&AccountRoles { roles: roles.into_iter().collect() })
}

async fn set_roles_of_user(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    let (id, body): (UserId, AccountRoles) = (call.path("user_id")?, call.json()?);
    host.auth.require_step_up(call.caller()?)?;
    let roles = host.auth.set_roles_of(call.caller()?, id, &body.roles, &call.initiator()).await?;
    Reply::json(&AccountRoles { roles: roles.into_iter().collect() })
}

/// Reads the permissions of a role. Each must be declared, or be named by a role already.
///
/// # Errors
/// A finding for each of the others.
async fn permissions(host: &Host, texts: &[String]) -> Result<BTreeSet<Permission>> {
    let declared = DeclaredPermissions::of(host);
    let named = host.auth.permissions_in_roles().await?;
    let mut read = BTreeSet::new();
    let mut findings = Findings::default();
    for (index, text) in (0_u64..).zip(texts) {
        match text.parse::<Permission>() {
            Ok(permission) if declared.contains(&permission) || named.contains_key(text) => {
                read.insert(permission);
            }
            refused => {
                let reason = match refused {
                    Ok(_) => "No plugin declares this permission now".to_owned(),
                    Err(error) => format!("Not a permission: {error}"),
                };
                let loc: [Loc; 3] = ["body".into(), "permissions".into(), index.into()];
                findings.push(FieldError::new("value_error", loc, reason));
            }
        }
    }
    if findings.is_empty() { Ok(read) } else { Err(Error::invalid(findings)) }
}
