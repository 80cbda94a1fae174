//! The running host: opens all parts in order, from the data directory up to the listener, and closes them in the
//! opposite order. Owns their lifetimes and nothing else; no other module knows all parts.

mod data_dir;
pub mod machine;
mod open_files;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::data_dir::DataDir;
use crate::audit::AuditLog;
use crate::auth::{Auth, HashCost, NewSuperuser, Oidc};
use crate::cache::Caches;
use crate::capability::log::PluginLogs;
use crate::capability::{Boot, Grants};
use crate::clock::{Clock, Random};
use crate::config::{Config, Setting, SignUp};
use crate::db::Db;
use crate::db::node_lock::NodeLock;
use crate::db::plugin_data::PluginData;
use crate::db::reach::reach;
use crate::egress::{Egress, EgressEnvironment};
use crate::email::Mailer;
use crate::error::{Error, Kind, Result, code};
use crate::http::body_memory::BodyMemory;
use crate::http::live_events::{Intervals, LiveEvents};
use crate::http::{Dispatcher, Host, dispatch, resource, server};
use crate::initiator::Initiator;
use crate::plugin::deploy_job::AtStage;
use crate::plugin::upload::{Deployed, Upload};
use crate::plugin::{Compile, Registry};

/// How long the last sealing of the audit log at the shutdown may take.
const SEAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time that deliveries and jobs get at the shutdown, after which they start again later. It is a part of the
/// time that requests get.
const TASK_GRACE: Duration = Duration::from_secs(5);

/// The time between a panic of work in the background and its next start.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The host's dependencies on the machine, which tests replace.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The source of time.
    pub clock: Clock,
    /// The source of randomness.
    pub random: Random,
    /// A function to call when a stage of a deploy begins, so that a test can end the process there.
    pub at_stage: Option<AtStage>,
    /// The compiler of components: a child process, or this process.
    pub compile: Compile,
    /// The names and certificates of other servers.
    pub egress: EgressEnvironment,
    /// The cost of a password hash.
    pub passwords: HashCost,
    /// Whether the host is not ready before [`App::set_ready`], because it deploys plugins as soon as it serves.
    pub awaits_deployments: bool,
    /// The settings with their sources, for callers who may read them.
    pub settings: Vec<Setting>,
    /// The times of event streams.
    pub event_streams: Intervals,
}

/// A component to deploy as soon as the host serves, unless it is live already.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The component's file; the plugin gets the name that the component declares.
    pub file: PathBuf,
    /// The grants, as texts for [`Grants::read`].
    pub grants: Vec<String>,
}

/// A host that serves. If it is dropped without [`App::stop`], it ends without waiting for requests in flight.
pub struct App {
    addr: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<Result<()>>,
    mailing: JoinHandle<()>,
    supervising: JoinHandle<()>,
    auditing: JoinHandle<()>,
    locking: JoinHandle<(Option<NodeLock>, Result<()>)>,
    /// The relay of messages, the tasks and the schedules of plugins.
    working: [JoinHandle<()>; 3],
    first_superuser: Option<NewSuperuser>,
    host: Arc<Host>,
    data: Arc<PluginData>,
    // The last field is dropped last: the directory's lock is held while anything may use the directory.
    _data_dir: DataDir,
}

impl App {
    /// Opens all parts and starts to serve.
    ///
    /// # Errors
    /// A part cannot start, or not within `server.start_timeout`. The error names the part and the reason.
    pub async fn start(mut config: Config, environment: Environment) -> Result<Self> {
        config.server.connections = open_files::limit_connections(config.server.connections);
        let limit = config.server.start_timeout;
        let mut step = Step::Opening("opening the data directory");
        let started = timeout(limit, Self::open(Arc::new(config), environment, &mut step)).await;
        started.unwrap_or_else(|_| Err(too_slow(&step, limit)))
    }

