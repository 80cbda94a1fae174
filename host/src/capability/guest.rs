//! What an instance's store holds: the call's context, the capabilities it entered, and the limits it lives in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiCtx;

use super::budget::{Budget, Held};
use super::log::PluginLog;
use super::{Entered, HostCalls, Limit, Turn, Usage};
use crate::auth::Caller;
use crate::clock::Clock;
use crate::egress::Trace;
use crate::id::PluginName;

/// Who and what a call is for; the same for all its capabilities.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The plugin.
    pub plugin: PluginName,
    /// The release.
    pub release: i64,
    /// The request's id.
    pub request_id: Arc<str>,
    /// The verified caller.
    pub caller: Option<Arc<Caller>>,
    /// The trace that the request said it belongs to.
    pub trace: Option<Trace>,
}

/// The data of an instance's store.
pub struct Guest {
    /// Who and what for.
    pub context: Arc<CallContext>,
    /// The capabilities.
    pub entered: Entered,
    /// Handles the guest holds: transactions, WASI streams.
    pub table: ResourceTable,
    /// Limits and what was hit.
    pub limits: Limits,
    /// Where the guest's output goes.
    pub output: Arc<PluginLog>,
    /// What the release used.
    pub usage: Arc<Usage>,
    /// Its turn among those that compute for long.
    pub turn: Turn,
    /// What the guest was handed last; it may be on its way yet.
    handed: Option<Held>,
    clock: Clock,
    wasi: Option<WasiCtx>,
    /// Of those that speak to others by handles.
    pub(super) http: Option<Box<super::http::wasi::Wasi>>,
}

/// Handles one call may hold at once.
const MAX_HANDLES: usize = 1_000;

impl Guest {
    /// A store's data for one call.
    pub fn new(
        context: Arc<CallContext>,
        entered: Entered,
        limits: Limits,
        output: Arc<PluginLog>,
        usage: Arc<Usage>,
        turn: Turn,
        clock: Clock,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self { context, entered, table, limits, output, usage, turn, handed: None, clock, wasi: None, http: None }
    }

    /// Counts one call into a capability.
    ///
    /// # Errors
    /// A trap: the call has used up its budget.
    pub fn charge(&mut self, capability: fn(&HostCalls) -> &AtomicU64) -> wasmtime::Result<()> {
        self.settle();
        capability(&self.usage.host_calls).fetch_add(1, Ordering::Relaxed);
        self.limits.budget.spend_host_call()
    }

    /// Counts what the guest hands over against its memory, until the answer is dropped.
    ///
    /// # Errors
    /// A trap: there is not as much.
    pub fn hold(&self, bytes: usize) -> wasmtime::Result<Held> {
        self.limits.budget.hold(bytes)
    }

    /// Counts what the guest is handed against its memory, as long as the host has it too.
    pub fn hand(&mut self, held: Held) {
        self.handed = Some(held);
    }

    /// The guest has what it was handed.
    pub fn settle(&mut self) {
        self.handed = None;
    }

    pub(super) fn wasi(&mut self) -> (&mut WasiCtx, &mut ResourceTable) {
        // Most calls never touch WASI, and building its context costs more than the call of a small guest.
        let wasi = self
            .wasi
            .get_or_insert_with(|| super::wasi::context(&self.context, &self.output, &self.usage, &self.clock));
        (wasi, &mut self.table)
    }
}

/// The limits of one call. Counts memory over all memories and tables of the store, which wasmtime's own does not.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Memory and calls into the host.
    pub budget: Budget,
    /// For how long it may run.
    cpu_time: Duration,
    /// It goes on for as long without a turn, or without another one.
    next_turn: Duration,
}

/// One tick of the epoch: how often a running guest is looked at, and so for how long one may keep a thread that others
/// wait for. Beside eight clients whose calls compute for some milliseconds each, a neighbour's p99 was 30 ms with ticks of
/// ten and 13 ms with ticks of two (`make attack`, two threads).
pub const TICK: Duration = Duration::from_millis(2);

/// What one table element takes in the host.
const TABLE_ELEMENT_BYTES: usize = 16;
/// Core instances, memories and tables of one store.
const MAX_CORE_PARTS: usize = 64;

impl Limits {
    /// Limits of a call.
    pub fn new(memory_bytes: usize, cpu_time: Duration, host_calls: u64) -> Self {
        Self { budget: Budget::new(memory_bytes, host_calls), cpu_time, next_turn: TICK }
    }

    /// Looks at a guest that ran for so long: whether it needs a turn to go on.
    ///
    /// # Errors
    /// It may not go on.
    pub fn look(&mut self, ran: Duration) -> Result<bool, Limit> {
        if ran >= self.cpu_time {
            self.budget.meet(Limit::CpuTime);
            return Err(Limit::CpuTime);
        }
        let due = ran >= self.next_turn;
        if due {
            // Half, as who ran for nearly a tick would otherwise have another one.
            self.next_turn = ran + TICK / 2;
        }
        Ok(due)
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.budget.take(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.budget.take(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn instances(&self) -> usize {
        MAX_CORE_PARTS
    }

    fn tables(&self) -> usize {
        MAX_CORE_PARTS
    }

    fn memories(&self) -> usize {
        MAX_CORE_PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_by_the_time_that_a_guest_ran() {
        let mut limits = Limits::new(1, TICK * 10, 1);
        let mut looks = |ran: Duration| limits.look(ran);
        let few = TICK / 100;
        assert_eq!(looks(few), Ok(false));
        assert_eq!(looks(TICK), Ok(true));
        assert_eq!(looks(TICK + few), Ok(false), "it was looked at after it had waited");
        assert_eq!(looks(TICK * 2), Ok(true));
        assert_eq!(looks(TICK * 10), Err(Limit::CpuTime));
        assert_eq!(limits.budget.met(), Some(Limit::CpuTime));
    }

    #[test]
    fn memory_is_summed_over_memories_and_tables() {
        let mut limits = Limits::new(100, Duration::from_secs(1), 1);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(!limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.table_growing(0, 2, None).unwrap());
        assert!(!limits.table_growing(2, 4, None).unwrap());
        assert_eq!(limits.budget.met(), Some(Limit::Memory));
    }
}
