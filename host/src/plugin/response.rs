//! The check of a guest's response, which precedes any use of it. Owns the rules for status, problems
//! and sizes; `response_header` has those for headers; does not know how the response is sent.

use std::io;

use bytes::Bytes;

use super::interface::handle::exports::wharf::plugin::http;
use super::limits::CallLimits;
use super::{problem_document, response_header};
use crate::capability::{Limit, Usage};
use crate::error::{Code, Error, FieldError, Kind, Result, code};

/// A checked response of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginResponse {
    /// A response.
    Response {
        /// 200 to 599.
        status: u16,
        /// Headers with lower-case names, none that only the host may set.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
        /// Whether the guest asked for the caller, so that another caller may get another response.
        asked_for_caller: bool,
    },
    /// A problem, which the host completes (for example with the request id).
    Problem {
        /// 400 to 599.
        status: u16,
        /// The plugin's code.
        code: Code,
        /// The text for people.
        detail: String,
        /// The refused inputs.
        errors: Vec<FieldError>,
        /// Further headers, as those of a response.
        headers: Vec<(String, String)>,
    },
}

/// The maximum lengths of the code and the detail of a problem.
const MAX_CODE: usize = 64;
const MAX_DETAIL: usize = 4 * 1024;
/// The maximum number of refused inputs of a problem.
const MAX_ERRORS: usize = 256;

impl PluginResponse {
    /// Checks the return value of a guest, and counts a limit that it hit. `pages` says that the pages of the plugin
    /// belong to the origin of the host.
    ///
    /// # Errors
    /// 502 `plugin_invalid_response` or `plugin_response_limit`; the internal text states the reason, for the plugin's
    /// author.
    pub(super) fn check(
        returned: Result<http::Response, http::Problem>,
        limits: &CallLimits,
        usage: &Usage,
        pages: bool,
    ) -> Result<Self> {
        match returned {
            Ok(response) => {
                if !(200..=599).contains(&response.status) {
                    return Err(refused(format!("status {} is not within 200..=599", response.status)));
                }
                let headers = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                for (limit, part, bytes, max) in [
                    (Limit::ResponseBytes, "body", response.body.len(), limits.response_bytes),
                    (Limit::HeaderBytes, "headers", headers, limits.header_bytes),
                ] {
                    if bytes > max {
                        usage.hit(limit);
                        return Err(too_large(part, bytes, max));
                    }
                }
                let http::Response { status, headers, body } = response;
                let headers = response_header::check(headers, pages, status, body.len()).map_err(refused)?;
                // A document that breaks the rules of a problem is the guest's own.
                let problem = problem_document::read(status, &headers, &body);
                match problem.filter(|problem| check_texts(problem).is_ok()) {
                    Some(problem) => Self::check_problem(problem, problem_document::other(headers), limits, usage),
                    None => Ok(Self::Response { status, headers, body: body.into(), asked_for_caller: false }),
                }
            }
            Err(problem) => Self::check_problem(problem, Vec::new(), limits, usage),
        }
    }

    fn check_problem(
        problem: http::Problem,
        headers: Vec<(String, String)>,
        limits: &CallLimits,
        usage: &Usage,
    ) -> Result<Self> {
        if !(400..=599).contains(&problem.status) {
            return Err(refused(format!("problem status {} is not within 400..=599", problem.status)));
        }
        check_texts(&problem).map_err(refused)?;
        let errors: Vec<FieldError> =
            problem.errors.into_iter().map(|error| FieldError::new(error.kind, error.loc, error.message)).collect();
        // Measured as JSON, in which a control character takes six bytes.
        let mut written = SizeCounter { max: limits.response_bytes, bytes: 0 };
        if serde_json::to_writer(&mut written, &(&problem.detail, &errors)).is_err() {
            usage.hit(Limit::ResponseBytes);
            return Err(too_large("problem", written.bytes, written.max));
        }
        let (status, code, detail) = (problem.status, Code::from_plugin(problem.code), problem.detail);
        Ok(Self::Problem { status, code, detail, errors, headers })
    }

    /// Records whether the guest asked for the caller during the call.
    #[must_use]
    pub(super) fn asked(self, for_caller: bool) -> Self {
        match self {
            Self::Response { status, headers, body, .. } => {
                Self::Response { status, headers, body, asked_for_caller: for_caller }
            }
            problem @ Self::Problem { .. } => problem,
        }
    }
}

/// Checks the code, the detail and the errors of a problem.
///
/// # Errors
/// The rule that is broken.
fn check_texts(problem: &http::Problem) -> Result<(), &'static str> {
    let code_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if problem.code.is_empty() || problem.code.len() > MAX_CODE || !problem.code.bytes().all(code_byte) {
        return Err("a problem's code is 1 to 64 of a-z, 0-9 and _");
    }
    if problem.detail.len() > MAX_DETAIL || problem.errors.len() > MAX_ERRORS {
        return Err("a problem's detail or list of errors is too long");
    }
    Ok(())
}

/// Counts the bytes that are written, and fails beyond the maximum.
struct SizeCounter {
    max: usize,
    bytes: usize,
}

