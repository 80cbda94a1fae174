//! Conversion between the types of Rust and the values of the database.
//!
//! SQLite has few types and no booleans; PostgreSQL has many types that are passed as text. A conversion accepts both
//! forms of the same value and nothing else: a number that is read from a text column is an error, not a zero.

use super::Value;
use crate::Timestamp;
use std::fmt::Display;
use uuid::Uuid;

/// A type that can be read from one value.
pub trait FromValue: Sized {
    /// Converts the value.
    ///
    /// # Errors
    /// A text that names the expected type and the value that was found.
    fn from_value(value: Value) -> Result<Self, String>;
}

fn mismatch(wanted: &str, value: &Value) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Boolean(_) => "a boolean",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "a real number",
        Value::Text(_) => "a text",
        Value::Blob(_) => "bytes",
    };
    format!("expected {wanted}, found {found}")
}

fn text(value: Value, wanted: &str) -> Result<String, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(mismatch(wanted, &other)),
    }
}

fn parsed<T, E: Display>(text: &str, wanted: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("expected {wanted}, found `{text}`: {error}"))
}

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, String> {
        text(value, "a text")
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Boolean(value) => Ok(value),
            Value::Integer(0) => Ok(false),
            Value::Integer(1) => Ok(true),
            other => Err(mismatch("a boolean", &other)),
        }
    }
}

impl FromValue for f64 {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Real(value) => Ok(value),
            // A SQLite column without a type stores whole numbers as integers.
            #[allow(clippy::cast_precision_loss, reason = "the database would convert it in the same way")]
            Value::Integer(value) => Ok(value as f64),
            other => Err(mismatch("a real number", &other)),
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Blob(bytes) => Ok(bytes),
            other => Err(mismatch("bytes", &other)),
        }
    }
}

impl FromValue for Uuid {
    fn from_value(value: Value) -> Result<Self, String> {
        let text = text(value, "a UUID")?;
        parsed(&text, "a UUID", Self::parse_str(&text))
    }
}

impl FromValue for Timestamp {
    fn from_value(value: Value) -> Result<Self, String> {
        let text = text(value, "a time")?;
        parsed(&text, "a time", text.parse())
    }
}

impl FromValue for serde_json::Value {
    fn from_value(value: Value) -> Result<Self, String> {
        let text = text(value, "JSON")?;
        parsed(&text, "JSON", serde_json::from_str(&text))
    }
}

macro_rules! integers {
    ($($type:ident)*) => {$(
        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    Value::Integer(value) => {
                        Self::try_from(value).map_err(|_| format!("{value} does not fit {}", stringify!($type)))
                    }
                    other => Err(mismatch("an integer", &other)),
                }
            }
        }
    )*};
}
integers!(i8 i16 i32 i64 u8 u16 u32 u64);

macro_rules! into_value {
    ($($type:ty => |$value:ident| $variant:ident($expression:expr);)*) => {$(
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                Self::$variant($expression)
            }
        }
    )*};
}
into_value! {
    bool => |value| Boolean(value);
    i8 => |value| Integer(value.into());
    i16 => |value| Integer(value.into());
    i32 => |value| Integer(value.into());
    i64 => |value| Integer(value);
    u8 => |value| Integer(value.into());
    u16 => |value| Integer(value.into());
    u32 => |value| Integer(value.into());
    f64 => |value| Real(value);
    String => |value| Text(value);
    &str => |value| Text(value.to_owned());
    &String => |value| Text(value.clone());
    Vec<u8> => |value| Blob(value);
    &[u8] => |value| Blob(value.to_vec());
    Uuid => |value| Text(value.to_string());
    &Uuid => |value| Text(value.to_string());
    Timestamp => |value| Text(value.to_string());
    &Timestamp => |value| Text(value.to_string());
    serde_json::Value => |value| Text(value.to_string());
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
