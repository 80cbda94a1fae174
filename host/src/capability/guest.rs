//! The data of an instance's store: the call's context, the capabilities that the call entered, and the limits of the
//! call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiCtx;

use super::budget::{Budget, MemoryReservation};
use super::call_context::CallContext;
use super::log::PluginLog;
use super::wasi_context::wasi_context;
use super::{CpuSlot, Dependencies, Entered, HostCalls, Limit, Usage};
use crate::clock::Clock;

/// The data of an instance's store.
pub struct Guest {
    /// The plugin, the request and the caller.
    pub context: Arc<CallContext>,
    /// The capabilities.
    pub entered: Entered,
    /// The handles that the guest holds: transactions, WASI streams.
    pub table: ResourceTable,
    /// The limits of the call, and the limit that it hit.
    pub limits: GuestLimits,
    /// The log that receives the guest's output.
    pub output: Arc<PluginLog>,
    /// The usage counts of the release.
    pub usage: Arc<Usage>,
    /// The services of the host that failed during the call.
    pub dependencies: Dependencies,
    /// The slot that the call needs to compute for longer than a tick.
    pub cpu_slot: CpuSlot,
    /// Whether the guest asked for the caller, so that its response may differ by caller.
    pub asked_for_caller: bool,
    /// Memory of the last result, which wasmtime may still be copying into the guest.
    result: Option<MemoryReservation>,
    clock: Clock,
    wasi: Option<WasiCtx>,
    /// State of `wasi:http`, whose requests and responses are handles.
    pub(super) http: Option<Box<super::http::wasi::Wasi>>,
}

/// The parts of the host that a call uses and its release shares.
pub struct GuestResources {
    /// See [`Guest::output`].
    pub output: Arc<PluginLog>,
    /// See [`Guest::usage`].
    pub usage: Arc<Usage>,
    /// See [`Guest::dependencies`].
    pub dependencies: Dependencies,
    /// See [`Guest::cpu_slot`].
    pub cpu_slot: CpuSlot,
}

/// The most handles that one call may hold at once.
const MAX_HANDLES: usize = 1_000;

impl Guest {
    /// Creates a store's data for one call.
    pub fn new(
        context: Arc<CallContext>,
        entered: Entered,
        limits: GuestLimits,
        GuestResources { output, usage, dependencies, cpu_slot }: GuestResources,
        clock: Clock,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            context,
            entered,
            table,
            limits,
            output,
            usage,
            dependencies,
            cpu_slot,
            asked_for_caller: false,
            result: None,
            clock,
            wasi: None,
            http: None,
        }
    }

    /// Counts one call into a capability.
    ///
    /// # Errors
    /// The call has used up its budget of host calls. The error is a trap.
    pub fn charge(&mut self, capability: fn(&HostCalls) -> &AtomicU64) -> wasmtime::Result<()> {
        self.release_result();
        capability(&self.usage.host_calls).fetch_add(1, Ordering::Relaxed);
        self.limits.budget.spend_host_call()
    }

    /// Counts a value that the guest passed against its memory, until the reservation is dropped.
    ///
    /// # Errors
    /// The budget has less memory left. The error is a trap.
    pub fn reserve(&self, bytes: usize) -> wasmtime::Result<MemoryReservation> {
        self.limits.budget.reserve(bytes)
    }

    /// Counts a result against the guest's memory for as long as the host has a copy of it.
    pub fn hold_result(&mut self, reservation: MemoryReservation) {
        self.result = Some(reservation);
    }

    /// Stops counting the last result: the guest has its copy.
    pub fn release_result(&mut self) {
        self.result = None;
    }

    pub(super) fn wasi(&mut self) -> (&mut WasiCtx, &mut ResourceTable) {
        // Most calls never touch WASI, and building its context costs more than the call of a small guest.
        let wasi = self.wasi.get_or_insert_with(|| wasi_context(&self.context, &self.output, &self.usage, &self.clock));
        (wasi, &mut self.table)
    }
}

/// The limits of one call. Counts memory over all memories and tables of the store. wasmtime's own limiter counts each
/// alone.
#[derive(Debug, Clone)]
pub struct GuestLimits {
    /// Memory and calls into the host.
    pub budget: Budget,
    /// The CPU time that the call may use.
    cpu_time: Duration,
    /// The CPU time from which the guest needs a CPU slot, or another one.
    next_slot: Duration,
}

/// One tick of the epoch: the interval at which the host checks a running guest, and so the longest time that a guest
/// keeps a worker thread while others wait for it. With eight clients whose calls compute for some milliseconds each,
/// the p99 of another plugin was 30 ms with ticks of 10 ms and 13 ms with ticks of 2 ms (`make attack`, two threads).
pub const TICK: Duration = Duration::from_millis(2);

/// Host memory of one table element.
const TABLE_ELEMENT_BYTES: usize = 16;
/// The most core instances, memories and tables of one store, each.
const MAX_CORE_PARTS: usize = 64;

impl GuestLimits {
    /// Creates the limits of one call.
    pub fn new(memory_bytes: usize, cpu_time: Duration, host_calls: u64) -> Self {
        Self { budget: Budget::new(memory_bytes, host_calls), cpu_time, next_slot: TICK }
    }

    /// Checks a guest that used the given CPU time. Returns whether it needs a CPU slot to continue.
    ///
    /// # Errors
    /// The guest used up its CPU time.
    pub fn check_cpu_time(&mut self, used: Duration) -> Result<bool, Limit> {
        if used >= self.cpu_time {
            self.budget.record_limit_hit(Limit::CpuTime);
            return Err(Limit::CpuTime);
        }
        let is_due = used >= self.next_slot;
        if is_due {
            // Half a tick: after a full one, a guest that ran for nearly a tick would get another tick for free.
            self.next_slot = used + TICK / 2;
        }
        Ok(is_due)
    }
}

impl ResourceLimiter for GuestLimits {
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
    fn a_guest_needs_a_cpu_slot_once_per_tick_of_cpu_time() {
        let mut limits = GuestLimits::new(1, TICK * 10, 1);
        let mut check = |used: Duration| limits.check_cpu_time(used);
        let few = TICK / 100;
        assert_eq!(check(few), Ok(false));
        assert_eq!(check(TICK), Ok(true));
        assert_eq!(check(TICK + few), Ok(false), "it was checked just after it had waited");
        assert_eq!(check(TICK * 2), Ok(true));
        assert_eq!(check(TICK * 10), Err(Limit::CpuTime));
        assert_eq!(limits.budget.limit_hit(), Some(Limit::CpuTime));
    }

    #[test]
    fn memory_is_summed_over_memories_and_tables() {
        let mut limits = GuestLimits::new(100, Duration::from_secs(1), 1);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(!limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.table_growing(0, 2, None).unwrap());
        assert!(!limits.table_growing(2, 4, None).unwrap());
        assert_eq!(limits.budget.limit_hit(), Some(Limit::Memory));
    }
}
