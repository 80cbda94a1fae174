//! Changes of roles. Owns the SQL that creates, changes and deletes roles, and that gives and takes them.
//!
//! Whether the caller may make a change depends on the roles as they are, so the check runs inside the transaction, on
//! the locked rows. Locks are taken in one order: active superusers, the account, the turn to change the default role,
//! roles by name. Each change appends its audit entries in its own transaction.

use std::collections::BTreeSet;

use super::audit::{Entry, append};
use super::intake::publish;
use super::row::row;
use super::user::{self, UserRow};
use super::{Db, is_duplicate, on};
use crate::clock::Timestamp;
use crate::error::{Error, Result, code};
use crate::id::{RoleName, UserId};
use crate::message::host_event::HostEvent;

row! {
    /// One role.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct RoleRow {
        pub(crate) name: RoleName,
        pub(crate) description: String,
        pub(crate) is_default: bool,
        pub(crate) requires_second_factor: bool,
        pub(crate) created_at: Timestamp,
    }
}

/// A role with its permissions as stored, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRole {
    pub(crate) row: RoleRow,
    pub(crate) permissions: Vec<String>,
}

/// A change of a role; `None` keeps a member.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoleUpdate {
    pub(crate) description: Option<String>,
    pub(crate) is_default: Option<bool>,
    pub(crate) requires_second_factor: Option<bool>,
    pub(crate) permissions: Option<Vec<String>>,
}

/// A change of the roles of one account.
#[derive(Debug, Clone, Default)]
pub(crate) struct RolesChange {
    pub(crate) given: Vec<StoredRole>,
    pub(crate) taken: Vec<StoredRole>,
    /// Whether the account becomes a superuser, or is one no longer.
    pub(crate) superuser: Option<bool>,
}

impl RolesChange {
    /// Returns whether nothing changes.
    fn is_empty(&self) -> bool {
        self.given.is_empty() && self.taken.is_empty() && self.superuser.is_none()
    }
}

const SELECT: &str = "SELECT name, description, is_default, requires_second_factor, created_at FROM roles \
    WHERE name = $1";
const SELECT_LOCKED: &str = "SELECT name, description, is_default, requires_second_factor, created_at FROM roles \
    WHERE name = $1 FOR UPDATE";
const SELECT_SHARED: &str = "SELECT name, description, is_default, requires_second_factor, created_at FROM roles \
    WHERE name = $1 FOR SHARE";
const LIST: &str = "SELECT name, description, is_default, requires_second_factor, created_at FROM roles \
    ORDER BY name LIMIT $1 OFFSET $2";
const LIST_PERMISSIONS: &str = "SELECT role, permission FROM role_permissions \
    WHERE role IN (SELECT name FROM roles ORDER BY name LIMIT $1 OFFSET $2) ORDER BY role, permission";
const PERMISSIONS: &str = "SELECT permission FROM role_permissions WHERE role = $1 ORDER BY permission";
const INSERT: &str = "INSERT INTO roles (name, description, is_default, requires_second_factor, created_at) \
    VALUES ($1, $2, $3, $4, $5)";
const INSERT_PERMISSION: &str = "INSERT INTO role_permissions (role, permission) VALUES ($1, $2)";
const DELETE_PERMISSIONS: &str = "DELETE FROM role_permissions WHERE role = $1";
const OTHER_DEFAULT: &str = "SELECT name FROM roles WHERE is_default AND name <> $1";
const THESE: &str = "SELECT name FROM roles WHERE name = $1 OR name = $2 ORDER BY name";
const THESE_LOCKED: &str = "SELECT name FROM roles WHERE name = $1 OR name = $2 ORDER BY name FOR UPDATE";
/// SQLite has one writer.
const DEFAULT_TURN: &str = "SELECT 1";
/// Without a default role, there is no row to lock.
const DEFAULT_TURN_LOCKED: &str = "SELECT 1 FROM pg_advisory_xact_lock(hashtext('wharf:default-role'))";
const NO_DEFAULT: &str = "UPDATE roles SET is_default = FALSE WHERE is_default AND name <> $1";
const UPDATE: &str = "UPDATE roles SET description = $2, is_default = $3, requires_second_factor = $4 WHERE name = $1";
const END_RESET_TOKENS_OF_ROLE: &str =
    "DELETE FROM reset_tokens WHERE user_id IN (SELECT user_id FROM user_roles WHERE role = $1)";
