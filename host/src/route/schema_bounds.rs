//! The bounds of schemas, checked before anything is compiled. A plugin supplies its schemas, and the host compiles and
//! applies them outside the sandbox. So the size of the schemas that a validator needs is bounded, and so is the number
//! of schemas that apply to one place of a value: a chain of `allOf: [A, A]` would double it with each link.
//!
//! Owns the keywords by which one schema leads to another. Refuses the keywords that change the meaning of a reference.

use std::collections::{BTreeSet, HashMap, HashSet};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::bounded_json::{ErrorSize, memory_of};

/// The place of the schemas of an API in the document that they share.
pub(super) const COMPONENTS: &str = "#/components/";

/// The weight of all schemas of one API. Each validator counts every schema that it needs, even if another one needs it
/// too, because each has its own compiled form. A JSON value weighs 1, and a text 1 more for each 64 bytes.
pub(super) const MAX_WEIGHT: usize = 250_000;
/// The maximum number of schemas that apply to one place of a value, through `$ref`, `allOf`, `anyOf`, `oneOf`, `not`,
/// `if` and `dependentSchemas`.
const MAX_EXPANSION: usize = 500;
/// The maximum length of a chain of such schemas. A validator calls itself for each link.
const MAX_CHAIN: usize = 16;
/// The maximum length of a pattern in bytes. Errors repeat it.
const MAX_PATTERN: usize = 4 * 1024;

/// Bytes of a text that weigh as much as a JSON value.
const BYTES_PER_WEIGHT: usize = 64;

/// Keywords that change the meaning of a reference.
const FORBIDDEN: &[&str] =
    &["$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "$vocabulary"];
/// The versions of JSON Schema that have none but the forbidden keywords for identifiers, as `$schema` names them.
const VERSIONS: &[&str] = &["draft-06", "draft-07", "draft/2019-09", "draft/2020-12"];

/// Refuses a document that changes the meaning of references anywhere, even in a part that no schema refers to, or in
/// data: a reference may lead through that part. A property of such a name is possible, because its schema is no text.
///
/// # Errors
/// The keyword, as a text for its author.
pub(super) fn refuse_identifiers(document: &Value) -> Result<(), String> {
    match document {
        Value::Object(object) => object.iter().try_for_each(|(name, each)| {
            match each.as_str() {
                Some(_) if FORBIDDEN.contains(&name.as_str()) => return Err(forbidden(name)),
                Some(version) if name == "$schema" => check_version(version)?,
                _ => {}
            }
            refuse_identifiers(each)
        }),
        Value::Array(list) => list.iter().try_for_each(refuse_identifiers),
        _ => Ok(()),
    }
}

fn forbidden(keyword: &str) -> String {
    format!("it uses '{keyword}'; schemas are found as '#/components/schemas/NAME' only")
}

fn check_version(uri: &str) -> Result<(), String> {
    let address = uri.trim_end_matches('#');
    let known = address
        .strip_prefix("https://json-schema.org/")
        .or_else(|| address.strip_prefix("http://json-schema.org/"))
        .and_then(|path| path.strip_suffix("/schema"))
        .is_some_and(|version| VERSIONS.contains(&version));
    if known { Ok(()) } else { Err("its '$schema' is not a version from draft 6 to 2020-12".to_owned()) }
}

/// The schemas that a validator needs.
pub(super) struct Survey<'a> {
    /// The weight of all of them.
    pub(super) weight: usize,
    /// Their regular expressions.
    pub(super) patterns: BTreeSet<&'a str>,
    /// Those of them that meet the names of members.
    pub(super) name_patterns: BTreeSet<&'a str>,
    /// The schemas of the document itself that refer to a component.
    pub(super) referring: HashSet<*const Value>,
    /// The size that an error can have.
    pub(super) error: ErrorSize,
}

/// Checks a schema with all schemas that it refers to, in its own document or as components of the API.
///
/// # Errors
/// The bound that it exceeds, or the keyword or reference that is not possible, as a text for its author.
pub(super) fn survey<'a>(document: &'a Value, components: &'a Value, weight: usize) -> Result<Survey<'a>, String> {
    refuse_identifiers(document)?;
    let error = ErrorSize::default();
    let (patterns, name_patterns) = (BTreeSet::new(), BTreeSet::new());
    let survey = Survey { weight: 0, patterns, name_patterns, referring: HashSet::new(), error };
    let mut walk = Walk { document, components, expansions: HashMap::new(), waiting: Vec::new(), weight, survey };
    walk.waiting.push((document, Home::Document));
    while let Some((schema, home)) = walk.waiting.pop() {
        walk.expand(schema, home, 0)?;
    }
    Ok(walk.survey)
}

/// The document that a schema is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Document,
    Components,
}

struct Walk<'a> {
    document: &'a Value,
    components: &'a Value,
    /// The number of schemas that apply wherever a schema applies; `None` while it is being counted.
    expansions: HashMap<*const Value, Option<usize>>,
    /// Schemas that apply to other places.
    waiting: Vec<(&'a Value, Home)>,
    /// The maximum weight.
    weight: usize,
    survey: Survey<'a>,
}

