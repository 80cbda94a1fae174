//! What the operator set for the plugin.

use super::{FromRequest, Needs};
use crate::{Problem, Request};
use serde::de::DeserializeOwned;

use crate::host::settings as host;

/// The plugin's settings, in the type that `plugin!` declares as `settings: T`, whose schema they were checked against.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[derive(serde::Deserialize, JsonSchema)]
/// struct Greeting {
///     /// Who is greeted.
///     name: String,
/// }
///
/// #[get("/", access = public)]
/// fn greet(Settings(greeting): Settings<Greeting>) -> Text {
///     Text(format!("Hello {}", greeting.name))
/// }
///
/// plugin! { name: "greeter", summary: "Greets", settings: Greeting, routes: [greet] }
/// ```
#[derive(Clone, Debug)]
pub struct Settings<T>(pub T);

impl<T: DeserializeOwned> Settings<T> {
    /// Reads the settings outside a handler's arguments.
    ///
    /// # Errors
    /// 500 where they do not fit `T`, which means that `T` is not what `plugin!` declared.
    pub fn read() -> Result<T, Problem> {
        serde_json::from_str(&host::all()).map_err(|error| Problem::internal(format_args!("settings: {error}")))
    }
}

impl<T: DeserializeOwned> FromRequest for Settings<T> {
    const NEEDS: Needs = Needs::NOTHING;

    fn from_request(_request: &mut Request) -> Result<Self, Problem> {
        Self::read().map(Self)
    }
}
