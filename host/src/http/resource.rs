//! The host's own routes, a file per resource. Each file declares its routes beside the handlers that answer them.

use super::Host;
use super::host_route::HostRoute;

/// Every route of the host, below `/api/v1` and beside it.
pub fn routes() -> Vec<HostRoute<Host>> {
    Vec::new()
}
