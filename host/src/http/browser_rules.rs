//! The rules of browsers in one place: the requests in which a cookie counts, and the security headers of every
//! response. CORS, the rule for the scripts of other origins, is next to it in `cors`.
//!
//! **Cross-site request forgery.** A browser sends cookies with requests that another site made it send. So a request
//! that may change something counts as signed in by a cookie only if the browser says that it comes from a page of this
//! host or of a frontend: by `Sec-Fetch-Site: same-origin`, or by an `Origin` that is allowed
//! (<https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html>). Every
//! browser of the last years sends one of the two; a request with neither is refused. The same holds for a request that
//! sets a cookie: otherwise another site could sign its visitor in to the attacker's account. A bearer token needs no
//! such rule, because no browser adds it by itself.
//!
//! A page of a plugin without the grant `web` has an opaque origin of its own (`Origin: null`), so its requests count
//! as those of another site.

use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, ORIGIN, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method};

use super::client_origin::ClientOrigin;
use super::cors::Cors;
use super::session_cookie;
use crate::capability::Capability as _;
use crate::capability::web::Web;
use crate::error::{Error, Result, code};
use crate::plugin::Release;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// A link in a mail has a token in its query, which no other site gets.
const REFERRER: HeaderValue = HeaderValue::from_static("strict-origin-when-cross-origin");
/// One year, without subdomains, which may belong to others.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
const PRIVATE: HeaderValue = HeaderValue::from_static("private");
/// Gives a page of a plugin an origin of its own in the browser, so that its scripts reach nothing that belongs to the
/// origin of the host: no storage, no service worker, no page of the frontend, and no response of the API.
const ISOLATED_PAGE: HeaderValue =
    HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-downloads");
/// JSON is data: nothing in it may run, load or be framed, should a browser ever show it as a page.
const DATA_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// Pages of the frontend decide for themselves what they load. Other sites cannot frame them to steal clicks.
const FRAME_POLICY: HeaderValue = HeaderValue::from_static("frame-ancestors 'self'");

/// Directives of `Cache-Control` after which nothing needs to be added for a response to a cookie: it is private
/// already, or its author said that caches may share it (RFC 9111, section 3.5). `must-revalidate` says so only for
/// requests with `Authorization`.
const DECIDED: [&str; 4] = ["private", "no-store", "public", "s-maxage"];

/// The credential of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential<'h> {
    /// A token of the header `Authorization`.
    Bearer(&'h str),
    /// A token of the cookie.
    Cookie(&'h str),
    /// A token of a cookie that does not count, because another site may have made the browser send it.
    Forged,
    /// None.
    None,
}

/// The source of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The host, or the frontend that it serves.
    Host,
    /// A plugin, whose pages have a policy of their own.
    Plugin,
}

/// Returns the credential of a request. With a header `Authorization`, no cookie counts, not even if the header is
/// invalid.
pub(super) fn credential<'h>(
    method: &Method,
    headers: &'h HeaderMap,
    origin: &ClientOrigin,
    cors: &Cors,
) -> Credential<'h> {
    match reading_credential(headers) {
        Credential::Cookie(_) if !is_safe(method) && !is_from_frontend(headers, origin, cors) => Credential::Forged,
        credential => credential,
    }
}

/// Returns the credential of a request that changes nothing: a cookie counts, wherever the request comes from.
pub(super) fn reading_credential(headers: &HeaderMap) -> Credential<'_> {
    if headers.contains_key(AUTHORIZATION) {
        return bearer(headers).map_or(Credential::None, Credential::Bearer);
    }
    session_cookie::access_token(headers).map_or(Credential::None, Credential::Cookie)
}

