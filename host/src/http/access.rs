//! The access check, the same for host routes and plugin routes: credentials → caller → privilege.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::auth::{Auth, Caller};
use crate::error::{Challenge, Error, Kind, Result, code};
use crate::id::PluginName;
use crate::route::Access;

/// The caller of a route, if it may be called by him. `plugin` is whose permissions count.
///
/// # Errors
/// 401 without or with bad credentials, 403 without the privilege.
pub(super) async fn check(
    auth: &Auth,
    headers: &HeaderMap,
    access: &Access,
    plugin: Option<&PluginName>,
) -> Result<Option<Arc<Caller>>> {
    if *access == Access::Public {
        // A plugin may greet whom it knows; credentials that are no good make nobody of the caller.
        return Ok(if plugin.is_some() { identify(auth, headers).await } else { None });
    }
    let Some(token) = bearer(headers) else {
        let kind = Kind::Unauthenticated(Challenge::Missing);
        return Err(Error::new(kind, code::NOT_AUTHENTICATED, "Not authenticated"));
    };
    let caller = auth.authenticate(token).await?;
    let allowed = match (access, plugin) {
        (Access::Public | Access::Authenticated, _) => true,
        (Access::Permission(name), Some(plugin)) => caller.has_permission(plugin, name),
        (Access::Permission(_), None) | (Access::Superuser, _) => caller.user.is_superuser,
    };
    if allowed {
        Ok(Some(caller))
    } else {
        Err(Error::forbidden(code::FORBIDDEN, "The user doesn't have enough privileges"))
    }
}

/// Who a request says it is from, if its credentials are good.
pub(super) async fn identify(auth: &Auth, headers: &HeaderMap) -> Option<Arc<Caller>> {
    auth.authenticate(bearer(headers)?).await.ok()
}

/// The token of an `Authorization: Bearer` header; the scheme is case-insensitive. A header that is there with the
/// scheme and no token, or that is not readable, is an empty token: given, and not valid.
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
