//! Invited accounts: accounts without a password that are added with their roles. Owns no table of its own.

use super::audit::{Entry, append};
use super::email::{NewMail, enqueue};
use super::intake::publish;
use super::role::GIVE_DEFAULTS;
use super::row::row;
use super::user::{INSERT, NewUser, insert_with, refused};
use super::{Db, on};
use crate::error::Result;
use crate::id::RoleName;
use crate::message::host_event::HostEvent;

row! {
    /// A permission of a role, or none.
    #[derive(Debug)]
    struct PermissionRow {
        permission: Option<String>,
    }
}

/// Returns the permissions of a role, as stored. `None` means that there is no such role.
pub(crate) async fn permissions(db: &Db, role: &RoleName) -> Result<Option<Vec<String>>> {
    const SQL: &str = "SELECT role_permissions.permission FROM roles \
        LEFT JOIN role_permissions ON role_permissions.role = roles.name WHERE roles.name = $1";
    let rows = on!(db, pool => sqlx::query_as::<_, PermissionRow>(SQL).bind(role.clone()).fetch_all(pool).await)?;
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(rows.into_iter().filter_map(|row| row.permission).collect()))
}

/// Adds an account with the default roles and these, and queues the mail for it: all or nothing. A role that was deleted
/// meanwhile is left out. `check` gets a role with its permissions as stored, because they can have changed since an
/// earlier check.
///
/// # Errors
/// The address is taken (`email_taken`); `mail_queue_full`; the error of `check`.
pub(crate) async fn insert(
    db: &Db,
    user: &NewUser,
    roles: &[RoleName],
    check: impl Fn(&RoleName, &[String]) -> Result<()>,
    mail: &NewMail,
    entry: &Entry,
) -> Result<()> {
    const PERMISSIONS: &str = "SELECT permission FROM role_permissions WHERE role = $1";
    const GIVE: &str = "INSERT INTO user_roles (user_id, role) SELECT $1, name FROM roles WHERE name = $2 \
        ON CONFLICT (user_id, role) DO NOTHING";
    // By name, so that concurrent changes lock roles in the same order. The default roles are among them.
    let sharing = db.dialect("SELECT name FROM roles", "SELECT name FROM roles ORDER BY name FOR SHARE");
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        if !roles.is_empty() {
            sqlx::query_scalar::<_, RoleName>(sharing).fetch_all(&mut *tx).await?;
        }
        for role in roles {
            let stored = sqlx::query_scalar::<_, String>(PERMISSIONS).bind(role.clone()).fetch_all(&mut *tx).await?;
            check(role, &stored)?;
        }
        insert_with(INSERT, user).execute(&mut *tx).await.map_err(refused)?;
        sqlx::query(GIVE_DEFAULTS).bind(user.id).execute(&mut *tx).await?;
        for role in roles {
            sqlx::query(GIVE).bind(user.id).bind(role.clone()).execute(&mut *tx).await?;
        }
        enqueue!(&mut *tx, mail);
        append!(entry).execute(&mut *tx).await?;
        publish!(db, tx, entry.cause(), HostEvent::UserCreated { id: user.id });
        tx.commit().await?;
    });
    Ok(())
}

/// Queues another mail for an invited account.
///
/// # Errors
/// `mail_queue_full`.
pub(crate) async fn repeat(db: &Db, mail: &NewMail, entry: &Entry) -> Result<()> {
    on!(db, pool, begin => {
        let mut tx = pool.begin_with(begin).await?;
        enqueue!(&mut *tx, mail);
        append!(entry).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    Ok(())
}
