//! Entries in the host's audit log: who did what to which object. The host adds caller, time and request.
//!
//! ```
//! use wharf_sdk::audit::{self, Outcome};
//!
//! audit::record("item.delete", "17", Outcome::Success, &[("reason", &"cleanup")]);
//! ```

use crate::log::{Fields, texts};

use crate::host::audit as host;

pub use crate::bindings::imports::wharf::log::audit::Outcome;

/// Records that the caller did `action` (`item.delete`) to `object`. Beyond the rate of the grant it waits; 16 KiB of an entry
/// are kept.
pub fn record(action: &str, object: &str, outcome: Outcome, detail: &Fields<'_>) {
    host::record_entry(action, object, outcome, &texts(detail));
}
