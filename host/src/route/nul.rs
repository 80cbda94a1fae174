//! Looks for the character U+0000 in input, because PostgreSQL cannot store it in a text. One pass over the value, whose
//! findings are limited.

use serde_json::Value;

use crate::error::findings::{bounded_location, kept_part};
use crate::error::{FieldError, Findings, Loc};

/// Where a value is: a list on the stack, from the value outwards. A location is only built for a finding that is
/// listed.
struct Place<'a> {
    outer: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

impl Place<'_> {
    fn location(&self) -> Vec<Loc> {
        let mut location = self.outer.map(Self::location).unwrap_or_default();
        location.push(match self.step {
            Step::Name(name) => Loc::from(kept_part(name)),
            Step::Index(index) => Loc::Index(index as u64),
        });
        location
    }
}

/// Adds a finding for each text in a body that contains the character. Of an object, only the declared members are
/// searched if there are any, because the others are ignored.
pub(super) fn search(body: &Value, declared: &[String], found: &mut Findings) {
    let top = Place { outer: None, step: Step::Name("body") };
    match body {
        Value::Object(object) if !declared.is_empty() => {
            for (name, value) in declared.iter().filter_map(|name| object.get_key_value(name)) {
                search_value(value, &Place { outer: Some(&top), step: Step::Name(name) }, found);
            }
        }
        other => search_value(other, &top, found),
    }
}

fn search_value(value: &Value, place: &Place<'_>, found: &mut Findings) {
    match value {
        Value::String(text) if text.contains('\0') => add(place, found),
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                search_value(value, &Place { outer: Some(place), step: Step::Index(index) }, found);
            }
        }
        Value::Object(object) => {
            if object.keys().any(|name| name.contains('\0')) {
                add(place, found);
            }
            for (name, value) in object {
                search_value(value, &Place { outer: Some(place), step: Step::Name(name) }, found);
            }
        }
        _ => {}
    }
}

fn add(place: &Place<'_>, found: &mut Findings) {
    if found.is_full() {
        found.omit(1);
        return;
    }
    let finding = finding(bounded_location(place.location()));
    // The list is short, so this search does not grow with the input.
    if !found.has_location(&finding.loc) {
        found.push(finding);
    }
}

/// Returns the finding for a text at `location`.
pub(super) fn finding(location: impl IntoIterator<Item = impl Into<Loc>>) -> FieldError {
    FieldError::new("value_error", location, "String should not contain the character U+0000")
}
