//! JSON texts of a declaration: schemas and operations. Owns the bounds of their length and nesting, and the check of both.
//! Operations and schemas stay texts: a parsed one takes many times as much memory, for each plugin that is deployed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::artifact::invalid;
use crate::error;

/// The maximum length of all JSON texts of one declaration together, in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// The maximum nesting of declared JSON. It is stored inside the JSON of the declaration, which must stay readable, and
/// the parser accepts 127 levels in all.
pub(super) const MAX_NESTING: usize = 64;

/// Declared JSON, kept as a compact text. It is stored as the JSON that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredJson(Box<str>);

impl DeclaredJson {
    /// Keeps a value.
    pub(super) fn of(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    /// Returns the value.
    pub fn value(&self) -> Value {
        // The text was a value before, so it is JSON.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Returns the `operationId` of an operation, without reading the rest of it into memory. `None` if it has none, or one
    /// that is not a text, or if the operation is not an object.
    pub fn operation_id(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Identified {
            #[serde(rename = "operationId")]
            operation_id: Option<String>,
        }
        // Serde reads an array as a struct too. The text is compact, so it begins with its value.
        let object = Some(&*self.0).filter(|text| text.starts_with('{'))?;
        serde_json::from_str::<Identified>(object).ok()?.operation_id
    }
}

impl Serialize for DeclaredJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DeclaredJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::of(&value))
    }
}

/// Checks the length of all JSON texts of a declaration together.
///
/// # Errors
/// They are too long.
pub(super) fn check_length(lengths: impl Iterator<Item = usize>) -> error::Result<()> {
    if lengths.fold(0, usize::saturating_add) > MAX_BYTES {
        return Err(invalid(format!(
            "its operations, schemas and payloads are longer than {MAX_BYTES} bytes together"
        )));
    }
    Ok(())
}

/// Parses a text; `what` is its name in an error.
///
/// # Errors
/// It is not JSON, or it is nested too deeply.
pub(super) fn parse(text: &str, what: &str) -> error::Result<Value> {
    let value = serde_json::from_str(text).map_err(|error| invalid(format!("{what} is not JSON: {error}")))?;
    if is_deeper(&value, MAX_NESTING) {
        return Err(invalid(format!("{what} is nested deeper than {MAX_NESTING} levels")));
    }
    Ok(value)
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    let inside = |value| levels.checked_sub(1).is_none_or(|levels| is_deeper(value, levels));
    match value {
        Value::Array(list) => levels == 0 || list.iter().any(inside),
        Value::Object(object) => levels == 0 || object.values().any(inside),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_operation_has_the_id_that_its_text_has() {
        for operation in [
            json!({ "operationId": "items-read", "summary": "Read" }),
            json!({ "operationId": "naïve \"id\" \n", "responses": { "200": { "operationId": "another" } } }),
            json!({ "responses": { "200": { "operationId": "another" } } }),
            json!({ "operationId": null }),
            json!({ "operationId": 7 }),
            json!({}),
            json!(["x"]),
            json!("x"),
        ] {
            let id = operation.get("operationId").and_then(Value::as_str).map(ToOwned::to_owned);
            assert_eq!(DeclaredJson::of(&operation).operation_id(), id, "{operation}");
        }
    }
}
