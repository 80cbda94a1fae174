//! Whole numbers in all their forms. In JSON, `1.0` and `1e2` are whole numbers, and a schema accepts them as
//! `integer`. The JSON libraries of guests differ: some read them as integers, others as floats, others not at all. So
//! the host rewrites them in a body as `1` and `100` before anything reads them, and every guest reads the same. The
//! text is unchanged otherwise, and entirely if the schema of the body has no integer: a plugin may check a signature.
//!
//! Also owns the range of an integer with a format: `int32` and `int64` are what the handler's type can hold.

use std::collections::HashSet;

use serde_json::{Map, Number, Value};

/// The digits of the largest integer that a handler can have: that of 64 bits without a sign.
const MAX_DIGITS: i64 = 20;

/// The rewritten text would be longer than allowed: `1e19` has four bytes, and its integer twenty.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// Returns the JSON text with whole numbers written as integers; `None` if there is nothing to change. Numbers beyond
/// 64 bits stay as they are.
///
/// # Errors
/// The result would have more than `most` bytes.
pub fn rewrite_text(json: &[u8], most: usize) -> Result<Option<Vec<u8>>, TooLong> {
    let mut written: Option<Vec<u8>> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at),
            b'-' | b'0'..=b'9' => {
                let token = json.get(at..).unwrap_or_default();
                let length = token.iter().take_while(|byte| is_of_number(**byte)).count();
                let token = token.get(..length).unwrap_or_default();
                if let Some(integer) = std::str::from_utf8(token).ok().and_then(integer_of) {
                    let written = written.get_or_insert_with(|| Vec::with_capacity(json.len()));
                    written.extend_from_slice(json.get(copied..at).unwrap_or_default());
                    written.extend_from_slice(integer.as_bytes());
                    if written.len() > most {
                        return Err(TooLong);
                    }
                    copied = at + length;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    let Some(mut written) = written else { return Ok(None) };
    let rest = json.get(copied..).unwrap_or_default();
    if written.len().saturating_add(rest.len()) > most {
        return Err(TooLong);
    }
    written.extend_from_slice(rest);
    Ok(Some(written))
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')
}

/// Returns the position behind the string that begins at `start`.
fn end_of_string(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

/// Returns the integer that a number is, unless it is already written as one.
fn integer_of(number: &str) -> Option<String> {
    if number != "-0" && !number.contains(['.', 'e', 'E']) {
        return None;
    }
    exact_integer(number).or_else(|| rounded_integer(number.parse().ok()?).map(|number| number.to_string()))
}

/// Calculates with the digits, because a float would not hold all of them.
fn exact_integer(number: &str) -> Option<String> {
    let (sign, absolute) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (mantissa, exponent) = absolute.split_once(['e', 'E']).unwrap_or((absolute, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some("0".to_owned());
    }
    let length = |text: &str| i64::try_from(text.len()).ok();
    let zeros = length(&digits)?
        .checked_sub(length(significant)?)?
        .checked_sub(length(fraction)?)?
        .checked_add(exponent.parse().ok()?)?;
    let significant = significant.trim_start_matches('0');
    if zeros < 0 || length(significant)?.checked_add(zeros)? > MAX_DIGITS {
        return None;
    }
    let integer = format!("{sign}{significant}{}", "0".repeat(usize::try_from(zeros).ok()?));
    (integer.parse::<i64>().is_ok() || integer.parse::<u64>().is_ok()).then_some(integer)
}

/// Returns the integer that a float is. A validator sees the float, so `1.0000000000000000001` is 1 for it.
fn rounded_integer(float: f64) -> Option<Number> {
    // Both limits are exact: they are powers of two.
    const I64: f64 = 9_223_372_036_854_775_808.0;
    const U64: f64 = 18_446_744_073_709_551_616.0;
    if float.fract() != 0.0 {
        None
    } else if (-I64..I64).contains(&float) {
        #[allow(clippy::cast_possible_truncation, reason = "it is whole and within the range")]
        Some((float as i64).into())
    } else if (I64..U64).contains(&float) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and within the range")]
        Some((float as u64).into())
    } else {
        None
    }
}

/// Turns the floats of a value that are whole into integers.
pub fn rewrite_value(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(integer) = number.as_f64().and_then(rounded_integer) {
                *number = integer;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(rewrite_value),
        Value::Object(object) => object.values_mut().for_each(rewrite_value),
        _ => {}
    }
}

/// Returns whether a schema, or one that it refers to, has the type `integer`.
pub(super) fn are_in<'a>(schema: &'a Value, component: &impl Fn(&str) -> Option<&'a Value>) -> bool {
    let (mut waiting, mut seen) = (vec![schema], HashSet::new());
    while let Some(schema) = waiting.pop() {
        match schema {
            Value::Array(list) => waiting.extend(list),
            Value::Object(object) => {
                if is_integer(object) {
                    return true;
                }
                let name = object.get("$ref").and_then(Value::as_str);
                let name = name.and_then(|text| text.strip_prefix("#/components/schemas/"));
                if let Some(name) = name.filter(|name| seen.insert(*name)) {
                    // A reference that is not only a name leads into some component.
                    match component(name) {
                        Some(schema) => waiting.push(schema),
                        None => return true,
                    }
                }
                waiting.extend(object.values());
            }
            _ => {}
        }
    }
    false
}

fn is_integer(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::String(only)) => only == "integer",
        Some(Value::Array(any)) => any.iter().any(|one| one == "integer"),
        _ => false,
    }
}

