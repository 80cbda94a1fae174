//! The refusal of a request: the plugin's part of an RFC 9457 problem response.
//!
//! A problem holds the status, the code and the text that reach the client. Internal messages (a failed statement, an
//! invalid setting) go to the plugin's log through [`Problem::internal`] and never into a response.

use serde_json::json;

use crate::bindings::http_role::exports::wharf::plugin::http as wit;

/// A refusal: a status, a stable code and a text for people. The host adds title, instance and request id.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// let problem = Problem::not_found("item_not_found", "Item not found");
/// assert_eq!((problem.status(), problem.code()), (404, "item_not_found"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: u16,
    code: String,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(String, String)>,
}

/// One invalid input: its location, the stable kind of the error, and a text for people.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The location: `["body", "title"]`, `["query", "skip"]`, `["path", "id"]`.
    pub loc: Vec<String>,
    /// The stable kind: `value_error`.
    pub kind: String,
    /// The text for people.
    pub message: String,
}

impl FieldError {
    /// Creates an error of the kind `value_error` in a member of the body.
    ///
    /// ```
    /// # use wharf_sdk::{FieldError, Problem};
    /// let problem = Problem::unprocessable([FieldError::body("ends_at", "The end must come after the start")]);
    /// assert_eq!(problem.status(), 422);
    /// ```
    pub fn body(member: &str, message: impl Into<String>) -> Self {
        Self::new(["body", member], "value_error", message)
    }

    /// Creates an error of any kind at any location.
    pub fn new<'a>(loc: impl IntoIterator<Item = &'a str>, kind: &str, message: impl Into<String>) -> Self {
        let loc = loc.into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Self { loc, kind: kind.to_owned(), message: message.into() }
    }
}

impl Problem {
    /// Creates a problem with a status from 400 to 599. For any other status the host responds with 502
    /// `plugin_invalid_response`.
    ///
    /// ```
    /// # use wharf_sdk::Problem;
    /// let problem = Problem::new(410, "offer_ended", "The offer has ended");
    /// assert_eq!(problem.status(), 410);
    /// ```
    pub fn new(status: u16, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, code: code.into(), detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// Creates a 400: the request is not valid here.
    pub fn bad_request(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(400, code, detail)
    }

    /// Creates a 403: the caller may not do this.
    pub fn forbidden(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(403, code, detail)
    }

    /// Creates a 404: the object does not exist.
    pub fn not_found(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(404, code, detail)
    }

    /// Creates a 409: the request conflicts with the current state.
    pub fn conflict(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(409, code, detail)
    }

    /// Creates a 422 for inputs that match the route's schema but that the plugin refuses. The detail is the message of
    /// the first error.
    pub fn unprocessable(errors: impl IntoIterator<Item = FieldError>) -> Self {
        let errors: Vec<_> = errors.into_iter().collect();
        let detail = errors.first().map(|error| error.message.clone()).unwrap_or_default();
        Self { status: 422, code: "validation_error".to_owned(), detail, errors, headers: Vec::new() }
    }

    /// Creates the problem of a limit of events, jobs or mail. A rate and a full queue concern all requests together, and pass:
    /// 429. A status of 500 and above would count as a failure of the plugin, and enough of them stop it for everybody.
    pub(crate) fn message_limit(capability: &str, limit: &str) -> Self {
        crate::host::diagnostic(format_args!("{capability}: exceeds the limit of {limit}"));
        let code = format!("{capability}_limit");
        match ["rate:", "volume:", "waiting:", "queue:"].iter().any(|name| limit.starts_with(name)) {
            true => Self::new(429, code, "There are too many such requests, try again later"),
            false => Self::new(503, code, format!("The request exceeds a limit of the capability '{capability}'")),
        }
    }

    /// Creates a 500 `plugin_error` for a defect of the plugin itself. The message goes to the plugin's log; the client
    /// gets a fixed text.
    ///
    /// ```
    /// # use wharf_sdk::Problem;
    /// let problem = Problem::internal("rate table is empty");
    /// assert_eq!(problem.detail(), "The plugin could not handle the request");
    /// ```
    pub fn internal(message: impl std::fmt::Display) -> Self {
        crate::host::diagnostic(format_args!("plugin_error: {message}"));
        Self::new(500, "plugin_error", "The plugin could not handle the request")
    }

    /// Adds a header; the name is lower-cased. The rules are those of [`Response::header`](crate::Response::header); the
    /// host writes the content type.
    ///
    /// ```
    /// # use wharf_sdk::Problem;
    /// let problem = Problem::new(503, "kitchen_closed", "The kitchen is closed").header("retry-after", "3600");
    /// assert_eq!(problem.headers().next(), Some(("retry-after", "3600")));
    /// ```
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Returns the headers, with names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the problem for the host. The record of the interface has no headers, so a problem with headers is a
    /// response, which the host completes to the same document.
    pub(crate) fn into_wit(self) -> Result<wit::Response, wit::Problem> {
        if self.headers.is_empty() {
            return Err(self.into());
        }
        let errors = self.errors.iter();
        let errors = errors.map(|error| json!({ "type": error.kind, "loc": error.loc, "msg": error.message }));
        let errors: Vec<_> = errors.collect();
        let body = json!({ "code": self.code, "detail": self.detail, "errors": errors });
        let mut headers = self.headers;
        headers.push(("content-type".to_owned(), "application/problem+json".to_owned()));
        Ok(wit::Response { status: self.status, headers, body: body.to_string().into_bytes() })
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the stable code, on which clients may act.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns the text for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the invalid inputs of a 422.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

impl From<Problem> for wit::Problem {
    fn from(problem: Problem) -> Self {
        let errors = problem.errors.into_iter();
        let errors = errors.map(|error| wit::FieldError { loc: error.loc, kind: error.kind, message: error.message });
        Self { status: problem.status, code: problem.code, detail: problem.detail, errors: errors.collect() }
    }
}
