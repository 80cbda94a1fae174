//! Cross-origin requests (CORS): the allowed origins, with credentials, as in the FastAPI full-stack template
//! (github.com/fastapi/full-stack-fastapi-template). Pure functions over headers. `dispatch` handles a preflight first
//! and decorates every response last, including problem responses. Every response has `Vary: Origin`: a shared cache
//! that stored the response to a request without `Origin` would give it to scripts, which could not read it.

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::reply::Reply;
use crate::config::{FrontendOrigin, FrontendUrls};

/// The methods that the host and plugins can serve.
pub(super) const METHODS: &[&str] = &["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
/// The same, as a header lists them.
pub(super) const METHOD_LIST: HeaderValue = HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
/// Headers that a script on the allowed origin may read in addition to the simple headers.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, www-authenticate, retry-after, ratelimit, ratelimit-policy");

/// The CORS rules for the allowed origins.
#[derive(Debug, Clone)]
pub struct Cors {
    allowed: Vec<FrontendOrigin>,
}

impl Cors {
    /// Allows the origins of the frontends.
    pub fn new(frontends: &FrontendUrls) -> Self {
        Self { allowed: frontends.origins().to_vec() }
    }

    /// Returns whether scripts of an origin may call the API.
    pub(super) fn allows(&self, origin: &HeaderValue) -> bool {
        self.allowed.iter().any(|allowed| match allowed {
            FrontendOrigin::One(one) => origin == one.as_str(),
            FrontendOrigin::Subdomains { scheme, domain } => {
                let text = origin.to_str().unwrap_or_default();
                let below = text.strip_prefix(scheme.as_str()).and_then(|rest| rest.strip_suffix(domain.as_str()));
                below.is_some_and(|labels| labels.split('.').all(is_label))
            }
        })
    }

    /// Returns the reply to a preflight, or `None` if the request is not one.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Reply> {
        let origin = origin(request)?;
        let wanted = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if method != Method::OPTIONS {
            return None;
        }
        let (mut refused, is_allowed) = (Vec::new(), self.allows(origin));
        if !is_allowed {
            refused.push("origin");
        }
        if !METHODS.iter().any(|method| wanted == method) {
            refused.push("method");
        }
        let (status, text) = match refused.as_slice() {
            [] => (StatusCode::OK, "OK".to_owned()),
            _ => (StatusCode::BAD_REQUEST, format!("Disallowed CORS {}", refused.join(", "))),
        };
        let mut reply = Reply::new(status, "text/plain; charset=utf-8", text);
        let headers = &mut reply.headers;
        headers.insert(VARY, VARY_ORIGIN);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHOD_LIST);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        if let Some(requested) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
        }
        if is_allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        Some(reply)
    }

    /// Adds the headers that let a browser pass `response` to the script that sent `request`. Headers set by a plugin
    /// are overwritten, because the operator decides which origins are trusted.
    pub fn decorate(&self, request: &HeaderMap, response: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            response.remove(name);
        }
        vary_by_origin(response);
        let Some(origin) = origin(request) else { return };
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        if self.allows(origin) {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

/// Returns the origin of a request. Browsers send one at most.
fn origin(request: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = request.get_all(ORIGIN).iter();
    origins.next().filter(|_| origins.next().is_none())
}

/// Returns whether a text is a label of a host as browsers write it: lower-case, and encoded if it is not ASCII.
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.bytes().all(allowed)
}

