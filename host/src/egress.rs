//! Requests that plugins send to other servers. Assume that a plugin is hostile, and the server that it speaks to as
//! well.
//!
//! Owns the SSRF filter (an allowlist of origins, public addresses and granted networks, never this host's own
//! listener) and the limits of one exchange on time, bytes and concurrency. A name is looked up once per connection,
//! every address in the result is checked, and the connection goes to one of these. Each redirect is checked like the
//! first request. Never reads proxies from the environment, keeps no cookies, sends no credentials that the plugin did
//! not give, decompresses nothing.
//!
//! `host_requests` sends the requests of the host itself, to servers that its operator chose.
//!
//! Data passes one way: [`Request`] → `checked_request` → `ssrf_filter` with `origin` (servers) → `resolver` →
//! `ssrf_filter` with `address` (addresses) → `connection` → [`Response`]; `client` runs these steps. Knows nothing of
//! WebAssembly.

pub mod address;
mod checked_request;
mod client;
mod concurrency;
mod connection;
mod exchange;
mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod host_requests;
mod limits;
pub mod origin;
mod pool;
pub mod resolver;
mod ssrf_filter;
pub mod trace;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Semaphore;

use self::concurrency::{MAX_LOOKUPS, PluginConcurrency};
use self::connection::Tls;
use self::host_requests::HostRequests;
use self::origin::{Origin, Server, Target};
use self::pool::Pool;
use crate::clock::Random;
use crate::id::PluginName;
use crate::network::Network;
use crate::permits::Permits;

pub use self::checked_request::is_written_by_the_host;
pub use self::connection::Roots;
pub use self::exchange::{Report, Request, Response, ResponseMemory};
pub use self::failure::{Failure, LimitKind};
pub use self::limits::{EgressLimits, MAX_REDIRECTS};
pub use self::resolver::Resolver;
pub use self::ssrf_filter::Allowlist;
pub use self::trace::Trace;

/// The parts of the machine that outgoing requests depend on, replaceable in tests.
#[derive(Debug, Clone, Default)]
pub struct EgressEnvironment {
    /// Resolves names to addresses.
    pub resolver: Resolver,
    /// The trusted certificates.
    pub roots: Roots,
}

/// The outgoing requests of all plugins.
#[derive(Clone)]
pub struct Egress(Arc<Shared>);

struct Shared {
    resolver: Resolver,
    tls: Tls,
    random: Random,
    /// The address of this host's listener, which no plugin reaches.
    own: OnceLock<SocketAddr>,
    /// This host under its public name, which the entry `https://*` of an allowlist leaves out.
    own_server: OnceLock<Server>,
    plugins: Mutex<HashMap<PluginName, PluginConcurrency>>,
    host: HostRequests,
}

impl Egress {
    /// Opens nothing until the first request.
    pub fn new(environment: EgressEnvironment, random: Random) -> Self {
        Self(Arc::new(Shared {
            resolver: environment.resolver,
            tls: Tls::new(environment.roots),
            random,
            own: OnceLock::new(),
            own_server: OnceLock::new(),
            plugins: Mutex::default(),
            host: HostRequests::default(),
        }))
    }

    /// Sets the address of this host's listener, before it accepts connections. Later calls change nothing.
    pub fn set_own_listener(&self, own: SocketAddr) {
        let _ = self.0.own.set(own);
    }

    /// Sets the origin of this host as browsers reach it, before the plugins are loaded. Later calls change nothing.
    pub fn set_own_origin(&self, origin: &str) {
        // Without a public name, there is none to leave out.
        if let Ok(target) = Target::read(origin) {
            let _ = self.0.own_server.set(target.server);
        }
    }

    /// Returns the outgoing requests of one release.
    pub fn release(&self, plugin: &PluginName, allowlist: Allowlist, limits: EgressLimits) -> ReleaseEgress {
        let mut plugins = self.0.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let concurrency = plugins.entry(plugin.clone()).or_insert_with(|| PluginConcurrency {
            requests: Permits::new(limits.requests),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        });
        let (concurrency, shared) = (concurrency.clone(), Arc::clone(&self.0));
        ReleaseEgress { shared, concurrency, allowlist, limits, pool: Arc::new(Pool::default()) }
    }

    /// Sends a request of the host itself and reads the whole response.
    ///
    /// # Errors
    /// The request is invalid, it hit a limit, the server cannot be reached, or it violates the protocol.
    pub async fn send_for_host(&self, request: Request, request_id: &str) -> Result<Response, Failure> {
        let target = Target::read(&request.url).map_err(Failure::Invalid)?;
        let once = ReleaseEgress {
            shared: Arc::clone(&self.0),
            concurrency: self.0.host.concurrency.clone(),
            allowlist: Allowlist { hosts: vec![Origin::of(target.server)], networks: Network::all().into() },
            limits: host_requests::LIMITS,
            pool: Arc::clone(&self.0.host.pool),
        };
        let trace =
            Trace::begin(Some(request_id), &self.0.random).map_err(|error| Failure::Internal(error.report()))?;
        once.send(Request { redirects: Some(0), ..request }, &trace, &mut (), &mut Report::default()).await
    }
}

/// The outgoing requests of one release of a plugin.
pub struct ReleaseEgress {
    shared: Arc<Shared>,
    concurrency: PluginConcurrency,
    allowlist: Allowlist,
    limits: EgressLimits,
    pool: Arc<Pool>,
}

impl ReleaseEgress {
    /// Returns the number of the plugin's requests in progress.
    pub fn requests(&self) -> usize {
        self.concurrency.requests.out()
    }

    /// Applies this release's limit on concurrent requests to the plugin.
    pub fn apply_requests(&self) {
        self.concurrency.requests.resize(self.limits.requests);
    }
}