const COUNT_USERS: &str = "SELECT COUNT(*) FROM user_roles WHERE role = $1";
/// As many as an audit entry names.
const SOME_USERS: &str = "SELECT user_id FROM user_roles WHERE role = $1 ORDER BY user_id LIMIT 100";
const GIVE: &str = "INSERT INTO user_roles (user_id, role) VALUES ($1, $2)";
const TAKE: &str = "DELETE FROM user_roles WHERE user_id = $1 AND role = $2";
const TAKE_ALL: &str = "DELETE FROM user_roles WHERE role = $1";
const OF_USER: &str = "SELECT role FROM user_roles WHERE user_id = $1 ORDER BY role";
const SET_SUPERUSER: &str = "UPDATE users SET is_superuser = $2 WHERE id = $1";

fn locking(db: &Db) -> &'static str {
    db.dialect(SELECT, SELECT_LOCKED)
}

pub(crate) fn role_not_found() -> Error {
    Error::not_found(code::ROLE_NOT_FOUND, "Role not found")
}

/// Reads a role inside a transaction, with its permissions. `$sql` may lock it.
macro_rules! read {
    ($tx:expr, $sql:expr, $name:expr) => {{
        let row = sqlx::query_as::<_, RoleRow>($sql).bind($name.clone()).fetch_optional(&mut *$tx).await?;
        match row {
            Some(row) => {
                let permissions = sqlx::query_scalar::<_, String>(PERMISSIONS).bind($name.clone());
                Some(StoredRole { row, permissions: permissions.fetch_all(&mut *$tx).await? })
            }
            None => None,
        }
    }};
}

/// Locks a role that becomes the default, together with the present default, which it returns with its permissions.
macro_rules! lock_defaults {
    ($tx:expr, $db:expr, $name:expr) => {{
        let (turn, these) = ($db.dialect(DEFAULT_TURN, DEFAULT_TURN_LOCKED), $db.dialect(THESE, THESE_LOCKED));
        sqlx::query(turn).execute(&mut *$tx).await?;
        let other = sqlx::query_scalar::<_, RoleName>(OTHER_DEFAULT).bind($name.clone());
        match other.fetch_optional(&mut *$tx).await? {
            Some(other) => {
                let both = sqlx::query_scalar::<_, RoleName>(these).bind($name.clone()).bind(other.clone());
                both.fetch_all(&mut *$tx).await?;
                read!($tx, SELECT, other).filter(|role| role.row.is_default)
            }
            None => None,
        }
    }};
}

/// Returns a page of all roles by name, and the number of all.
pub(crate) async fn list(db: &Db, skip: i64, limit: i64) -> Result<(Vec<StoredRole>, i64)> {
    on!(db, pool => {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM roles").fetch_one(pool).await?;
        let rows = sqlx::query_as::<_, RoleRow>(LIST).bind(limit).bind(skip).fetch_all(pool).await?;
        let permissions: Vec<(RoleName, String)> =
            sqlx::query_as(LIST_PERMISSIONS).bind(limit).bind(skip).fetch_all(pool).await?;
        let mut roles: Vec<StoredRole> =
            rows.into_iter().map(|row| StoredRole { row, permissions: Vec::new() }).collect();
        let mut at = 0;
        // Both lists have the order of the names.
        for (role, permission) in permissions {
            while roles.get(at).is_some_and(|stored| stored.row.name != role) {
                at += 1;
            }
            let Some(stored) = roles.get_mut(at) else { break };
            stored.permissions.push(permission);
        }
        Ok((roles, count))
    })
}

/// Returns a role, and the number of accounts that have it.
pub(crate) async fn find(db: &Db, name: &RoleName) -> Result<Option<(StoredRole, i64)>> {
    on!(db, pool => {
        let mut tx = pool.begin_with("BEGIN").await?;
        let Some(role) = read!(tx, SELECT, name) else { return Ok(None) };
        let users: i64 = sqlx::query_scalar(COUNT_USERS).bind(name.clone()).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(Some((role, users)))
    })
}

/// Returns the number of superusers.
pub(crate) async fn count_superusers(db: &Db) -> Result<i64> {
    const SQL: &str = "SELECT COUNT(*) FROM users WHERE is_superuser";
    Ok(on!(db, pool => sqlx::query_scalar::<_, i64>(SQL).fetch_one(pool).await)?)
}

