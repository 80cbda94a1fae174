//! The return types of handlers, and their conversion to status, headers and body. A refusal is a `Problem`.

use crate::bindings::http_role::exports::wharf::plugin::http as wit;
use crate::openapi::Operation;
use crate::{Json, Problem, Text};
use schemars::JsonSchema;
use serde::Serialize;

/// A response whose status, headers and body the plugin sets.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[get("/report", access = public)]
/// fn report() -> Response {
///     Response::new(200)
///         .header("content-type", "text/csv")
///         .header("content-disposition", "attachment; filename=report.csv")
///         .body("name,count\n")
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    /// Creates a response without a body. The status is from 200 to 599.
    pub fn new(status: u16) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// Creates a response with the status that the route declares: 200, or `status = …` of its attribute.
    fn with_type(content_type: &str, body: Vec<u8>) -> Self {
        Self { status: None, headers: vec![("content-type".to_owned(), content_type.to_owned())], body }
    }

    /// Adds a header; the name is lower-cased. Headers that belong to the host (`set-cookie`, `date`, CORS, …) make the
    /// response invalid, and so does a `content-length` that is not the length of the body. `content-type` and other
    /// headers with one value occur once.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Sets the body. A client gets none with 204, 205 and 304.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn into_wit(self, declared: Option<u16>) -> wit::Response {
        let status = self.status.or(declared).unwrap_or(200);
        wit::Response { status, headers: self.headers, body: self.body }
    }
}

/// A type that a handler may return: [`Json`], [`Text`], [`Response`], `()` (204), [`Status`] around one of these, and
/// a
/// [`Result`](crate::Result) of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the return type of a handler",
    label = "not a response",
    note = "return `Json<T>`, `Text`, `Response`, `Status(code, …)`, `()`, or a `Result` of one of them",
    note = "for `Json<T>`, `T` derives `Serialize` and `JsonSchema`"
)]
pub trait IntoResponse {
    /// Converts the value to status, headers and body.
    ///
    /// # Errors
    /// The problem that the handler returned, or 500 for a value that cannot be written as JSON.
    fn into_response(self) -> Result<Response, Problem>;

    /// Adds the response of success to the route's OpenAPI operation.
    fn describe(operation: &mut Operation<'_>);
}

impl<T: Serialize + JsonSchema> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response, Problem> {
        let body = serde_json::to_vec(&self.0).map_err(Problem::internal)?;
        Ok(Response::with_type("application/json", body))
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.response_json::<T>();
    }
}

impl IntoResponse for Text {
    fn into_response(self) -> Result<Response, Problem> {
        Ok(Response::with_type("text/plain; charset=utf-8", self.0.into_bytes()))
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.response("text/plain");
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response, Problem> {
        Ok(self)
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.response("*/*");
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response, Problem> {
        Ok(Response::new(204))
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.response_empty();
    }
}

/// A response with a status other than the one that the route declares. A status that is always the same belongs in the
/// attribute (`status = 201`), which also documents it.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[post("/", access = public)]
/// fn subscribe(Json(address): Json<String>) -> Status<Json<String>> {
///     Status(202, Json(address))
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status<R>(pub u16, pub R);

impl<R: IntoResponse> IntoResponse for Status<R> {
    fn into_response(self) -> Result<Response, Problem> {
        Ok(Response { status: Some(self.0), ..self.1.into_response()? })
    }

    fn describe(operation: &mut Operation<'_>) {
        R::describe(operation);
    }
}

impl<R: IntoResponse, E: Into<Problem>> IntoResponse for Result<R, E> {
    fn into_response(self) -> Result<Response, Problem> {
        self.map_err(Into::into)?.into_response()
    }

    fn describe(operation: &mut Operation<'_>) {
        R::describe(operation);
    }
}
