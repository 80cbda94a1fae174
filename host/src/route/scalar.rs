//! Converts text to typed values: query and path parameters arrive as text and are validated as JSON. Accepts the forms
//! that Pydantic accepts: signs and surrounding blanks of integers, the usual words for booleans. An integer is written
//! in digits: `1.0` and `1e2` are forms of JSON, and a guest gets the text as received.

use serde_json::Value;

use crate::error::FieldError;

/// The type of a parameter's text, from its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Text, unchanged.
    Text,
    /// A whole number within 64 bits, with or without a sign.
    Integer,
    /// A whole number within 64 bits with a sign: its schema has the format `int64` or `int32`.
    SignedInteger,
    /// Any finite number.
    Number,
    /// A boolean.
    Boolean,
}

impl Scalar {
    /// Reads the `type` of a parameter's schema; an unknown type means text.
    pub fn of(schema: &Value) -> Self {
        let is = |name: &str| match schema.get("type") {
            Some(Value::String(only)) => only == name,
            Some(Value::Array(any)) => any.iter().any(|one| one == name),
            _ => false,
        };
        if is("string") {
            Self::Text
        } else if is("integer") {
            let is_signed = schema.get("format").is_some_and(|format| format == "int64" || format == "int32");
            if is_signed { Self::SignedInteger } else { Self::Integer }
        } else if is("number") {
            Self::Number
        } else if is("boolean") {
            Self::Boolean
        } else {
            Self::Text
        }
    }

    /// Returns the typed value of a text, or a finding at `[source, name]`.
    pub fn read(self, text: &str, source: &str, name: &str) -> Result<Value, FieldError> {
        let refuse = |kind: &'static str, msg: &str| Err(FieldError::new(kind, [source, name], msg));
        match self {
            Self::Text => Ok(Value::String(text.to_owned())),
            Self::Integer | Self::SignedInteger => {
                let text = text.trim();
                let signed = text.parse::<i64>().ok().map(Value::from);
                let unsigned = || text.parse::<u64>().ok().filter(|_| self == Self::Integer).map(Value::from);
                match signed.or_else(unsigned) {
                    Some(number) => Ok(number),
                    None => {
                        refuse("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
                    }
                }
            }
            Self::Number => match text.trim().parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
                Some(number) => Ok(Value::Number(number)),
                None => refuse("float_parsing", "Input should be a valid number, unable to parse string as a number"),
            },
            Self::Boolean => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true.into()),
                "false" | "f" | "no" | "n" | "off" | "0" => Ok(false.into()),
                _ => refuse("bool_parsing", "Input should be a valid boolean, unable to interpret input"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_may_have_a_sign_and_surrounding_blanks() {
        for (text, number) in [("1", 1), ("+1", 1), (" 1 ", 1), ("-3", -3)] {
            assert_eq!(Scalar::Integer.read(text, "query", "n"), Ok(number.into()), "{text:?}");
        }
        assert_eq!(Scalar::Integer.read("18446744073709551615", "query", "n"), Ok(u64::MAX.into()));
        let signed = Scalar::of(&serde_json::json!({ "type": ["integer", "null"], "format": "int64" }));
        assert!(signed.read("9223372036854775807", "query", "n").is_ok());
        assert!(signed.read("9223372036854775808", "query", "n").is_err());
        for text in ["", "1.5", "1.0", "0x1", "1e1", "18446744073709551616", "1 2"] {
            let kind = Scalar::Integer.read(text, "query", "n").map_err(|finding| finding.kind);
            assert_eq!(kind, Err("int_parsing".into()), "{text:?}");
        }
    }
}
