//! Entries in the host's audit log: an action, its object and its outcome. The host adds caller, time and request.
//!
//! ```
//! use wharf_sdk::audit::{self, Outcome};
//!
//! audit::record("item.delete", "17", Outcome::Success, &[("reason", &"cleanup")])?;
//! # Ok::<(), audit::Error>(())
//! ```

use crate::log::{Fields, texts};

use crate::host::audit as host;

use crate::Problem;

pub use crate::bindings::imports::wharf::log::audit::{Error, Outcome};

/// Records that the caller did `action` (`item.delete`) to `object`.
///
/// The call waits while the plugin exceeds the rate of its grant. The host keeps at most 16 KiB of an entry. The entry is
/// stored when this returns `Ok`.
///
/// # Errors
/// [`Error::Unavailable`] while the host's database cannot be reached or is full. Decide whether the action may happen
/// without an entry: `?` before the action refuses it with 503 `audit_unavailable`.
pub fn record(action: &str, object: &str, outcome: Outcome, detail: &Fields<'_>) -> Result<(), Error> {
    host::store_entry(action, object, outcome, &texts(detail))
}

/// 503 `audit_unavailable`.
impl From<Error> for Problem {
    fn from(Error::Unavailable: Error) -> Self {
        Self::new(503, "audit_unavailable", "The audit log is unavailable, try again later")
    }
}
