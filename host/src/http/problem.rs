//! The only place where an [`Error`] becomes a response: RFC 9457 `application/problem+json`.
//!
//! Owns the mapping from the kind of an error to its status. Only the public half of an error is sent. The internal
//! half goes to the log here, with the request id.

use std::time::Duration;

use axum::http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::content_coding;
use super::reply::Reply;
use crate::error::{Challenge, Code, Error, FieldError, Kind, RateLimit, code};
use crate::telemetry::CALL_ERRORS;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The member that names the permission that the caller lacks. It is no secret.
const PERMISSION: &str = "permission";

/// A longer path is cut in a problem: it identifies nothing, and the response to a URL that is too long is short.
const MAX_INSTANCE_BYTES: usize = 2048;

/// The members of a problem response.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Problem")]
struct Problem<'a> {
    /// Always `about:blank`. The code identifies the problem.
    r#type: &'static str,
    /// The name of the status.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// A description for people.
    detail: &'a str,
    /// The path of the request, cut if it is very long.
    instance: &'a str,
    /// A stable word for programs.
    #[schemars(with = "String")]
    code: &'a Code,
    /// Identifies the request in the log.
    request_id: &'a str,
    /// The rejected inputs of a 422, or every missing grant of a `grant_missing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Finding>>")]
    errors: Option<&'a [FieldError]>,
    /// The number of rejected inputs that are not listed. The host lists at most 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors_omitted: Option<usize>,
    #[serde(flatten)]
    #[schemars(with = "Continuation")]
    members: &'a Map<String, Value>,
}

/// The members that name what the caller lacks, or with which a client can continue.
#[derive(schemars::JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
struct Continuation {
    /// The permission that the caller lacks, as a role has it (`forbidden`, `second_factor_required`).
    permission: Option<String>,
    /// Continues a sign-in with a second factor (`second_factor_required`).
    challenge: Option<String>,
    /// The ways to prove the second factor (`second_factor_required`).
    methods: Option<Vec<String>>,
}

/// One rejected input.
#[derive(schemars::JsonSchema)]
#[allow(dead_code, reason = "only its schema is used; error::FieldError is serialized")]
struct Finding {
    r#type: String,
    loc: Vec<Place>,
    msg: String,
}

/// A member name or an index. The OpenAPI document shows this name.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum Place {
    Name(String),
    Index(u64),
}

/// Returns the JSON Schema of a problem, for the OpenAPI document.
pub fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<Problem<'static>>()
}

/// Why a kind of error gets its status.
#[derive(Debug)]
pub struct StatusRule {
    /// The name of the [`Kind`].
    pub kind: &'static str,
    /// The status.
    pub status: StatusCode,
    /// When the kind is used, as one line of Markdown.
    pub when: &'static str,
}

macro_rules! statuses {
    ($($kind:ident $(($payload:tt))? = $status:ident, $when:literal;)*) => {
        /// Returns the status of a kind of error.
        pub fn status(kind: &Kind) -> StatusCode {
            match kind {
                $(Kind::$kind $(($payload))? => StatusCode::$status,)*
            }
        }

        /// The status of every kind. A test compares it with the table in `host/ARCHITECTURE.md`.
        pub const STATUSES: &[StatusRule] =
            &[$(StatusRule { kind: stringify!($kind), status: StatusCode::$status, when: $when }),*];
    };
}

statuses! {
    BadRequest = BAD_REQUEST, "The request contradicts a rule of the resource.";
    Unauthenticated(_) = UNAUTHORIZED, "The request has no credentials, or its credentials are not valid.";
    Forbidden = FORBIDDEN, "The caller is known and is not allowed to do this.";
    NotFound = NOT_FOUND, "The resource does not exist, or is not visible to anybody.";
    MethodNotAllowed(_) = METHOD_NOT_ALLOWED, "The path exists with other methods.";
    Conflict = CONFLICT, "The current state of the resource forbids the operation.";
    TooLarge = PAYLOAD_TOO_LARGE, "A body or an upload exceeds its size limit.";
    UrlTooLong = URI_TOO_LONG, "The URL exceeds its size limit.";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "The body has a content coding that is not decoded.";
    Invalid(_) = UNPROCESSABLE_ENTITY, "The input is malformed. Every finding is listed.";
    TooManyRequests(_) = TOO_MANY_REQUESTS, "Too many attempts were made.";
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers exceed their size limit.";
    Internal = INTERNAL_SERVER_ERROR, "The host has a defect. No input leads to this status.";
    NotImplemented = NOT_IMPLEMENTED, "The request needs a feature of HTTP that the host does not have.";
    Plugin = BAD_GATEWAY, "A plugin violated its contract.";
    Unavailable(_) = SERVICE_UNAVAILABLE, "The host is busy or shutting down, or a service is not reachable.";
    Timeout = GATEWAY_TIMEOUT, "A plugin exceeded its time limit.";
}

