//! Reads values from the columns of a PostgreSQL result, by the types of the columns.

use sqlx::TypeInfo;
use sqlx::postgres::{PgTypeInfo, PgTypeKind};
use uuid::Uuid;

use super::{numeric, timestamp};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::value::Value;

/// The type of a column, as far as its binary form is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Text,
    Jsonb,
    Uuid,
    Timestamptz,
    Timestamp,
    Date,
    Time,
    Bytea,
    /// The result of a function without a value.
    Void,
}

/// Returns whether the binary form of a type is the one that its name stands for: only the owner of the server can create
/// a base type, but each plugin can create a composite type, with any name.
pub(super) fn has_form_of_its_name(declared: &PgTypeInfo) -> bool {
    matches!(declared.kind(), PgTypeKind::Simple | PgTypeKind::Pseudo)
}

impl ColumnType {
    pub(super) fn of(name: &str, declared: &PgTypeInfo) -> Result<Self, DataError> {
        if matches!(declared.kind(), PgTypeKind::Enum(_)) {
            return Ok(Self::Text);
        }
        // A plugin can give a composite type the name of any other, such as "citext" or "INT4".
        let known = if has_form_of_its_name(declared) { declared.name() } else { "" };
        Ok(match known {
            "BOOL" => Self::Bool,
            "INT2" => Self::Int2,
            "INT4" => Self::Int4,
            "INT8" => Self::Int8,
            "FLOAT4" => Self::Float4,
            "FLOAT8" => Self::Float8,
            "NUMERIC" => Self::Numeric,
            "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" | "JSON" | "citext" => Self::Text,
            "JSONB" => Self::Jsonb,
            "UUID" => Self::Uuid,
            "TIMESTAMPTZ" => Self::Timestamptz,
            "TIMESTAMP" => Self::Timestamp,
            "DATE" => Self::Date,
            "TIME" => Self::Time,
            "BYTEA" => Self::Bytea,
            "VOID" => Self::Void,
            _ => {
                let other = declared.name().to_lowercase();
                return Err(DataError::invalid(format!(
                    "column {name} is of type {other}; cast column {name} to text"
                )));
            }
        })
    }

    /// Reads a value; `None` if the bytes do not have this type, or the value has no text form.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Value> {
        Some(match self {
            Self::Bool => Value::Boolean(u8::from_be_bytes(bytes.try_into().ok()?) != 0),
            Self::Int2 => Value::Integer(i64::from(i16::from_be_bytes(bytes.try_into().ok()?))),
            Self::Int4 => Value::Integer(i64::from(i32::from_be_bytes(bytes.try_into().ok()?))),
            Self::Int8 => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
            Self::Float4 => Value::Real(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
            Self::Float8 => Value::Real(f64::from_be_bytes(bytes.try_into().ok()?)),
            Self::Numeric => Value::Text(numeric::decode(bytes)?),
            Self::Text => Value::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
            // After the version of the binary form.
            Self::Jsonb => Value::Text(compact(std::str::from_utf8(bytes.get(1..)?).ok()?)),
            Self::Uuid => Value::Text(Uuid::from_slice(bytes).ok()?.hyphenated().to_string()),
            Self::Timestamptz => Value::Text(timestamp::write_timestamptz(i64::from_be_bytes(bytes.try_into().ok()?))?),
            Self::Timestamp => Value::Text(timestamp::write_timestamp(i64::from_be_bytes(bytes.try_into().ok()?))?),
            Self::Date => Value::Text(timestamp::write_date(i32::from_be_bytes(bytes.try_into().ok()?))?),
            Self::Time => Value::Text(timestamp::write_time(i64::from_be_bytes(bytes.try_into().ok()?))?),
            Self::Bytea => Value::Blob(bytes.to_vec()),
            Self::Void => Value::Null,
        })
    }
}

/// Removes the spaces that PostgreSQL writes between the tokens of a jsonb.
fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character == ' ' {
            continue;
        } else {
            in_string = character == '"';
        }
        compact.push(character);
    }
    compact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spaces_between_tokens_are_removed() {
        let json = r#"{"a b": [1, 2.50, "c: \"d, e\\"], "f": null}"#;
        assert_eq!(compact(json), r#"{"a b":[1,2.50,"c: \"d, e\\"],"f":null}"#);
    }
}
