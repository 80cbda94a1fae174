//! Cross-origin requests (CORS): one allowed origin, with credentials, as in the FastAPI full-stack template
//! (github.com/fastapi/full-stack-fastapi-template). Pure functions over headers. `dispatch` handles a preflight first
//! and decorates every response last, including problem responses.

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use super::reply::Reply;
use crate::error::{Error, Result};

const METHODS: &[&str] = &["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
const METHOD_LIST: HeaderValue = HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
/// Headers that a script on the allowed origin may read in addition to the simple headers.
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, www-authenticate, retry-after");

/// The CORS rules for the one allowed origin.
#[derive(Debug, Clone)]
pub struct Cors {
    allowed: HeaderValue,
}

impl Cors {
    /// Allows the origin of `frontend_url`.
    ///
    /// # Errors
    /// It is not a URL, which the configuration check has ruled out.
    pub fn new(frontend_url: &str) -> Result<Self> {
        let invalid = || Error::internal("server.frontend_url has no origin");
        let url = Url::parse(frontend_url).map_err(|error| invalid().with_source(error))?;
        // A path only matters for links in mails. Browsers send scheme, host and port.
        let origin = url.origin().ascii_serialization();
        Ok(Self { allowed: HeaderValue::from_str(&origin).map_err(|error| invalid().with_source(error))? })
    }

    /// Returns the reply to a preflight, or `None` if the request is not one.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Reply> {
        let origin = request.get(ORIGIN)?;
        let wanted = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if method != Method::OPTIONS {
            return None;
        }
        let mut refused = Vec::new();
        if origin != self.allowed {
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
        if origin == self.allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.allowed.clone());
        }
        Some(reply)
    }

    /// Adds the headers that let a browser pass `response` to the script that sent `request`. Headers set by a plugin
    /// are overwritten, because the operator decides which origins are trusted.
    pub fn decorate(&self, request: &HeaderMap, response: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            response.remove(name);
        }
        let Some(origin) = request.get(ORIGIN) else { return };
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        if origin == self.allowed {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.allowed.clone());
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            vary_by_origin(response);
        }
    }
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
        Cors::new("http://localhost:5173").unwrap()
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
        assert_eq!(own["access-control-expose-headers"], "x-request-id, www-authenticate, retry-after");
        let other = decorated(&[("origin", "http://evil")], &[("access-control-allow-origin", "*")]);
        assert!(!other.contains_key("access-control-allow-origin"));
        assert_eq!(other["access-control-allow-credentials"], "true");
        assert!(decorated(&[], &[]).is_empty());
    }

    #[test]
    fn the_path_of_the_frontend_url_is_not_part_of_the_origin() {
        assert_eq!(Cors::new("https://example.com/app").unwrap().allowed, "https://example.com");
    }
}
