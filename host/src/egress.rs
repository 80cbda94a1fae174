//! Requests that plugins make to other servers. Assume that a plugin is hostile, and the server it speaks to as well.
//!
//! Owns where a plugin may go (an allow-list of origins), which addresses that may be (public ones, and networks granted
//! beside them; never this host's own listener), and what one exchange may take in time, bytes and numbers. A name is
//! looked up once for a connection, every address of the answer is judged, and the connection goes to one of those. Each
//! redirect is judged like the first request. Never reads proxies from the environment, keeps no cookies, sends no
//! credentials that the plugin did not give, unpacks nothing.
//!
//! Data passes one way: [`Request`] → `message` (checked) → `origin` and `address` (allowed) → `resolver` → `connection`
//! → [`Response`]. Knows nothing of WebAssembly.

pub mod address;
mod client;
mod connection;
#[cfg(fuzzing)]
pub mod fuzzing;
mod message;
pub mod origin;
mod pool;
pub mod resolver;
pub mod trace;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use self::address::Network;
use self::connection::Tls;
use self::origin::{Origin, Server};
use self::pool::Pool;
use crate::clock::Random;
use crate::id::PluginName;
use crate::permits::Permits;

pub use connection::Roots;
pub use message::is_written_by_the_host;
pub use resolver::Resolver;
pub use trace::Trace;

/// The most redirects that are followed.
pub const MAX_REDIRECTS: u32 = 5;
/// Look-ups of one plugin that run at once: the system's cannot be cancelled, so they may outlive who asked.
const MAX_LOOKUPS: usize = 8;

/// What the host takes from the machine to speak to the outside, so that tests can choose it.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Names to addresses.
    pub resolver: Resolver,
    /// Whose certificates are trusted.
    pub roots: Roots,
}

/// What one exchange may take. Every phase ends with the whole, if not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one plugin at once.
    pub requests: usize,
    /// How long one waits for its turn.
    pub queue: Duration,
    /// Looking up a name.
    pub resolve: Duration,
    /// Connecting, TLS included.
    pub connect: Duration,
    /// From sending the request to the head of the answer.
    pub first_byte: Duration,
    /// The whole exchange, redirects included.
    pub time: Duration,
    /// Body of an answer, and of a request.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 16,
            queue: Duration::from_secs(1),
            resolve: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(20),
            time: Duration::from_secs(30),
            bytes: 8 * 1024 * 1024,
        }
    }
}

/// Where a release may go.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// The servers; none: nobody.
    pub hosts: Vec<Origin>,
    /// Addresses that are not public and allowed nonetheless.
    pub networks: Vec<Network>,
}

/// A request of a plugin.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// In upper case.
    pub method: String,
    /// `http` or `https`.
    pub url: String,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// Empty for none.
    pub body: Bytes,
    /// Less than the plugin may take.
    pub time: Option<Duration>,
    /// Connecting, TLS included, in less than it may take.
    pub connect: Option<Duration>,
    /// From sending the request to the head of the answer, in less than it may take.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the answer's body.
    pub idle: Option<Duration>,
    /// Redirects to follow; none: as many as there may be.
    pub redirects: Option<u32>,
}

impl Request {
    /// What it weighs in memory.
    pub fn weight(&self) -> usize {
        let headers = self.headers.iter().flat_map(|(name, value)| [name.len(), value.len()]);
        headers.fold(self.url.len().saturating_add(self.body.len()), usize::saturating_add)
    }
}

/// The answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Where it came from, after redirects.
    pub url: String,
    /// 200 to 999.
    pub status: u16,
    /// Names in lower case; without those of the connection.
    pub headers: Vec<(String, String)>,
    /// Whole.
    pub body: Bytes,
}

