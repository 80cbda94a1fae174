//! The settings that the operator gave the plugin.

use super::{FromRequest, Needs};
use crate::{Problem, Request};
use serde::de::DeserializeOwned;

use crate::host::settings as host;

/// The plugin's settings, of the type that `plugin!` declares as `settings: T`. The host has validated them against its
/// schema.
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[derive(serde::Deserialize, JsonSchema)]
/// struct Greeting {
///     /// The name of the greeted person.
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
    /// Reads the settings outside the arguments of a handler.
    ///
    /// # Errors
    /// 500 if they do not fit `T`: then `T` is not the type that `plugin!` declares.
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