    async fn open(config: Arc<Config>, environment: Environment, step: &mut Step) -> Result<Self> {
        let Environment {
            clock,
            random,
            compile,
            at_stage,
            egress,
            passwords,
            awaits_deployments,
            settings: shown,
            event_streams,
        } = environment;
        let in_directory = "stop it, or choose another directory with --data-dir or WHARF_DATA_DIR";
        let data_dir = DataDir::open(&config.server.data_dir, |holder| step.wait_for(holder, in_directory)).await?;

        *step = Step::Opening("opening the database");
        let description = config.database.description();
        // The report may name a file or a cause, but never the URL, which holds a password.
        let failed = |error: Error| Error::internal(format!("{description}: {}", error.report()));
        let in_database = "two hosts on one database would overwrite each other's changes, so stop the other one first";
        let waiting = || step.wait_for(description.clone(), in_database);
        // In time for the error to have the reason, instead of that of the start as a whole.
        let patience = config.database.timeout.min(config.server.start_timeout.saturating_mul(4) / 5);
        reach(&config.database, patience).await.map_err(failed)?;
        let mut lock = NodeLock::acquire(&config.database, &random, waiting).await.map_err(failed)?;
        *step = Step::Opening("opening the database");
        let db = Db::open_as(&config.database, data_dir.path(), lock.as_ref().map(NodeLock::holder))
            .await
            .map_err(failed)?
            .with_random(random.clone());
        if let Some(lock) = &mut lock {
            lock.record().await.map_err(failed)?;
        }
        let data = Arc::new(PluginData::open(&db, &config, random.clone())?);

        *step = Step::Opening("opening identity and mail");
        let throttle = config.auth.throttle && !config.server.development;
        let settings = crate::config::Auth { throttle, ..config.auth.clone() };
        let auth = Auth::open(db.clone(), &settings, clock.clone(), random.clone(), passwords).await?;
        let first_superuser = auth.ensure_superuser(&config.auth).await?;
        let mail = Mailer::open(&config, db.clone(), auth.clone(), clock.clone(), random.clone())?;

        let node = data_dir.node(&random)?;
        let audit = AuditLog::new(db.clone(), clock.clone(), Arc::clone(&node), &config);

        *step = Step::Opening("loading the plugins");
        let egress = Egress::new(egress, random.clone());
        egress.set_own_origin(config.server.public_origin());
        let boot = Boot {
            config: Arc::clone(&config),
            clock: clock.clone(),
            random: random.clone(),
            db: db.clone(),
            data: Arc::clone(&data),
            cache: Caches::new(clock.clone(), config.plugins.cache_bytes),
            egress: egress.clone(),
            logs: PluginLogs::new(clock.clone(), (&config.plugins).into()),
            node,
        };
        let oidc = Oidc::new(
            auth.clone(),
            &egress,
            &config.issuers,
            config.server.public_origin(),
            config.auth.signup == SignUp::Open,
        );
        let routes = resource::routes(&config);
        let plugins = Registry::open(&boot, compile, dispatch::templates(&routes)?, at_stage).await?;
        let plugins = Arc::new(plugins);
        let shutdown = CancellationToken::new();
        let host = Arc::new(Host {
            config: Arc::clone(&config),
            settings: shown,
            clock,
            random,
            db: db.clone(),
            auth,
            audit: audit.clone(),
            oidc,
            mail: mail.clone(),
            plugins,
            traffic: Default::default(),
            body_memory: BodyMemory::new(config.server.body_memory_bytes),
            body_work: Default::default(),
            live_events: LiveEvents::new(db.clone(), &config.server, event_streams),
            openapi: Default::default(),
            starting: AtomicBool::new(awaits_deployments),
            stopping: shutdown.clone(),
        });
        let dispatcher = Arc::new(Dispatcher::new(Arc::clone(&host), routes)?);

        *step = Step::Opening("opening the listener");
        // The listener opens last, so that a client that can connect finds all parts ready.
        let listener = TcpListener::bind(config.server.listen).await.map_err(|error| {
            Error::internal(format!("cannot listen on {}", config.server.listen)).with_source(error)
        })?;
        let addr = listener.local_addr().map_err(|error| Error::internal("no local address").with_source(error))?;
        egress.set_own_listener(addr);

        let refusing = Arc::clone(&dispatcher);
        let refuse = Arc::new(move |error, request, peer| refusing.refuse(error, request, peer));
        let service = move |request, peer| Arc::clone(&dispatcher).dispatch(request, peer);
        let server = Arc::new(config.server.clone());
        let traffic = Arc::clone(&host.traffic);
        let served = tokio::spawn(server::serve(listener, server, traffic, service, refuse, shutdown.clone()));
        let mail = Arc::new(mail);
        let mailing = keep_working(&mail, &shutdown, |mail, stopping| Mailer::clone(&mail).run(stopping));
        let supervising = tokio::spawn({
            let (host, stopping) = (Arc::clone(&host), shutdown.clone());
            async move {
                let compiling = host.plugins.compile_missing(&stopping);
                let streaming = host.live_events.run(&stopping);
                tokio::join!(host.plugins.supervise(stopping.clone()), compiling, streaming);
            }
        });
        let working = work(&host, &shutdown);
        let auditing = tokio::spawn(audit.run(shutdown.clone()));
        let locking = tokio::spawn(keep_lock(lock, shutdown.clone()));
        Ok(Self {
            addr,
            shutdown,
            served,
            mailing,
            supervising,
            auditing,
            locking,
            working,
            first_superuser,
            host,
            data,
            _data_dir: data_dir,
        })
    }

