//! Processes that are stopped while others are measured (SIGSTOP), so that their own work does not slow the others.

use crate::{Failure, signal};

/// Stopped processes. They continue when it is dropped, also after a failure.
pub(crate) struct Pause<'a>(&'a [u32]);

impl<'a> Pause<'a> {
    pub(crate) fn of(processes: &'a [u32]) -> Result<Self, Failure> {
        // If one of them cannot be stopped, the others continue.
        let pause = Self(processes);
        for pid in processes {
            if !signal::send("STOP", *pid)? {
                return Err(format!("process {pid} cannot be stopped").into());
            }
        }
        Ok(pause)
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        for pid in self.0 {
            let _ = signal::send("CONT", *pid);
        }
    }
}
