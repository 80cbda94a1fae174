//! One call in a fresh instance: admitted by the bulkhead, bounded from inside (memory, CPU, host calls) and from outside
//! (a deadline around the whole call, host calls included), and gone afterwards with everything it held.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::component::Linker;
use wasmtime::error::Context as _;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};

use super::answer::Answer;
use super::artifact::{Artifact, MIGRATIONS, invalid, told};
use super::bulkhead::{Full, Places, busy};
use super::declaration::Declaration;
use super::engine::{DECLARATION_TIME, DEPLOYING, PluginEngine, Pool};
use super::interface::handle::exports::wharf::plugin::http;
use super::interface::{describe, migrate};
use super::limits::{CallLimits, Limits};
use super::release::Release;
use super::schema::Step;
use super::tally::Tally;
use crate::auth::Caller;
use crate::capability::guest;
use crate::capability::http::Http;
use crate::capability::log::{PluginLog, PluginLogs};
use crate::capability::{
    CallContext, Capabilities, Capability as _, Entered, Grants, Guest, Limit, Share, Turn, Turns, Usage,
};
use crate::clock::Clock;
use crate::config;
use crate::egress::Trace;
use crate::error::{Error, Kind, Result, code};
use crate::id::PluginName;

/// A request as a plugin gets it.
#[derive(Debug)]
pub struct Request<'a> {
    /// Unique id.
    pub id: &'a Arc<str>,
    /// Index of the route in the plugin's declaration.
    pub route: u32,
    /// Upper-case method.
    pub method: &'a str,
    /// Below the mount, as received.
    pub path: &'a str,
    /// Decoded path parameters in order.
    pub params: &'a [(&'a str, &'a str)],
    /// As received, without `?`.
    pub query: &'a str,
    /// Lower-case names; no credentials.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// A migration as a component declares it.
pub(super) struct DeclaredMigration {
    pub(super) step: Step,
    pub(super) sql: String,
}

/// Runs guests.
pub struct Sandbox {
    engine: PluginEngine,
    clock: Clock,
    /// Of what is no release yet.
    limits: CallLimits,
    turns: Turns,
    all: Places,
    /// Instances of deploys have places of their own: neither is busy because of the other.
    deploying: Semaphore,
    logs: PluginLogs,
}

impl Sandbox {
    /// A sandbox with these limits.
    /// Must be called within the runtime that guests run on: whose turn it is depends on its threads.
    ///
    /// # Errors
    /// None that a configuration leads to.
    pub fn new(engine: PluginEngine, clock: Clock, limits: &config::Plugins, logs: PluginLogs) -> Result<Self> {
        Ok(Self {
            engine,
            clock,
            limits: Limits::default().resolve(limits)?,
            turns: Turns::of(tokio::runtime::Handle::current().metrics().num_workers()),
            all: Places::new(limits.total_concurrency, limits.queue_time),
            deploying: Semaphore::new(DEPLOYING),
            logs,
        })
    }

    /// The places for calls of all plugins together.
    pub fn all(&self) -> &Places {
        &self.all
    }

    /// What the pool of instances holds.
    pub fn pool(&self) -> Pool {
        self.engine.pool()
    }

    /// The share of one more plugin in the turns of those that compute for long.
    pub(super) fn share(&self) -> Share {
        self.turns.share()
    }

