//! The directory of a test: the accounts that it added.

use super::state::with;
use crate::bindings::imports::wharf::users::directory::{Error, User};

/// As in the host.
const MAX_USERS: usize = 100;

pub(crate) fn find(ids: &[String]) -> Result<Vec<User>, Error> {
    if ids.len() > MAX_USERS {
        return Err(Error::Invalid(format!("ids: at most {MAX_USERS}")));
    }
    Ok(with(|host| host.users.values().filter(|user| ids.contains(&user.id)).cloned().collect()))
}

#[allow(clippy::unnecessary_wraps, reason = "the host can fail")]
pub(crate) fn find_by_email(email: &str) -> Result<Option<User>, Error> {
    Ok(with(|host| host.users.values().find(|user| user.email.eq_ignore_ascii_case(email)).cloned()))
}

pub(crate) fn list_users(after: Option<&str>, limit: u32) -> Result<Vec<User>, Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if !(1..=MAX_USERS).contains(&limit) {
        return Err(Error::Invalid(format!("limit: 1 to {MAX_USERS}")));
    }
    let is_behind = |user: &&User| after.is_none_or(|after| user.id.as_str() > after);
    Ok(with(|host| host.users.values().filter(is_behind).take(limit).cloned().collect()))
}
