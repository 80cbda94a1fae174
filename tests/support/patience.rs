//! The time limits of everything that a test is not about. The suite runs more tests at once than the machine has
//! cores, so any step may take seconds. A wait ends as soon as the awaited event happens, so a long limit costs nothing.

use std::time::Duration;

/// How long a test, and a host that it starts, waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Far longer than a test takes: for a limit that must not be reached.
pub(crate) const NEVER: Duration = Duration::from_secs(600);

/// Returns the patience as the variable of a setting has it.
pub(crate) fn patience() -> String {
    format!("{}s", PATIENCE.as_secs())
}