/// Returns the response to a failed request and logs the error.
pub fn reply(error: &Error, instance: &str, request_id: &str) -> Reply {
    let status = status(error.kind());
    debug_assert!(code::fits_status(error.code(), status.as_u16()), "{status} is not declared for {}", error.code());
    if *error.kind() == Kind::Internal {
        tracing::error!(request_id, code = %error.code(), error = error.report(), "request failed");
    } else if status.is_server_error() && *error.kind() != Kind::NotImplemented {
        tracing::error!(target: CALL_ERRORS, request_id, code = %error.code(), error = error.report(), "request failed");
    } else {
        // Among them are 501s: a client can cause any number of them.
        tracing::debug!(request_id, code = %error.code(), error = error.report(), "request refused");
    }
    let details =
        Details { listed: error.findings(), omitted: error.omitted_findings(), members: error.members().clone() };
    let mut reply = write(status, error.public(), error.code(), &details, instance, request_id);
    add_headers(&mut reply.headers, error.kind());
    if details.members.keys().any(|name| name != PERMISSION) {
        // The other members may be secrets.
        reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(limit) = error.rate_limit() {
        add_rate_limit(&mut reply.headers, limit);
    }
    reply
}

/// Returns a problem response with the status and the code that a plugin chose.
pub fn plugin_reply(
    status: StatusCode,
    detail: &str,
    code: &Code,
    errors: &[FieldError],
    instance: &str,
    request_id: &str,
) -> Reply {
    let listed = if errors.is_empty() && status != StatusCode::UNPROCESSABLE_ENTITY { None } else { Some(errors) };
    write(status, detail, code, &Details { listed, omitted: 0, members: Map::new() }, instance, request_id)
}

/// The members that only some problems have.
struct Details<'a> {
    listed: Option<&'a [FieldError]>,
    omitted: usize,
    members: Map<String, Value>,
}

fn write(
    status: StatusCode,
    detail: &str,
    code: &Code,
    details: &Details<'_>,
    instance: &str,
    request_id: &str,
) -> Reply {
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail,
        instance: instance.get(..instance.floor_char_boundary(MAX_INSTANCE_BYTES)).unwrap_or_default(),
        code,
        request_id,
        errors: details.listed,
        errors_omitted: Some(details.omitted).filter(|omitted| *omitted > 0),
        members: &details.members,
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    Reply::new(status, "application/problem+json", body)
}

fn add_headers(headers: &mut HeaderMap, kind: &Kind) {
    match kind {
        Kind::Unauthenticated(Challenge::Missing) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Kind::Unauthenticated(Challenge::InvalidToken) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer error="invalid_token""#));
        }
        Kind::MethodNotAllowed(methods) => {
            if let Ok(value) = HeaderValue::from_str(&methods.join(", ")) {
                headers.insert(ALLOW, value);
            }
        }
        Kind::UnsupportedMediaType => {
            headers.insert(ACCEPT_ENCODING, content_coding::ACCEPTED);
        }
        Kind::TooManyRequests(after) | Kind::Unavailable(after) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(*after)));
        }
        _ => {}
    }
    debug_assert!(headers.contains_key(CONTENT_TYPE), "a problem has a content type");
}

