//! Looks for the character U+0000 in input, because PostgreSQL cannot store it in a text. One pass over the value, whose
//! findings are limited.

use serde_json::Value;

use crate::error::findings::{LocationBuilder, MAX_FINDINGS};
use crate::error::{FieldError, Findings, Loc};

/// The maximum number of locations that are built. Several can be equal after they are cut. Then only one of them is
/// listed, so the list may never become full.
const MAX_LOCATIONS: usize = 2 * MAX_FINDINGS;

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
    fn location(&self) -> LocationBuilder {
        let mut location = self.outer.map(Self::location).unwrap_or_default();
        match self.step {
            Step::Name(name) => location.push_name(name),
            Step::Index(index) => location.push_index(index),
        }
        location
    }
}

/// Adds a finding for each text in a body that contains the character. Of an object, only the declared members are
/// searched if there are any, because the others are ignored.
pub(super) fn search(body: &Value, declared: &[String], found: &mut Findings) {
    let mut search = Search { found, built: 0 };
    search.body(body, declared);
}

struct Search<'f> {
    found: &'f mut Findings,
    /// The number of locations that were built.
    built: usize,
}

impl Search<'_> {
    fn body(&mut self, body: &Value, declared: &[String]) {
        let top = Place { outer: None, step: Step::Name("body") };
        match body {
            Value::Object(object) if !declared.is_empty() => {
                for (name, value) in declared.iter().filter_map(|name| object.get_key_value(name)) {
                    self.value(value, &Place { outer: Some(&top), step: Step::Name(name) });
                }
            }
            other => self.value(other, &top),
        }
    }

    fn value(&mut self, value: &Value, place: &Place<'_>) {
        match value {
            Value::String(text) if text.contains('\0') => self.add(place),
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    self.value(value, &Place { outer: Some(place), step: Step::Index(index) });
                }
            }
            Value::Object(object) => {
                if object.keys().any(|name| name.contains('\0')) {
                    self.add(place);
                }
                for (name, value) in object {
                    self.value(value, &Place { outer: Some(place), step: Step::Name(name) });
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, place: &Place<'_>) {
        if self.found.is_full() || self.built >= MAX_LOCATIONS {
            self.found.omit(1);
            return;
        }
        self.built += 1;
        let finding = finding(place.location().finish());
        // The list is short, so this search does not grow with the input.
        if !self.found.has_location(&finding.loc) {
            self.found.push(finding);
        }
    }
}

/// Returns the finding for a text at `location`.
pub(super) fn finding(location: impl IntoIterator<Item = impl Into<Loc>>) -> FieldError {
    FieldError::new("value_error", location, "String should not contain the character U+0000")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Members with the character, below a hundred long names.
    fn deep(members: usize) -> Value {
        let inside: serde_json::Map<String, Value> =
            (0..members).map(|number| (number.to_string(), json!("\0"))).collect();
        (0..100).fold(Value::Object(inside), |inside, _| json!({ "n".repeat(1_032): inside }))
    }

    #[test]
    fn texts_at_equal_cut_locations_cost_a_bounded_number_of_locations() {
        for members in [1_000, 10_000] {
            let mut found = Findings::default();
            let mut search = Search { found: &mut found, built: 0 };
            search.body(&deep(members), &[]);
            assert_eq!(search.built, MAX_LOCATIONS);
            let (listed, omitted) = found.into_parts();
            assert_eq!((listed.len(), omitted), (1, members - MAX_LOCATIONS));
        }
    }

    #[test]
    fn a_location_copies_a_bounded_part_of_its_names() {
        let name = "n".repeat(1_032);
        let top = Place { outer: None, step: Step::Name(&name) };
        let location = Place { outer: Some(&top), step: Step::Name(&name) }.location().finish();
        let lengths: Vec<usize> = location.iter().map(|step| serde_json::to_string(step).unwrap().len()).collect();
        assert_eq!(lengths, [1_024 + 5, 5], "each has quotes and the mark of a cut");
    }
}
