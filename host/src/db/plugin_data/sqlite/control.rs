//! Controls a running statement from outside: its deadline, its cancellation, and its mode. Shared by the connection,
//! its callbacks and the caller that waits for the statement.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::place;
use crate::clock::{as_nanos, coarse_nanos, monotonic_nanos};
use crate::db::sqlite_memory::{Denial, MeteredStatement};

/// The origin of the statement that is being compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The host; all actions are allowed.
    Host,
    /// A plugin, at run time.
    Statement,
    /// A plugin, in a migration.
    Migration,
}

#[derive(Debug)]
pub(super) struct Control {
    /// Nanoseconds of the monotonic clock.
    deadline: AtomicU64,
    /// Counts the runs. A guard cancels only its own run, not the work for the next caller.
    run: AtomicU64,
    /// The latest run that was cancelled.
    cancelled: AtomicU64,
    mode: AtomicU8,
    /// The longest value that the connection may create; 0 before it is set.
    longest: AtomicI32,
    denial: Mutex<Option<Denial>>,
    /// The checks of this statement.
    checks: AtomicU32,
    /// The checks of all statements of the work in place.
    checks_in_place: AtomicU32,
    /// The end of the work in place, as `deadline`; `u64::MAX` on a thread.
    in_place_until: AtomicU64,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            deadline: AtomicU64::new(u64::MAX),
            run: AtomicU64::new(1),
            cancelled: AtomicU64::new(0),
            mode: AtomicU8::new(0),
            longest: AtomicI32::new(0),
            denial: Mutex::default(),
            checks: AtomicU32::new(0),
            checks_in_place: AtomicU32::new(0),
            in_place_until: AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn longest(&self) -> i32 {
        self.longest.load(Ordering::Relaxed)
    }

    pub(super) fn set_longest(&self, longest: i32) {
        self.longest.store(longest, Ordering::Relaxed);
    }

    /// Returns why the last statement got no memory; `None` if it did.
    pub(super) fn denial(&self) -> Option<Denial> {
        *self.denial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            0 => Mode::Host,
            1 => Mode::Statement,
            _ => Mode::Migration,
        }
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        let number = match mode {
            Mode::Host => 0,
            Mode::Statement => 1,
            Mode::Migration => 2,
        };
        self.mode.store(number, Ordering::Relaxed);
    }

    /// Sets the deadline to `limit` from now.
    pub(super) fn set_deadline(&self, limit: Duration) {
        self.deadline.store(after(limit), Ordering::Relaxed);
    }

    /// Starts a new run, in place.
    pub(super) fn begin_in_place(&self) {
        self.run.fetch_add(1, Ordering::Relaxed);
        self.checks_in_place.store(0, Ordering::Relaxed);
        self.in_place_until.store(after(place::TIME), Ordering::Relaxed);
    }

    /// Ends the run in place. A commit or a rollback is not interrupted.
    pub(super) fn end_in_place(&self) {
        self.in_place_until.store(u64::MAX, Ordering::Relaxed);
    }

    pub(super) fn is_in_place(&self) -> bool {
        self.in_place_until.load(Ordering::Relaxed) != u64::MAX
    }

    /// Returns the checks since [`restart_checks`](Self::restart_checks).
    pub(super) fn checks(&self) -> u32 {
        self.checks.load(Ordering::Relaxed)
    }

    pub(super) fn restart_checks(&self) {
        self.checks.store(0, Ordering::Relaxed);
    }

    /// Counts a check. Returns whether work in place must stop.
    fn must_leave(&self) -> bool {
        self.checks.fetch_add(1, Ordering::Relaxed);
        if !self.is_in_place() {
            return false;
        }
        let checks = self.checks_in_place.fetch_add(1, Ordering::Relaxed);
        checks >= place::CHECKS || monotonic_nanos() >= self.in_place_until.load(Ordering::Relaxed)
    }

    /// Removes the deadline and starts a new run, so that the host's cleanup is not interrupted.
    pub(super) fn clear_deadline(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.run.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts a new run, and returns a guard that interrupts it when dropped without being disarmed.
    pub(super) fn guard(self: &Arc<Self>) -> CancelGuard {
        let run = self.run.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        CancelGuard(Some((Arc::clone(self), run)))
    }
}

impl MeteredStatement for Control {
    /// SQLite calls this every few instructions, and when it allocates.
    fn must_stop(&self) -> bool {
        self.must_leave()
            || self.cancelled.load(Ordering::Relaxed) == self.run.load(Ordering::Relaxed)
            || coarse_nanos() >= self.deadline.load(Ordering::Relaxed)
    }

    fn set_denial(&self, denial: Option<Denial>) {
        *self.denial.lock().unwrap_or_else(PoisonError::into_inner) = denial;
    }
}

/// Returns the monotonic time after `limit`, in nanoseconds.
fn after(limit: Duration) -> u64 {
    monotonic_nanos().saturating_add(as_nanos(limit))
}

pub(super) struct CancelGuard(Option<(Arc<Control>, u64)>);

impl CancelGuard {
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some((control, run)) = &self.0 {
            control.cancelled.fetch_max(*run, Ordering::Relaxed);
        }
    }
}