    /// Returns the address that it listens on. With port 0 in the configuration, this is the port that was found.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the superuser that this start created, if it was the first start.
    pub fn first_superuser(&self) -> Option<&NewSuperuser> {
        self.first_superuser.as_ref()
    }

    /// Returns the token of the shutdown. Cancelling it stops the host.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Deploys a component unless its digest is live already.
    ///
    /// # Errors
    /// The component is refused. The live release stays live.
    pub async fn deploy(&self, deployment: &Deployment) -> Result<Deployed> {
        let component = tokio::fs::read(&deployment.file).await.map_err(|error| {
            Error::internal(format!("{} cannot be read", deployment.file.display())).with_source(error)
        })?;
        let grants = Grants::read(deployment.grants.iter().map(String::as_str)).map_err(Error::internal)?;
        let by = Initiator::without_request("start");
        let id = Some(self.host.random.uuid()?.to_string());
        let upload = Upload { grants, id, ..Upload::new(component.into(), &by) };
        self.host.plugins.deploy_at_start(upload).await
    }

    /// Ends the start: from now on `/readyz` succeeds.
    pub fn set_ready(&self) {
        self.host.starting.store(false, Ordering::SeqCst);
    }

    /// Shuts down gracefully: requests in flight may finish.
    ///
    /// # Errors
    /// As [`App::wait`].
    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.wait().await
    }

    /// Waits until [`App::shutdown`] is cancelled and all parts have ended.
    ///
    /// # Errors
    /// The server ended for another reason, or another host took over the database.
    pub async fn wait(self) -> Result<()> {
        let served = self.served.await;
        // A server that failed has cancelled nothing. Without this, the wait for the other parts would never end.
        self.shutdown.cancel();
        // It ends by itself with the same token; mails that are not sent yet stay in the queue.
        let _ = self.mailing.await;
        let _ = self.supervising.await;
        for working in self.working {
            let _ = working.await;
        }
        let _ = self.auditing.await;
        // The requests that were in flight may have appended entries. Without this, the next start would seal them.
        if let Ok(Err(error)) = timeout(SEAL_TIMEOUT, self.host.audit.finish()).await {
            tracing::warn!(error = error.report(), "the next start seals the last entries of the audit log");
        }
        self.data.close().await;
        self.host.db.close().await;
        let locked = self.locking.await;
        let (lock, kept) = locked.map_err(|error| Error::internal("the lock's task failed").with_source(error))?;
        // The lock is the last thing that this host gives up: the next host waits for it.
        if let Some(lock) = lock {
            lock.release().await;
        }
        served.map_err(|error| Error::internal("the server's task failed").with_source(error))??;
        kept
    }
}

/// Starts the work of plugins in the background, until the shutdown.
fn work(host: &Host, shutdown: &CancellationToken) -> [JoinHandle<()>; 3] {
    let grace = (host.config.server.shutdown_grace / 3).min(TASK_GRACE);
    let plugins = &host.plugins;
    [
        keep_working(plugins, shutdown, |plugins, stopping| async move { plugins.relay_messages(&stopping).await }),
        keep_working(plugins, shutdown, move |plugins, stopping| async move {
            Box::pin(plugins.run_tasks(&stopping, grace)).await;
        }),
        keep_working(plugins, shutdown, |plugins, stopping| async move { plugins.run_schedules(&stopping).await }),
    ]
}

