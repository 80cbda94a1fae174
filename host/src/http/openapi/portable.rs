//! Writes schemas in the form that generators of clients accept. JSON Schema 2020-12 allows more forms for the same
//! meaning than most of them read:
//!
//! - A schema `true` becomes `{}`, and `false` becomes `{"not": {}}`. `additionalProperties` and its kin stay: every
//!   generator reads booleans there.
//! - A `default` that does not fit its schema is removed: null where null is not allowed, or a text or list that is too
//!   short. It is valid JSON Schema, because a default is not validated, and generators take it for a mistake.
//!
//! An operation gets the members that OpenAPI or generators require and the host does not need: the schema of a parameter
//! and of a body, `required` of a parameter in the path, and the description of a response.
//!
//! Only the document changes. Requests are validated against the schemas as they were declared.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

/// Keywords whose value is a schema.
const SCHEMA: &[&str] = &["not", "if", "then", "else", "contains", "items", "propertyNames", "contentSchema"];
/// Keywords whose value is a schema, or a boolean that generators read.
const SCHEMA_OR_BOOLEAN: &[&str] =
    &["additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems"];
/// Keywords whose value is a list of schemas.
const LIST: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const MAP: &[&str] = &["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];
/// Members of an operation that hold data, and no schemas.
const DATA: &[&str] = &["example", "examples"];

/// The maximum number of references that are followed one after another to find out whether a schema allows null.
const MAX_REFERENCES: usize = 8;

/// The component schemas that allow null. They are found once for a document, in a bounded number of passes, so that the
/// work is linear in the size of the schemas, however often they refer to each other.
pub(super) struct Nullable<'a>(HashSet<&'a str>);

impl<'a> Nullable<'a> {
    /// Finds them. Each pass follows one more reference than the pass before it. A circle of references adds nothing.
    pub(super) fn find(components: &'a Map<String, Value>) -> Self {
        let mut found = Self(HashSet::new());
        for _ in 0..MAX_REFERENCES {
            let allowing = components.iter().filter(|(_, schema)| found.allowed_by(schema));
            let next: HashSet<&str> = allowing.map(|(name, _)| name.as_str()).collect();
            if next.len() == found.0.len() {
                break;
            }
            found = Self(next);
        }
        found
    }

    /// Returns whether a schema allows null, as far as its types, references and alternatives say.
    fn allowed_by(&self, schema: &Value) -> bool {
        match schema {
            Value::Object(members) => self.allowed_by_members(members),
            other => *other != Value::Bool(false),
        }
    }

    fn allowed_by_members(&self, schema: &Map<String, Value>) -> bool {
        schema.iter().all(|(keyword, value)| match (keyword.as_str(), value) {
            ("type", Value::String(name)) => name == "null",
            ("type" | "enum", Value::Array(list)) => list.iter().any(|each| each == "null" || each.is_null()),
            ("const", value) => value.is_null(),
            ("allOf", Value::Array(list)) => list.iter().all(|each| self.allowed_by(each)),
            ("anyOf" | "oneOf", Value::Array(list)) => list.iter().any(|each| self.allowed_by(each)),
            ("$ref", Value::String(reference)) => {
                reference.strip_prefix("#/components/schemas/").is_some_and(|name| self.0.contains(name))
            }
            _ => true,
        })
    }
}

/// Rewrites the component schemas of a document.
pub(super) fn rewrite_components(schemas: &mut Map<String, Value>) {
    let declared = schemas.clone();
    let nullable = Nullable::find(&declared);
    schemas.values_mut().for_each(|schema| rewrite_schema(schema, &nullable));
}

/// Adds the members of an operation that OpenAPI requires.
pub(super) fn complete_operation(operation: &mut Map<String, Value>) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter_map(Value::as_object_mut) {
        if parameter.get("in").is_some_and(|place| place == "path") {
            parameter.insert("required".to_owned(), Value::Bool(true));
        }
        if !parameter.contains_key("content") {
            parameter.entry("schema").or_insert_with(|| json!({}));
        }
    }
    let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
    for response in responses.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        if !response.contains_key("$ref") {
            response.entry("description").or_insert_with(|| json!("Response"));
        }
    }
}

