//! The directory of accounts as plugins see it: id, name, address, whether the account is active, and whether it may do
//! everything. Also the account that a mail of a plugin goes to, which the plugin does not see. Only reads.

use std::collections::BTreeSet;

use super::row::row;
use super::{Db, on};
use crate::address::AddressKey;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::UserId;

row! {
    /// An account without its secrets and roles.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct DirectoryUser {
        /// The id.
        pub id: UserId,
        /// The display name.
        pub full_name: Option<String>,
        /// The address as given.
        pub email: String,
        /// Whether the account is active.
        pub is_active: bool,
        /// Whether it may do everything.
        pub is_superuser: bool,
    }
}

row! {
    /// An account that a mail goes to.
    #[derive(Debug)]
    pub(crate) struct Recipient {
        /// The address as given.
        pub(crate) email: String,
        /// Whether the account is active.
        pub(crate) is_active: bool,
        /// When the owner proved that they read the mail of the address, or an operator vouched for it.
        pub(crate) email_verified_at: Option<Timestamp>,
    }
}

/// Returns the account that a mail goes to, if there is one.
///
/// # Errors
/// The database fails.
pub(crate) async fn recipient(db: &Db, id: UserId) -> Result<Option<Recipient>> {
    const SQL: &str = "SELECT email, is_active, email_verified_at FROM users WHERE id = $1";
    Ok(on!(db, pool => sqlx::query_as::<_, Recipient>(SQL).bind(id).fetch_optional(pool).await)?)
}

/// Returns the accounts with these ids, in the order of the ids. The caller limits their number.
///
/// # Errors
/// The database fails.
pub async fn find(db: &Db, ids: &BTreeSet<UserId>) -> Result<Vec<DirectoryUser>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    on!(db, pool => {
        let mut query = sqlx::QueryBuilder::new("SELECT id, full_name, email, is_active, is_superuser FROM users WHERE id IN (");
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(*id);
        }
        query.push(") ORDER BY id");
        Ok(query.build_query_as::<DirectoryUser>().fetch_all(pool).await?)
    })
}

/// Returns the account with this key, if there is one.
///
/// # Errors
/// The database fails.
pub async fn find_by_key(db: &Db, key: &AddressKey) -> Result<Vec<DirectoryUser>> {
    const SQL: &str = "SELECT id, full_name, email, is_active, is_superuser FROM users WHERE email_key = $1";
    Ok(on!(db, pool => sqlx::query_as::<_, DirectoryUser>(SQL).bind(key.as_str()).fetch_all(pool).await)?)
}

/// Returns the accounts with the lowest ids that are greater than `after`.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db, after: UserId, limit: usize) -> Result<Vec<DirectoryUser>> {
    const SQL: &str =
        "SELECT id, full_name, email, is_active, is_superuser FROM users WHERE id > $1 ORDER BY id LIMIT $2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(on!(db, pool => sqlx::query_as::<_, DirectoryUser>(SQL).bind(after).bind(limit).fetch_all(pool).await)?)
}
