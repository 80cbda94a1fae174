//! The component schemas of one plugin: every named type that a route refers to, each name once.
//!
//! The schema of an input describes how it is read: a member with a default may be left out. The schema of a response
//! describes how it is written: such a member is always present. A type that is used for both has the schema of an
//! input.

use schemars::generate::{Contract, SchemaSettings};
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};

/// Marks the schema of a [`Field`](crate::Field), until the check that the member may be left out.
pub(crate) const FIELD_MARK: &str = "x-wharf-field";

#[derive(Debug)]
pub(crate) struct Schemas {
    inputs: SchemaGenerator,
    outputs: SchemaGenerator,
    /// Knows every type. It only serves to detect two types of one name.
    all: SchemaGenerator,
    errors: Vec<String>,
}

impl Schemas {
    pub(crate) fn new() -> Self {
        let generator = |contract| {
            SchemaSettings::draft2020_12()
                .with(|settings| {
                    settings.definitions_path = "/components/schemas".into();
                    settings.contract = contract;
                    settings.meta_schema = None;
                })
                .into_generator()
        };
        Self {
            inputs: generator(Contract::Deserialize),
            outputs: generator(Contract::Serialize),
            all: generator(Contract::Deserialize),
            errors: Vec::new(),
        }
    }

    /// Returns the schema itself. Only the types that it refers to become components.
    pub(crate) fn input<T: JsonSchema>(&mut self) -> Value {
        T::json_schema(&mut self.all);
        clean(T::json_schema(&mut self.inputs))
    }

    /// Returns a reference to the type's component, or the schema of a type without a name.
    pub(crate) fn input_reference<T: JsonSchema>(&mut self) -> Value {
        self.all.subschema_for::<T>();
        clean(self.inputs.subschema_for::<T>())
    }

    /// Does the same for a response.
    pub(crate) fn output_reference<T: JsonSchema>(&mut self) -> Value {
        self.all.subschema_for::<T>();
        clean(self.outputs.subschema_for::<T>())
    }

    pub(crate) fn add_error(&mut self, message: String) {
        self.errors.push(message);
    }

    /// Returns all components by name, or the errors that the author has to fix.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, Value)>, Vec<String>> {
        for name in self.all.definitions().keys() {
            // The generator appends a number to the second type of a name.
            let stem = name.trim_end_matches(|last: char| last.is_ascii_digit());
            if stem.len() < name.len() && self.all.definitions().contains_key(stem) {
                self.errors.push(format!(
                    "two types have the schema name `{stem}` (or one is called `{name}`): rename one of them with \
                     `#[schemars(rename = \"…\")]`"
                ));
            }
        }
        let inputs = self.inputs.take_definitions(false);
        let outputs = self.outputs.take_definitions(false);
        let mut components: Vec<(String, Value)> = inputs.into_iter().collect();
        for (name, schema) in outputs {
            if !components.iter().any(|(known, _)| *known == name) {
                components.push((name, schema));
            }
        }
        components.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (name, schema) in &mut components {
            let Ok(typed) = Schema::try_from(std::mem::take(schema)) else { continue };
            *schema = clean(typed);
            check_fields(name, schema, &mut self.errors);
            remove_marks(schema);
        }
        if self.errors.is_empty() { Ok(components) } else { Err(self.errors) }
    }
}

/// Reports each required member of the type `Field`: its struct lacks `#[serde(default)]`.
fn check_fields(name: &str, schema: &Value, errors: &mut Vec<String>) {
    let Some(members) = schema.get("properties").and_then(Value::as_object) else { return };
    let required: &[Value] = schema.get("required").and_then(Value::as_array).map_or(&[], Vec::as_slice);
    for (member, schema) in members {
        if schema.get(FIELD_MARK).is_some() && required.iter().any(|known| known == member) {
            errors.push(format!("`{name}` needs `#[serde(default)]` above it, so that `{member}` may be left out"));
        }
    }
}

