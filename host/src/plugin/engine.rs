//! The one wasmtime engine of the process with its measured settings, and the epoch clock that limits guests.
//!
//! Every call gets a fresh instance from a pool whose size follows the concurrency limits. The epoch advances every
//! [`TICK`]. At each tick a running guest yields to the executor, waits for a time slice if it ran for longer
//! (`capability::cpu_scheduler`), and is stopped when its CPU time is used up. CPU time of a host function counts as
//! soon as the guest continues.

use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store, UpdateDeadline,
};

use crate::capability::guest::TICK;
use crate::capability::{Guest, wasi};
use crate::config;
use crate::config::plugins::MAX_MEMORY;
use crate::error::{Error, Result};

/// Memory of a pool slot that stays resident between calls, so that the next call causes no page faults.
const MEMORY_KEEP_RESIDENT: usize = 1024 * 1024;
/// The same for a table.
const TABLE_KEEP_RESIDENT: usize = 64 * 1024;
/// The stack of a guest, inside the stack of its fiber.
const WASM_STACK: usize = 512 * 1024;
/// The stack of a fiber: the guest's stack, and that of the host functions above it. Statements of SQLite run there too, so
/// they have as much as on a thread of the runtime, 2 MiB. Memory is taken for what was used only.
const FIBER_STACK: usize = WASM_STACK + 2 * 1024 * 1024 + 512 * 1024;
/// The maximum number of handles of a guest's own resources, each of which takes host memory.
const MAX_HANDLES: usize = 10_000;
/// The maximum parts of one component. The pool has this many for each call that may run, so that a call that has a
/// call slot always finds an instance: plugins compete for call slots only.
const MAX_CORE_INSTANCES: u32 = 16;
const MAX_MEMORIES: u32 = 4;
const MAX_TABLES: u32 = 8;
/// The largest number of instances for deploys, in addition to those for calls.
const DEPLOY_SLOTS: usize = 2;

/// The usage of the instance pool at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct InstancePool {
    /// The number of slots in use, by kind.
    pub in_use: [(&'static str, usize); 4],
    /// Bytes that stay resident in unused slots.
    pub resident: usize,
}

/// Compiles components and creates stores to run them in. Cheap to clone.
#[derive(Clone)]
pub struct PluginEngine {
    engine: Engine,
}

impl PluginEngine {
    /// Creates the engine. Its clock ticks until the last clone is dropped.
    ///
    /// # Errors
    /// The settings do not fit this machine.
    pub fn new(limits: &config::Plugins) -> Result<Self> {
        let mut settings = settings();
        settings.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
        let engine = start(&settings)?;
        start_clock(&engine)?;
        Ok(Self { engine })
    }

    /// Returns the wasmtime engine.
    pub(super) fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    /// Returns the usage of the instance pool.
    pub(super) fn instance_pool(&self) -> InstancePool {
        let Some(metrics) = self.engine.pooling_allocator_metrics() else { return InstancePool::default() };
        let core_instances = usize::try_from(metrics.core_instances()).unwrap_or(usize::MAX);
        let resident = metrics.unused_memory_bytes_resident().saturating_add(metrics.unused_table_bytes_resident());
        InstancePool {
            in_use: [
                ("core_instance", core_instances),
                ("memory", metrics.memories()),
                ("table", metrics.tables()),
                ("stack", metrics.stacks()),
            ],
            resident,
        }
    }

    /// Creates a linker with the interfaces that every plugin may use.
    pub(super) fn linker(&self) -> Result<Linker<Guest>> {
        let mut linker = Linker::new(&self.engine);
        wasi::link(&mut linker).map_err(|error| Error::internal("WASI cannot be linked").with_source(error))?;
        Ok(linker)
    }

    /// Creates a store in which a guest runs within its limits. One call into the host, or the response, may hand over
    /// `max_call_bytes`.
    pub(super) fn store(&self, guest: Guest, max_call_bytes: usize) -> Store<Guest> {
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_max_component_handles(MAX_HANDLES);
        // The initial deadline of 0 would interrupt at once.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let guest = store.data_mut();
            Ok(match guest.limits.check_cpu_time(guest.cpu_slot.cpu_time()) {
                Ok(true) => UpdateDeadline::YieldCustom(1, Box::pin(guest.cpu_slot.clone().acquire())),
                Ok(false) => {
                    guest.cpu_slot.keep_turn();
                    UpdateDeadline::Yield(1)
                }
                Err(_) => UpdateDeadline::Interrupt,
            })
        });
        // The bytes that the host copies out of the guest in one call, and some more for names and headers.
        store.set_hostcall_fuel(max_call_bytes.saturating_add(1024 * 1024));
        store
    }
}