    /// A place for one instance of a deploy; each ends soon.
    async fn place(&self) -> Result<SemaphorePermit<'_>> {
        self.deploying.acquire().await.map_err(Error::internal)
    }

    /// Answers a request; what came of it, and how long it took beyond the queue. `ready` is asked last of all before the
    /// guest runs.
    ///
    /// # Errors
    /// The plugin is busy (503), or it is not `ready`. Within the outcome: it trapped, broke a limit or answered nonsense
    /// (502), or ran out of time (504).
    pub async fn call(
        &self,
        release: &Release,
        request: Request<'_>,
        caller: Option<Arc<Caller>>,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<(Result<Answer>, Duration)> {
        let place = release.bulkhead.enter(&self.all).await;
        let _place = place.inspect_err(|full| {
            // The places of all are not the plugin's to raise.
            if *full == Full::Own {
                release.usage.hit(Limit::Concurrency);
            }
        })?;
        ready()?;
        let started = Instant::now();
        let outcome = match release.ended.run_until_cancelled(self.run(release, request, caller)).await {
            Some(outcome) => outcome,
            None => Err(Error::new(
                Kind::Unavailable(Duration::from_secs(1)),
                code::PLUGIN_REPLACED,
                "The plugin was replaced before it answered, try again",
            )),
        };
        Ok((outcome, started.elapsed()))
    }

    async fn run(&self, release: &Release, request: Request<'_>, caller: Option<Arc<Caller>>) -> Result<Answer> {
        // Only who speaks to others goes on with it.
        let trace = if release.record.grants.contains(Http::NAME) { Trace::of(request.headers) } else { None };
        let mut store = self.fresh(release, request.id, caller, trace);
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
        let (turn, budget) = (store.data().turn.clone(), store.data().limits.budget.clone());
        let work = async {
            let began = Instant::now();
            let _request = budget.hold(request.body.len())?;
            let role = release.handle.instantiate_async(&mut store).await?;
            release.tally.instantiated(began.elapsed());
            let answer = role.wharf_plugin_http().call_handle(&mut store, request).await?;
            store.data_mut().settle();
            let _answer = budget.hold(weight(&answer))?;
            Ok(answer)
        };
        let outcome = bounded(&turn, &release.tally, release.limits.deadline, work).await;
        release.usage.took_memory(budget.peak());
        // Also one that the guest coped with: an allocation that failed, say.
        let hit = if matches!(outcome, Err(Stop::Deadline)) { Some(Limit::Deadline) } else { budget.met() };
        if let Some(limit) = hit {
            release.usage.hit(limit);
        }
        match outcome {
            Ok(answer) => Answer::check(answer, &release.limits, &release.usage),
            Err(stop) => {
                let error = stop.into_error(hit);
                let record = &release.record;
                Err(error_of(record.plugin.as_str(), record.number, error))
            }
        }
    }

    /// Tries a release before anybody else does: an instance is made with everything it was granted, and the routes that
    /// it marked with `x-wharf-smoke` are called, without a caller.
    ///
    /// # Errors
    /// It traps, breaks a limit, does not answer in time, or answers 500 and above.
    pub(super) async fn smoke(&self, release: &Release, request_id: &Arc<str>) -> Result<()> {
        let refuse = |route: &str, why: String| {
            Error::new(
                Kind::Invalid(Vec::new()),
                code::SMOKE_FAILED,
                format!("The release does not pass its first call{route}: {why}. What was live still is"),
            )
        };
        let _place = self.place().await?;
        let mut store = self.fresh(release, request_id, None, None);
        let turn = store.data().turn.clone();
        let instance = release.handle.instantiate_async(&mut store);
        if let Err(stop) = bounded(&turn, &release.tally, release.limits.deadline, instance).await {
            let error = stop.into_error(store.data().limits.budget.met());
            return Err(refuse("", error.public().to_owned()).with_internal(error.report()));
        }
        drop(store);
        for (index, route) in release.routes.iter().enumerate().filter(|(_, route)| route.smoke) {
            let path = route.template.to_string();
            let mount = release.record.mount.to_string();
            let request = Request {
                id: request_id,
                route: u32::try_from(index).unwrap_or(u32::MAX),
                method: &route.method,
                path: path.strip_prefix(mount.as_str()).filter(|rest| !rest.is_empty()).unwrap_or("/"),
                params: &[],
                query: "",
                headers: &[],
                body: &[],
            };
            let at = format!(" ({} {path})", route.method);
            match self.run(release, request, None).await {
                Ok(Answer::Response { status, .. } | Answer::Problem { status, .. }) if status >= 500 => {
                    return Err(refuse(&at, format!("it answers {status}")));
                }
                Ok(_) => {}
                Err(error) => return Err(refuse(&at, error.public().to_owned()).with_internal(error.report())),
            }
        }
        Ok(())
    }

    /// A store for one call of a release.
    fn fresh(
        &self,
        release: &Release,
        request_id: &Arc<str>,
        caller: Option<Arc<Caller>>,
        trace: Option<Trace>,
    ) -> Store<Guest> {
        let context = Arc::new(CallContext {
            plugin: release.record.plugin.clone(),
            release: release.record.number,
            request_id: Arc::clone(request_id),
            caller,
            trace,
        });
        let entered = release.admitted.enter(&context);
        let parts = (Arc::clone(&release.log), Arc::clone(&release.usage), release.bulkhead.share().turn());
        self.store(context, entered, parts, &release.limits, release.admitted.brings())
    }

    /// Asks a component what it is, in an instance that has entered no capability.
    ///
    /// # Errors
    /// It traps, breaks a limit, takes too long, or declares what cannot be.
    pub(super) async fn declare(
        &self,
        artifact: &Artifact,
        plugin: &PluginName,
        request_id: &Arc<str>,
    ) -> Result<(Declaration, Vec<DeclaredMigration>)> {
        let refuse = |error: wasmtime::Error| invalid(format!("it does not link: {}", told(&format!("{error:#}"))));
        // Everything is linked and nothing is entered: each function of a capability traps when it is called.
        let mut linker: Linker<Guest> = self.engine.linker()?;
        Capabilities::link(&mut linker, &Grants::all()).map_err(refuse)?;
        let instance = linker.instantiate_pre(&artifact.component).map_err(refuse)?;
        let role = describe::RolePre::new(instance.clone()).map_err(refuse)?;
        let owner =
            if artifact.plays(MIGRATIONS) { Some(migrate::RolePre::new(instance).map_err(refuse)?) } else { None };
        let context = Arc::new(CallContext {
            plugin: plugin.clone(),
            release: 0,
            request_id: Arc::clone(request_id),
            caller: None,
            trace: None,
        });
        let limits = CallLimits { cpu_time: DECLARATION_TIME, ..self.limits.clone() };
        let share = self.turns.share();
        let parts = || (self.logs.plugin(plugin), Arc::default(), share.turn());
        let store = || self.store(Arc::clone(&context), Entered::default(), parts(), &limits, 0);
        let stopped = |stop: Stop, store: &Store<Guest>| {
            if let Some(mismatch) = stop.mismatch().filter(|_| store.data().limits.budget.met().is_none()) {
                return invalid(format!("it was made for another version of Wharf's interfaces: {mismatch}"));
            }
            let error = stop.into_error(store.data().limits.budget.met());
            invalid(format!("it fails when it is asked what it is: {error}")).with_internal(error.report())
        };

        let _place = self.place().await?;
        let mut describing = store();
        // Nobody asks what it took.
        let (turn, tally) = (describing.data().turn.clone(), Tally::default());
        let work = async {
            let role = role.instantiate_async(&mut describing).await.context(Instantiating)?;
            let descriptor = role.wharf_plugin_descriptor().call_describe(&mut describing).await?;
            let api = role.wharf_plugin_http().call_routes(&mut describing).await?;
            Ok((descriptor, api))
        };
        let outcome = bounded(&turn, &tally, DECLARATION_TIME, work).await;
        let (descriptor, api) = outcome.map_err(|stop| stopped(stop, &describing))?;
        let declaration = Declaration::check(descriptor, api)?;
        drop(describing);

        let Some(owner) = owner else { return Ok((declaration, Vec::new())) };
        let mut migrating = store();
        let turn = migrating.data().turn.clone();
        let work = async {
            let role = owner.instantiate_async(&mut migrating).await.context(Instantiating)?;
            role.wharf_sql_migrations().call_migrations(&mut migrating).await
        };
        let outcome = bounded(&turn, &tally, DECLARATION_TIME, work).await;
        let migrations = outcome.map_err(|stop| stopped(stop, &migrating))?;
        let migrations = migrations.into_iter().map(|migration| DeclaredMigration {
            step: Step { name: migration.name, oldest: migration.oldest },
            sql: migration.sql,
        });
        Ok((declaration, migrations.collect()))
    }

    fn store(
        &self,
        context: Arc<CallContext>,
        entered: Entered,
        (log, usage, turn): (Arc<PluginLog>, Arc<Usage>, Turn),
        limits: &CallLimits,
        brings: usize,
    ) -> Store<Guest> {
        let own = guest::Limits::new(limits.memory, limits.cpu_time, limits.host_calls);
        let guest = Guest::new(context, entered, own, log, usage, turn, self.clock.clone());
        self.engine.store(guest, brings.max(limits.response_bytes))
    }
}