fn remove_marks(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.shift_remove(FIELD_MARK);
            members.values_mut().for_each(remove_marks);
        }
        Value::Array(elements) => elements.iter_mut().for_each(remove_marks),
        _ => {}
    }
}

/// Writes a schema in the form that generators of clients accept. Removes formats that mean nothing to a client: Rust's
/// integer widths that OpenAPI does not define.
fn clean(mut schema: Schema) -> Value {
    schema.ensure_object();
    Clean.transform(&mut schema);
    schema.to_value()
}

struct Clean;

impl Transform for Clean {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(members) = schema.as_object_mut() {
            clean_integer(members);
            remove_misfit_default(members);
            members.iter_mut().for_each(|(keyword, value)| replace_booleans(keyword, value));
        }
        transform_subschemas(self, schema);
    }
}

/// Replaces a format such as `uint32`, which is not registered, by the range, which a client can use. The host refuses
/// numbers beyond the range and names the member; the type could only refuse the whole body.
fn clean_integer(members: &mut Map<String, Value>) {
    let range: Option<(Value, Value)> = match members.get("format").and_then(Value::as_str) {
        Some("uint8") => Some((0.into(), u8::MAX.into())),
        Some("uint16") => Some((0.into(), u16::MAX.into())),
        Some("uint32") => Some((0.into(), u32::MAX.into())),
        Some("uint64") => Some((0.into(), u64::MAX.into())),
        // In a component they have 32 bits.
        Some("uint") => Some((0.into(), usize::MAX.into())),
        Some("int") => Some((isize::MIN.into(), isize::MAX.into())),
        Some("int8") => Some((i8::MIN.into(), i8::MAX.into())),
        Some("int16") => Some((i16::MIN.into(), i16::MAX.into())),
        Some("uint128" | "int128") => None,
        _ => return,
    };
    members.shift_remove("format");
    let Some((minimum, maximum)) = range else { return };
    members.entry("minimum").or_insert(minimum);
    members.entry("maximum").or_insert(maximum);
}

/// Removes a `default` that does not fit: null where null is not allowed, or a text or list that is too short. A
/// reference counts as not null: schemars writes an optional one as `anyOf`.
fn remove_misfit_default(members: &mut Map<String, Value>) {
    let least = |keyword: &str| members.get(keyword).and_then(Value::as_u64).and_then(|least| least.try_into().ok());
    let fits = match members.get("default") {
        Some(Value::Null) => allow_null(members),
        Some(Value::Array(list)) => list.len() >= least("minItems").unwrap_or(0),
        Some(Value::String(text)) => text.chars().count() >= least("minLength").unwrap_or(0),
        _ => true,
    };
    if !fits {
        members.shift_remove("default");
    }
}

fn allow_null(members: &Map<String, Value>) -> bool {
    members.iter().all(|(keyword, value)| match (keyword.as_str(), value) {
        ("type", Value::String(name)) => name == "null",
        ("type" | "enum", Value::Array(list)) => list.iter().any(|each| each == "null" || each.is_null()),
        ("const", value) => value.is_null(),
        ("anyOf" | "oneOf", Value::Array(list)) => list.iter().filter_map(Value::as_object).any(allow_null),
        ("$ref", _) => false,
        _ => true,
    })
}

/// Replaces the schemas `true` and `false` in a keyword. `additionalProperties` keeps them: every generator reads them
/// there.
fn replace_booleans(keyword: &str, value: &mut Value) {
    match (keyword, value) {
        ("properties" | "patternProperties" | "$defs", Value::Object(schemas)) => {
            schemas.values_mut().for_each(replace_boolean);
        }
        ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => {
            schemas.iter_mut().for_each(replace_boolean);
        }
        ("items" | "contains" | "not" | "propertyNames", schema) => replace_boolean(schema),
        _ => {}
    }
}

fn replace_boolean(schema: &mut Value) {
    match schema {
        Value::Bool(true) => *schema = Value::Object(Map::new()),
        Value::Bool(false) => *schema = serde_json::json!({ "not": {} }),
        _ => {}
    }
}
