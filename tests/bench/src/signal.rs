//! Signals to other processes, by the program `kill`.

use std::process::Command;

use crate::Failure;

/// Sends a signal by its name, such as `TERM`. Returns whether the process got it.
pub(crate) fn send(name: &str, pid: u32) -> Result<bool, Failure> {
    Ok(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status()?.success())
}