impl io::Write for SizeCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > self.max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large(part: &str, bytes: usize, max: usize) -> Error {
    let error = Error::new(Kind::Plugin, code::PLUGIN_RESPONSE_LIMIT, "The plugin's response exceeds its size limit");
    error.with_internal(format!("{part}: {bytes} bytes, and {max} are allowed"))
}

fn refused(reason: impl std::fmt::Display) -> Error {
    Error::new(Kind::Plugin, code::PLUGIN_INVALID_RESPONSE, "The plugin returned an invalid response")
        .with_internal(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::plugin::limits::LimitOverrides;

    fn check(returned: Result<http::Response, http::Problem>) -> Result<PluginResponse> {
        let host = config::Plugins { response_bytes: 50, header_bytes: 1_000, ..config::Plugins::default() };
        PluginResponse::check(returned, &LimitOverrides::default().resolve(&host)?, &Usage::default(), false)
    }

    fn response(status: u16, headers: &[(&str, &str)]) -> Result<PluginResponse> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        check(Ok(http::Response { status, headers, body: vec![0; 50] }))
    }

    #[test]
    fn ordinary_responses_pass() {
        assert!(response(200, &[("content-type", "text/plain"), ("etag", "\"ü\"")]).is_ok());
        assert!(response(599, &[]).is_ok());
    }

    #[test]
    fn responses_that_confuse_a_client_or_set_headers_of_the_host_are_refused() {
        for status in [0, 100, 101, 199, 600, 65535] {
            assert!(response(status, &[]).is_err(), "{status}");
        }
        for name in [
            "set-cookie",
            "Content-Type",
            "content-length",
            "transfer-encoding",
            "access-control-allow-origin",
            "a b",
            "",
            "a\r\n",
            "x-request-id",
        ] {
            assert!(response(200, &[(name, "x")]).is_err(), "{name:?}");
        }
        for value in ["a\r\nset-cookie: x", "a\0", "\x7f"] {
            assert!(response(200, &[("x", value)]).is_err(), "{value:?}");
        }
        let many: Vec<(String, String)> = (0..65).map(|i| (format!("x-{i}"), String::new())).collect();
        assert!(response_header::check(many, false, 200, 0).is_err());
        let code = |checked: Result<PluginResponse>| checked.unwrap_err().code().clone();
        assert_eq!(code(response(200, &[("x", &"y".repeat(1_000))])), code::PLUGIN_RESPONSE_LIMIT);
        let large = http::Response { status: 200, headers: vec![], body: vec![0; 51] };
        assert_eq!(code(check(Ok(large))), code::PLUGIN_RESPONSE_LIMIT);
    }

    #[test]
    fn problems_are_checked_too() {
        let problem = |status, code: &str| {
            check(Err(http::Problem { status, code: code.into(), detail: "x".into(), errors: vec![] }))
        };
        assert!(problem(404, "item_not_found").is_ok());
        assert!(problem(200, "x").is_err());
        assert!(problem(404, "Not Found").is_err());
        assert!(problem(404, "").is_err());
    }

    #[test]
    fn a_problem_document_with_headers_becomes_a_problem() {
        let document = |status, content_type: &str, body: &str| {
            let headers = [("content-type", content_type), ("retry-after", "5")];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            check(Ok(http::Response { status, headers, body: body.into() }))
        };
        let body = r#"{"code":"full","detail":"Full"}"#;
        let problem = document(503, "application/problem+json", body).unwrap();
        let PluginResponse::Problem { status: 503, code, headers, .. } = problem else { panic!("{problem:?}") };
        assert_eq!((code.as_str(), headers), ("full", vec![("retry-after".to_owned(), "5".to_owned())]));
        let is_response = |status, content_type, body| {
            matches!(document(status, content_type, body), Ok(PluginResponse::Response { .. }))
        };
        assert!(is_response(200, "application/problem+json", body));
        assert!(is_response(503, "application/json", body));
        assert!(is_response(503, "application/problem+json", r#"{"code":"a","detail":"b","title":"c"}"#), "its own");
        assert!(is_response(503, "application/problem+json", r#"{"code":"ItemMissing","detail":"x"}"#), "its own");
        assert!(is_response(503, "application/problem+json", r#"{"code":"","detail":"x"}"#), "its own");
    }

    #[test]
    fn the_size_of_a_problem_is_that_of_its_json() {
        let problem = |loc: &str, message: &str| {
            let error = http::FieldError { loc: vec![loc.into()], kind: "k".into(), message: message.into() };
            let checked =
                check(Err(http::Problem { status: 422, code: "x".into(), detail: String::new(), errors: vec![error] }));
            checked.map_err(|error| error.code().clone())
        };
        // ["",[{"type":"k","loc":["a"],"msg":"…"}]]
        assert!(problem("a", &"x".repeat(10)).is_ok());
        for (loc, message) in
            [("a", "x".repeat(14)), ("a", "\u{1}\u{1}\u{1}".into()), (&*"a".repeat(15), String::new())]
        {
            assert_eq!(problem(loc, &message), Err(code::PLUGIN_RESPONSE_LIMIT), "{loc} {message:?}");
        }
    }
}
