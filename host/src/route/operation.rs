//! Compiles an OpenAPI operation into checks of a route's parameters and body, which run before any handler.
//!
//! Takes the operation object and the component schemas that it refers to. Returns typed inputs, or all findings in the
//! order path, query, body. Plugins supply the schemas, so these cannot refer to anything outside their document, and
//! their patterns run in linear time.

use std::borrow::Cow;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

use super::finding::findings;
use super::scalar::Scalar;
use super::template::Template;
use crate::address::Address;
use crate::error::{FieldError, Loc};

/// The maximum memory of a schema's compiled regular expression.
const PATTERN_BYTES: usize = 1 << 20;

/// A compiled operation, which checks requests.
#[derive(Debug)]
pub struct Operation {
    json: Value,
    path: Vec<Parameter>,
    query: Vec<Parameter>,
    body: Option<Body>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    required: bool,
    repeated: bool,
    scalar: Scalar,
    default: Option<Value>,
    validator: Validator,
}

#[derive(Debug)]
struct Body {
    kind: BodyKind,
    required: bool,
    validator: Option<Validator>,
    members: Vec<String>,
}

/// The way in which a request's body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Parsed and validated.
    Json,
    /// `application/x-www-form-urlencoded` or `multipart/form-data`, validated as an object of texts.
    Form,
    /// Passed on as received.
    Raw,
}

/// A request's inputs after validation.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Inputs {
    /// Path parameters, typed by their schemas.
    pub path: Map<String, Value>,
    /// Declared query parameters, typed, with defaults filled in.
    pub query: Map<String, Value>,
}

/// The reason why an operation cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOperation(String);

fn invalid(reason: impl Into<String>) -> InvalidOperation {
    InvalidOperation(reason.into())
}

impl Operation {
    /// Compiles an operation object for a route at `template`. It may refer to the schemas in `components` as
    /// `#/components/schemas/NAME`.
    ///
    /// # Errors
    /// The fault in the operation or in one of its schemas, as a text for its author.
    pub fn compile(
        json: Value,
        components: &Map<String, Value>,
        template: &Template,
    ) -> Result<Self, InvalidOperation> {
        let object = json.as_object().ok_or_else(|| invalid("the operation is not a JSON object"))?;
        let mut path = Vec::new();
        let mut query = Vec::new();
        let parameters = match object.get("parameters") {
            None => &[],
            Some(Value::Array(list)) => list.as_slice(),
            Some(_) => return Err(invalid("'parameters' is not a list")),
        };
        for parameter in parameters {
            let location = parameter.get("in").and_then(Value::as_str).unwrap_or_default();
            match location {
                "path" => path.push(Parameter::compile(parameter, components)?),
                "query" => query.push(Parameter::compile(parameter, components)?),
                "header" | "cookie" => {}
                _ => return Err(invalid("a parameter's 'in' is not path, query, header or cookie")),
            }
        }
        for (_, name) in template.params() {
            if !path.iter().any(|parameter| parameter.name == name) {
                return Err(invalid(format!("path parameter '{name}' is not declared in 'parameters'")));
            }
        }
        if let Some(extra) = path.iter().find(|parameter| !template.params().any(|(_, name)| name == parameter.name)) {
            return Err(invalid(format!("parameter '{}' is not part of the path {template}", extra.name)));
        }
        let body = object.get("requestBody").map(|body| Body::compile(body, components)).transpose()?;
        Ok(Self { path, query, body, json })
    }

    /// Returns the operation object as it was declared.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Returns how the body is read; `None` means that a body is ignored.
    pub fn body_kind(&self) -> Option<BodyKind> {
        self.body.as_ref().map(|body| body.kind)
    }

