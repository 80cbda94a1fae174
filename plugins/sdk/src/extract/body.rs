//! The body of a request: JSON of a type, text, or bytes.

use super::{FromRequest, Needs};
use crate::openapi::Operation;
use crate::{FieldError, Problem, Request};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// A JSON body or a JSON response.
///
/// For an argument, `T` derives `Deserialize` and `JsonSchema`; for a response, `Serialize` and `JsonSchema`. Members
/// that `T` does not have are ignored. If a member is repeated, the last one counts.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[derive(serde::Serialize, serde::Deserialize, JsonSchema)]
/// struct Note {
///     #[schemars(length(min = 1, max = 255))]
///     text: String,
/// }
///
/// #[post("/", status = 201)]
/// fn create(Json(note): Json<Note>) -> Json<Note> {
///     Json(note)
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + JsonSchema> FromRequest for Json<T> {
    const NEEDS: Needs = Needs::BODY;

    fn from_request(request: &mut Request) -> Result<Self, Problem> {
        let body = request.take_body();
        serde_json::from_slice(&body)
            .or_else(|first| last_member_counts(&body).ok_or(first))
            .map(Self)
            .map_err(|error| Problem::unprocessable([FieldError::new(["body"], "value_error", error.to_string())]))
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.body_json::<T>();
    }
}

/// Parses a body in which a member is repeated. Derived types refuse that; a JSON tree keeps the last value. The detour
/// is slower but rare.
fn last_member_counts<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).and_then(serde_json::from_value).ok()
}

/// A body or a response of plain UTF-8 text.
#[derive(Clone, Debug, PartialEq)]
pub struct Text(pub String);

impl FromRequest for Text {
    const NEEDS: Needs = Needs::BODY;

    fn from_request(request: &mut Request) -> Result<Self, Problem> {
        String::from_utf8(request.take_body()).map(Self).map_err(|_| {
            Problem::unprocessable([FieldError::new(["body"], "string_unicode", "The body should be UTF-8 text")])
        })
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.body("text/plain");
    }
}

/// A body of any kind, as received.
#[derive(Clone, Debug, PartialEq)]
pub struct Bytes(pub Vec<u8>);

impl FromRequest for Bytes {
    const NEEDS: Needs = Needs::BODY;

    fn from_request(request: &mut Request) -> Result<Self, Problem> {
        Ok(Self(request.take_body()))
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.body("application/octet-stream");
    }
}