/// Creates an engine that compiles for a [`PluginEngine`] in another process. It runs nothing and has no pool, which
/// would reserve far more addresses than a process with a limit has.
pub(super) fn compiling() -> Result<Engine> {
    compiling_with(|_| ())
}

/// Creates such an engine with changed settings, which the machine code must not depend on.
pub(super) fn compiling_with(change: impl FnOnce(&mut Config)) -> Result<Engine> {
    let mut settings = settings();
    change(&mut settings);
    start(&settings)
}

fn start(settings: &Config) -> Result<Engine> {
    Engine::new(settings).map_err(|error| Error::internal("the WebAssembly engine does not start").with_source(error))
}

/// Returns the number of instances for deploys: no more than for calls, so that the pool of a small host stays small.
pub(super) fn deploy_slots(limits: &config::Plugins) -> usize {
    DEPLOY_SLOTS.min(limits.total_concurrency)
}

/// Returns the number of calls, deliveries, jobs and instances of deploys that may exist at once.
fn calls_at_once(limits: &config::Plugins) -> usize {
    // Newly reserved call slots may be taken before the shared ones that they came from are free: at most half as many
    // again.
    let calls = limits.total_concurrency.saturating_add(limits.total_concurrency / 2);
    calls.saturating_add(limits.background_concurrency).saturating_add(deploy_slots(limits))
}

fn pool(limits: &config::Plugins) -> PoolingAllocationConfig {
    let calls = u32::try_from(calls_at_once(limits)).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(MAX_CORE_INSTANCES))
        .total_memories(calls.saturating_mul(MAX_MEMORIES))
        .total_tables(calls.saturating_mul(MAX_TABLES))
        .total_stacks(calls)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memory_size(MAX_MEMORY)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .max_unused_warm_slots(calls)
        // wasmtime#14357: with it on, swapped dirty pages have reached the next instance.
        .pagemap_scan(Enabled::No);
    pool
}

/// Returns the settings that machine code depends on: the same for the process that compiles and the one that runs it.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true)
        .table_lazy_init(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        .wasm_memory64(false);
    config
}

fn start_clock(engine: &Engine) -> Result<()> {
    let weak = engine.weak();
    std::thread::Builder::new()
        .name("wharf-epoch".to_owned())
        .spawn(move || {
            loop {
                std::thread::sleep(TICK);
                match weak.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => break,
                }
            }
        })
        .map(drop)
        .map_err(|error| Error::internal("the epoch thread does not start").with_source(error))
}

/// How long each declaration (`describe` with `routes`, `topics`, `subscriptions`, `declare`, `migrations`) may take. It only
/// returns constants, so this is generous.
pub(super) const DECLARATION_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// `make bench-check` needs it: valgrind 3.19 gives a program 128 GiB of addresses, of which a bit less than 64 are in one
    /// piece.
    #[test]
    fn the_smallest_pool_fits_into_the_addresses_of_valgrind() {
        const GUARD: usize = 32 << 20;
        let limits = config::Plugins { total_concurrency: 1, background_concurrency: 1, ..config::Plugins::default() };
        let memories = calls_at_once(&limits) * usize::try_from(MAX_MEMORIES).unwrap();
        assert!(memories * (MAX_MEMORY + GUARD) < 60 << 30, "{memories} memories");
        assert_eq!(deploy_slots(&config::Plugins::default()), DEPLOY_SLOTS);
    }
}
