//! Extractors: the argument types of handlers. Each reads a typed value from a request and documents its part of the
//! route.
//!
//! The host has validated path, query and body against the schemas that these types gave at deploy. An extractor
//! therefore fails only on a rule that a schema cannot express. It then returns a 422 and never panics.

mod body;
mod caller;
mod parameters;
mod path;
mod query;
mod request;
mod settings;

pub use body::{Bytes, Json, Text};
pub use caller::{Authentication, Caller, Strength};
pub use path::Path;
pub use query::Query;
pub use settings::Settings;

use crate::openapi::Operation;
use crate::{Problem, Request};

/// A type that can be an argument of a handler.
///
/// Implement it for arguments that several handlers of a plugin share. It can build on the existing extractors:
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
    /// The parts of a request that it needs. A handler whose route lacks one does not compile.
    const NEEDS: Needs;

    /// Whether the value depends on the caller. The host then caches a response of the handler for its caller only,
    /// unless the route says `cache(…, shared)`. An extractor that builds on `Option<Caller>` sets it to `true`.
    const READS_CALLER: bool = Self::NEEDS.caller;

    /// Reads the value from the request.
    ///
    /// # Errors
    /// The problem that the client gets. The handler is not called.
    fn from_request(request: &mut Request) -> Result<Self, Problem>;

    /// Adds parameters or a request body to the route's OpenAPI operation.
    fn describe(operation: &mut Operation<'_>) {
        let _ = operation;
    }
}

/// The parts of a request that an extractor needs.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The parameters of the path.
    pub path: bool,
    /// The body, which can be read once.
    pub body: bool,
    /// A signed-in caller.
    pub caller: bool,
}

impl Needs {
    /// No part that a route might lack.
    pub const NOTHING: Self = Self { path: false, body: false, caller: false };
    /// The parameters of the path.
    pub const PATH: Self = Self { path: true, ..Self::NOTHING };
    /// The body.
    pub const BODY: Self = Self { body: true, ..Self::NOTHING };
    /// A signed-in caller.
    pub const CALLER: Self = Self { caller: true, ..Self::NOTHING };
}
