//! Import and export of accounts. Owns the SQL that adds many accounts at once and reads all of them; `auth::transfer`
//! owns the format.

use std::collections::BTreeMap;

use super::audit::{Entry, append};
use super::intake::publish;
use super::role::GIVE_DEFAULTS;
use super::user::{INSERT_UNLESS_TAKEN, NewUser, UserRow, columns, insert_with};
use super::{Db, on};
use crate::error::Result;
use crate::id::{RoleName, UserId};
use crate::message::host_event::HostEvent;

/// An account to be added.
#[derive(Debug)]
pub(crate) struct ImportedUser {
    pub(crate) user: NewUser,
    /// The roles, which must exist; `None` gives it the default roles.
    pub(crate) roles: Option<Vec<RoleName>>,
    pub(crate) entry: Entry,
}

const GIVE: &str =
    "INSERT INTO user_roles (user_id, role) SELECT $1, name FROM roles WHERE name = $2 ON CONFLICT DO NOTHING";
const TAKEN: &str = "SELECT id FROM users WHERE id = $1 OR email_key = $2 LIMIT 1";
const PAGE: &str = concat!("SELECT ", columns!(), " FROM users WHERE id > $1 ORDER BY id LIMIT $2");
const ROLES: &str = "SELECT user_id, role FROM user_roles WHERE user_id > $1 AND user_id <= $2 ORDER BY user_id, role";

/// Adds accounts in one transaction, each with its roles and its audit entry. Skips each one whose address or id
/// another account has. Returns whether each one was added, in order.
pub(crate) async fn insert_all(db: &Db, imported: &[ImportedUser]) -> Result<Vec<bool>> {
    let mut added = Vec::with_capacity(imported.len());
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        for ImportedUser { user, roles, entry } in imported {
            let done = insert_with(INSERT_UNLESS_TAKEN, user).execute(&mut *tx).await?;
            added.push(done.rows_affected() > 0);
            if done.rows_affected() == 0 {
                continue;
            }
            match roles {
                None => {
                    sqlx::query(GIVE_DEFAULTS).bind(user.id).execute(&mut *tx).await?;
                }
                Some(roles) => {
                    for role in roles {
                        sqlx::query(GIVE).bind(user.id).bind(role.as_str()).execute(&mut *tx).await?;
                    }
                }
            }
            append!(entry).execute(&mut *tx).await?;
        }
        for (ImportedUser { user, entry, .. }, _) in imported.iter().zip(&added).filter(|(_, added)| **added) {
            publish!(db, tx, entry.cause(), HostEvent::UserCreated { id: user.id });
        }
        tx.commit().await?;
    });
    Ok(added)
}

/// Returns whether an account has the address or the id of each of these, in order.
pub(crate) async fn are_taken(db: &Db, imported: &[ImportedUser]) -> Result<Vec<bool>> {
    let mut taken = Vec::with_capacity(imported.len());
    on!(db, pool => {
        for ImportedUser { user, .. } in imported {
            let found = sqlx::query_scalar::<_, UserId>(TAKEN)
                .bind(user.id)
                .bind(user.email.key().as_str().to_owned())
                .fetch_optional(pool)
                .await?;
            taken.push(found.is_some());
        }
    });
    Ok(taken)
}

/// Returns the accounts after `last` in the order of their ids, each with its roles.
pub(crate) async fn page(db: &Db, last: UserId, limit: i64) -> Result<Vec<(UserRow, Vec<String>)>> {
    let users = on!(db, pool => {
        sqlx::query_as::<_, UserRow>(PAGE).bind(last).bind(limit).fetch_all(pool).await
    })?;
    let Some(end) = users.last().map(|user| user.id) else { return Ok(Vec::new()) };
    let rows = on!(db, pool => {
        sqlx::query_as::<_, (UserId, String)>(ROLES).bind(last).bind(end).fetch_all(pool).await
    })?;
    let mut roles = BTreeMap::<_, Vec<String>>::new();
    for (user, role) in rows {
        roles.entry(user.0).or_default().push(role);
    }
    let with_roles = |user: UserRow| {
        let roles = roles.remove(&user.id.0).unwrap_or_default();
        (user, roles)
    };
    Ok(users.into_iter().map(with_roles).collect())
}

/// Returns the names of all roles.
pub(crate) async fn role_names(db: &Db) -> Result<Vec<String>> {
    Ok(on!(db, pool => sqlx::query_scalar::<_, String>("SELECT name FROM roles ORDER BY name").fetch_all(pool).await)?)
}
