//! The schemas of payloads: JSON texts that a plugin hands over, such as those of events and jobs. A plugin chooses both
//! the schema and the payload, so the time of one check is bounded, and the caller runs a long one away from the worker
//! threads. Never repeats a payload in the reason of a refusal.

use std::fmt::Write as _;

use serde_json::Value;

use super::bounded_json::Budget;
use super::finding::findings_within;
use super::schemas::{InvalidSchema, Schemas, Validator};
use crate::error::{FieldError, Findings, Loc};

/// The name of a payload in the reason of a refusal.
const PAYLOAD: &str = "payload";
/// The longest text that is parsed on a worker thread.
const SMALL: usize = 64 * 1024;
/// Steps for a check on a worker thread.
const BRIEF_STEPS: u64 = 10_000;
/// Steps for any check: a second, if the patterns are as large as permitted.
const MAX_STEPS: u64 = 1_000_000;
/// The longest location in the reason of a refusal, and the longest text about it, in bytes.
const MAX_PART: usize = 200;

/// The schema of one kind of payload; see the module.
#[derive(Debug)]
pub struct PayloadSchema(Option<Validator>);

impl PayloadSchema {
    /// Compiles a schema with the others of its plugin; `None` admits any JSON. This can take long.
    ///
    /// # Errors
    /// It is not a JSON schema, or it exceeds a bound.
    pub fn compile(schema: Option<&Value>, schemas: &mut Schemas) -> Result<Self, InvalidSchema> {
        Ok(Self(schema.map(|schema| schemas.validator(schema)).transpose()?))
    }

    /// Checks a payload. This can take long.
    ///
    /// # Errors
    /// The reason of the refusal: a short text that names the member.
    pub fn check(&self, payload: &str) -> Result<(), String> {
        let value = parse(payload)?;
        let steps = Budget::steps_for(&value).min(MAX_STEPS);
        self.check_within(steps, &value).0
    }

    /// Checks a payload if that takes a short time. Returns `None` otherwise.
    pub fn check_briefly(&self, payload: &str) -> Option<Result<(), String>> {
        if payload.len() > SMALL {
            return None;
        }
        let value = match parse(payload) {
            Ok(value) => value,
            Err(reason) => return Some(Err(reason)),
        };
        let (checked, is_complete) = self.check_within(BRIEF_STEPS, &value);
        is_complete.then_some(checked)
    }

    /// Returns the outcome, and whether the steps sufficed for it.
    fn check_within(&self, mut steps: u64, value: &Value) -> (Result<(), String>, bool) {
        let Some(validator) = &self.0 else { return (Ok(()), true) };
        let (found, is_complete) = findings_within(&mut steps, validator, value, &[PAYLOAD], &[]);
        (first(&found), is_complete)
    }
}

/// Parses a payload. The parser bounds the nesting.
fn parse(payload: &str) -> Result<Value, String> {
    serde_json::from_str(payload).map_err(|error| format!("{PAYLOAD}: not JSON ({error})"))
}

fn first(found: &Findings) -> Result<(), String> {
    found.listed().first().map_or(Ok(()), |finding| Err(reason(finding)))
}

/// Writes a finding: `payload.tags[3]: Input should be a valid string`.
fn reason(finding: &FieldError) -> String {
    let mut place = String::new();
    for step in &finding.loc {
        match step {
            Loc::Name(name) if place.is_empty() => place.push_str(name),
            Loc::Name(name) => {
                place.push('.');
                place.push_str(name);
            }
            Loc::Index(index) => {
                // Writing to a string does not fail.
                let _ = write!(place, "[{index}]");
            }
        }
    }
    format!("{}: {}", shortened(&place), shortened(&finding.msg))
}

fn shortened(text: &str) -> String {
    let start = text.get(..text.floor_char_boundary(MAX_PART)).unwrap_or_default();
    if start.len() == text.len() { start.to_owned() } else { format!("{start}…") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn compile(schema: &Value) -> PayloadSchema {
        PayloadSchema::compile(Some(schema), &mut Schemas::new(Map::new()).unwrap()).unwrap()
    }

    #[test]
    fn a_refusal_names_the_first_wrong_member_and_not_its_value() {
        let schema = compile(&json!({
            "type": "object",
            "required": ["id"],
            "properties": { "id": {}, "tags": { "type": "array", "items": { "type": "string", "maxLength": 3 } } },
            "additionalProperties": false,
        }));
        for (payload, expected) in [
            (r#"{"id": 1, "tags": ["a"]}"#, Ok(())),
            (r#"{"tags": []}"#, Err("payload.id: Field required")),
            (r#"{"id": 1, "tags": ["a", 5]}"#, Err("payload.tags[1]: Input should be a valid string")),
            (r#"{"id": 1, "tags": ["secret"]}"#, Err("payload.tags[0]: String should have at most 3 characters")),
        ] {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(schema.check(payload), expected, "{payload}");
            assert_eq!(schema.check_briefly(payload), Some(expected), "{payload}");
        }
        let long = json!({ "id": 1, "n".repeat(900): 1 }).to_string();
        assert!(schema.check(&long).unwrap_err().len() < 500);
    }

    #[test]
    fn every_payload_is_json_of_bounded_depth() {
        let any = PayloadSchema::compile(None, &mut Schemas::new(Map::new()).unwrap()).unwrap();
        for payload in ["null", "[1, {}]", r#""text""#] {
            assert_eq!(any.check_briefly(payload), Some(Ok(())), "{payload}");
        }
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for payload in ["", "{", "{} {}", "{'a': 1}", "\u{feff}{}", "\"\0\"", deep.as_str()] {
            assert!(any.check(payload).unwrap_err().starts_with("payload: not JSON ("), "{payload}");
        }
    }

    #[test]
    fn a_payload_that_takes_long_is_left_to_another_thread() {
        let schema = compile(&json!({ "items": { "type": "integer", "minimum": 0 } }));
        let many = format!("[{}0]", "0,".repeat(20_000));
        assert_eq!(schema.check_briefly(&many), None);
        assert_eq!(schema.check(&many), Ok(()));
        let large = format!("\"{}\"", "x".repeat(SMALL));
        assert_eq!(schema.check_briefly(&large), None);
        assert_eq!(schema.check(&large), Ok(()));
    }

    #[test]
    fn a_payload_that_takes_too_long_is_refused() {
        let integer = json!({ "type": "integer" });
        let nested = (0..7).fold(integer, |inside, _| json!({ "allOf": [inside, inside] }));
        let payload = format!("[{}0]", "0,".repeat(60_000));
        let refused = compile(&json!({ "items": nested })).check(&payload).unwrap_err();
        assert!(refused.starts_with("payload: Input takes too long to check"), "{refused}");
    }
}