    /// Checks a request. `path` and `query` are decoded texts. `body` is the JSON value; `None` if there is no body or
    /// it is `null`. `has_escaped_nul` says that the JSON text contains an escaped NUL, which PostgreSQL cannot store.
    ///
    /// # Errors
    /// All findings, in the order path, query, body.
    pub fn check(
        &self,
        path: &[(&str, Cow<'_, str>)],
        query: &[(Cow<'_, str>, Cow<'_, str>)],
        body: Option<&Value>,
        has_escaped_nul: bool,
    ) -> Result<Inputs, Vec<FieldError>> {
        let mut found = Vec::new();
        let mut inputs = Inputs::default();
        for parameter in &self.path {
            let texts: Vec<&str> =
                path.iter().filter(|(name, _)| *name == parameter.name).map(|(_, text)| text.as_ref()).collect();
            parameter.check("path", &texts, &mut inputs.path, &mut found);
        }
        for parameter in &self.query {
            let texts: Vec<&str> =
                query.iter().filter(|(name, _)| *name == parameter.name).map(|(_, text)| text.as_ref()).collect();
            parameter.check("query", &texts, &mut inputs.query, &mut found);
        }
        if let Some(contract) = &self.body {
            contract.check(body, has_escaped_nul, &mut found);
        }
        if found.is_empty() { Ok(inputs) } else { Err(found) }
    }
}

impl Parameter {
    fn compile(json: &Value, components: &Map<String, Value>) -> Result<Self, InvalidOperation> {
        let name = json
            .get("name")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .ok_or_else(|| invalid("a parameter has no name"))?;
        let schema = json.get("schema").unwrap_or(&Value::Bool(true));
        let resolved = resolve(schema, components);
        let repeated = resolved.get("type").is_some_and(|kind| kind == "array");
        let item = if repeated { resolved.get("items").unwrap_or(&Value::Bool(true)) } else { resolved };
        Ok(Self {
            name: name.to_owned(),
            required: json.get("required").and_then(Value::as_bool).unwrap_or(false)
                || json.get("in").is_some_and(|location| location == "path"),
            repeated,
            scalar: Scalar::of(resolve(item, components)),
            default: resolved.get("default").cloned(),
            validator: validator(schema, components)
                .map_err(|error| invalid(format!("parameter '{name}': {error}")))?,
        })
    }

    fn check(
        &self,
        source: &'static str,
        texts: &[&str],
        inputs: &mut Map<String, Value>,
        found: &mut Vec<FieldError>,
    ) {
        // If a parameter that is not a list occurs several times, the last one wins.
        let texts = if self.repeated { texts } else { texts.last().map(std::slice::from_ref).unwrap_or_default() };
        if texts.is_empty() {
            match &self.default {
                Some(default) => {
                    inputs.insert(self.name.clone(), default.clone());
                }
                None if self.required => {
                    found.push(FieldError::new("missing", [source, self.name.as_str()], "Field required"));
                }
                None => {}
            }
            return;
        }
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            if text.contains('\0') {
                found.push(nul([source, self.name.as_str()].map(Loc::from).to_vec()));
                return;
            }
            match self.scalar.read(text, source, &self.name) {
                Ok(value) => values.push(value),
                Err(finding) => {
                    found.push(finding);
                    return;
                }
            }
        }
        let value = if self.repeated { Value::Array(values) } else { values.pop().unwrap_or_default() };
        let refused = findings(&self.validator, &value, &[source, &self.name], &[]);
        if refused.is_empty() {
            inputs.insert(self.name.clone(), value);
        }
        found.extend(refused);
    }
}

impl Body {
    fn compile(json: &Value, components: &Map<String, Value>) -> Result<Self, InvalidOperation> {
        let content =
            json.get("content").and_then(Value::as_object).ok_or_else(|| invalid("'requestBody' has no 'content'"))?;
        let find = |kind: BodyKind, types: &[&str]| {
            types.iter().find_map(|name| content.get(*name)).map(|media| (kind, media))
        };
        let (kind, media) = find(BodyKind::Json, &["application/json"])
            .or_else(|| find(BodyKind::Form, &["application/x-www-form-urlencoded", "multipart/form-data"]))
            .unwrap_or((BodyKind::Raw, &Value::Null));
        let schema = media.get("schema").filter(|_| kind != BodyKind::Raw);
        let members = schema
            .and_then(|schema| resolve(schema, components).get("properties"))
            .and_then(Value::as_object)
            .map(|members| members.keys().cloned().collect())
            .unwrap_or_default();
        Ok(Self {
            kind,
            required: json.get("required").and_then(Value::as_bool).unwrap_or(false),
            validator: schema
                .map(|schema| validator(schema, components))
                .transpose()
                .map_err(|error| invalid(format!("request body: {error}")))?,
            members,
        })
    }

