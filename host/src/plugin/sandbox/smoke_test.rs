//! The smoke test of a release, which runs before any client can call it.

use std::sync::Arc;

use super::execution::{dependency_unavailable, run_until};
use super::{Request, Sandbox, context_of};
use crate::capability::Dependencies;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::release::Release;
use crate::plugin::response::PluginResponse;

impl Sandbox {
    /// Tests a release: creates an instance with everything it was granted, and calls the routes that it marked with
    /// `x-wharf-smoke`, without a caller. One deadline covers all of it, in addition to the deadline of each call.
    ///
    /// # Errors
    /// It traps, hits a limit, does not respond in time, or responds 500 or above (422). A service of the host failed
    /// meanwhile (503): the release is not at fault, and the deploy can be retried.
    pub(in crate::plugin) async fn smoke(&self, release: &Release, request_id: &Arc<str>) -> Result<()> {
        // The wait for other deploys is not the fault of this one.
        let _slot = self.deploy_slot().await?;
        match tokio::time::timeout(self.smoke_time, self.smoke_calls(release, request_id)).await {
            Ok(passed) => passed,
            Err(_elapsed) => {
                let limit = humantime::format_duration(self.smoke_time);
                Err(refuse("", format!("all its smoke calls together take longer than plugins.smoke_time ({limit})")))
            }
        }
    }

    async fn smoke_calls(&self, release: &Release, request_id: &Arc<str>) -> Result<()> {
        let parts = release.parts()?;
        let dependencies = Dependencies::new(Arc::clone(&release.usage));
        let context = context_of(release, Some(request_id));
        // Each call has CPU time of its own.
        let slot = || release.bulkhead.cpu_queue().slot();
        let cpu_slot = slot();
        let mut store = self.release_store(release, &parts, context, &release.limits, &dependencies, cpu_slot.clone());
        let instance = parts.handle.instantiate(&mut store);
        if let Err(stop) = run_until(&cpu_slot, &release.stats, release.limits.deadline, instance).await {
            let error = stop.into_error(store.data().limits.budget.limit_hit());
            if *error.code() == code::DEPENDENCY_UNAVAILABLE {
                return Err(error);
            }
            return Err(refuse("", error.public().to_owned()).with_internal(error.report()));
        }
        drop(store);
        for (index, route) in parts.routes.iter().enumerate().filter(|(_, route)| route.smoke) {
            let path = route.template.to_string();
            let request = Request {
                id: request_id,
                route: u32::try_from(index).unwrap_or(u32::MAX),
                method: &route.method,
                path: release.below_mount(&path),
                params: &[],
                query: "",
                headers: &[],
                body: &[],
                head_bytes: 0,
                client: None,
            };
            let at = format!(" ({} {path})", route.method);
            let dependencies = Dependencies::new(Arc::clone(&release.usage));
            let outcome = self.run(release, &parts, request, None, &dependencies, slot()).await;
            let refuse = |reason: String| match dependencies.has_failed() {
                true => dependency_unavailable().with_internal(format!("smoke call{at}: {reason}")),
                false => refuse(&at, reason),
            };
            match outcome {
                Ok(PluginResponse::Response { status, .. } | PluginResponse::Problem { status, .. })
                    if status >= 500 =>
                {
                    return Err(refuse(format!("it responds {status}")));
                }
                Ok(_) => {}
                Err(error) if *error.code() == code::DEPENDENCY_UNAVAILABLE => return Err(error),
                Err(error) => return Err(refuse(error.public().to_owned()).with_internal(error.report())),
            }
        }
        Ok(())
    }
}

fn refuse(route: &str, reason: String) -> Error {
    Error::new(
        Kind::Invalid(Vec::new()),
        code::SMOKE_FAILED,
        format!("The release does not pass its first call{route}: {reason}. The live release stays live"),
    )
}
