//! Describes the input that a JSON Schema refuses, with the error types and texts of Pydantic, as FastAPI reports them:
//! one finding per location, in the order in which the schema declares its members, never with the input itself.
//!
//! A client chooses the number of its mistakes, so both the findings and the memory for finding them are limited.

use std::collections::HashMap;
use std::fmt::{self, Write};

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use serde_json::Value;

use super::bounded_json::Budget;
use super::schemas::Validator;
use crate::address::Address;
use crate::error::findings::{LocationBuilder, MAX_FINDINGS, MAX_TEXT};
use crate::error::{FieldError, Findings, Loc};

/// Returns the findings of `validator` in `value`, located below `location`. `members` is the declared order of the top
/// members.
pub(super) fn findings(validator: &Validator, value: &Value, location: &[&str], members: &[String]) -> Findings {
    findings_within(&mut Budget::steps_for(value), validator, value, location, members).0
}

/// As [`findings`], with at most as many steps as given. Subtracts the steps that were needed, and returns whether they
/// sufficed.
pub(super) fn findings_within(
    steps: &mut u64,
    validator: &Validator,
    value: &Value,
    location: &[&str],
    members: &[String],
) -> (Findings, bool) {
    let mut found = Found::default();
    let is_complete = validator.errors_within(steps, value, |error| found.add(error, location));
    if found.listed.is_empty() && !is_complete {
        let msg = "Input takes too long to check against the schema, or is nested too deeply";
        found.listed.push(FieldError::new("value_error", location.iter().copied(), msg));
    }
    (found.in_order(location.len(), members), is_complete)
}

/// The first findings, at most one per location, and the number of the others.
#[derive(Default)]
struct Found {
    listed: Vec<FieldError>,
    places: HashMap<Vec<Loc>, usize>,
    omitted: usize,
}

impl Found {
    fn add(&mut self, error: &ValidationError<'_>, location: &[&str]) {
        let mut loc = LocationBuilder::default();
        location.iter().for_each(|part| loc.push_name(part));
        for segment in error.instance_path().iter() {
            match segment {
                LocationSegment::Property(name) => loc.push_name(&name),
                LocationSegment::Index(index) => loc.push_index(index),
            }
        }
        if let ValidationErrorKind::Required { property: Value::String(name) } = error.kind() {
            loc.push_name(name);
        }
        if let ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } = error.kind()
            && let Some(name) = unexpected.first()
        {
            loc.push_name(name);
        }
        let loc = loc.finish();
        let top = location.len() == loc.len();
        if let Some(known) = self.places.get(&loc).and_then(|index| self.listed.get_mut(*index)) {
            // Only an error about the type can come first. The texts of others can be long, so they are not written.
            let can_come_first =
                matches!(error.kind(), ValidationErrorKind::Type { .. } | ValidationErrorKind::Required { .. });
            if can_come_first && rank(&known.kind) > 0 {
                let (kind, msg) = describe(error, top);
                if rank(kind) < rank(&known.kind) {
                    (known.kind, known.msg) = (kind.into(), msg);
                }
            }
        } else if self.listed.len() < MAX_FINDINGS {
            let (kind, msg) = describe(error, top);
            self.places.insert(loc.clone(), self.listed.len());
            self.listed.push(FieldError { kind: kind.into(), loc, msg });
        } else {
            self.omitted += 1;
        }
    }

    /// Returns the findings in the order of the declared members.
    fn in_order(mut self, depth: usize, members: &[String]) -> Findings {
        self.listed.sort_by_cached_key(|finding| {
            let order = match finding.loc.get(depth) {
                Some(Loc::Name(name)) => members.iter().position(|member| member == name).unwrap_or(members.len()),
                _ => 0,
            };
            (order, rank(&finding.kind))
        });
        let mut findings = Findings::from(self.listed);
        findings.omit(self.omitted);
        findings
    }
}

/// Returns the order of findings at one location: those about the type of a value come before those about its content.
fn rank(kind: &str) -> u8 {
    u8::from(!(kind.ends_with("_type") || kind == "missing"))
}

