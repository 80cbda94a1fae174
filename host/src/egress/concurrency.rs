//! The concurrency limits that all releases of a plugin share, or all requests of the host.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::permits::Permits;

/// Concurrent lookups of one plugin: the system's cannot be cancelled, so a lookup may outlive its request.
pub(super) const MAX_LOOKUPS: usize = 8;

/// The concurrency limits that all releases of a plugin share.
#[derive(Clone)]
pub(super) struct PluginConcurrency {
    pub(super) requests: Arc<Permits>,
    pub(super) lookups: Arc<Semaphore>,
}
