//! The access check of host routes and plugin routes: credentials → caller → privilege.

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
/// 401 without valid credentials, 403 without the privilege or with a cookie that does not count; 429 after many API
/// keys that do not exist.
pub(super) async fn check(
    auth: &Auth,
    credential: Credential<'_>,
    address: IpAddr,
    access: &Access,
    plugin: Option<&PluginName>,
) -> Result<Option<Arc<Caller>>> {
    if *access == Access::Public {
        // A public plugin route can greet a known caller. Invalid credentials count as none, and so does a key that may
        // not call the routes of plugins: the plugin could act on the data of its owner.
        let known = if plugin.is_some() { identify(auth, credential, address).await } else { None };
        return Ok(known.filter(|caller| may_call_plugins(caller)));
    }
    let token = match credential {
        Credential::Bearer(token) | Credential::Cookie(token) => token,
        Credential::Forged => return Err(browser_rules::cross_site()),
        Credential::None => {
            let kind = Kind::Unauthenticated(Challenge::Missing);
            return Err(Error::new(kind, code::NOT_AUTHENTICATED, "Not authenticated"));
        }
    };
    let caller = authenticate(auth, token, address).await?;
    let allowed = match (access, plugin) {
        (Access::Public, _) | (Access::Authenticated, None) => true,
        // The routes of plugins act on the caller's data. A key for something else must not.
        (Access::Authenticated, Some(_)) => may_call_plugins(&caller),
        (Access::Permission(name), Some(plugin)) => caller.has_permission(plugin, name),
        (Access::Host(permission), _) => caller.may(*permission),
        (Access::Session, _) => caller.session().map(|_| true)?,
        (Access::Permission(_), None) | (Access::Superuser, _) => caller.is_superuser(),
    };
    if allowed { Ok(Some(caller)) } else { Err(caller.refusal()) }
}

/// Returns whether the caller may call routes of plugins that require no permission.
fn may_call_plugins(caller: &Caller) -> bool {
    caller.key_id().is_none() || caller.may(HostPermission::RoutesCall)
}

/// Returns the caller, or `None` if the credentials are missing or invalid.
pub(super) async fn identify(auth: &Auth, credential: Credential<'_>, address: IpAddr) -> Option<Arc<Caller>> {
    match credential {
        Credential::Bearer(token) | Credential::Cookie(token) => authenticate(auth, token, address).await.ok(),
        Credential::Forged | Credential::None => None,
    }
}

/// Returns the caller of a token. Counts an API key that does not exist, on every way on which one can arrive.
async fn authenticate(auth: &Auth, token: &str, address: IpAddr) -> Result<Arc<Caller>> {
    let authenticated = auth.authenticate(token).await;
    if Auth::is_api_key(token) {
        return auth.throttle().after(Action::ApiKey, address, &code::INVALID_TOKEN, authenticated);
    }
    authenticated
}