    fn check(&self, value: Option<&Value>, has_escaped_nul: bool, found: &mut Vec<FieldError>) {
        if self.kind == BodyKind::Raw {
            return;
        }
        let Some(value) = value else {
            if self.required {
                found.push(FieldError::new("missing", ["body"], "Field required"));
            }
            return;
        };
        if let Some(validator) = &self.validator {
            found.extend(findings(validator, value, &["body"], &self.members));
        }
        if has_escaped_nul {
            let mut loc = vec![Loc::from("body")];
            match value {
                // Members that the schema does not declare are ignored, so they are not searched.
                Value::Object(object) if !self.members.is_empty() => {
                    for member in &self.members {
                        if let Some(value) = object.get(member) {
                            loc.push(member.as_str().into());
                            find_nul(value, &mut loc, found);
                            loc.pop();
                        }
                    }
                }
                other => find_nul(other, &mut loc, found),
            }
        }
    }
}

fn nul(loc: Vec<Loc>) -> FieldError {
    FieldError { kind: "value_error".into(), loc, msg: "String should not contain the character U+0000".to_owned() }
}

fn find_nul(value: &Value, loc: &mut Vec<Loc>, found: &mut Vec<FieldError>) {
    match value {
        Value::String(text) if text.contains('\0') && !found.iter().any(|finding| &finding.loc == loc) => {
            found.push(nul(loc.clone()));
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                loc.push(Loc::Index(index as u64));
                find_nul(value, loc, found);
                loc.pop();
            }
        }
        Value::Object(object) => {
            for (name, value) in object {
                if name.contains('\0') {
                    found.push(nul(loc.clone()));
                }
                loc.push(Loc::Name(name.clone()));
                find_nul(value, loc, found);
                loc.pop();
            }
        }
        _ => {}
    }
}

