//! A member of a partial update, which distinguishes an absent member, `null` and a value.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

/// The change of one member. Declare the field with `#[serde(default)]`. `null` is a value only if `T` accepts it, such
/// as an `Option`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Change<T> {
    /// The member was absent and keeps its value.
    #[default]
    Keep,
    /// The member gets this value.
    To(T),
}

impl<T> Change<T> {
    pub(super) fn into_option(self) -> Option<T> {
        match self {
            Self::Keep => None,
            Self::To(value) => Some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::To)
    }
}

impl<T: JsonSchema> JsonSchema for Change<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