/// Keywords whose values have a schema for each name. A name can be any text, also that of a keyword.
const NAMED: &[&str] = &["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];

/// Keywords whose values are data.
const DATA: &[&str] = &["const", "default", "enum", "example", "examples"];

/// Adds the range of its format to each integer of a schema.
pub(super) fn add_ranges(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(add_ranges),
        Value::Object(object) => {
            let range = match object.get("format").and_then(Value::as_str).filter(|_| is_integer(object)) {
                Some("int32") => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
                Some("int64") => Some((i64::MIN, i64::MAX)),
                _ => None,
            };
            if let Some((least, most)) = range {
                object.entry("minimum").or_insert_with(|| least.into());
                object.entry("maximum").or_insert_with(|| most.into());
            }
            for (keyword, value) in object.iter_mut() {
                match (keyword.as_str(), value) {
                    (data, _) if DATA.contains(&data) => {}
                    (named, Value::Object(schemas)) if NAMED.contains(&named) => add_ranges_to_all(schemas),
                    (_, value) => add_ranges(value),
                }
            }
        }
        _ => {}
    }
}

/// Adds the ranges to schemas that have names.
pub(super) fn add_ranges_to_all(schemas: &mut Map<String, Value>) {
    schemas.values_mut().for_each(add_ranges);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rewritten(text: &str) -> String {
        let rewritten = rewrite_text(text.as_bytes(), usize::MAX).unwrap();
        rewritten.map_or_else(|| text.to_owned(), |bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn whole_numbers_are_written_as_integers() {
        for (text, expected) in [
            ("1.0", "1"),
            ("1e2", "100"),
            ("-1.50E+1", "-15"),
            ("1200e-2", "12"),
            ("0.05e2", "5"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e999999999999999999999", "0"),
            ("9007199254740993.0", "9007199254740993"),
            ("18446744073709551615.0", "18446744073709551615"),
            ("-9223372036854775808.0", "-9223372036854775808"),
            ("1.0000000000000000001", "1"),
            ("{\"a\":[1.0,-2e0 ,3],\"1.0\":\"\\\"1.0\"}", "{\"a\":[1,-2 ,3],\"1.0\":\"\\\"1.0\"}"),
        ] {
            assert_eq!(rewritten(text), expected, "{text}");
        }
        for text in ["1", "-1", "1.5", "1e-1", "1e20", "18446744073709551616.0", "1e999999999999", "\"1.0\"", "\"\\"] {
            assert_eq!(rewrite_text(text.as_bytes(), usize::MAX), Ok(None), "{text}");
        }
        let long = format!("{}.0", "1".repeat(1_000_000));
        assert_eq!(rewrite_text(long.as_bytes(), usize::MAX), Ok(None));
    }

    #[test]
    fn a_rewritten_text_is_not_longer_than_allowed() {
        let json = b"[1e19,1e19]";
        assert_eq!(rewrite_text(json, 43), Ok(Some(b"[10000000000000000000,10000000000000000000]".to_vec())));
        for most in [0, 11, 21, 42] {
            assert_eq!(rewrite_text(json, most), Err(TooLong), "{most}");
        }
        assert_eq!(rewrite_text(b"[1, 2]", 0), Ok(None), "nothing changes");
    }

    proptest! {
        #[test]
        fn a_rewritten_text_has_the_same_value(number in any::<i64>(), zeros in 0_usize..4, text in "\\PC*") {
            let json = format!("[{number}.{}, {}]", "0".repeat(zeros + 1), json!(text));
            let value: Value = serde_json::from_str(&rewritten(&json)).unwrap();
            prop_assert_eq!(value, json!([number, text]));
        }

        #[test]
        fn any_bytes_are_read(bytes in any::<Vec<u8>>()) {
            let _ = rewrite_text(&bytes, usize::MAX);
        }
    }

    #[test]
    fn the_floats_of_a_value_become_integers() {
        let mut value = json!({ "a": [1.0, 1.5, -0.0, 1e30, 18446744073709549568.0], "b": "1.0" });
        rewrite_value(&mut value);
        assert_eq!(value, json!({ "a": [1, 1.5, 0, 1e30, 18446744073709549568_u64], "b": "1.0" }));
    }

    #[test]
    fn integers_are_found_through_references() {
        let components = json!({
            "A": { "properties": { "b": { "$ref": "#/components/schemas/B" } } },
            "B": { "items": { "$ref": "#/components/schemas/A" } },
            "C": { "anyOf": [{ "type": ["null", "integer"] }] },
        });
        let found = |schema: &str| {
            let schema = json!({ "$ref": schema });
            let components = components.clone();
            // The schema and the components live as long as the closure.
            let (schema, components): (&Value, &Value) = (&schema, &components);
            are_in(schema, &|name| components.get(name))
        };
        assert!(!found("#/components/schemas/A"));
        assert!(found("#/components/schemas/C"));
        assert!(found("#/components/schemas/A/properties"), "it is not followed");
    }

    #[test]
    fn a_format_gives_an_integer_its_range() {
        let mut schema = json!({
            "properties": {
                "a": { "type": "integer", "format": "int64", "minimum": 0 },
                "format": { "type": ["integer", "null"], "format": "int32" },
                "c": { "type": "string", "format": "int64" },
            },
            "const": { "type": "integer", "format": "int64" },
        });
        add_ranges(&mut schema);
        assert_eq!(
            schema,
            json!({
                "properties": {
                    "a": { "type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX },
                    "format": { "type": ["integer", "null"], "format": "int32", "minimum": i32::MIN,
                        "maximum": i32::MAX },
                    "c": { "type": "string", "format": "int64" },
                },
                "const": { "type": "integer", "format": "int64" },
            })
        );
    }

    #[test]
    fn a_member_with_the_name_of_a_keyword_gets_its_range() {
        let integer = json!({ "type": "integer", "format": "int32" });
        let ranged = json!({ "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX });
        let named = |schema: &Value| {
            let of = |name: &&str| ((*name).to_owned(), schema.clone());
            DATA.iter().chain(NAMED).chain(&["type", "format"]).map(of).collect::<Map<String, Value>>()
        };
        for keyword in NAMED {
            let mut schema = json!({ *keyword: named(&integer) });
            add_ranges(&mut schema);
            assert_eq!(schema, json!({ *keyword: named(&ranged) }));
        }
        let mut components = named(&integer);
        add_ranges_to_all(&mut components);
        assert_eq!(components, named(&ranged));
    }
}
