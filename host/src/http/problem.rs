//! The one place where an [`Error`] becomes a response: RFC 9457 `application/problem+json`.
//!
//! Only the public half of the error is written; the internal half goes to the log here, with the request id.

use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::reply::Reply;
use crate::error::{Challenge, Code, Error, FieldError, Kind};

/// The members of a problem response.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Problem")]
struct Problem<'a> {
    /// `about:blank`: the code says more than a page could.
    r#type: &'static str,
    /// The status in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What went wrong, for people.
    detail: &'a str,
    /// The path of the request.
    instance: &'a str,
    /// What went wrong, for programs; stable.
    #[schemars(with = "String")]
    code: &'a Code,
    /// Finds the request in the log.
    request_id: &'a str,
    /// Every refused input of a 422; every missing grant of a `grant_missing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Finding>>")]
    errors: Option<&'a [FieldError]>,
}

/// One refused input.
#[derive(schemars::JsonSchema)]
#[allow(dead_code, reason = "only its schema is used; error::FieldError is what is written")]
struct Finding {
    r#type: String,
    loc: Vec<Place>,
    msg: String,
}

/// A member name or an index.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum Place {
    Name(String),
    Index(u64),
}

/// The JSON Schema of a problem, for the OpenAPI document.
pub fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<Problem<'static>>()
}

/// The status of a kind of error.
pub fn status(kind: &Kind) -> StatusCode {
    match kind {
        Kind::BadRequest => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Kind::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
        Kind::Plugin => StatusCode::BAD_GATEWAY,
        Kind::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The response to a failed request.
pub fn reply(error: &Error, instance: &str, request_id: &str) -> Reply {
    let status = status(error.kind());
    if status.is_server_error() {
        tracing::error!(request_id, code = %error.code(), error = error.report(), "request failed");
    } else {
        tracing::debug!(request_id, code = %error.code(), error = error.report(), "request refused");
    }
    let mut reply = write(status, error.public(), error.code(), error.findings(), instance, request_id);
    add_headers(&mut reply.headers, error.kind());
    reply
}

/// The response to a failed request whose status a plugin chose.
pub fn plugin_reply(
    status: StatusCode,
    detail: &str,
    code: &Code,
    errors: &[FieldError],
    instance: &str,
    request_id: &str,
) -> Reply {
    let errors = if errors.is_empty() && status != StatusCode::UNPROCESSABLE_ENTITY { None } else { Some(errors) };
    write(status, detail, code, errors, instance, request_id)
}

fn write(
    status: StatusCode,
    detail: &str,
    code: &Code,
    errors: Option<&[FieldError]>,
    instance: &str,
    request_id: &str,
) -> Reply {
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail,
        instance,
        code,
        request_id,
        errors,
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
        Kind::TooManyRequests(after) | Kind::Unavailable(after) => {
            // At least a second: Retry-After has no smaller unit, and 0 invites a storm.
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        _ => {}
    }
    debug_assert!(headers.contains_key(CONTENT_TYPE), "a problem has a content type");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::code;
    use std::time::Duration;

    fn body(reply: &Reply) -> serde_json::Value {
        serde_json::from_slice(&reply.body).unwrap()
    }

    #[test]
    fn a_problem_has_every_member_and_no_internals() {
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
    fn headers_tell_what_to_do_next() {
        let header = |kind: Kind, name: &str| {
            let reply = reply(&Error::new(kind, code::FORBIDDEN, "x"), "/", "r");
            reply.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let challenge = Kind::Unauthenticated(Challenge::InvalidToken);
        assert_eq!(header(challenge, "www-authenticate").as_deref(), Some("Bearer error=\"invalid_token\""));
        assert_eq!(header(Kind::Unavailable(Duration::ZERO), "retry-after").as_deref(), Some("1"));
        assert_eq!(
            header(Kind::MethodNotAllowed(vec!["GET".into(), "PUT".into()]), "allow").as_deref(),
            Some("GET, PUT")
        );
    }

    #[test]
    fn findings_are_listed_and_the_first_is_the_detail() {
        let error = Error::invalid(vec![FieldError::new("missing", ["body", "title"], "Field required")]);
        let body = body(&reply(&error, "/", "r"));
        assert_eq!(body["detail"], "Field required");
        assert_eq!(body["errors"][0]["loc"], serde_json::json!(["body", "title"]));
    }
}
