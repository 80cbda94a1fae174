//! The access check of host routes and plugin routes: credentials → caller → privilege.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::auth::{Auth, Caller};
use crate::error::{Challenge, Error, Kind, Result, code};
use crate::id::PluginName;
use crate::permission::HostPermission;
use crate::route::Access;

/// Returns the caller if they may call a route with this access. `plugin` is the plugin that defines the permission.
///
/// # Errors
/// 401 without valid credentials, 403 without the privilege.
pub(super) async fn check(
    auth: &Auth,
    headers: &HeaderMap,
    access: &Access,
    plugin: Option<&PluginName>,
) -> Result<Option<Arc<Caller>>> {
    if *access == Access::Public {
        // A public plugin route can greet a known caller. Invalid credentials count as none.
        return Ok(if plugin.is_some() { identify(auth, headers).await } else { None });
    }
    let Some(token) = bearer(headers) else {
        let kind = Kind::Unauthenticated(Challenge::Missing);
        return Err(Error::new(kind, code::NOT_AUTHENTICATED, "Not authenticated"));
    };
    let caller = auth.authenticate(token).await?;
    let allowed = match (access, plugin) {
        (Access::Public, _) | (Access::Authenticated, None) => true,
        // The routes of plugins act on the caller's data. A key for something else must not.
        (Access::Authenticated, Some(_)) => caller.key_id().is_none() || caller.may(HostPermission::RoutesCall),
        (Access::Permission(name), Some(plugin)) => caller.has_permission(plugin, name),
        (Access::Host(permission), _) => caller.may(*permission),
        (Access::Session, _) => caller.session().map(|_| true)?,
        (Access::Permission(_), None) | (Access::Superuser, _) => caller.is_superuser(),
    };
    if allowed { Ok(Some(caller)) } else { Err(caller.refusal()) }
}

/// Returns the caller, or `None` if the credentials are missing or invalid.
pub(super) async fn identify(auth: &Auth, headers: &HeaderMap) -> Option<Arc<Caller>> {
    auth.authenticate(bearer(headers)?).await.ok()
}

/// Returns the token of an `Authorization: Bearer` header. The scheme is case-insensitive. A header that has the scheme
/// but no token, or that is not readable, gives an empty token, which is never valid.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().unwrap_or("bearer");
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_bearer_tokens_are_credentials() {
        let token = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(ToOwned::to_owned)
        };
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bEARER abc").as_deref(), Some("abc"));
        assert_eq!(token("Bearer").as_deref(), Some(""));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
