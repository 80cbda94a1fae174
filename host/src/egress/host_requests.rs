//! Requests of the host itself to servers that its operator chose, such as OpenID Connect issuers. They have the limits
//! of time and bytes that requests of plugins have. The operator's servers may have internal addresses; the caller
//! decides which URLs it trusts. Redirects are never followed: the operator named this server and no other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::concurrency::{MAX_LOOKUPS, PluginConcurrency};
use super::limits::EgressLimits;
use super::pool::Pool;
use crate::permits::Permits;

/// The limits of one request of the host.
pub(super) const LIMITS: EgressLimits = EgressLimits {
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
    pub(super) concurrency: PluginConcurrency,
    pub(super) pool: Arc<Pool>,
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
