//! The host's own routes, a file per resource. Each file declares its routes beside the handlers that answer them.

mod docs;
mod health;
mod plugins;

use super::Host;
use super::host_route::HostRoute;
use crate::config::Config;

/// Every route of the host.
pub fn routes(config: &Config) -> Vec<HostRoute<Host>> {
    let mut routes = Vec::new();
    routes.extend(health::routes());
    routes.extend(plugins::routes(config.plugins.upload_bytes));
    if config.server.docs {
        routes.extend(docs::routes());
    }
    routes
}
