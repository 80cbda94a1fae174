//! An outage of something that a loop needs: logged once when it begins and once when it ends, however often the loop
//! tries.

use crate::error::Error;

/// See the module.
#[derive(Debug)]
pub(super) struct Outage {
    /// The work that waits.
    work: &'static str,
    lasts: bool,
}

impl Outage {
    /// Creates the record of a loop that does this work.
    pub(super) fn of(work: &'static str) -> Self {
        Self { work, lasts: false }
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, error: &Error) {
        let (work, error) = (self.work, error.report());
        if self.lasts {
            tracing::debug!(work, error, "work in the background still cannot go on");
        } else {
            tracing::error!(
                work,
                error,
                "work in the background cannot go on now; nothing is lost, and it is tried again"
            );
        }
        self.lasts = true;
    }

    /// An attempt succeeded.
    pub(super) fn over(&mut self) {
        if self.lasts {
            tracing::info!(work = self.work, "work in the background goes on");
        }
        self.lasts = false;
    }
}
