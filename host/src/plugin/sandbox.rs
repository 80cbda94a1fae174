//! The sandbox: runs each call of a guest in a fresh instance.
//!
//! The bulkhead admits the call. Memory, CPU time and host calls are limited from inside, and a deadline covers the
//! whole call, host calls included. Afterwards the instance is gone with everything it held. `description` asks a
//! component for its declaration and `smoke_test` tests a new release; both use call slots of their own. `task` runs
//! deliveries of events and jobs, in the background slots. `execution` runs the guest code.

mod description;
mod execution;
mod smoke_test;
mod task;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::Store;

use self::execution::{Stop, run_until};
pub use self::task::{TaskCall, TaskOutcome, Work};
use super::bulkhead::{CallSlots, NoSlot};
use super::engine::{InstancePool, PluginEngine, deploy_slots};
use super::interface::handle::exports::wharf::plugin::http;
use super::limits::{CallLimits, LimitOverrides};
use super::refusal::{plugin_paused, plugin_revoked};
use super::release::{Prepared, Release};
use super::response::PluginResponse;
use crate::auth::Caller;
use crate::capability::guest::{GuestLimits, GuestResources};
use crate::capability::http::Http;
use crate::capability::log::PluginLogs;
use crate::capability::web::Web;
use crate::capability::{
    CallContext, Capability as _, CpuScheduler, CpuSlot, Dependencies, Entered, Guest, Limit, PluginCpuQueue,
};
use crate::clock::Clock;
use crate::config;
use crate::egress::Trace;
use crate::error::{Error, Kind, Result, code};

/// A request as a plugin receives it.
#[derive(Debug)]
pub struct Request<'a> {
    /// Unique id.
    pub id: &'a Arc<str>,
    /// Index of the route in the plugin's declaration.
    pub route: u32,
    /// Upper-case method.
    pub method: &'a str,
    /// Path below the mount, as received.
    pub path: &'a str,
    /// Decoded path parameters in order.
    pub params: &'a [(&'a str, &'a str)],
    /// Query as received, without `?`.
    pub query: &'a str,
    /// Headers with lower-case names, without credentials.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body.
    pub body: &'a [u8],
    /// Size of the head that the client sent, credentials included. The host keeps it until the response. 0 for a call by
    /// the host.
    pub head_bytes: usize,
    /// The address of the client; `None` for a call by the host.
    pub client: Option<IpAddr>,
}

impl Request<'_> {
    /// Returns the bytes of its head and its body. The texts are parts of the head that the client sent.
    fn size(&self) -> usize {
        let pairs = self.headers.iter().chain(self.params).map(|(name, value)| name.len().saturating_add(value.len()));
        let texts = pairs.chain([self.path.len(), self.query.len()]).fold(0, usize::saturating_add);
        texts.max(self.head_bytes).saturating_add(self.body.len())
    }
}

/// Runs guests.
pub struct Sandbox {
    engine: PluginEngine,
    clock: Clock,
    /// The limits of a component that is not a release yet.
    default_limits: CallLimits,
    cpu: CpuScheduler,
    call_slots: CallSlots,
    /// Deploys have instances of their own, so that calls and deploys never block each other.
    deploy_slots: Semaphore,
    /// Deliveries and jobs have instances of their own too.
    background_slots: Semaphore,
    /// The CPU time of a delivery or job.
    task_cpu_time: Duration,
    /// The time of all smoke calls of a release together.
    smoke_time: Duration,
    logs: PluginLogs,
}

