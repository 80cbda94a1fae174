//! Compiles an OpenAPI operation into checks of a route's parameters and body, which run before any handler.
//!
//! Takes the operation object and the component schemas that it refers to ([`Schemas`] compiles them all). Returns typed
//! inputs, or all findings in the order path, query, body.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::finding::{findings, findings_within};
use super::scalar::Scalar;
use super::schemas::{Schemas, Validator};
use super::template::Template;
use super::{integers, nul};
use crate::error::{FieldError, Findings};

/// Steps for the check of all parameters of a request together. They are checked on the thread that serves the connection,
/// so it must be short even if their patterns are as large as permitted: some hundredths of a second.
const PARAMETER_STEPS: u64 = 50_000;

/// Steps for the check of a body on that thread. A body that needs more is checked on another one.
const BRIEF_STEPS: u64 = 10_000;

/// A compiled operation, which checks requests.
#[derive(Debug)]
pub struct Operation {
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
    /// Whether its schema has integers.
    has_integers: bool,
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
    /// Compiles an operation object for a route at `template`. It may refer to the components of `schemas` as
    /// `#/components/schemas/NAME`.
    ///
    /// # Errors
    /// The fault in the operation or in one of its schemas, as a text for its author.
    pub fn compile(json: &Value, schemas: &mut Schemas, template: &Template) -> Result<Self, InvalidOperation> {
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
                "path" => path.push(Parameter::compile(parameter, schemas)?),
                "query" => query.push(Parameter::compile(parameter, schemas)?),
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
        let body = object.get("requestBody").map(|body| Body::compile(body, schemas)).transpose()?;
        Ok(Self { path, query, body })
    }

    /// Returns how the body is read; `None` means that a body is ignored.
    pub fn body_kind(&self) -> Option<BodyKind> {
        self.body.as_ref().map(|body| body.kind)
    }

    /// Returns whether the body is JSON with integers, which a client may write in several forms.
    pub fn body_has_integers(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.has_integers)
    }

    /// Checks the parameters of a request: decoded texts, in the order in which they were sent. Adds the findings to
    /// `found`, those of the path first.
    pub fn check_parameters(
        &self,
        path: &[(&str, Cow<'_, str>)],
        query: &[(Cow<'_, str>, Cow<'_, str>)],
        found: &mut Findings,
    ) -> Inputs {
        let mut inputs = Inputs::default();
        let mut steps = PARAMETER_STEPS;
        let texts = by_name(path.iter().map(|(name, text)| (*name, text.as_ref())));
        for parameter in &self.path {
            parameter.check("path", texts.get(&*parameter.name), &mut steps, &mut inputs.path, found);
        }
        let texts = by_name(query.iter().map(|(name, text)| (name.as_ref(), text.as_ref())));
        for parameter in &self.query {
            parameter.check("query", texts.get(&*parameter.name), &mut steps, &mut inputs.query, found);
        }
        inputs
    }

    /// Checks the body of a request and adds the findings to `found`. `value` is the JSON value; `None` if there is no
    /// body or it is `null`. `has_escaped_nul` says that the JSON text contains an escaped NUL, which PostgreSQL cannot
    /// store. The time grows with the size of the body.
    pub fn check_body(&self, value: Option<&Value>, has_escaped_nul: bool, found: &mut Findings) {
        if let Some(contract) = &self.body {
            let check =
                |validator: &Validator, value: &Value| Some(findings(validator, value, &[BODY], &contract.members));
            contract.check(value, has_escaped_nul, check, found);
        }
    }

    /// Checks a body as [`Operation::check_body`] does, if that takes few steps. Returns `false` otherwise, and adds
    /// nothing.
    pub fn check_body_briefly(&self, value: Option<&Value>, has_escaped_nul: bool, found: &mut Findings) -> bool {
        let Some(contract) = &self.body else { return true };
        let check = |validator: &Validator, value: &Value| {
            let mut steps = BRIEF_STEPS;
            let (found, is_complete) = findings_within(&mut steps, validator, value, &[BODY], &contract.members);
            is_complete.then_some(found)
        };
        contract.check(value, has_escaped_nul, check, found)
    }
}

/// The location of a body in findings.
const BODY: &str = "body";

/// Groups texts by name, in one pass.
fn by_name<'a>(texts: impl Iterator<Item = (&'a str, &'a str)>) -> HashMap<&'a str, Vec<&'a str>> {
    let mut named: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, text) in texts {
        named.entry(name).or_default().push(text);
    }
    named
}