fn vary_by_origin(response: &mut HeaderMap) {
    let named = |value: &HeaderValue| {
        let names = value.to_str().unwrap_or_default();
        names.split(',').any(|name| name.trim() == "*" || name.trim().eq_ignore_ascii_case("origin"))
    };
    if !response.get_all(VARY).iter().any(named) {
        response.append(VARY, VARY_ORIGIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn cors() -> Cors {
        Cors::new(&"http://localhost:5173".parse().unwrap())
    }

    #[test]
    fn a_preflight_of_the_allowed_origin_succeeds() {
        let request = headers(&[
            ("origin", "http://localhost:5173"),
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", "authorization,x-y"),
        ]);
        let reply = cors().preflight(&Method::OPTIONS, &request).unwrap();
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"OK"[..]));
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("access-control-allow-origin", "http://localhost:5173"),
            ("access-control-allow-methods", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
            ("access-control-allow-headers", "authorization,x-y"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
            ("vary", "Origin"),
        ] {
            assert_eq!(reply.headers[name], value, "{name}");
        }
    }

    #[test]
    fn a_preflight_of_another_origin_or_method_is_refused() {
        let refused = |origin: &'static str, method: &'static str| {
            let request = headers(&[("origin", origin), ("access-control-request-method", method)]);
            let reply = cors().preflight(&Method::OPTIONS, &request).unwrap();
            assert_eq!(reply.status, StatusCode::BAD_REQUEST);
            (String::from_utf8(reply.body.to_vec()).unwrap(), reply.headers.contains_key("access-control-allow-origin"))
        };
        assert_eq!(refused("http://evil", "GET"), ("Disallowed CORS origin".into(), false));
        assert_eq!(refused("http://localhost:5173.evil", "GET"), ("Disallowed CORS origin".into(), false));
        assert_eq!(refused("http://localhost:5173", "TRACE"), ("Disallowed CORS method".into(), true));
        assert_eq!(refused("null", "TRACE"), ("Disallowed CORS origin, method".into(), false));
    }

    #[test]
    fn a_request_that_is_not_a_preflight_is_passed_on() {
        let origin = headers(&[("origin", "http://localhost:5173")]);
        assert!(cors().preflight(&Method::OPTIONS, &origin).is_none());
        let method = headers(&[("origin", "http://localhost:5173"), ("access-control-request-method", "GET")]);
        assert!(cors().preflight(&Method::GET, &method).is_none());
    }

    #[test]
    fn only_the_allowed_origin_may_read_responses() {
        let decorated = |request: &[(&'static str, &'static str)], response: &[(&'static str, &'static str)]| {
            let mut response = headers(response);
            cors().decorate(&headers(request), &mut response);
            response
        };
        let own = decorated(&[("origin", "http://localhost:5173")], &[("vary", "Accept")]);
        assert_eq!(own["access-control-allow-origin"], "http://localhost:5173");
        assert_eq!(own.get_all("vary").iter().collect::<Vec<_>>(), ["Accept", "Origin"]);
        let exposed = "x-request-id, www-authenticate, retry-after, ratelimit, ratelimit-policy";
        assert_eq!(own["access-control-expose-headers"], exposed);
        let other = decorated(&[("origin", "http://evil")], &[("access-control-allow-origin", "*")]);
        assert!(!other.contains_key("access-control-allow-origin"));
        assert_eq!(other["access-control-allow-credentials"], "true");
        // A cache must not give one response to all of these.
        assert_eq!((other.len(), &other["vary"]), (2, &HeaderValue::from_static("Origin")));
        let twice =
            decorated(&[("origin", "http://localhost:5173"), ("origin", "http://localhost:5173")], &[("vary", "*")]);
        assert_eq!((twice.len(), &twice["vary"]), (1, &HeaderValue::from_static("*")));
        let without = decorated(&[], &[]);
        assert_eq!((without.len(), &without["vary"]), (1, &HeaderValue::from_static("Origin")));
    }

    #[test]
    fn all_origins_of_a_list_and_all_subdomains_of_a_pattern_are_allowed() {
        let urls = "https://example.com/app, http://localhost:5173, https://*.example.org, https://*.example.org:8443";
        let cors = Cors::new(&urls.parse().unwrap());
        let allows = |origin: &str| cors.allows(&HeaderValue::from_str(origin).unwrap());
        for origin in [
            "https://example.com",
            "http://localhost:5173",
            "https://a.example.org",
            "https://a-1.b_2.example.org",
            "https://a.example.org:8443",
        ] {
            assert!(allows(origin), "{origin}");
        }
        for origin in [
            "https://example.org",
            "https://.example.org",
            "https://a..example.org",
            "http://a.example.org",
            "https://a.example.org:8444",
            "https://evilexample.org",
            "https://evil.com/.example.org",
            "https://evil.com#.example.org",
            "https://evil.com:80.example.org",
            "https://u@a.example.org",
            "https://a.example.org.evil.com",
            "https://A.example.org",
            "https://example.com/app",
            "null",
            "",
        ] {
            assert!(!allows(origin), "{origin}");
        }
        let preflight = headers(&[("origin", "https://a.example.org"), ("access-control-request-method", "GET")]);
        let reply = cors.preflight(&Method::OPTIONS, &preflight).unwrap();
        assert_eq!(reply.headers["access-control-allow-origin"], "https://a.example.org");
    }
}