/// Rewrites the schemas in an operation, a parameter, a body or a response.
pub(super) fn rewrite_operation(part: &mut Value, nullable: &Nullable<'_>) {
    match part {
        Value::Object(members) => {
            for (name, member) in members {
                match name.as_str() {
                    "schema" => rewrite_schema(member, nullable),
                    "content" => {
                        add_schemas(member);
                        rewrite_operation(member, nullable);
                    }
                    name if DATA.contains(&name) || name.starts_with("x-") => {}
                    _ => rewrite_operation(member, nullable),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| rewrite_operation(element, nullable)),
        _ => {}
    }
}

/// Adds the schemas of bodies that have none: generators skip an operation without them.
fn add_schemas(content: &mut Value) {
    for (media_type, body) in content.as_object_mut().into_iter().flatten() {
        let Some(body) = body.as_object_mut() else { continue };
        let schema = if media_type.starts_with("text/") {
            json!({ "type": "string" })
        } else if media_type.contains("json") {
            json!({})
        } else {
            json!({ "type": "string", "format": "binary" })
        };
        body.entry("schema").or_insert(schema);
    }
}

fn rewrite_schema(schema: &mut Value, nullable: &Nullable<'_>) {
    let members = match schema {
        Value::Bool(true) => return *schema = json!({}),
        Value::Bool(false) => return *schema = json!({ "not": {} }),
        Value::Object(members) => members,
        _ => return,
    };
    if members.get("default").is_some_and(|default| !fits(default, members, nullable)) {
        members.shift_remove("default");
    }
    for (keyword, value) in members {
        let keyword = keyword.as_str();
        match value {
            // `items` had a list until 2019-09.
            Value::Array(list) if LIST.contains(&keyword) || keyword == "items" => {
                list.iter_mut().for_each(|each| rewrite_schema(each, nullable));
            }
            Value::Object(map) if MAP.contains(&keyword) => {
                map.values_mut().for_each(|each| rewrite_schema(each, nullable));
            }
            Value::Bool(_) if SCHEMA_OR_BOOLEAN.contains(&keyword) => {}
            value if SCHEMA.contains(&keyword) || SCHEMA_OR_BOOLEAN.contains(&keyword) => {
                rewrite_schema(value, nullable);
            }
            _ => {}
        }
    }
}

/// Returns whether a default fits its schema, as far as its size and null say.
fn fits(default: &Value, schema: &Map<String, Value>, nullable: &Nullable<'_>) -> bool {
    let least = |keyword: &str| schema.get(keyword).and_then(Value::as_u64).and_then(|least| least.try_into().ok());
    match default {
        Value::Null => nullable.allowed_by_members(schema),
        Value::Array(list) => list.len() >= least("minItems").unwrap_or(0),
        Value::String(text) => text.chars().count() >= least("minLength").unwrap_or(0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(mut schema: Value) -> Value {
        let components = json!({
            "Colour": { "type": "string" },
            "Maybe": { "anyOf": [{ "$ref": "#/components/schemas/Colour" }, { "type": "null" }] },
            "Circle": { "$ref": "#/components/schemas/Circle" },
        });
        rewrite_schema(&mut schema, &Nullable::find(components.as_object().unwrap()));
        schema
    }

    #[test]
    fn boolean_schemas_become_objects() {
        assert_eq!(rewritten(json!(true)), json!({}));
        assert_eq!(
            rewritten(json!({
                "properties": { "any": true, "none": false, "default": true },
                "items": true,
                "prefixItems": [true, { "anyOf": [true] }],
                "additionalProperties": false,
                "unevaluatedProperties": true,
                "uniqueItems": true,
                "enum": [true],
                "default": { "items": true },
            })),
            json!({
                "properties": { "any": {}, "none": { "not": {} }, "default": {} },
                "items": {},
                "prefixItems": [{}, { "anyOf": [{}] }],
                "additionalProperties": false,
                "unevaluatedProperties": true,
                "uniqueItems": true,
                "enum": [true],
                "default": { "items": true },
            })
        );
        let nested = json!({ "additionalProperties": { "properties": { "any": true } } });
        assert_eq!(rewritten(nested), json!({ "additionalProperties": { "properties": { "any": {} } } }));
    }

    #[test]
    fn a_default_stays_only_where_it_fits() {
        for allowed in [
            json!({}),
            json!({ "type": ["string", "null"] }),
            json!({ "type": "null" }),
            json!({ "anyOf": [{ "$ref": "#/components/schemas/Colour" }, { "type": "null" }] }),
            json!({ "$ref": "#/components/schemas/Maybe" }),
            json!({ "enum": ["red", null] }),
            json!({ "const": null }),
        ] {
            let mut with = allowed;
            with["default"] = Value::Null;
            assert_eq!(rewritten(with.clone()), with);
        }
        for refused in [
            json!({ "type": "string" }),
            json!({ "type": ["string", "integer"] }),
            json!({ "$ref": "#/components/schemas/Colour" }),
            json!({ "$ref": "#/components/schemas/Circle" }),
            json!({ "$ref": "#/components/schemas/Missing" }),
            json!({ "allOf": [{ "$ref": "#/components/schemas/Maybe" }, { "type": "string" }] }),
            json!({ "oneOf": [{ "type": "string" }, { "type": "integer" }] }),
            json!({ "enum": ["red"] }),
            json!({ "const": "red" }),
        ] {
            let mut with = refused.clone();
            with["default"] = Value::Null;
            assert_eq!(rewritten(with), refused);
        }
        let short = json!({ "minItems": 1, "minLength": 2, "default": [] });
        assert_eq!(rewritten(short), json!({ "minItems": 1, "minLength": 2 }));
        assert_eq!(rewritten(json!({ "minLength": 2, "default": "ü" })), json!({ "minLength": 2 }));
        let long = json!({ "minItems": 1, "minLength": 1, "default": "ü" });
        assert_eq!(rewritten(long.clone()), long);
    }

    #[test]
    fn the_work_does_not_grow_with_the_number_of_paths_through_references() {
        let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}"), "default": null });
        // `A` refers to itself, and `N0` has 64^8 paths to its end. Following each would never end.
        let mut declared = json!({
            "A": { "default": null, "anyOf": vec![reference("A"); 64] },
            "N8": { "anyOf": vec![json!({ "type": "string" }); 64] },
            "Maybe": { "default": null, "oneOf": [reference("A"), reference("Second")] },
            "Second": { "anyOf": [reference("Maybe"), { "type": "null" }] },
        });
        for level in 0..8 {
            declared[format!("N{level}")] = json!({ "anyOf": vec![reference(&format!("N{}", level + 1)); 64] });
        }
        let mut schemas = declared.as_object().unwrap().clone();
        rewrite_components(&mut schemas);
        assert_eq!(schemas["A"].get("default"), None);
        assert_eq!(schemas["N0"]["anyOf"][0].get("default"), None);
        assert_eq!(schemas["Maybe"]["default"], Value::Null);
        assert!(schemas["Second"]["anyOf"][0].as_object().unwrap().contains_key("default"));
    }

    #[test]
    fn a_bounded_number_of_references_is_followed() {
        let mut chain = Map::new();
        for level in 0..20 {
            chain.insert(level.to_string(), json!({ "$ref": format!("#/components/schemas/{}", level + 1) }));
        }
        chain.insert("20".to_owned(), json!({ "type": "null" }));
        let nullable = Nullable::find(&chain);
        let names: HashSet<String> = (21 - MAX_REFERENCES..=20).map(|level| level.to_string()).collect();
        assert_eq!(nullable.0, names.iter().map(String::as_str).collect());
    }

    #[test]
    fn the_schemas_of_an_operation_are_found_and_data_stays() {
        let mut operation = json!({
            "parameters": [{ "name": "a", "schema": true }],
            "requestBody": { "content": { "application/json": { "schema": true, "example": { "schema": true } } } },
            "responses": { "200": { "content": { "text/csv": {}, "*/*": {}, "application/ld+json": {} } } },
            "x-note": { "schema": true },
            "deprecated": true,
        });
        rewrite_operation(&mut operation, &Nullable::find(&Map::new()));
        assert_eq!(
            operation,
            json!({
                "parameters": [{ "name": "a", "schema": {} }],
                "requestBody": { "content": { "application/json": { "schema": {}, "example": { "schema": true } } } },
                "responses": { "200": { "content": {
                    "text/csv": { "schema": { "type": "string" } },
                    "*/*": { "schema": { "type": "string", "format": "binary" } },
                    "application/ld+json": { "schema": {} },
                } } },
                "x-note": { "schema": true },
                "deprecated": true,
            })
        );
    }

    #[test]
    fn an_operation_gets_the_members_that_openapi_requires() {
        let mut operation = json!({
            "parameters": [{ "name": "a", "in": "path" }, { "name": "b", "in": "query", "content": {} }],
            "responses": { "200": {}, "404": { "$ref": "#/x" } },
        });
        complete_operation(operation.as_object_mut().unwrap());
        assert_eq!(
            operation,
            json!({
                "parameters": [
                    { "name": "a", "in": "path", "required": true, "schema": {} },
                    { "name": "b", "in": "query", "content": {} },
                ],
                "responses": { "200": { "description": "Response" }, "404": { "$ref": "#/x" } },
            })
        );
    }
}