/// Returns every permission that a role names, with the role, by permission.
pub(crate) async fn named_permissions(db: &Db) -> Result<Vec<(String, RoleName)>> {
    const SQL: &str = "SELECT permission, role FROM role_permissions ORDER BY permission, role";
    Ok(on!(db, pool => sqlx::query_as::<_, (String, RoleName)>(SQL).fetch_all(pool).await)?)
}

/// Adds a role. `check` gets the role that is no longer the default then, and returns the audit entry.
///
/// # Errors
/// 409 `role_exists`; the error of `check`.
pub(crate) async fn insert(
    db: &Db,
    role: &StoredRole,
    check: impl Fn(Option<&StoredRole>) -> Result<Entry>,
) -> Result<()> {
    let RoleRow { name, description, is_default, requires_second_factor, created_at } = &role.row;
    let refused = |error: sqlx::Error| match is_duplicate(&error) {
        true => Error::conflict(code::ROLE_EXISTS, format!("There is a role '{name}' already")).with_source(error),
        false => error.into(),
    };
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let replaced = if *is_default { lock_defaults!(tx, db, name) } else { None };
        let entry = check(replaced.as_ref())?;
        if *is_default {
            sqlx::query(NO_DEFAULT).bind(name.clone()).execute(&mut *tx).await?;
        }
        sqlx::query(INSERT)
            .bind(name.clone())
            .bind(description.as_str())
            .bind(*is_default)
            .bind(*requires_second_factor)
            .bind(*created_at)
            .execute(&mut *tx)
            .await
            .map_err(refused)?;
        for permission in &role.permissions {
            sqlx::query(INSERT_PERMISSION).bind(name.clone()).bind(permission.as_str()).execute(&mut *tx).await?;
        }
        append!(&entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(())
}

/// Changes a role. `check` gets the role as it is and as it will be, and the role that is no longer the default then.
/// It returns the audit entry.
///
/// # Errors
/// `role_not_found`; the error of `check`.
pub(crate) async fn update(
    db: &Db,
    name: &RoleName,
    update: &RoleUpdate,
    check: impl Fn(&StoredRole, &StoredRole, Option<&StoredRole>) -> Result<Entry>,
) -> Result<StoredRole> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let replaced = if update.is_default == Some(true) { lock_defaults!(tx, db, name) } else { None };
        let old = read!(tx, locking(db), name).ok_or_else(role_not_found)?;
        let new = changed(&old, update);
        let entry = check(&old, &new, replaced.as_ref())?;
        if new == old {
            return Ok(old);
        }
        if replaced.is_some() {
            sqlx::query(NO_DEFAULT).bind(name.clone()).execute(&mut *tx).await?;
        }
        sqlx::query(UPDATE)
            .bind(name.clone())
            .bind(new.row.description.as_str())
            .bind(new.row.is_default)
            .bind(new.row.requires_second_factor)
            .execute(&mut *tx)
            .await?;
        if new.permissions != old.permissions {
            sqlx::query(DELETE_PERMISSIONS).bind(name.clone()).execute(&mut *tx).await?;
            for permission in &new.permissions {
                sqlx::query(INSERT_PERMISSION).bind(name.clone()).bind(permission.as_str()).execute(&mut *tx).await?;
            }
            sqlx::query(END_RESET_TOKENS_OF_ROLE).bind(name.clone()).execute(&mut *tx).await?;
        }
        append!(&entry).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(new)
    })
}

fn changed(old: &StoredRole, update: &RoleUpdate) -> StoredRole {
    let row = RoleRow {
        description: update.description.clone().unwrap_or_else(|| old.row.description.clone()),
        is_default: update.is_default.unwrap_or(old.row.is_default),
        requires_second_factor: update.requires_second_factor.unwrap_or(old.row.requires_second_factor),
        ..old.row.clone()
    };
    StoredRole { row, permissions: update.permissions.clone().unwrap_or_else(|| old.permissions.clone()) }
}

