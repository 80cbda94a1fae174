//! The bounds of work in place. Short work runs in place, on the thread of its caller: a change of threads takes as
//! long as the work, and the next writer waits for it too. Everything else runs on a thread that may block. `in_place`
//! runs the work, and `control` checks the bounds.
//!
//! The thread of the caller serves other requests too, and a plugin chooses its statements and its data. So work in place
//! is bounded, whatever the statement does: by instructions and time, by the length of values, and it waits for nothing.
//! Work that meets a bound is undone, and runs on a thread from its beginning. That takes twice the time, so a statement
//! only runs in place after it was quick many times.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// The checks (`connection::INSTRUCTIONS_PER_CHECK`) of quick work: 10,000 instructions, which take about a millisecond.
pub(super) const CHECKS: u32 = 200;
/// The time of quick work. The system can interrupt the thread meanwhile, so it is longer than the checks take.
pub(super) const TIME: Duration = Duration::from_millis(5);
/// The longest value and row in place, and the length of all parameters with the texts. Most instructions with such a value
/// take some microseconds.
pub(super) const BYTES: usize = 4 * 1024;
/// The longest pattern of LIKE and GLOB in place: 100,000 steps with the longest value. No check interrupts them.
pub(super) const PATTERN: i32 = 24;
/// The maximum number of comparisons of one function in place, see `bounded_functions`.
pub(super) const COMPARISONS: usize = 1 << 20;
/// The longest text of a statement, and its maximum number of calls of functions: SQLite only checks at a jump.
pub(super) const TEXT: usize = 2 * 1024;
const FUNCTIONS: usize = 16;
/// The largest file, with its log, for an instruction that visits each page of a table: COUNT(*) and DELETE without a
/// condition.
pub(super) const FILE: u64 = 16 * 1024 * 1024;
/// The maximum number of statements in one batch in place, and of messages in one commit.
pub(super) const STATEMENTS: usize = 8;
/// How often a statement has to be quick before it runs in place, also after it was not. So a plugin whose statements turn
/// out to be slow takes the thread of its caller for a small part of the time.
const QUICK_RUNS: u8 = 32;

/// The latest quick runs of a statement that may run in place.
#[derive(Debug)]
pub(super) struct QuickRuns {
    runs: AtomicU8,
    /// Set if one of its instructions visits each page of a table.
    pub(super) visits_tables: bool,
}

impl QuickRuns {
    /// Counts a run.
    pub(super) fn count(&self, is_quick: bool) {
        let runs = if is_quick { self.runs.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.runs.store(runs, Ordering::Relaxed);
    }

    /// Returns whether the statement was quick often enough.
    pub(super) fn are_enough(&self) -> bool {
        self.runs.load(Ordering::Relaxed) >= QUICK_RUNS
    }
}

/// The instructions of a compiled statement and its triggers, as EXPLAIN lists them.
#[derive(Debug, Default)]
pub(super) struct Instructions {
    functions: usize,
    visits_tables: bool,
    is_refused: bool,
}

impl Instructions {
    /// Adds an instruction, with its fourth operand.
    pub(super) fn add(&mut self, name: &str, operand: &str) {
        // These keep their values when the statement is undone, so a second run would see those of the first.
        const OF_EARLIER_STATEMENTS: [&str; 3] = ["last_insert_rowid", "changes", "total_changes"];
        match name {
            "Clear" | "Count" => self.visits_tables = true,
            "Function" | "PureFunc" => {
                self.functions = self.functions.saturating_add(1);
                let called = operand.split('(').next().unwrap_or_default();
                self.is_refused |= OF_EARLIER_STATEMENTS.iter().any(|name| called.eq_ignore_ascii_case(name));
            }
            // Of a virtual table: a full-text search works long without a check.
            "VBegin" | "VOpen" | "VFilter" | "VUpdate" => self.is_refused = true,
            _ => {}
        }
    }

    /// Returns the counter of a new statement; `None` if it never runs in place.
    pub(super) fn quick_runs(&self) -> Option<QuickRuns> {
        let may_run = !self.is_refused && self.functions <= FUNCTIONS;
        may_run.then(|| QuickRuns { runs: AtomicU8::new(0), visits_tables: self.visits_tables })
    }
}
