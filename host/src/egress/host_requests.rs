//! Requests of the host itself to servers that its operator chose, such as OpenID Connect issuers. They have the limits
//! of time and bytes that requests of plugins have. The operator's servers may have internal addresses; the caller
//! decides which URLs it trusts. Redirects are never followed: the operator named this server and no other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::exchange::{Report, Request, Response};
use super::failure::Failure;
use super::limits::EgressLimits;
use super::origin::{Origin, Target};
use super::pool::Pool;
use super::ssrf_filter::Allowlist;
use super::trace::Trace;
use super::{Egress, MAX_LOOKUPS, PluginConcurrency, ReleaseEgress};
use crate::network::Network;
use crate::permits::Permits;

const LIMITS: EgressLimits = EgressLimits {
    requests: 16,
    queue: Duration::from_secs(2),
    resolve: Duration::from_secs(5),
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(10),
    time: Duration::from_secs(10),
    bytes: 1024 * 1024,
};

/// The parts that all requests of the host share.
pub(super) struct HostRequests {
    concurrency: PluginConcurrency,
    pool: Arc<Pool>,
}

impl Default for HostRequests {
    fn default() -> Self {
        let concurrency = PluginConcurrency {
            requests: Permits::new(LIMITS.requests),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        };
        Self { concurrency, pool: Arc::default() }
    }
}

impl Egress {
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
            limits: LIMITS,
            pool: Arc::clone(&self.0.host.pool),
        };
        let trace = Trace::begin(request_id, &self.0.random).map_err(|error| Failure::Internal(error.report()))?;
        once.send(Request { redirects: Some(0), ..request }, &trace, &mut (), &mut Report::default()).await
    }
}