impl Sandbox {
    /// Creates a sandbox with these limits.
    /// Must be called within the runtime that guests run on: the CPU scheduling depends on its worker threads.
    ///
    /// # Errors
    /// None that a configuration can cause.
    pub fn new(engine: PluginEngine, clock: Clock, limits: &config::Plugins, logs: PluginLogs) -> Result<Self> {
        Ok(Self {
            engine,
            clock,
            default_limits: LimitOverrides::default().resolve(limits)?,
            cpu: CpuScheduler::new(tokio::runtime::Handle::current().metrics().num_workers()),
            call_slots: CallSlots::new(limits.total_concurrency, limits.queue_bytes),
            deploy_slots: Semaphore::new(deploy_slots(limits)),
            background_slots: Semaphore::new(limits.background_concurrency),
            task_cpu_time: limits.task_cpu_time,
            smoke_time: limits.smoke_time,
            logs,
        })
    }

    /// Returns the call slots of all plugins together.
    pub fn call_slots(&self) -> &CallSlots {
        &self.call_slots
    }

    /// Returns the usage of the instance pool.
    pub fn instance_pool(&self) -> InstancePool {
        self.engine.instance_pool()
    }

    /// Returns the queue for CPU slots of one more plugin.
    pub(super) fn cpu_queue(&self) -> PluginCpuQueue {
        self.cpu.plugin_queue()
    }

    /// Waits for a slot for one instance of a deploy. Each of these instances ends soon.
    async fn deploy_slot(&self) -> Result<SemaphorePermit<'_>> {
        self.deploy_slots.acquire().await.map_err(Error::internal)
    }

    /// Runs a request. Returns the outcome with its duration, without the time in the queue. `ready` is checked last
    /// before the guest runs. `dependencies` records the services of the host that failed during the call.
    ///
    /// # Errors
    /// The plugin is busy, paused or without a grant (503), or `ready` fails. Within the outcome: it trapped, hit a limit
    /// or returned an invalid response (502), or exceeded its deadline (504).
    pub async fn call(
        &self,
        release: &Release,
        parts: &Prepared,
        request: Request<'_>,
        caller: Option<Arc<Caller>>,
        dependencies: &Dependencies,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<(Result<PluginResponse>, Duration)> {
        // Also ends a call whose request had found its route before the pause.
        let paused = release.pause.token();
        let slot = paused.run_until_cancelled(release.bulkhead.enter(&self.call_slots, request.size())).await;
        let slot = slot.ok_or_else(plugin_paused)?.inspect_err(|no_slot| {
            // A higher limit of the plugin would not help when the slots of all plugins are taken.
            if *no_slot == NoSlot::OfPlugin {
                release.usage.hit(Limit::Concurrency);
            }
        })?;
        if release.revocations.any() {
            return Err(plugin_revoked());
        }
        ready()?;
        let started = Instant::now();
        let outcome = {
            // Pinned, because each of the two would move the call, which is large, and keep room for it twice.
            let running = pin!(self.run(release, parts, request, caller, dependencies, slot.cpu.clone()));
            paused.run_until_cancelled(release.calls.run(running)).await
        };
        let outcome = match outcome {
            Some(Some(outcome)) => outcome,
            None => Err(plugin_paused()),
            Some(None) => Err(Error::new(
                Kind::Unavailable(Duration::from_secs(1)),
                code::PLUGIN_REPLACED,
                "The plugin was replaced before it responded, try again",
            )),
        };
        Ok((outcome, started.elapsed()))
    }

    async fn run(
        &self,
        release: &Release,
        parts: &Prepared,
        request: Request<'_>,
        caller: Option<Arc<Caller>>,
        dependencies: &Dependencies,
        cpu_slot: CpuSlot,
    ) -> Result<PluginResponse> {
        // Only a plugin that sends requests to other servers continues the trace.
        let trace = if release.record.grants.contains(Http::NAME) { Trace::of(request.headers) } else { None };
        let context = CallContext { address: request.client, caller, trace, ..context_of(release, Some(request.id)) };
        let mut store = self.release_store(release, parts, context, &release.limits, dependencies, cpu_slot.clone());
        let request = http::Request {
            id: request.id,
            route: request.route,
            method: request.method,
            path: request.path,
            params: request.params,
            query: request.query,
            headers: request.headers,
            body: request.body,
        };
        let budget = store.data().limits.budget.clone();
        let outcome = {
            let work = pin!(async {
                let began = Instant::now();
                let _request = budget.reserve(request.body.len())?;
                let instance = parts.handle.instantiate(&mut store).await?;
                release.stats.instantiated(began.elapsed());
                let response = parts.handle.call(&mut store, instance, request).await?;
                store.data_mut().release_result();
                let _response = budget.reserve(host_bytes(&response))?;
                Ok(response)
            });
            run_until(&cpu_slot, &release.stats, release.limits.deadline, work).await
        };
        release.usage.record_peak(budget.peak());
        // Includes a limit that the guest recovered from, such as an allocation that failed.
        let hit = if matches!(outcome, Err(Stop::Deadline)) { Some(Limit::Deadline) } else { budget.limit_hit() };
        if let Some(limit) = hit {
            release.usage.hit(limit);
        }
        match outcome {
            // The response is the use of this grant.
            Ok(_) if release.revocations.check(Web::NAME).is_err() => Err(plugin_revoked()),
            Ok(response) => {
                let pages = release.record.grants.contains(Web::NAME);
                let checked = PluginResponse::check(response, &release.limits, &release.usage, pages);
                checked.map(|response| response.asked(store.data().asked_for_caller))
            }
            Err(stop) => {
                let error = stop.into_error(hit);
                let record = &release.record;
                Err(error_of(record.plugin.as_str(), record.number, error))
            }
        }
    }

    /// Creates a store for one call of a release.
    fn release_store(
        &self,
        release: &Release,
        parts: &Prepared,
        context: CallContext,
        limits: &CallLimits,
        dependencies: &Dependencies,
        cpu_slot: CpuSlot,
    ) -> Store<Guest> {
        let context = Arc::new(context);
        let entered = parts.admitted.enter(&context);
        let resources = GuestResources {
            output: Arc::clone(&release.log),
            usage: Arc::clone(&release.usage),
            dependencies: dependencies.clone(),
            cpu_slot,
        };
        self.store(context, entered, resources, limits, parts.admitted.max_input_bytes())
    }

    fn store(
        &self,
        context: Arc<CallContext>,
        entered: Entered,
        resources: GuestResources,
        limits: &CallLimits,
        max_call_bytes: usize,
    ) -> Store<Guest> {
        let own = GuestLimits::new(limits.memory, limits.cpu_time, limits.host_calls);
        let guest = Guest::new(context, entered, own, resources, self.clock.clone());
        self.engine.store(guest, max_call_bytes.max(limits.response_bytes))
    }
}