/// Starts a work in the background, and starts it again if it panics: the host would otherwise serve requests, and never
/// deliver an event or send a mail again.
fn keep_working<P, F>(
    worker: &Arc<P>,
    shutdown: &CancellationToken,
    work: impl Fn(Arc<P>, CancellationToken) -> F + Send + 'static,
) -> JoinHandle<()>
where
    P: Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (worker, shutdown) = (Arc::clone(worker), shutdown.clone());
    tokio::spawn(async move {
        loop {
            let working = tokio::spawn(work(Arc::clone(&worker), shutdown.clone()));
            let ended = working.await;
            if !ended.is_err_and(|error| error.is_panic()) || shutdown.is_cancelled() {
                return;
            }
            tracing::error!("work in the background panicked, which is a defect of the host; it starts again");
            if shutdown.run_until_cancelled(sleep(RESTART_PAUSE)).await.is_none() {
                return;
            }
        }
    })
}

/// Keeps the lock of the database until the shutdown. Shuts down if another host took the lock.
async fn keep_lock(mut lock: Option<NodeLock>, shutdown: CancellationToken) -> (Option<NodeLock>, Result<()>) {
    let kept = match &mut lock {
        None => Ok(()),
        Some(lock) => lock.keep(&shutdown).await,
    };
    if let Err(error) = &kept {
        tracing::error!(error = error.report(), "another host has the database now; shutting down");
        shutdown.cancel();
    }
    (lock, kept)
}

/// The step of a start that is under way, for the error of a start that takes too long.
#[derive(Debug)]
enum Step {
    /// A part is opened.
    Opening(&'static str),
    /// Another host uses something that only one host may use.
    Waiting { used: String, advice: &'static str },
}

impl Step {
    /// Waits for another host. The wait is logged once.
    fn wait_for(&mut self, used: String, advice: &'static str) {
        if !matches!(self, Self::Waiting { .. }) {
            tracing::warn!(used, "another wharf is running; waiting until it stops");
        }
        *self = Self::Waiting { used, advice };
    }
}

fn too_slow(step: &Step, limit: Duration) -> Error {
    let limit = format!("server.start_timeout ({})", humantime::format_duration(limit));
    let text = match step {
        Step::Opening(part) => format!("{part} took longer than {limit}"),
        Step::Waiting { used, advice } => {
            format!("{used} is in use by another wharf, which did not stop within {limit}; {advice}")
        }
    };
    Error::new(Kind::Timeout, code::INTERNAL, "The start timed out").with_internal(text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn config(directory: &tempfile::TempDir) -> Config {
        let mut config = Config::default();
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.data_dir = directory.path().join("data");
        config
    }

    #[tokio::test]
    async fn a_stopped_host_releases_its_data_directory() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let app = App::start(config(&directory), Environment::default()).await.unwrap();
            assert_ne!(app.addr().port(), 0);
            let mut hasty = config(&directory);
            hasty.server.start_timeout = Duration::from_millis(300);
            let second = App::start(hasty, Environment::default()).await.err().unwrap();
            assert!(second.report().contains("in use by another wharf"), "{}", second.report());
            app.stop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn work_in_the_background_that_panics_starts_again() {
        let (runs, shutdown) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let working = keep_working(&runs, &shutdown, |runs, stopping| async move {
            assert!(runs.fetch_add(1, Ordering::SeqCst) > 0, "the first run panics");
            stopping.cancel();
        });
        working.await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_database_that_hangs_is_the_reason_of_a_start_that_fails() {
        let directory = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(&directory);
        let url = format!("postgres://u:hunter2@{}/x?sslmode=disable", silent.local_addr().unwrap());
        config.database = crate::config::Database { url: Some(crate::config::Secret::new(url)), ..config.database };
        config.server.start_timeout = Duration::from_millis(300);
        let error = App::start(config, Environment::default()).await.err().unwrap();
        let text = "database x: The database cannot be reached now";
        assert!(error.report().contains(text) && !error.report().contains("hunter2"), "{}", error.report());
        assert!(error.report().contains("did not accept a connection within 240ms"), "{}", error.report());
    }
}
