//! The one wasmtime engine of the process, with the settings that ENGINE.md measured, and the clock that bounds guests.
//!
//! A fresh instance for every call comes out of a pool whose size follows the concurrency limit. The epoch moves every
//! [`TICK`]; at each tick a running guest yields to the executor, waits for its turn once it ran for longer (`capability::turn`),
//! and ends when its CPU time is used up. What a host function computed for it counts as soon as the guest goes on.

use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store, UpdateDeadline,
};

use super::limits::MAX_MEMORY;
use crate::capability::guest::TICK;
use crate::capability::{Guest, wasi};
use crate::config;
use crate::error::{Error, Result};

/// Memory of a slot that stays resident between calls, so that the next call faults no pages in.
const MEMORY_KEEP_RESIDENT: usize = 1024 * 1024;
/// The same for a table.
const TABLE_KEEP_RESIDENT: usize = 64 * 1024;
/// The stack of a guest, inside the stack of its fiber.
const WASM_STACK: usize = 512 * 1024;
/// The stack of a fiber: the guest's and what host functions need above it.
const FIBER_STACK: usize = 1024 * 1024;
/// Handles of a guest's own resources, each of which takes memory of the host.
const MAX_HANDLES: usize = 10_000;
/// What one component may consist of. The pool holds as much for each call that may run, whoever's it is, so that no plugin
/// takes what others need: a place among the calls is all that there is to take.
const MAX_CORE_INSTANCES: u32 = 16;
const MAX_MEMORIES: u32 = 4;
const MAX_TABLES: u32 = 8;
/// Instances that deploys ask or try at once, beside those of all calls.
pub(super) const DEPLOYING: usize = 2;

/// What the pool of instances holds at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pool {
    /// Slots of each kind that are in use.
    pub in_use: [(&'static str, usize); 4],
    /// Bytes that stay in slots which are not.
    pub resident: usize,
}

/// Compiles components and makes stores to run them in. Cheap to clone.
#[derive(Clone)]
pub struct PluginEngine {
    engine: Engine,
}

impl PluginEngine {
    /// The engine; its clock ticks until the last clone is dropped.
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

    /// The wasmtime engine.
    pub(super) fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    /// How many of each kind of slot are in use, and the bytes that idle ones keep.
    pub(super) fn pool(&self) -> Pool {
        let Some(metrics) = self.engine.pooling_allocator_metrics() else { return Pool::default() };
        let core_instances = usize::try_from(metrics.core_instances()).unwrap_or(usize::MAX);
        let resident = metrics.unused_memory_bytes_resident().saturating_add(metrics.unused_table_bytes_resident());
        Pool {
            in_use: [
                ("core_instance", core_instances),
                ("memory", metrics.memories()),
                ("table", metrics.tables()),
                ("stack", metrics.stacks()),
            ],
            resident,
        }
    }

    /// A linker with what everybody may use.
    pub(super) fn linker(&self) -> Result<Linker<Guest>> {
        let mut linker = Linker::new(&self.engine);
        wasi::link(&mut linker).map_err(|error| Error::internal("WASI cannot be linked").with_source(error))?;
        Ok(linker)
    }

    /// A store in which a guest runs within its limits. One call into the host, or its answer, may bring so many bytes.
    pub(super) fn store(&self, guest: Guest, brings: usize) -> Store<Guest> {
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_max_component_handles(MAX_HANDLES);
        // The deadline starts at 0, which would interrupt at once.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let guest = store.data_mut();
            Ok(match guest.limits.look(guest.turn.ran()) {
                Ok(true) => UpdateDeadline::YieldCustom(1, Box::pin(guest.turn.clone().take())),
                Ok(false) => UpdateDeadline::Yield(1),
                Err(_) => UpdateDeadline::Interrupt,
            })
        });
        // What the host copies out of the guest in one go, and some room for names and headers.
        store.set_hostcall_fuel(brings.saturating_add(1024 * 1024));
        store
    }
}

/// An engine that compiles for a [`PluginEngine`] in another process. It runs nothing, so it has no pool: that would
/// reserve far more addresses than a process with a limit has.
pub(super) fn compiling() -> Result<Engine> {
    start(&settings())
}

fn start(settings: &Config) -> Result<Engine> {
    Engine::new(settings).map_err(|error| Error::internal("the WebAssembly engine does not start").with_source(error))
}

fn pool(limits: &config::Plugins) -> PoolingAllocationConfig {
    // Places that are kept anew may be taken before those that they came from are free: half as many again at the most.
    let calls = limits.total_concurrency.saturating_add(limits.total_concurrency / 2).saturating_add(DEPLOYING);
    let calls = u32::try_from(calls).unwrap_or(u32::MAX);
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

/// What machine code depends on, and so the same for whoever compiles and whoever runs it.
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

/// How long a declaration (`describe`, `routes`, `migrations`) may take; it has no reason to take any time at all.
pub(super) const DECLARATION_TIME: Duration = Duration::from_secs(2);