/// Returns whether the browser says that a request comes from a page of this host or of a frontend.
pub(super) fn is_from_frontend(headers: &HeaderMap, own: &ClientOrigin, cors: &Cors) -> bool {
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    if site == Some(b"same-origin") {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
    let is_own = || {
        let host = own.host.as_deref()?;
        let (scheme, authority) = origin.to_str().ok()?.split_once("://")?;
        Some(scheme == own.scheme && authority.eq_ignore_ascii_case(host))
    };
    // A browser that knows Sec-Fetch-Site has already told that the origin is another one.
    cors.allows(origin) || (site.is_none() && is_own() == Some(true))
}

/// Returns the refusal of a request that another site may have made the browser send.
pub(super) fn cross_site() -> Error {
    let text = "The request does not come from a page of this host or of a frontend, so its cookie does not count";
    Error::forbidden(code::CROSS_SITE_REQUEST, text)
}

/// Checks a request that sets or reads cookies outside of the access check.
///
/// # Errors
/// 403 `cross_site_request`.
pub(super) fn require_frontend(is_from_frontend: bool) -> Result<()> {
    if is_from_frontend { Ok(()) } else { Err(cross_site()) }
}

/// Isolates every response of a plugin, because a browser decides by itself what it shows as a page. The pages of a
/// plugin with the grant `web` belong to the origin of the host.
pub(super) fn isolate(headers: &mut HeaderMap, release: &Release) {
    if !release.has_grant(Web::NAME) {
        headers.insert(CONTENT_SECURITY_POLICY, ISOLATED_PAGE);
    }
}

/// Adds the security headers of a response. `sent` is the credential of its request.
pub(super) fn decorate(
    headers: &mut HeaderMap,
    source: Source,
    origin: &ClientOrigin,
    sent: Credential<'_>,
    hsts: bool,
) {
    // Replaces a value of a plugin.
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.entry(REFERRER_POLICY).or_insert(REFERRER);
    headers.remove(STRICT_TRANSPORT_SECURITY);
    if hsts && origin.scheme == "https" {
        headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
    // A response without content, such as a 304, says nothing: a browser would change the headers of its stored page.
    if let (Source::Host, Some(kind)) = (source, headers.get(CONTENT_TYPE)) {
        let kind = kind.as_bytes();
        let data: [&[u8]; 3] = [b"application/json", b"application/problem+json", b"text/event-stream"];
        let is_data = data.iter().any(|data| kind.starts_with(data));
        if is_data {
            headers.entry(CROSS_ORIGIN_RESOURCE_POLICY).or_insert(SAME_ORIGIN);
        }
        headers.entry(CONTENT_SECURITY_POLICY).or_insert(if is_data { DATA_POLICY } else { FRAME_POLICY });
    }
    if matches!(sent, Credential::Cookie(_)) {
        keep_private(headers);
    }
}

/// Forbids shared caches to keep the response to a request with a cookie, and a browser to use it after another
/// sign-in. For a request with `Authorization`, RFC 9111 forbids the first already.
fn keep_private(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("Cookie"));
    let decided = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|directive| {
            let name = directive.split('=').next().unwrap_or_default().trim();
            DECIDED.iter().any(|known| name.eq_ignore_ascii_case(known))
        })
    });
    if !decided {
        headers.append(CACHE_CONTROL, PRIVATE);
    }
}

