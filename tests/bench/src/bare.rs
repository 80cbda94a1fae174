//! The least that a dispatch to WebAssembly costs: axum calls a tiny component in a fresh instance of the pool, on a fiber.
//! The pool has the settings of the host's pool. Nothing limits or checks the call.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

use crate::{CONNECTIONS, Failure, own_server};

/// As in `plugin::engine` of the host: a slot is cleared instead of given back, so that the next call causes no page faults.
const MEMORY_KEEP_RESIDENT: usize = 1024 * 1024;
const TABLE_KEEP_RESIDENT: usize = 64 * 1024;

/// It returns its greeting from a constant.
const HELLO: &str = include_str!("bare/hello.wat");

struct Dispatch {
    engine: Engine,
    hello: InstancePre<()>,
}

/// Serves until the process is killed.
#[tokio::main]
pub(crate) async fn serve() -> Result<(), Failure> {
    // More than the connections of any measurement of this server.
    let instances = u32::try_from(2 * CONNECTIONS)?;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_core_instances(instances)
        .total_memories(instances)
        .total_tables(instances)
        .total_stacks(instances)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .max_unused_warm_slots(instances)
        .pagemap_scan(Enabled::No);
    let mut config = Config::new();
    config.concurrency_support(false).allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config)?;
    let component = Component::from_binary(&engine, &wat::parse_str(HELLO)?)?;
    let hello = Linker::new(&engine).instantiate_pre(&component)?;
    let router = Router::new().route("/hello", get(hello_json)).with_state(Arc::new(Dispatch { engine, hello }));
    own_server::serve(router).await
}

async fn hello_json(State(dispatch): State<Arc<Dispatch>>) -> Result<impl IntoResponse, StatusCode> {
    let greeting = dispatch.call().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], greeting))
}

impl Dispatch {
    async fn call(&self) -> wasmtime::Result<String> {
        let mut store = Store::new(&self.engine, ());
        let instance = self.hello.instantiate_async(&mut store).await?;
        let hello = instance.get_typed_func::<(), (String,)>(&mut store, "hello")?;
        let (greeting,) = hello.call_async(&mut store, ()).await?;
        Ok(greeting)
    }
}
