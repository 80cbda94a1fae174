//! Problems that carry headers. The record `problem` of `wharf:plugin/http` has no place for headers, and a record cannot
//! grow. So a guest returns such a problem as a response: the content type is `application/problem+json`, and the body
//! has the members `code`, `detail` and perhaps `errors`. The host completes it like any other problem. A document with
//! other members, a longer one, or one that breaks the rules of a problem, is the guest's own, and stays as it is.

use serde::Deserialize;

use super::interface::handle::exports::wharf::plugin::http;

/// The content type of a problem (RFC 9457).
const PROBLEM_JSON: &str = "application/problem+json";
/// The maximum length of a document in bytes. Its texts are copied once more.
const MAX_DOCUMENT: usize = 256 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    code: String,
    detail: String,
    #[serde(default)]
    errors: Vec<DocumentError>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentError {
    r#type: String,
    loc: Vec<String>,
    msg: String,
}

/// Returns the problem that a response describes; `None` if it is an ordinary response.
pub(super) fn read(status: u16, headers: &[(String, String)], body: &[u8]) -> Option<http::Problem> {
    let is_problem = |(name, value): &(String, String)| name == "content-type" && is_problem_type(value);
    if !(400..=599).contains(&status) || body.len() > MAX_DOCUMENT || !headers.iter().any(is_problem) {
        return None;
    }
    let Document { code, detail, errors } = serde_json::from_slice(body).ok()?;
    let errors = errors.into_iter();
    let errors = errors.map(|error| http::FieldError { loc: error.loc, kind: error.r#type, message: error.msg });
    Some(http::Problem { status, code, detail, errors: errors.collect() })
}

/// Returns the headers of a problem besides those that describe its document, which the host writes.
pub(super) fn other(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.retain(|(name, _)| name != "content-type");
    headers
}

fn is_problem_type(value: &str) -> bool {
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(PROBLEM_JSON))
}
