//! Whether the process lives, and whether it should get traffic.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use crate::error::{Error, Kind, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;

/// Routes of the probes.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/healthz", read_liveness).public().undocumented(),
        HostRoute::get("/readyz", read_readiness).public().undocumented(),
    ]
}

/// Answers as long as the process can answer at all.
async fn read_liveness(_: Arc<Host>, _: Call) -> Result<Reply> {
    Ok(Reply::new(StatusCode::OK, "text/plain; charset=utf-8", "ok"))
}

/// Answers while the database does and the host is not stopping.
async fn read_readiness(host: Arc<Host>, _: Call) -> Result<Reply> {
    if host.stopping.is_cancelled() {
        let kind = Kind::Unavailable(Duration::from_secs(5));
        return Err(Error::new(kind, code::SHUTTING_DOWN, "The host is stopping"));
    }
    host.db.ping().await?;
    Ok(Reply::new(StatusCode::OK, "text/plain; charset=utf-8", "ok"))
}