/// Rounds up, because a client that comes earlier is refused again. At least one second: `Retry-After` has no smaller
/// unit, and 0 would invite a storm of retries.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Adds the headers of draft-ietf-httpapi-ratelimit-headers-10: `q` attempts in `w` seconds, of which `r` remain; the
/// next one in `t` seconds.
fn add_rate_limit(headers: &mut HeaderMap, limit: &RateLimit) {
    let RateLimit { policy, quota, window, wait } = *limit;
    let policies = format!("\"{policy}\";q={quota};w={}", whole_seconds(window));
    let state = format!("\"{policy}\";r=0;t={}", whole_seconds(wait));
    for (name, value) in [(RATE_LIMIT_POLICY, policies), (RATE_LIMIT, state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(reply: &Reply) -> serde_json::Value {
        serde_json::from_slice(&reply.body).unwrap()
    }

    #[test]
    fn a_problem_has_every_member_and_no_internal_text() {
        let error = Error::internal("secret").with_source(std::io::Error::other("path /etc"));
        let reply = reply(&error, "/api/v1/x", "r1");
        assert_eq!(
            body(&reply),
            serde_json::json!({
                "type": "about:blank", "title": "Internal Server Error", "status": 500,
                "detail": "Internal Server Error", "instance": "/api/v1/x", "code": "internal", "request_id": "r1",
            })
        );
    }

    #[test]
    fn headers_name_the_challenge_the_methods_and_the_wait() {
        let header = |kind: Kind, code: Code, name: &str| {
            let reply = reply(&Error::new(kind, code, "x"), "/", "r");
            reply.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let challenge = Kind::Unauthenticated(Challenge::InvalidToken);
        assert_eq!(
            header(challenge, code::INVALID_TOKEN, "www-authenticate").as_deref(),
            Some("Bearer error=\"invalid_token\"")
        );
        let busy = Kind::Unavailable(Duration::ZERO);
        assert_eq!(header(busy, code::OVERLOADED, "retry-after").as_deref(), Some("1"));
        let busy = Kind::Unavailable(Duration::from_millis(2001));
        assert_eq!(header(busy, code::OVERLOADED, "retry-after").as_deref(), Some("3"));
        let methods = Kind::MethodNotAllowed(vec!["GET".into(), "PUT".into()]);
        assert_eq!(header(methods, code::METHOD_NOT_ALLOWED, "allow").as_deref(), Some("GET, PUT"));
        let coding = header(Kind::UnsupportedMediaType, code::UNSUPPORTED_CONTENT_ENCODING, "accept-encoding");
        assert_eq!(coding.as_deref(), Some("gzip, deflate, br, zstd"));
    }

    #[test]
    fn a_refused_attempt_names_its_limit() {
        let (wait, window) = (Duration::from_millis(41_001), Duration::from_secs(600));
        let limit = RateLimit { policy: "sign-in-account", quota: 10, window, wait };
        let error = Error::new(Kind::TooManyRequests(wait), code::TOO_MANY_ATTEMPTS, "x").with_rate_limit(limit);
        let reply = reply(&error, "/", "r");
        assert_eq!(reply.headers["retry-after"], "42");
        assert_eq!(reply.headers["ratelimit-policy"], "\"sign-in-account\";q=10;w=600");
        assert_eq!(reply.headers["ratelimit"], "\"sign-in-account\";r=0;t=42");
    }

    #[test]
    fn all_findings_are_listed_and_the_first_is_the_detail() {
        let error = Error::invalid(vec![FieldError::new("missing", ["body", "title"], "Field required")]);
        let body = body(&reply(&error, "/", "r"));
        assert_eq!(body["detail"], "Field required");
        assert_eq!(body["errors"][0]["loc"], serde_json::json!(["body", "title"]));
        assert_eq!(body.get("errors_omitted"), None);
    }

    #[test]
    fn a_problem_that_a_client_can_continue_from_is_not_stored() {
        let error = Error::forbidden(code::FORBIDDEN, "x").with_member("challenge", "secret");
        assert!(!error.report().contains("secret") && !format!("{error:?}").contains("secret"));
        let reply = reply(&error, "/", "r");
        assert_eq!(reply.headers[CACHE_CONTROL], "no-store");
        assert_eq!(body(&reply)["challenge"], "secret");
    }

    #[test]
    fn a_problem_that_names_the_permission_only_may_be_stored() {
        let error = Error::forbidden(code::FORBIDDEN, "x").with_member("permission", "items:read-all");
        let reply = reply(&error, "/", "r");
        assert_eq!(reply.headers.get(CACHE_CONTROL), None);
        assert_eq!(body(&reply)["permission"], "items:read-all");
    }

    #[test]
    fn findings_that_are_not_listed_are_counted() {
        let finding = FieldError::new("missing", ["body", "title"], "Field required");
        let body = body(&reply(&Error::invalid(vec![finding; 150]), "/", "r"));
        assert_eq!(body["errors"].as_array().unwrap().len(), 100);
        assert_eq!(body["errors_omitted"], 50);
    }
}
