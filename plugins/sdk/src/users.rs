//! The directory of the host's accounts: id, name, address and state. It needs the grant `users`, because it reveals all
//! accounts.
//!
//! ```
//! use wharf_sdk::users;
//!
//! fn greeting(address: &str) -> wharf_sdk::Result<String> {
//!     let user = users::find_by_email(address)?;
//!     let name = user.and_then(|user| user.name).unwrap_or_else(|| "somebody".to_owned());
//!     Ok(format!("Hello {name}"))
//! }
//! assert_eq!(greeting("nobody@example.com").unwrap(), "Hello somebody");
//! ```

use crate::Problem;
use uuid::Uuid;

use crate::bindings::imports::wharf::users::directory as wit;
use crate::host::users as host;

pub use wit::Error;

/// The most accounts of one result, and the most ids of [`find`].
pub const MAX_USERS: u32 = 100;

/// An account of the directory.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// The id, as in [`Caller::id`](crate::Caller).
    pub id: Uuid,
    /// The display name, if the user set one.
    pub name: Option<String>,
    /// The email address.
    pub email: String,
    /// Whether the account is active. A deactivated user cannot sign in.
    pub active: bool,
    /// Whether the account may do everything. For work without a caller; a handler of requests asks its
    /// [`Caller`](crate::Caller).
    pub superuser: bool,
}

/// Returns one account, if it exists.
///
/// # Errors
/// [`Error::Unavailable`] while the host's database cannot be reached.
pub fn get(id: Uuid) -> Result<Option<User>, Error> {
    Ok(find([id])?.into_iter().next())
}

/// Returns the accounts with these ids, in the order of their ids. Unknown ids are left out. A list of items and their
/// owners needs one call, not one for each owner.
///
/// # Errors
/// [`Error::Invalid`] for more than [`MAX_USERS`] ids; otherwise as [`get`].
pub fn find(ids: impl IntoIterator<Item = Uuid>) -> Result<Vec<User>, Error> {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    host::find(&ids).map(users)
}

/// Returns the account with this address, written in any way.
///
/// # Errors
/// As [`get`].
pub fn find_by_email(email: &str) -> Result<Option<User>, Error> {
    Ok(host::find_by_email(email)?.and_then(user))
}

/// Returns a page of all accounts in the order of their ids: at most `limit` of those behind the id `after`. An empty
/// page is the end.
///
/// # Errors
/// [`Error::Invalid`] unless `limit` is 1 to [`MAX_USERS`]; otherwise as [`get`].
pub fn list(after: Option<Uuid>, limit: u32) -> Result<Vec<User>, Error> {
    let after = after.map(|id| id.to_string());
    host::list_users(after.as_deref(), limit).map(users)
}

fn users(found: Vec<wit::User>) -> Vec<User> {
    found.into_iter().filter_map(user).collect()
}

/// The host sends only valid ids.
fn user(found: wit::User) -> Option<User> {
    let wit::User { id, name, email, active, superuser } = found;
    Some(User { id: Uuid::parse_str(&id).ok()?, name, email, active, superuser })
}

/// 503 `users_unavailable`, or 500 `plugin_error` for an argument that is not valid.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(reason) => Self::internal(format_args!("users: {reason}")),
            Error::Unavailable => {
                Self::new(503, "users_unavailable", "The accounts cannot be read now, try again later")
            }
        }
    }
}
