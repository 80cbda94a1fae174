//! What reaches into a running statement from outside: its deadline, its cancellation, and whose statement it is. Shared
//! by the connection, its callbacks and whoever waits for the statement.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Whose statement is being compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The host's own: everything is allowed.
    Host,
    /// A plugin's at run time.
    Statement,
    /// A plugin's migration.
    Migration,
}

/// Why a statement got no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// It has as much as it may.
    Memory,
    /// It is nested so deep that the stack of its thread would not hold it.
    Depth,
    /// It must stop.
    Time,
}

#[derive(Debug)]
pub(super) struct Control {
    origin: Instant,
    /// Nanoseconds after `origin`.
    deadline: AtomicU64,
    /// Counts what ran; a guard cancels its own turn only, not what the connection does for the next caller.
    turn: AtomicU64,
    /// The newest turn that was cancelled.
    cancelled: AtomicU64,
    mode: AtomicU8,
    /// The longest value that the connection may make; 0 before that is known.
    longest: AtomicI32,
    denial: Mutex<Option<Denial>>,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            turn: AtomicU64::new(1),
            cancelled: AtomicU64::new(0),
            mode: AtomicU8::new(0),
            longest: AtomicI32::new(0),
            denial: Mutex::default(),
        }
    }

    pub(super) fn longest(&self) -> i32 {
        self.longest.load(Ordering::Relaxed)
    }

    pub(super) fn set_longest(&self, longest: i32) {
        self.longest.store(longest, Ordering::Relaxed);
    }

    /// Why the statement that ran last got no memory, if it did not.
    pub(super) fn denial(&self) -> Option<Denial> {
        *self.denial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn deny(&self, denial: Denial) {
        *self.denial.lock().unwrap_or_else(PoisonError::into_inner) = Some(denial);
    }

    pub(super) fn forget_denial(&self) {
        *self.denial.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What runs from now on may take `limit`.
    pub(super) fn limit(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.deadline.store(self.now().saturating_add(limit), Ordering::Relaxed);
    }

    /// What the host does to clean up is not interrupted.
    pub(super) fn unlimit(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Asked by SQLite every few instructions, and where it allocates.
    pub(super) fn must_stop(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) == self.turn.load(Ordering::Relaxed)
            || self.now() >= self.deadline.load(Ordering::Relaxed)
    }

    /// Interrupts the running statement when the guard is dropped before it was disarmed.
    pub(super) fn guard(self: &Arc<Self>) -> CancelGuard {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        CancelGuard(Some((Arc::clone(self), turn)))
    }
}

pub(super) struct CancelGuard(Option<(Arc<Control>, u64)>);

impl CancelGuard {
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some((control, turn)) = &self.0 {
            control.cancelled.fetch_max(*turn, Ordering::Relaxed);
        }
    }
}