/// Deletes a role. `check` gets the role, the number of accounts that have it and up to 100 of them, and returns the
/// audit entry. The role is taken from these accounts.
///
/// # Errors
/// `role_not_found`; the error of `check`.
pub(crate) async fn delete(
    db: &Db,
    name: &RoleName,
    check: impl Fn(&StoredRole, i64, &[UserId]) -> Result<Entry>,
) -> Result<()> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let role = read!(tx, locking(db), name).ok_or_else(role_not_found)?;
        let users: i64 = sqlx::query_scalar(COUNT_USERS).bind(name.clone()).fetch_one(&mut *tx).await?;
        let some: Vec<UserId> = sqlx::query_scalar(SOME_USERS).bind(name.clone()).fetch_all(&mut *tx).await?;
        let entry = check(&role, users, &some)?;
        sqlx::query(TAKE_ALL).bind(name.clone()).execute(&mut *tx).await?;
        sqlx::query(DELETE_PERMISSIONS).bind(name.clone()).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM roles WHERE name = $1").bind(name.clone()).execute(&mut *tx).await?;
        append!(&entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(())
}

/// The roles that an account gets in place of its present ones. The built-in role `superuser` is the flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct WantedRoles {
    /// Each once, by name, so that concurrent changes lock roles in the same order.
    pub(crate) roles: BTreeSet<RoleName>,
    pub(crate) is_superuser: bool,
}

/// Gives an account these roles and takes its others. `check` gets the difference, and returns the audit entries. Returns
/// the account; `None` means that it does not exist.
///
/// # Errors
/// `last_superuser`; the error of `unknown` for a role that does not exist; the error of `check`.
pub(crate) async fn set_roles(
    db: &Db,
    id: UserId,
    wanted: &WantedRoles,
    unknown: impl Fn(&RoleName) -> Error,
    check: impl Fn(&UserRow, &RolesChange) -> Result<Vec<Entry>>,
) -> Result<Option<UserRow>> {
    let superusers = user::superusers(db);
    let shared = db.dialect(SELECT, SELECT_SHARED);
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        let is_last =
            !wanted.is_superuser && sqlx::query_scalar::<_, UserId>(superusers).fetch_all(&mut *tx).await? == [id];
        let account = sqlx::query_as::<_, UserRow>(user::locking(db)).bind(id).fetch_optional(&mut *tx).await?;
        let Some(mut account) = account else { return Ok(None) };
        let present: Vec<RoleName> = sqlx::query_scalar(OF_USER).bind(id).fetch_all(&mut *tx).await?;
        let mut change = RolesChange::default();
        for name in wanted.roles.iter().filter(|name| !present.contains(name)) {
            change.given.push(read!(tx, shared, name).ok_or_else(|| unknown(name))?);
        }
        for name in present.iter().filter(|name| !wanted.roles.contains(name)) {
            change.taken.extend(read!(tx, SELECT, name));
        }
        change.superuser = (account.is_superuser != wanted.is_superuser).then_some(wanted.is_superuser);
        let entries = check(&account, &change)?;
        if is_last {
            return Err(user::last_superuser());
        }
        for role in &change.taken {
            sqlx::query(TAKE).bind(id).bind(role.row.name.clone()).execute(&mut *tx).await?;
        }
        for role in &change.given {
            sqlx::query(GIVE).bind(id).bind(role.row.name.clone()).execute(&mut *tx).await?;
        }
        if let Some(is_superuser) = change.superuser {
            sqlx::query(SET_SUPERUSER).bind(id).bind(is_superuser).execute(&mut *tx).await?;
            account.is_superuser = is_superuser;
        }
        // A link that somebody got for an account with fewer permissions must not open it afterwards.
        if !change.given.is_empty() || change.superuser == Some(true) {
            sqlx::query(user::END_RESET_TOKENS).bind(id).execute(&mut *tx).await?;
        }
        for entry in &entries {
            append!(entry).execute(&mut *tx).await?;
        }
        if let Some(entry) = entries.first().filter(|_| !change.is_empty()) {
            publish!(db, tx, entry.cause(), HostEvent::UserUpdated { id });
        }
        tx.commit().await?;
        Ok(Some(account))
    })
}

/// Returns the roles of an account by name, without the flag of a superuser.
pub(crate) async fn roles_of(db: &Db, id: UserId) -> Result<Vec<RoleName>> {
    Ok(on!(db, pool => sqlx::query_scalar::<_, RoleName>(OF_USER).bind(id).fetch_all(pool).await)?)
}
