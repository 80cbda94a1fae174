//! Entries in the host's audit log: an action, its object and its outcome. The host adds caller, time and request.
//!
//! ```
//! use wharf_sdk::audit::{self, Outcome};
//!
//! audit::record("item.delete", "17", Outcome::Success, &[("reason", &"cleanup")]);
//! ```

use crate::log::{Fields, texts};

use crate::host::audit as host;

pub use crate::bindings::imports::wharf::log::audit::Outcome;

/// Records that the caller did `action` (`item.delete`) to `object`.
///
/// The call waits while the plugin exceeds the rate of its grant. The host keeps at most 16 KiB of an entry.
pub fn record(action: &str, object: &str, outcome: Outcome, detail: &Fields<'_>) {
    host::record_entry(action, object, outcome, &texts(detail));
}
