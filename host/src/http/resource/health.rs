//! Health checks: liveness, readiness, and the health check of the FastAPI full-stack template.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;

use crate::error::{Error, Kind, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;

/// Returns the routes of the health checks.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/healthz", read_liveness).public().undocumented(),
        HostRoute::get("/readyz", read_readiness).public().undocumented(),
        HostRoute::get("/api/v1/utils/health-check/", read_health)
            .public()
            .named("utils", "health_check", "Health Check")
            .described("Returns true while the process responds. Nothing else is checked.")
            .replies::<bool>(),
    ]
}

/// Succeeds as long as the process can respond at all.
async fn read_liveness(_: Arc<Host>, _: Call) -> Result<Reply> {
    Ok(Reply::new(StatusCode::OK, "text/plain; charset=utf-8", "ok"))
}

/// Succeeds while the database responds and the host is neither starting nor shutting down.
async fn read_readiness(host: Arc<Host>, _: Call) -> Result<Reply> {
    if host.stopping.is_cancelled() {
        let kind = Kind::Unavailable(Duration::from_secs(5));
        return Err(Error::new(kind, code::SHUTTING_DOWN, "The host is stopping"));
    }
    if host.starting.load(Ordering::SeqCst) {
        let kind = Kind::Unavailable(Duration::from_secs(1));
        return Err(Error::new(kind, code::STARTING, "The host is deploying the plugins that it was started with"));
    }
    host.db.ping().await?;
    Ok(Reply::new(StatusCode::OK, "text/plain; charset=utf-8", "ok"))
}

async fn read_health(_: Arc<Host>, _: Call) -> Result<Reply> {
    Reply::json(&true)
}