/// Returns the context of a call of a release by the host itself: without a client, a caller and a task.
fn context_of(release: &Release, request_id: Option<&Arc<str>>) -> CallContext {
    CallContext {
        plugin: release.record.plugin.clone(),
        release: release.record.number,
        request_id: request_id.cloned(),
        address: None,
        caller: None,
        trace: None,
        task: None,
    }
}

/// Returns the host memory that a response takes: its texts with their overhead.
fn host_bytes(response: &Result<http::Response, http::Problem>) -> usize {
    let text = |text: &str| text.len().saturating_add(size_of::<String>());
    let texts = |texts: [&str; 2]| texts.into_iter().map(text).fold(0, usize::saturating_add);
    match response {
        Ok(response) => {
            let headers = response.headers.iter().map(|(name, value)| texts([name, value]));
            headers.fold(response.body.len(), usize::saturating_add)
        }
        Err(problem) => {
            let errors = problem.errors.iter().map(|error| {
                let location = error.loc.iter().map(|step| text(step));
                location.fold(texts([&error.kind, &error.message]), usize::saturating_add)
            });
            errors.fold(texts([&problem.detail, &problem.code]), usize::saturating_add)
        }
    }
}

fn error_of(plugin: &str, release: i64, error: Error) -> Error {
    let internal = format!("plugin {plugin} release {release}: {}", error.report());
    error.with_internal(internal)
}
