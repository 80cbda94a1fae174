//! Handler arguments: typed values taken from a request, which at the same time document the route.
//!
//! The host has validated path, query and body against the schemas these types gave at deploy, so an extractor that
//! fails here met what the schema cannot say; it answers 422 and never panics.

mod body;
mod caller;
mod parameters;
mod path;
mod query;
mod request;
mod settings;

pub use body::{Bytes, Json, Text};
pub use caller::Caller;
pub use path::Path;
pub use query::Query;
pub use settings::Settings;

use crate::openapi::Operation;
use crate::{Problem, Request};

/// A type that can be an argument of a handler.
///
/// Implement it for what a plugin's handlers share, on top of the extractors there are:
///
/// ```
/// use wharf_sdk::prelude::*;
/// use wharf_sdk::{FromRequest, Needs};
///
/// struct Colleague(Caller);
///
/// impl FromRequest for Colleague {
///     const NEEDS: Needs = Caller::NEEDS;
///
///     fn from_request(request: &mut Request) -> Result<Self> {
///         let caller = Caller::from_request(request)?;
///         match caller.email.ends_with("@example.com") {
///             true => Ok(Self(caller)),
///             false => Err(Problem::forbidden("colleagues_only", "Colleagues only")),
///         }
///     }
/// }
///
/// #[get("/desk")]
/// fn desk(Colleague(caller): Colleague) -> Text {
///     Text(caller.email)
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    label = "not an extractor",
    note = "handlers take `Path<T>`, `Query<T>`, `Json<T>`, `Text`, `Bytes`, `Caller`, `Option<Caller>`, `Settings<T>`, `Request`",
    note = "`T` derives `Deserialize` and `JsonSchema`"
)]
pub trait FromRequest: Sized {
    /// What it takes, so that a handler asking for what its route does not have does not compile.
    const NEEDS: Needs;

    /// Takes the value out of the request.
    ///
    /// # Errors
    /// The problem the client is answered with instead of calling the handler.
    fn from_request(request: &mut Request) -> Result<Self, Problem>;

    /// Adds parameters or a request body to the route's OpenAPI operation.
    fn describe(operation: &mut Operation<'_>) {
        let _ = operation;
    }
}

/// What an extractor takes from a request.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The path's parameters.
    pub path: bool,
    /// The body, which can be taken once.
    pub body: bool,
    /// A signed-in caller.
    pub caller: bool,
}

impl Needs {
    /// Nothing that a route might lack.
    pub const NOTHING: Self = Self { path: false, body: false, caller: false };
    /// The path's parameters.
    pub const PATH: Self = Self { path: true, ..Self::NOTHING };
    /// The body.
    pub const BODY: Self = Self { body: true, ..Self::NOTHING };
    /// A signed-in caller.
    pub const CALLER: Self = Self { caller: true, ..Self::NOTHING };
}