/// Returns the token of an `Authorization: Bearer` header. The scheme is case-insensitive. A header that has the scheme
/// but no token, or that is not readable, gives an empty token, which is never valid.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().unwrap_or("bearer");
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns whether a method changes nothing (RFC 9110, section 9.2.1).
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: (&str, &str) = ("cookie", "__Host-wharf-session=abc");

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn origin() -> ClientOrigin {
        let address = "192.0.2.7".parse().unwrap();
        ClientOrigin { address, scheme: "https", host: Some("api.shop.example".to_owned()) }
    }

    fn sent(method: Method, pairs: &[(&'static str, &'static str)]) -> String {
        let cors = Cors::new(&"https://shop.example, https://*.shop.example".parse().unwrap());
        format!("{:?}", credential(&method, &headers(pairs), &origin(), &cors))
    }

    #[test]
    fn a_cookie_counts_in_a_changing_request_only_from_a_page_of_the_host_or_a_frontend() {
        for from in [
            &[("sec-fetch-site", "same-origin")][..],
            &[("sec-fetch-site", "same-site"), ("origin", "https://shop.example")],
            &[("sec-fetch-site", "cross-site"), ("origin", "https://shop.example")],
            &[("origin", "https://www.shop.example")],
            &[("origin", "https://api.shop.example")],
        ] {
            assert_eq!(sent(Method::POST, &[from, &[COOKIE]].concat()), r#"Cookie("abc")"#, "{from:?}");
        }
        for from in [
            &[][..],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
            &[("sec-fetch-site", "cross-site"), ("origin", "null")],
            &[("origin", "null")],
            &[("origin", "https://shop.example.evil.example")],
            &[("origin", "https://evil.example"), ("origin", "https://shop.example")],
            &[("origin", "http://shop.example")],
            &[("referer", "https://shop.example/")],
            &[("host", "evil.example"), ("origin", "https://evil.example")],
        ] {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert_eq!(sent(method, &[from, &[COOKIE]].concat()), "Forged", "{from:?}");
            }
            assert_eq!(sent(Method::GET, &[from, &[COOKIE]].concat()), r#"Cookie("abc")"#, "{from:?}");
        }
    }

    #[test]
    fn the_own_origin_counts_only_if_the_browser_does_not_say_otherwise() {
        let cors = Cors::new(&"https://elsewhere.example".parse().unwrap());
        let from = |pairs: &[_]| is_from_frontend(&headers(pairs), &origin(), &cors);
        let own = ("origin", "https://api.shop.example");
        assert!(from(&[own]) && from(&[own, ("sec-fetch-site", "same-origin")]));
        assert!(!from(&[own, ("sec-fetch-site", "cross-site")]));
        assert!(
            !from(&[("origin", "http://api.shop.example")]) && !from(&[("origin", "https://api.shop.example:8443")])
        );
    }

    #[test]
    fn only_bearer_tokens_are_credentials() {
        let token = |value: &'static str| bearer(&headers(&[("authorization", value)])).map(ToOwned::to_owned);
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bEARER abc").as_deref(), Some("abc"));
        assert_eq!(token("Bearer").as_deref(), Some(""));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn no_cookie_stands_in_for_an_authorization_header() {
        for (value, expected) in [("Bearer x", r#"Bearer("x")"#), ("Bearer", r#"Bearer("")"#), ("Basic YTpi", "None")] {
            assert_eq!(sent(Method::GET, &[COOKIE, ("authorization", value)]), expected);
        }
    }

    #[test]
    fn a_response_to_a_cookie_is_private_unless_its_author_decided() {
        let cache = |value: Option<&'static str>, sent| {
            let mut headers: HeaderMap =
                value.into_iter().map(|value| (CACHE_CONTROL, HeaderValue::from_static(value))).collect();
            decorate(&mut headers, Source::Plugin, &origin(), sent, true);
            let values = headers.get_all(CACHE_CONTROL).iter().map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join(", ")
        };
        let cookie = Credential::Cookie("abc");
        assert_eq!(cache(None, cookie), "private");
        assert_eq!(cache(Some("max-age=60"), cookie), "max-age=60, private");
        assert_eq!(cache(Some("max-age=60, must-revalidate"), cookie), "max-age=60, must-revalidate, private");
        for decided in ["no-store", "max-age=60, PUBLIC", "s-maxage=5", "private, max-age=1"] {
            assert_eq!(cache(Some(decided), cookie), decided);
        }
        assert_eq!(cache(Some("max-age=60"), Credential::Bearer("x")), "max-age=60");
    }

    #[test]
    fn the_policy_of_a_response_depends_on_its_kind_and_source() {
        let decorated = |content_type: &'static str, source, scheme| {
            let mut headers = headers(&[("content-type", content_type), ("strict-transport-security", "max-age=0")]);
            decorate(&mut headers, source, &ClientOrigin { scheme, ..origin() }, Credential::None, true);
            let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (text("content-security-policy"), text("strict-transport-security"))
        };
        let data = "default-src 'none'; frame-ancestors 'none'";
        assert_eq!(decorated("application/problem+json", Source::Host, "http"), (Some(data.to_owned()), None));
        let (page, hsts) = decorated("text/html; charset=utf-8", Source::Host, "https");
        assert_eq!(page.as_deref(), Some("frame-ancestors 'self'"));
        assert_eq!(hsts.as_deref(), Some("max-age=31536000"));
        assert_eq!(decorated("text/html", Source::Plugin, "http"), (None, None), "the host isolates it already");
        let mut empty = HeaderMap::new();
        decorate(&mut empty, Source::Host, &origin(), Credential::None, false);
        assert_eq!(empty.get(CONTENT_SECURITY_POLICY), None, "a 304 keeps the policy of the stored page");
    }
}
