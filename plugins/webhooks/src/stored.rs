//! The words of the API as the database stores them: the same.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_sdk::serde_json::{Value, from_value, json};
use wharf_sdk::sql::{self, FromValue};

/// Returns the word of a value whose JSON is a word.
pub(crate) fn word(value: impl Serialize) -> String {
    json!(value).as_str().unwrap_or_default().to_owned()
}

/// Reads a value from its word.
///
/// # Errors
/// The column has another type or another word.
pub(crate) fn read_word<T: DeserializeOwned>(value: sql::Value) -> Result<T, String> {
    from_value(Value::String(String::from_value(value)?)).map_err(|error| error.to_string())
}