fn describe(error: &ValidationError<'_>, top: bool) -> (&'static str, String) {
    match error.kind() {
        ValidationErrorKind::Required { .. } => ("missing", "Field required".to_owned()),
        ValidationErrorKind::Type { kind } => describe_type(kind, error.instance(), top),
        ValidationErrorKind::MinLength { limit } => {
            ("string_too_short", format!("String should have at least {limit} character{}", plural(*limit)))
        }
        ValidationErrorKind::MaxLength { limit } => {
            ("string_too_long", format!("String should have at most {limit} character{}", plural(*limit)))
        }
        ValidationErrorKind::Minimum { limit } => {
            ("greater_than_equal", format!("Input should be greater than or equal to {limit}"))
        }
        ValidationErrorKind::Maximum { limit } => {
            ("less_than_equal", format!("Input should be less than or equal to {limit}"))
        }
        ValidationErrorKind::ExclusiveMinimum { limit } => {
            ("greater_than", format!("Input should be greater than {limit}"))
        }
        ValidationErrorKind::ExclusiveMaximum { limit } => ("less_than", format!("Input should be less than {limit}")),
        ValidationErrorKind::MultipleOf { multiple_of } => {
            ("multiple_of", format!("Input should be a multiple of {multiple_of}"))
        }
        ValidationErrorKind::Pattern { pattern } => {
            ("string_pattern_mismatch", format!("String should match pattern '{pattern}'"))
        }
        ValidationErrorKind::Format { format } => describe_format(format, error.instance()),
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
            ("enum", format!("Input should be {}", one_of(options)))
        }
        ValidationErrorKind::Constant { expected_value } => {
            ("literal_error", format!("Input should be {}", one_of(std::slice::from_ref(&**expected_value))))
        }
        ValidationErrorKind::MinItems { limit } => {
            ("too_short", format!("List should have at least {limit} item{}", plural(*limit)))
        }
        ValidationErrorKind::MaxItems { limit } => {
            ("too_long", format!("List should have at most {limit} item{}", plural(*limit)))
        }
        ValidationErrorKind::AdditionalProperties { .. } | ValidationErrorKind::UnevaluatedProperties { .. } => {
            ("extra_forbidden", "Extra inputs are not permitted".to_owned())
        }
        other => ("value_error", format!("Input does not fit the schema's '{}'", other.keyword())),
    }
}

/// Writes the values that a schema names, as many as the text of a finding can keep.
fn one_of(values: &[Value]) -> String {
    let mut text = Shortened(String::new());
    for (index, value) in values.iter().enumerate() {
        let separator = if index == 0 { "" } else { " or " };
        if write!(text, "{separator}{value}").is_err() {
            break;
        }
    }
    text.0
}

/// A text that ends when it is longer than a finding can keep. The finding marks its cut.
struct Shortened(String);

impl fmt::Write for Shortened {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.0.len() > MAX_TEXT {
            return Err(fmt::Error);
        }
        self.0.push_str(part.get(..part.floor_char_boundary(MAX_TEXT + 1)).unwrap_or_default());
        Ok(())
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn describe_type(kind: &TypeKind, instance: &Value, top: bool) -> (&'static str, String) {
    // A nullable type is described by its other type.
    let expected = match kind {
        TypeKind::Single(only) => only.to_string(),
        TypeKind::Multiple(any) => {
            any.iter().map(|one| one.to_string()).find(|name| name != "null").unwrap_or_else(|| "null".to_owned())
        }
    };
    let text = |kind, msg: &str| (kind, msg.to_owned());
    match (expected.as_str(), instance) {
        ("string", _) => text("string_type", "Input should be a valid string"),
        ("boolean", Value::String(_) | Value::Number(_)) => {
            text("bool_parsing", "Input should be a valid boolean, unable to interpret input")
        }
        ("boolean", _) => text("bool_type", "Input should be a valid boolean"),
        ("integer", Value::String(_)) => {
            text("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
        }
        ("integer", Value::Number(_)) => {
            text("int_from_float", "Input should be a valid integer, got a number with a fractional part")
        }
        ("integer", _) => text("int_type", "Input should be a valid integer"),
        ("number", _) => text("float_type", "Input should be a valid number"),
        ("array", _) => text("list_type", "Input should be a valid list"),
        ("object", _) if top => {
            text("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
        }
        ("object", _) => text("dict_type", "Input should be a valid dictionary"),
        _ => text("none_required", "Input should be None"),
    }
}

fn describe_format(format: &str, instance: &Value) -> (&'static str, String) {
    let text = instance.as_str().unwrap_or_default();
    match format {
        "email" => {
            let reason = text.parse::<Address>().err().map(|reason| reason.to_string()).unwrap_or_default();
            ("value_error", format!("value is not a valid email address: {reason}"))
        }
        "uuid" => {
            let reason = uuid::Uuid::try_parse(text).err().map(|reason| reason.to_string()).unwrap_or_default();
            ("uuid_parsing", format!("Input should be a valid UUID, {reason}"))
        }
        "date-time" => ("datetime_parsing", "Input should be a valid datetime".to_owned()),
        "date" => ("date_parsing", "Input should be a valid date".to_owned()),
        other => ("value_error", format!("Input should be a valid {other}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_values_that_a_schema_names_are_written_as_far_as_a_finding_keeps_them() {
        assert_eq!(one_of(&[json!("a"), json!(1), json!([null])]), r#""a" or 1 or [null]"#);
        for values in [vec![json!("ä".repeat(1 << 20)); 3], vec![json!(12); 100_000], vec![json!(vec!["x"; 100_000])]]
        {
            let length = one_of(&values).len();
            assert!((MAX_TEXT - 4..=2 * MAX_TEXT + 8).contains(&length), "{length}");
        }
    }
}