/// What an answer takes in the host's memory: its texts, and what each takes beside its bytes.
fn weight(answer: &Result<http::Response, http::Problem>) -> usize {
    let text = |text: &str| text.len().saturating_add(size_of::<String>());
    let texts = |texts: [&str; 2]| texts.into_iter().map(text).fold(0, usize::saturating_add);
    match answer {
        Ok(response) => {
            let headers = response.headers.iter().map(|(name, value)| texts([name, value]));
            headers.fold(response.body.len(), usize::saturating_add)
        }
        Err(problem) => {
            let errors = problem.errors.iter().map(|error| {
                let places = error.loc.iter().map(|place| text(place));
                places.fold(texts([&error.kind, &error.message]), usize::saturating_add)
            });
            errors.fold(texts([&problem.detail, &problem.code]), usize::saturating_add)
        }
    }
}

/// Says of an error that it came while an instance was made.
#[derive(Debug, thiserror::Error)]
#[error("making an instance")]
struct Instantiating;

/// Why a call did not come to its end.
enum Stop {
    Deadline,
    Failed(wasmtime::Error),
}

/// Runs a guest. Epochs do not see time inside host calls, so the deadline is around everything; when it passes, dropping
/// the work cancels the host call it waits in. It holds its turn and costs CPU time only while it runs, not while it waits.
async fn bounded<T>(
    turn: &Turn,
    tally: &Tally,
    deadline: Duration,
    work: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Stop> {
    let mut work = std::pin::pin!(work);
    let running = std::future::poll_fn(|context| {
        let (polled, took) = turn.run(|| work.as_mut().poll(context));
        tally.computed(took);
        polled
    });
    match tokio::time::timeout(deadline, running).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Stop::Failed(error)),
        Err(_) => Err(Stop::Deadline),
    }
}

