//! The schemas of one API: its components in one registry, and the validators of its parameters and bodies. Every
//! validator is compiled here, after a check of its bounds ([`schema_bounds`](super::schema_bounds)), and checks values
//! within a budget ([`bounded_json`](super::bounded_json)). Plugins supply schemas, so these cannot refer to anything
//! outside their document, and their patterns run in linear time.
//!
//! Compiling can take a second. The callers do it on a blocking thread.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use jsonschema::{
    Draft, PatternCache, PatternOptions, Registry, Retrieve, Uri, ValidationError, ValidationOptions, options_for,
};
use serde_json::{Map, Value, json};

use super::bounded_json::{BoundedJson, BoundedNode, Budget, ErrorSize, PatternBytes, longest_path};
use super::integers::{add_ranges, add_ranges_to_all};
use super::schema_bounds::{COMPONENTS, MAX_WEIGHT, refuse_identifiers, survey};
use crate::address::Address;

/// The name of the document with the components.
const DOCUMENT: &str = "urn:wharf:api";
/// The maximum number of different patterns.
const MAX_PATTERNS: usize = 256;
/// The maximum memory of all compiled patterns together.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Sizes of compiled patterns. A pattern counts as the smallest that it fits; a pattern that fits none is refused. The
/// time of a pattern grows with its size, and with the text.
const PATTERN_SIZES: [usize; 5] = [512, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
/// The longest text that can have the format `regex`: its parser takes time that grows with the square of the length.
const MAX_REGEX_TEXT: usize = 1024;
/// The memory in which a thread may remember how one pattern matched.
const PATTERN_STATES: usize = 64 << 10;

/// Why a schema is refused, as a text for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchema(String);

fn invalid(reason: impl Into<String>) -> InvalidSchema {
    InvalidSchema(reason.into())
}

/// See the module.
pub struct Schemas {
    /// `components` and below it `schemas`.
    document: Arc<Value>,
    registry: Registry<'static>,
    weight: usize,
    /// The length of the longest path in the document.
    path: usize,
    /// The patterns so far, with their sizes.
    patterns: BTreeMap<String, usize>,
    compiled_patterns: PatternCache,
}

/// Checks values against one schema.
pub struct Validator {
    compiled: jsonschema::Validator<BoundedJson>,
    patterns: PatternBytes,
    error: ErrorSize,
}

impl Schemas {
    /// Takes the components of an API, by name.
    ///
    /// # Errors
    /// They cannot be a document of schemas.
    pub fn new(mut components: Map<String, Value>) -> Result<Self, InvalidSchema> {
        add_ranges_to_all(&mut components);
        let document = Arc::new(json!({ "components": { "schemas": components } }));
        refuse_identifiers(&document).map_err(invalid)?;
        let registry = Registry::new()
            .draft(Draft::Draft202012)
            .retriever(NothingElse)
            .retrieve_known_draft_meta_schemas(false)
            .add(DOCUMENT, Arc::clone(&document))
            .and_then(|registry| registry.prepare())
            .map_err(|error| invalid(error.to_string()))?;
        let (patterns, compiled_patterns) = (BTreeMap::new(), PatternCache::new());
        let path = longest_path(&document);
        Ok(Self { document, registry, weight: 0, path, patterns, compiled_patterns })
    }

    /// Returns a component by its name.
    pub fn component(&self, name: &str) -> Option<&Value> {
        self.document.get("components")?.get("schemas")?.get(name)
    }

    /// Compiles a schema. It may refer to the components as `#/components/schemas/NAME`.
    ///
    /// # Errors
    /// It is not a JSON schema, or it exceeds a bound.
    pub fn validator(&mut self, schema: &Value) -> Result<Validator, InvalidSchema> {
        let document = Arc::clone(&self.document);
        let mut ranged = schema.clone();
        add_ranges(&mut ranged);
        let schema = &ranged;
        let needs = survey(schema, &document, MAX_WEIGHT.saturating_sub(self.weight)).map_err(invalid)?;
        self.weight = self.weight.saturating_add(needs.weight);
        let error = ErrorSize { path: longest_path(schema).max(self.path), ..needs.error };
        let mut patterns = PatternBytes::default();
        for pattern in needs.patterns {
            let bytes = self.add_pattern(pattern)?;
            patterns.of_texts = patterns.of_texts.max(bytes);
            if needs.name_patterns.contains(pattern) {
                patterns.of_names = patterns.of_names.saturating_add(bytes);
            }
        }
        let schema = if needs.referring.is_empty() {
            Cow::Borrowed(schema)
        } else {
            Cow::Owned(with_absolute_references(schema, &needs.referring))
        };
        let largest = PATTERN_SIZES.last().copied().unwrap_or_default();
        let options = options(largest).with_pattern_cache(self.compiled_patterns.clone()).with_registry(&self.registry);
        let compiled = options.build(&schema).map_err(|error| invalid(error.to_string()))?;
        Ok(Validator { compiled, patterns, error })
    }

    /// Counts a pattern, and returns its size.
    fn add_pattern(&mut self, pattern: &str) -> Result<usize, InvalidSchema> {
        if let Some(size) = self.patterns.get(pattern) {
            return Ok(*size);
        }
        if self.patterns.len() >= MAX_PATTERNS {
            return Err(invalid(format!("there are more than {MAX_PATTERNS} patterns")));
        }
        let schema = json!({ "pattern": pattern });
        let fits = |size: &usize| options(*size).build(&schema).is_ok();
        let Some(size) = PATTERN_SIZES.into_iter().find(fits) else {
            return Err(invalid(format!("the pattern '{pattern}' is not a regular expression or is too large")));
        };
        self.patterns.insert(pattern.to_owned(), size);
        if self.patterns.values().sum::<usize>() > MAX_PATTERN_BYTES {
            return Err(invalid(format!("the patterns take together more than {MAX_PATTERN_BYTES} bytes of memory")));
        }
        Ok(size)
    }
}

impl Validator {
    /// Passes each error of a value to `read`; a valid value has none. Returns `false` if the budget ended before the
    /// whole value was checked; then a value without errors is not known to be valid.
    pub fn errors(&self, value: &Value, read: impl FnMut(&ValidationError<'_>)) -> bool {
        self.errors_within(&mut Budget::steps_for(value), value, read)
    }

    /// As [`Validator::errors`], with at most as many steps as given. Subtracts the steps that were needed.
    pub(super) fn errors_within(
        &self,
        steps: &mut u64,
        value: &Value,
        mut read: impl FnMut(&ValidationError<'_>),
    ) -> bool {
        let budget = Budget::new(*steps, self.patterns, self.error);
        let errors: Vec<ValidationError<'_>> = self.compiled.iter_errors(BoundedNode::root(value, &budget)).collect();
        let is_complete = !budget.is_exhausted();
        *steps = budget.left();
        for error in &errors {
            // An error that came after the end of the budget is about a part that only appeared to be empty.
            if is_complete || matches!(error.instance(), Cow::Borrowed(_)) {
                read(error);
            }
        }
        is_complete
    }
}

impl std::fmt::Debug for Validator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validator").finish_non_exhaustive()
    }
}

fn options<'a>(pattern_bytes: usize) -> ValidationOptions<'a, Arc<dyn Retrieve>, BoundedJson> {
    let patterns = PatternOptions::regex().size_limit(pattern_bytes).dfa_size_limit(PATTERN_STATES);
    options_for::<BoundedJson>()
        .with_draft(Draft::Draft202012)
        .offline()
        .should_validate_formats(true)
        .with_format("email", |text: &str| text.parse::<Address>().is_ok())
        .with_format("regex", is_regex)
        .with_format("uuid", |text: &str| uuid::Uuid::try_parse(text).is_ok())
        .with_pattern_options(patterns)
}

/// Returns whether a text is a short regular expression of ECMAScript.
fn is_regex(text: &str) -> bool {
    static FORMAT: LazyLock<Option<jsonschema::Validator>> =
        LazyLock::new(|| jsonschema::options().should_validate_formats(true).build(&json!({ "format": "regex" })).ok());
    text.len() <= MAX_REGEX_TEXT && FORMAT.as_ref().is_some_and(|format| format.is_valid(&Value::from(text)))
}

/// Copies a schema and makes the references of some of its parts lead to the document with the components.
fn with_absolute_references(schema: &Value, referring: &HashSet<*const Value>) -> Value {
    match schema {
        Value::Array(list) => list.iter().map(|each| with_absolute_references(each, referring)).collect(),
        Value::Object(object) => {
            let refers = referring.contains(&std::ptr::from_ref(schema));
            let copy = |(name, value): (&String, &Value)| {
                let value = match value {
                    Value::String(text) if refers && name == "$ref" && text.starts_with(COMPONENTS) => {
                        format!("{DOCUMENT}{text}").into()
                    }
                    value => with_absolute_references(value, referring),
                };
                (name.clone(), value)
            };
            Value::Object(object.iter().map(copy).collect())
        }
        other => other.clone(),
    }
}

/// Finds no document outside.
struct NothingElse;

impl Retrieve for NothingElse {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("'{uri}' is outside the document").into())
    }
}

#[cfg(test)]
mod tests;