impl<'a> Walk<'a> {
    /// Counts the schemas that apply wherever this one applies, with itself.
    fn expand(&mut self, schema: &'a Value, home: Home, chain: usize) -> Result<usize, String> {
        let key = std::ptr::from_ref(schema);
        match self.expansions.get(&key) {
            Some(Some(expansion)) => return Ok(*expansion),
            Some(None) => return Err("a schema applies to the same value as itself, so it never ends".to_owned()),
            None => {}
        }
        if chain > MAX_CHAIN {
            return Err(format!("a schema leads to the next one more than {MAX_CHAIN} times for the same value"));
        }
        self.expansions.insert(key, None);
        self.add_weight(1)?;
        let mut expansion = 1_usize;
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            let same: Vec<(&'a Value, Home)> = match keyword.as_str() {
                "$ref" => {
                    let target = self.resolve(value, home)?;
                    if (home, target.1) == (Home::Document, Home::Components) {
                        self.survey.referring.insert(key);
                    }
                    vec![target]
                }
                "not" => {
                    self.survey.error.schema = self.survey.error.schema.max(memory_of(value));
                    vec![(value, home)]
                }
                "if" | "then" | "else" => vec![(value, home)],
                "allOf" | "anyOf" | "oneOf" => {
                    value.as_array().into_iter().flatten().map(|each| (each, home)).collect()
                }
                "dependentSchemas" | "dependencies" => {
                    // A list has the names of required members.
                    members(value)
                        .filter(|(_, each)| each.is_array())
                        .try_for_each(|(_, each)| self.add_value(each))?;
                    members(value).map(|(_, each)| (each, home)).collect()
                }
                _ => {
                    self.look_into(keyword, value, home)?;
                    continue;
                }
            };
            for (schema, home) in same {
                expansion = expansion.saturating_add(self.expand(schema, home, chain + 1)?);
            }
        }
        if expansion > MAX_EXPANSION {
            return Err(format!(
                "more than {MAX_EXPANSION} schemas apply to the same value, through references and lists"
            ));
        }
        self.expansions.insert(key, Some(expansion));
        Ok(expansion)
    }

    /// Looks at a keyword that applies to other places, or that refers to no schema.
    fn look_into(&mut self, keyword: &'a str, value: &'a Value, home: Home) -> Result<(), String> {
        self.survey.error.names |= matches!(keyword, "additionalProperties" | "unevaluatedProperties");
        self.survey.error.elements |= keyword == "unevaluatedItems";
        match keyword {
            "items"
            | "additionalItems"
            | "prefixItems"
            | "contains"
            | "unevaluatedItems"
            | "additionalProperties"
            | "unevaluatedProperties"
            | "propertyNames"
            | "contentSchema" => match value {
                Value::Array(list) => self.waiting.extend(list.iter().map(|each| (each, home))),
                only => self.waiting.push((only, home)),
            },
            "properties" | "patternProperties" => {
                for (name, each) in members(value) {
                    if keyword == "patternProperties" {
                        self.add_pattern(name)?;
                        self.survey.name_patterns.insert(name);
                    }
                    self.add_text(name)?;
                    self.waiting.push((each, home));
                }
            }
            "pattern" => {
                if let Some(pattern) = value.as_str() {
                    self.add_pattern(pattern)?;
                }
            }
            "$schema" => {
                check_version(value.as_str().unwrap_or_default())?;
            }
            // They count when something refers to them.
            "$defs" | "definitions" => {}
            keyword if FORBIDDEN.contains(&keyword) => return Err(forbidden(keyword)),
            _ => self.add_value(value)?,
        }
        Ok(())
    }

    fn resolve(&self, reference: &Value, home: Home) -> Result<(&'a Value, Home), String> {
        let text = reference.as_str().ok_or("its '$ref' is not a text")?;
        let Some(pointer) = text.strip_prefix('#') else {
            return Err(format!("it refers to '{text}', which is outside its document"));
        };
        let home = if text.starts_with(COMPONENTS) { Home::Components } else { home };
        let document = match home {
            Home::Document => self.document,
            Home::Components => self.components,
        };
        if !(pointer.is_empty() || pointer.starts_with('/')) {
            return Err(format!("it refers to '{text}', which is not a path"));
        }
        let decoded = percent_decode_str(pointer).decode_utf8();
        let pointer = decoded.map_err(|_| format!("it refers to '{text}', which is not UTF-8"))?;
        // Readers of such a pointer differ in what they make of it.
        if pointer.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            return Err(format!("it refers to '{text}', where a '~' is not followed by '0' or '1'"));
        }
        let found = document.pointer(&pointer).ok_or_else(|| format!("it refers to '{text}', which does not exist"))?;
        Ok((found, home))
    }

    fn add_pattern(&mut self, pattern: &'a str) -> Result<(), String> {
        if pattern.len() > MAX_PATTERN {
            return Err(format!("a pattern is longer than {MAX_PATTERN} bytes"));
        }
        self.survey.patterns.insert(pattern);
        self.add_text(pattern)
    }

    fn add_value(&mut self, value: &'a Value) -> Result<(), String> {
        match value {
            Value::String(text) => self.add_text(text),
            Value::Array(list) => {
                self.add_weight(1)?;
                list.iter().try_for_each(|each| self.add_value(each))
            }
            Value::Object(object) => {
                self.add_weight(1)?;
                object.iter().try_for_each(|(name, each)| {
                    self.add_text(name)?;
                    self.add_value(each)
                })
            }
            _ => self.add_weight(1),
        }
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.survey.error.schema = self.survey.error.schema.max(text.len());
        self.add_weight(1 + text.len() / BYTES_PER_WEIGHT)
    }

    fn add_weight(&mut self, weight: usize) -> Result<(), String> {
        self.survey.weight = self.survey.weight.saturating_add(weight);
        if self.survey.weight > self.weight {
            return Err(format!(
                "the schemas of all parameters and bodies have together more than {MAX_WEIGHT} values"
            ));
        }
        Ok(())
    }
}

/// Returns the members of an object; none of another value.
fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}