impl Stop {
    /// What is wrong with the types of an export: found when an instance is made, and neither a trap nor with a backtrace,
    /// as what a start function does is.
    fn mismatch(&self) -> Option<String> {
        let Self::Failed(error) = self else { return None };
        let ran = error.is::<Trap>() || error.is::<WasmBacktrace>() || error.is::<PoolConcurrencyLimitError>();
        // Without the first of the chain, which is that mark.
        let causes = || error.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        (error.is::<Instantiating>() && !ran).then(|| told(&causes()))
    }

    fn into_error(self, hit: Option<Limit>) -> Error {
        let error = match self {
            Self::Deadline => {
                return Error::new(Kind::Timeout, code::PLUGIN_DEADLINE, "The plugin did not answer in time");
            }
            Self::Failed(error) => error,
        };
        if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            return busy().with_internal("the instance pool is full");
        }
        let (kind, code, public) = match hit {
            Some(Limit::Memory) => {
                (Kind::Plugin, code::PLUGIN_MEMORY_LIMIT, "The plugin needs more memory than it may have")
            }
            Some(Limit::CpuTime) => (Kind::Timeout, code::PLUGIN_CPU_LIMIT, "The plugin used up its CPU time"),
            Some(Limit::HostCalls) => {
                (Kind::Plugin, code::PLUGIN_HOST_CALL_LIMIT, "The plugin used up its calls into the host")
            }
            _ => (Kind::Plugin, code::PLUGIN_TRAP, "The plugin failed"),
        };
        // The cause first: the guest's backtrace may be long.
        Error::new(kind, code, public).with_internal(told(&format!("{}; {error}", error.root_cause())))
    }
}

fn error_of(plugin: &str, release: i64, error: Error) -> Error {
    let internal = format!("plugin {plugin} release {release}: {}", error.report());
    error.with_internal(internal)
}
