//! The choice of the release that a request goes to: the live one, or the canary for some callers. Prepares the release if it is
//! not loaded. Checks no access: `dispatch` does that after the choice.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderName;
use axum::http::header::HeaderValue;
use axum::http::request::Parts;

use super::Host;
use super::access;
use super::browser_rules::Credential;
use super::client_origin::ClientOrigin;
use crate::auth::Caller;
use crate::error::{Error, Kind, Result, code};
use crate::plugin::Release;
use crate::plugin::canary::{Assignment, Canary, anonymous_caller};
use crate::plugin::generation::{Absence, Found};
use crate::plugin::release::Prepared;

/// `always` or `never` of a superuser decides for this request; otherwise the caller decides.
const X_WHARF_CANARY: HeaderName = HeaderName::from_static("x-wharf-canary");
/// `Retry-After` of a plugin that is paused, revoked or could not be loaded.
const ABSENT_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The release that a request goes to.
pub(super) struct ChosenRelease {
    pub(super) release: Arc<Release>,
    pub(super) prepared: Arc<Prepared>,
    /// The part of the request in a trial.
    pub(super) trial: Option<Assignment>,
    /// The result of the look-up of the caller, if the caller decided about the release.
    pub(super) caller: Option<Result<Arc<Caller>>>,
}

/// Returns the release that a request goes to, prepared; `None` if its path belongs to no plugin. Reads the credential only if
/// the caller decides about the release.
///
/// # Errors
/// The plugin is not served, or its release cannot be prepared.
pub(super) async fn choose<'h>(
    host: &Arc<Host>,
    parts: &'h Parts,
    origin: &ClientOrigin,
    credential: impl FnOnce() -> Credential<'h>,
) -> Result<Option<ChosenRelease>> {
    let found = host.plugins.generation().find(parts.uri.path());
    let (release, trial, caller) = match found {
        None => return Ok(None),
        Some(Found::Absent(reason)) => return Err(absent(reason)),
        Some(Found::Served { live, canary: None }) => (live, None, None),
        Some(Found::Served { live, canary: Some(canary) }) => {
            let caller = access::look_up(&host.auth, credential(), origin.address).await;
            let (is_chosen, trial) = assign(&canary, parts, origin, caller.as_ref().ok());
            let release = if is_chosen { Arc::clone(&canary.release) } else { live };
            (release, trial, Some(caller))
        }
    };
    let prepared = match host.plugins.use_prepared(&release) {
        Some(prepared) => prepared,
        None => prepare(host, &release).await?,
    };
    Ok(Some(ChosenRelease { release, prepared, trial, caller }))
}

/// Prepares a release. The work continues if the client leaves, or if it takes longer than a call may take.
async fn prepare(host: &Arc<Host>, release: &Arc<Release>) -> Result<Arc<Prepared>> {
    let of_task = (Arc::clone(host), Arc::clone(release));
    let prepared = async {
        // The others wait here, and not in tasks that would outlive them.
        release.wait_for_preparation().await;
        if let Some(prepared) = host.plugins.use_prepared(release) {
            return Ok(prepared);
        }
        let task = tokio::spawn(async move {
            let (host, release) = of_task;
            host.plugins.prepare_release(&release).await
        });
        task.await.map_err(|error| Error::internal("a preparation panicked").with_source(error))?
    };
    let in_time = tokio::time::timeout(release.limits.deadline, prepared).await;
    in_time.unwrap_or_else(|_| Err(absent(Absence::Broken)))
}

/// Returns whether a request goes to the canary: the header of an operator decides, or else the caller, who then has a part in
/// the trial. Others cannot choose: a client that sends its requests to one side could end any trial. The access is checked
/// later, so a caller with invalid credentials counts as anonymous here.
fn assign(
    canary: &Canary,
    parts: &Parts,
    origin: &ClientOrigin,
    caller: Option<&Arc<Caller>>,
) -> (bool, Option<Assignment>) {
    if caller.is_some_and(|caller| caller.is_superuser()) {
        match parts.headers.get(X_WHARF_CANARY).map(HeaderValue::as_bytes) {
            Some(b"always") => return (true, None),
            Some(b"never") => return (false, None),
            _ => {}
        }
    }
    let caller = caller.map_or_else(|| anonymous_caller(origin.address), |caller| caller.id().to_string());
    canary.assign(&caller)
}

/// Returns the response of a plugin that is not served.
fn absent(reason: Absence) -> Error {
    let code = match reason {
        Absence::Removed => return Error::not_found(code::PLUGIN_REMOVED, "Not Found"),
        Absence::Paused => code::PLUGIN_PAUSED,
        Absence::Revoked => code::PLUGIN_REVOKED,
        Absence::Broken | Absence::Conflict => code::PLUGIN_UNAVAILABLE,
    };
    Error::new(Kind::Unavailable(ABSENT_RETRY_AFTER), code, "The plugin is not available")
}