impl Parameter {
    fn compile(json: &Value, schemas: &mut Schemas) -> Result<Self, InvalidOperation> {
        let name = json
            .get("name")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .ok_or_else(|| invalid("a parameter has no name"))?;
        let schema = json.get("schema").unwrap_or(&Value::Bool(true));
        let validator = schemas.validator(schema).map_err(|error| invalid(format!("parameter '{name}': {error}")))?;
        let resolved = resolve(schema, schemas);
        let repeated = resolved.get("type").is_some_and(|kind| kind == "array");
        let item = if repeated { resolved.get("items").unwrap_or(&Value::Bool(true)) } else { resolved };
        Ok(Self {
            name: name.to_owned(),
            required: json.get("required").and_then(Value::as_bool).unwrap_or(false)
                || json.get("in").is_some_and(|location| location == "path"),
            repeated,
            scalar: Scalar::of(resolve(item, schemas)),
            default: resolved.get("default").cloned(),
            validator,
        })
    }

    fn check(
        &self,
        source: &'static str,
        texts: Option<&Vec<&str>>,
        steps: &mut u64,
        inputs: &mut Map<String, Value>,
        found: &mut Findings,
    ) {
        let texts = texts.map(Vec::as_slice).unwrap_or_default();
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
                found.push(nul::finding([source, self.name.as_str()]));
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
        let (refused, _) = findings_within(steps, &self.validator, &value, &[source, &self.name], &[]);
        if refused.is_empty() {
            inputs.insert(self.name.clone(), value);
        }
        found.append(refused);
    }
}

impl Body {
    fn compile(json: &Value, schemas: &mut Schemas) -> Result<Self, InvalidOperation> {
        let content =
            json.get("content").and_then(Value::as_object).ok_or_else(|| invalid("'requestBody' has no 'content'"))?;
        let find = |kind: BodyKind, types: &[&str]| {
            types.iter().find_map(|name| content.get(*name)).map(|media| (kind, media))
        };
        let (kind, media) = find(BodyKind::Json, &["application/json"])
            .or_else(|| find(BodyKind::Form, &["application/x-www-form-urlencoded", "multipart/form-data"]))
            .unwrap_or((BodyKind::Raw, &Value::Null));
        let schema = media.get("schema").filter(|_| kind != BodyKind::Raw);
        let validator = schema.map(|schema| schemas.validator(schema)).transpose();
        let members = schema
            .and_then(|schema| resolve(schema, schemas).get("properties"))
            .and_then(Value::as_object)
            .map(|members| members.keys().cloned().collect())
            .unwrap_or_default();
        let has_integers = kind == BodyKind::Json
            && schema.is_some_and(|schema| integers::are_in(schema, &|name| schemas.component(name)));
        Ok(Self {
            kind,
            has_integers,
            required: json.get("required").and_then(Value::as_bool).unwrap_or(false),
            validator: validator.map_err(|error| invalid(format!("request body: {error}")))?,
            members,
        })
    }

    /// Adds the findings in a body. Returns `false`, and adds nothing, if `check` gives up.
    fn check(
        &self,
        value: Option<&Value>,
        has_escaped_nul: bool,
        check: impl FnOnce(&Validator, &Value) -> Option<Findings>,
        found: &mut Findings,
    ) -> bool {
        if self.kind == BodyKind::Raw {
            return true;
        }
        let Some(value) = value else {
            if self.required {
                found.push(FieldError::new("missing", [BODY], "Field required"));
            }
            return true;
        };
        if let Some(validator) = &self.validator {
            let Some(refused) = check(validator, value) else { return false };
            found.append(refused);
        }
        if has_escaped_nul {
            nul::search(value, &self.members, found);
        }
        true
    }
}

/// Follows references to `#/components/schemas/NAME`, at most eight.
fn resolve<'a>(schema: &'a Value, schemas: &'a Schemas) -> &'a Value {
    let mut at = schema;
    for _ in 0..8 {
        let name = at.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix("#/components/schemas/"));
        match name.and_then(|name| schemas.component(name)) {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

#[cfg(test)]
mod tests;
