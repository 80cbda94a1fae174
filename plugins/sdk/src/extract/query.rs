//! The parameters of the query string.

use super::parameters::Parameters;
use super::{FromRequest, Needs};
use crate::openapi::Operation;
use crate::{Problem, Request};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// The parameters of the query. Each is a member of a struct. If a parameter is repeated, the last value counts.
///
/// A member that may be left out has `#[serde(default)]` or is an `Option`.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[derive(serde::Deserialize, JsonSchema)]
/// #[serde(default)]
/// struct Page {
///     skip: u32,
///     #[schemars(range(max = 1000))]
///     limit: u32,
/// }
///
/// impl Default for Page {
///     fn default() -> Self {
///         Self { skip: 0, limit: 100 }
///     }
/// }
///
/// #[get("/", access = public)]
/// fn list(Query(page): Query<Page>) -> Text {
///     Text(format!("{} from {}", page.limit, page.skip))
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + JsonSchema> FromRequest for Query<T> {
    const NEEDS: Needs = Needs::NOTHING;

    fn from_request(request: &mut Request) -> Result<Self, Problem> {
        let mut pairs: Vec<(_, _)> = Vec::new();
        for (name, value) in form_urlencoded::parse(request.query().as_bytes()) {
            match pairs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, earlier)) => *earlier = value,
                None => pairs.push((name, value)),
            }
        }
        T::deserialize(Parameters::new(pairs)).map(Self).map_err(|error| error.into_problem("query"))
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.query::<T>();
    }
}
