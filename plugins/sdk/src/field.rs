//! Members of a partial update. An absent member is not the same as null.

use crate::openapi::FIELD_MARK;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;

/// A member that a client may leave out. `Field<String>` refuses null. `Field<Option<String>>` distinguishes null from
/// absent.
///
/// The struct around it needs `#[serde(default)]`, so that a missing member becomes [`Field::Absent`].
///
/// ```
/// use wharf_sdk::prelude::*;
///
/// #[derive(Default, serde::Deserialize, JsonSchema)]
/// #[serde(default)]
/// struct NoteUpdate {
///     #[schemars(length(min = 1, max = 255))]
///     title: Field<String>,
///     text: Field<Option<String>>,
/// }
///
/// let update: NoteUpdate = serde_json::from_str(r#"{"text": null}"#).unwrap();
/// assert_eq!(update.title, Field::Absent);
/// assert_eq!(update.text, Field::Set(None));
/// assert!(serde_json::from_str::<NoteUpdate>(r#"{"title": null}"#).is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// The client did not send the member: leave the stored value unchanged.
    #[default]
    Absent,
    /// The client sent this value.
    Set(T),
}

impl<T> Field<T> {
    /// Returns whether the client sent the member.
    pub fn is_set(&self) -> bool {
        matches!(self, Self::Set(_))
    }

    /// Returns the value that the client sent.
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::Absent => None,
            Self::Set(value) => Some(value),
        }
    }

    /// Overwrites `target` with the value, if the client sent one.
    ///
    /// ```
    /// # use wharf_sdk::Field;
    /// let mut title = "old".to_owned();
    /// Field::Absent.apply(&mut title);
    /// assert_eq!(title, "old");
    /// Field::Set("new".to_owned()).apply(&mut title);
    /// assert_eq!(title, "new");
    /// ```
    pub fn apply(self, target: &mut T) {
        if let Self::Set(value) = self {
            *target = value;
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::Set)
    }
}

/// The schema of the value. The struct around it declares that the member may be left out.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Field<{}>", T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = generator.subschema_for::<T>();
        schema.insert(FIELD_MARK.to_owned(), true.into());
        schema
    }
}
