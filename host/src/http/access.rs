//! The access check of host routes, plugin routes and topics of events: credentials → caller → privilege. The look-up of
//! the caller and the decision about their privilege are separate, because a stream of events has a decision per topic.

use std::net::IpAddr;
use std::sync::Arc;

use super::browser_rules::{self, Credential};
use crate::auth::throttle::Action;
use crate::auth::{Auth, Caller};
use crate::error::{Challenge, Error, Kind, Result, code};
use crate::id::PluginName;
use crate::permission::HostPermission;
use crate::route::Access;

/// Returns the caller if they may call a route with this access. `plugin` is the plugin that defines the permission.
///
/// # Errors
/// As [`look_up`] and [`decide`].
pub(super) async fn check(
    auth: &Auth,
    credential: Credential<'_>,
    address: IpAddr,
    access: &Access,
    plugin: Option<&PluginName>,
) -> Result<Option<Arc<Caller>>> {
    // Nobody is looked up for a public route of the host.
    if *access == Access::Public && plugin.is_none() {
        return Ok(None);
    }
    decide_on(look_up(auth, credential, address).await, access, plugin)
}

/// As [`check`], after the look-up of the caller.
///
/// # Errors
/// As [`check`].
pub(super) fn decide_on(
    found: Result<Arc<Caller>>,
    access: &Access,
    plugin: Option<&PluginName>,
) -> Result<Option<Arc<Caller>>> {
    decide(found.as_ref().ok(), access, plugin).map_err(|refusal| found.err().unwrap_or(refusal))
}

/// Returns the caller of a request. Counts an API key that does not exist, on every way on which one can arrive, so a
/// request looks its caller up once.
///
/// # Errors
/// 401 without valid credentials, 403 with a cookie that does not count; 429 after many API keys that do not exist.
pub(super) async fn look_up(auth: &Auth, credential: Credential<'_>, address: IpAddr) -> Result<Arc<Caller>> {
    let token = token_of(credential)?;
    let found = auth.authenticate(token).await;
    if Auth::is_api_key(token) {
        return auth.throttle().after(Action::ApiKey, address, &code::INVALID_TOKEN, found);
    }
    found
}

/// Returns the caller of a request that was admitted before and goes on. An API key that does not exist any more is no
/// guess, so it does not count.
///
/// # Errors
/// As [`look_up`], without the 429.
pub(super) async fn look_up_again(auth: &Auth, credential: Credential<'_>) -> Result<Arc<Caller>> {
    auth.authenticate(token_of(credential)?).await
}

/// Decides whether a caller may use something with this access, and returns them as it knows them. `None` as the caller
/// means that the look-up found nobody.
///
/// # Errors
/// 403 without the privilege; 401 if a caller is required and none is known: the error of the look-up tells why.
pub(super) fn decide(
    caller: Option<&Arc<Caller>>,
    access: &Access,
    plugin: Option<&PluginName>,
) -> Result<Option<Arc<Caller>>> {
    if *access == Access::Public {
        // A public plugin route can greet a known caller. Invalid credentials count as none, and so does a key that may
        // not call the routes of plugins: the plugin could act on the data of its owner.
        return Ok(caller.filter(|caller| plugin.is_some() && may_call_plugins(caller)).cloned());
    }
    let caller = caller.ok_or_else(not_authenticated)?;
    let refusal = match (access, plugin) {
        (Access::Public, _) | (Access::Authenticated, None) => None,
        // The routes of plugins act on the caller's data. A key for something else must not.
        (Access::Authenticated, Some(_)) => {
            (!may_call_plugins(caller)).then(|| caller.lacks(HostPermission::RoutesCall))
        }
        (Access::Permission(name), Some(plugin)) => {
            (!caller.has_permission(plugin, name)).then(|| caller.lacks(format_args!("{plugin}:{name}")))
        }
        (Access::Host(permission), _) => caller.require(*permission).err(),
        (Access::Session, _) => caller.session().err(),
        (Access::Permission(_), None) | (Access::Superuser, _) => (!caller.is_superuser()).then(|| caller.refusal()),
    };
    refusal.map_or_else(|| Ok(Some(Arc::clone(caller))), Err)
}

/// Returns whether the caller may call routes of plugins that require no permission.
fn may_call_plugins(caller: &Caller) -> bool {
    caller.key_id().is_none() || caller.may(HostPermission::RoutesCall)
}

fn token_of(credential: Credential<'_>) -> Result<&str> {
    match credential {
        Credential::Bearer(token) | Credential::Cookie(token) => Ok(token),
        Credential::Forged => Err(browser_rules::cross_site()),
        Credential::None => Err(not_authenticated()),
    }
}

fn not_authenticated() -> Error {
    Error::new(Kind::Unauthenticated(Challenge::Missing), code::NOT_AUTHENTICATED, "Not authenticated")
}