/// Why there is no answer, in a form that a plugin may see: no address that a name was found to have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request is wrong.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The grant does not allow it.
    #[error("denied: {0}")]
    Denied(String),
    /// No such name, nobody there, or the connection broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// A phase took too long.
    #[error("timeout: {0}")]
    Timeout(&'static str),
    /// A limit was broken.
    #[error("limit: {1}")]
    Limit(Bound, String),
    /// The server does not speak HTTP or TLS as it should.
    #[error("protocol: {0}")]
    Protocol(String),
    /// A defect of the host, or of the machine below it.
    #[error("internal: {0}")]
    Internal(String),
}

/// Where the memory for an answer is taken from.
pub trait Memory: Send {
    /// Takes so many bytes in all, if there are as many.
    fn grow(&mut self, bytes: usize) -> bool;
}

/// As much as there is.
impl Memory for () {
    fn grow(&mut self, _: usize) -> bool {
        true
    }
}

/// A limit that an exchange meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Requests at once.
    Requests,
    /// Bytes of a body.
    Bytes,
    /// Memory for the answer.
    Memory,
    /// Headers and their bytes: the same for everybody.
    Headers,
    /// Redirects: the same for everybody.
    Redirects,
}

/// The parts of an exchange that have a time of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Resolve,
    Connect,
    Tls,
    FirstByte,
    Body,
}

impl Phase {
    fn over(self) -> Failure {
        Failure::Timeout(match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::FirstByte => "first byte",
            Self::Body => "body",
        })
    }
}

/// What an exchange was, for the log: never a path, a query or a header.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The last server that was spoken to, or was to be.
    pub server: Option<Server>,
    /// Redirects that were followed.
    pub redirects: u32,
    /// Of the answer.
    pub status: Option<u16>,
    /// Of the answer's body.
    pub bytes: usize,
    /// Connections that were open already.
    pub reused: u32,
    /// Time of looking up names.
    pub resolve: Duration,
    /// Time of connecting.
    pub connect: Duration,
    /// Time of waiting for heads of answers.
    pub first_byte: Duration,
    /// Time of reading the body.
    pub body: Duration,
    /// What an operator may know of a failure and the plugin may not.
    pub detail: Option<String>,
}

/// The way out, for all plugins.
#[derive(Clone)]
pub struct Egress(Arc<Shared>);

struct Shared {
    resolver: Resolver,
    tls: Tls,
    random: Random,
    /// Where this host listens; nothing goes there.
    own: OnceLock<SocketAddr>,
    plugins: Mutex<HashMap<PluginName, Share>>,
}

/// What all releases of a plugin share.
#[derive(Clone)]
struct Share {
    turns: Arc<Permits>,
    lookups: Arc<Semaphore>,
}

impl Egress {
    /// A way out; nothing is opened before it is used.
    pub fn new(outside: Outside, random: Random) -> Self {
        Self(Arc::new(Shared {
            resolver: outside.resolver,
            tls: Tls::new(outside.roots),
            random,
            own: OnceLock::new(),
            plugins: Mutex::default(),
        }))
    }

    /// Says where this host listens, before anybody can be there. The first one counts.
    pub fn keep_away_from(&self, own: SocketAddr) {
        let _ = self.0.own.set(own);
    }

    /// The way out of one release.
    pub fn release(&self, plugin: &PluginName, allowed: Allowed, limits: Limits) -> ReleaseEgress {
        let mut plugins = self.0.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let share = plugins.entry(plugin.clone()).or_insert_with(|| Share {
            turns: Permits::new(limits.requests),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        });
        let (share, shared) = (share.clone(), Arc::clone(&self.0));
        ReleaseEgress { shared, share, allowed, limits, pool: Arc::new(Pool::default()) }
    }
}

/// The way out of one release of a plugin.
pub struct ReleaseEgress {
    shared: Arc<Shared>,
    share: Share,
    allowed: Allowed,
    limits: Limits,
    pool: Arc<Pool>,
}

impl ReleaseEgress {
    /// Requests of the plugin that are under way.
    pub fn requests(&self) -> usize {
        self.share.turns.out()
    }

    /// The number of requests at once that this release may have is the plugin's from now on.
    pub fn apply_requests(&self) {
        self.share.turns.resize(self.limits.requests);
    }
}
