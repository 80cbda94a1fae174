//! What a handler answers when it cannot do what was asked: the plugin's half of an RFC 9457 problem response.
//!
//! Owns the statuses, codes and texts that reach a client. Internal messages (a failed statement, a broken setting) go
//! to the plugin's log through [`Problem::internal`] and never into a response.

use crate::bindings::http_role::exports::wharf::plugin::http as wit;

/// A refusal: status, stable code and a text for people. The host adds title, instance and request id.
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
}

/// One refused input: where it is, the stable kind of the fault, and a text for people.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// `["body", "title"]`, `["query", "skip"]`, `["path", "id"]`.
    pub loc: Vec<String>,
    /// Stable: `value_error`.
    pub kind: String,
    /// For people.
    pub message: String,
}

impl FieldError {
    /// A fault of the kind `value_error` in a member of the body.
    ///
    /// ```
    /// # use wharf_sdk::{FieldError, Problem};
    /// let problem = Problem::unprocessable([FieldError::body("ends_at", "The end must come after the start")]);
    /// assert_eq!(problem.status(), 422);
    /// ```
    pub fn body(member: &str, message: impl Into<String>) -> Self {
        Self::new(["body", member], "value_error", message)
    }

    /// A fault of any kind at any place.
    pub fn new<'a>(loc: impl IntoIterator<Item = &'a str>, kind: &str, message: impl Into<String>) -> Self {
        let loc = loc.into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Self { loc, kind: kind.to_owned(), message: message.into() }
    }
}

impl Problem {
    /// Any status from 400 to 599. Others would not be refusals: the host answers 502 `plugin_invalid_response` for them.
    ///
    /// ```
    /// # use wharf_sdk::Problem;
    /// let problem = Problem::new(410, "offer_ended", "The offer has ended");
    /// assert_eq!(problem.status(), 410);
    /// ```
    pub fn new(status: u16, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, code: code.into(), detail: detail.into(), errors: Vec::new() }
    }

    /// 400: the request makes no sense here.
    pub fn bad_request(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(400, code, detail)
    }

    /// 403: the caller may not do this.
    pub fn forbidden(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(403, code, detail)
    }

    /// 404: there is no such thing.
    pub fn not_found(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(404, code, detail)
    }

    /// 409: it contradicts the present state.
    pub fn conflict(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(409, code, detail)
    }

    /// 422: inputs that the route's schema lets pass and the plugin does not. The detail is the first error's message.
    pub fn unprocessable(errors: impl IntoIterator<Item = FieldError>) -> Self {
        let errors: Vec<_> = errors.into_iter().collect();
        let detail = errors.first().map(|error| error.message.clone()).unwrap_or_default();
        Self { status: 422, code: "validation_error".to_owned(), detail, errors }
    }

    /// 500 `plugin_error` for a fault of the plugin itself: the message goes to the plugin's log, a fixed text to the
    /// client.
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

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The stable code that clients may act on.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The text for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The refused inputs of a 422.
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