/// Follows references to `#/components/schemas/NAME`, at most eight.
fn resolve<'a>(schema: &'a Value, components: &'a Map<String, Value>) -> &'a Value {
    let mut at = schema;
    for _ in 0..8 {
        let name = at.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix("#/components/schemas/"));
        match name.and_then(|name| components.get(name)) {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

fn validator(schema: &Value, components: &Map<String, Value>) -> Result<Validator, String> {
    let mut document = match schema {
        Value::Object(object) => object.clone(),
        other => Map::from_iter([("allOf".to_owned(), Value::Array(vec![other.clone()]))]),
    };
    let schemas = Value::Object(Map::from_iter([("schemas".to_owned(), Value::Object(components.clone()))]));
    document.insert("components".to_owned(), schemas);
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .offline()
        .should_validate_formats(true)
        .with_format("email", |text: &str| text.parse::<Address>().is_ok())
        .with_format("uuid", |text: &str| uuid::Uuid::try_parse(text).is_ok())
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES))
        .build(&Value::Object(document))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use serde_json::json;

    fn operation() -> Operation {
        let components = json!({
            "Nested": { "type": "object", "properties": { "n": { "type": "integer" } } },
            "ItemCreate": {
                "type": "object",
                "properties": {
                    "title": { "type": "string", "minLength": 1, "maxLength": 5 },
                    "description": { "type": ["string", "null"], "maxLength": 5 },
                    "email": { "type": "string", "format": "email" },
                    "done": { "type": "boolean" },
                    "nested": { "$ref": "#/components/schemas/Nested" },
                },
                "required": ["title", "email"],
            },
        });
        let json = json!({
            "parameters": [
                { "name": "id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" } },
                { "name": "skip", "in": "query", "schema": { "type": "integer", "minimum": 0, "default": 0 } },
            ],
            "requestBody": { "required": true, "content": { "application/json": {
                "schema": { "$ref": "#/components/schemas/ItemCreate" } } } },
        });
        Operation::compile(json, components.as_object().unwrap(), &Template::parse("/items/{id}").unwrap()).unwrap()
    }

    fn refused(id: &str, query: &[(&str, &str)], body: Value) -> Value {
        let query: Vec<_> = query.iter().map(|(a, b)| (Cow::from(*a), Cow::from(*b))).collect();
        let has_escaped_nul = body.to_string().contains("u0000");
        let found = operation().check(&[("id", id.into())], &query, Some(&body), has_escaped_nul).unwrap_err();
        serde_json::to_value(found).unwrap()
    }

    const ID: &str = "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11";

    #[test]
    fn all_findings_are_returned_in_the_order_path_query_body() {
        let found = refused("x", &[("skip", "-1")], json!({ "description": 1, "email": "a@b" }));
        let places: Vec<String> =
            found.as_array().unwrap().iter().map(|f| format!("{} {}", f["loc"], f["type"])).collect();
        assert_eq!(
            places,
            [
                r#"["path","id"] "uuid_parsing""#,
                r#"["query","skip"] "greater_than_equal""#,
                r#"["body","title"] "missing""#,
                r#"["body","description"] "string_type""#,
                r#"["body","email"] "value_error""#,
            ]
        );
    }

    #[test]
    fn texts_are_those_of_the_http_contract() {
        let body = |title: Value| json!({ "title": title, "email": "a@example.com" });
        let msg = |body| refused(ID, &[], body)[0]["msg"].as_str().unwrap().to_owned();
        assert_eq!(msg(body(json!(""))), "String should have at least 1 character");
        assert_eq!(msg(body(json!("äöüßéx"))), "String should have at most 5 characters");
        assert_eq!(msg(body(json!(null))), "Input should be a valid string");
        assert_eq!(msg(json!([])), "Input should be a valid dictionary or object to extract fields from");
        assert_eq!(
            msg(json!({ "title": "x", "email": "nobody" })),
            "value is not a valid email address: An email address must have an @-sign."
        );
    }

    #[test]
    fn findings_in_nested_members_have_their_location() {
        let body = json!({ "title": "x", "email": "a@example.com", "done": null, "nested": { "n": "x" } });
        let found = refused(ID, &[], body);
        assert_eq!(found[0]["type"], "bool_type");
        assert_eq!(found[1]["loc"], json!(["body", "nested", "n"]));
    }

    #[test]
    fn a_nul_is_refused_only_in_declared_members() {
        let found = refused(ID, &[], json!({ "title": "a\0", "email": "a@example.com", "other": "\0" }));
        assert_eq!(found.as_array().unwrap().len(), 1);
        assert_eq!(found[0]["type"], "value_error");
    }

    #[test]
    fn valid_input_is_typed_and_gets_defaults() {
        let body = json!({ "title": "x", "email": "a@example.com", "unknown": 1 });
        let inputs = operation().check(&[("id", ID.into())], &[], Some(&body), false).unwrap();
        assert_eq!(inputs.query["skip"], 0);
        assert_eq!(inputs.path["id"], ID);
    }

    #[test]
    fn a_schema_that_is_invalid_or_refers_outside_its_document_is_refused() {
        let compile = |schema: Value| {
            let json = json!({ "requestBody": { "content": { "application/json": { "schema": schema } } } });
            Operation::compile(json, &Map::new(), &Template::parse("/").unwrap()).map(drop)
        };
        assert!(compile(json!({ "$ref": "https://example.com/schema.json" })).is_err());
        assert!(compile(json!({ "$ref": "file:///etc/passwd" })).is_err());
        assert!(compile(json!({ "$ref": "#/components/schemas/Missing" })).is_err());
        assert!(compile(json!({ "type": 7 })).is_err());
        assert!(compile(json!({ "pattern": "(" })).is_err());
        assert!(compile(json!({ "pattern": "(a{1000}){1000}" })).is_err());
        assert!(compile(json!(true)).is_ok());
    }
}
