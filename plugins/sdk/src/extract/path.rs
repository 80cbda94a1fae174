//! The parameters of the path.

use super::parameters::Parameters;
use super::{FromRequest, Needs};
use crate::openapi::Operation;
use crate::{Problem, Request};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// The parameters of the route's path: one value, a tuple in the order of the path, or a struct by name.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[get("/{id}", access = public)]
/// fn read(Path(id): Path<Uuid>) -> Text {
///     Text(id.to_string())
/// }
///
/// #[get("/{year}/{month}", access = public)]
/// fn month(Path((year, month)): Path<(u16, u8)>) -> Text {
///     Text(format!("{month}/{year}"))
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + JsonSchema> FromRequest for Path<T> {
    const NEEDS: Needs = Needs::PATH;

    fn from_request(request: &mut Request) -> Result<Self, Problem> {
        let pairs =
            request.params().iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        T::deserialize(Parameters::new(pairs)).map(Self).map_err(|error| error.into_problem("path"))
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.path::<T>();
    }
}
