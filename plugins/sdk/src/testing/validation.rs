//! Validates requests and messages against the schemas that the plugin declares, as the host does.

use crate::bindings::http_role::exports::wharf::plugin::http as wit;
use crate::host::stand_in::messages::Declared;
use crate::plugin::{Plugin, Route};
use crate::{FieldError, Problem};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// The validators of each route, in order.
#[derive(Debug)]
pub(super) struct Validators(Vec<Operation>);

#[derive(Debug)]
struct Operation {
    parameters: Vec<Parameter>,
    body: Option<Validator>,
}

#[derive(Debug)]
struct Parameter {
    location: String,
    name: String,
    required: bool,
    schema: Value,
    validator: Validator,
}

impl Validators {
    pub(super) fn new(api: &wit::Api) -> Self {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("the SDK generates JSON");
        let schemas: Map<String, Value> = api.schemas.iter().map(|(name, text)| (name.clone(), parsed(text))).collect();
        let components = json!({ "schemas": schemas });
        Self(api.routes.iter().map(|route| Operation::new(&parsed(&route.operation), &components)).collect())
    }

    pub(super) fn check(&self, route: &Route, index: u32, request: &wit::Request) -> Result<(), Problem> {
        let operation = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        let operation = operation.unwrap_or_else(|| panic!("`{}` has no operation", route.name));
        let mut errors = Vec::new();
        for parameter in &operation.parameters {
            parameter.check(request, &mut errors);
        }
        if let Some(validator) = &operation.body {
            match serde_json::from_slice::<Value>(&request.body) {
                Ok(body) => collect(validator, &body, &["body"], &mut errors),
                Err(error) => errors.push(FieldError::new(["body"], "json_invalid", error.to_string())),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::unprocessable(errors)) }
    }

    /// Writes the whole numbers of a valid JSON body as integers, as the host does.
    pub(super) fn rewrite_integers(&self, index: u32, request: &mut wit::Request) {
        let operation = usize::try_from(index).ok().and_then(|index| self.0.get(index));
        let is_json = operation.is_some_and(|operation| operation.body.is_some());
        if let Some(body) = is_json.then(|| with_plain_integers(&request.body)).flatten() {
            request.body = body;
        }
    }
}

/// Returns the declarations that events and jobs of a plugin must fit.
pub(super) fn declared(plugin: &Plugin) -> Declared {
    let compiled = |name: &str, schema: String| {
        let schema: Value = serde_json::from_str(&schema).expect("the SDK generates JSON");
        let options = jsonschema::options().should_validate_formats(true);
        options.build(&schema).unwrap_or_else(|error| panic!("`{name}` has no JSON Schema: {error}\n{schema}"))
    };
    Declared {
        plugin: plugin.name,
        topics: plugin.topics.iter().map(|topic| (topic.name, compiled(topic.name, (topic.schema)()))).collect(),
        jobs: plugin.all_jobs().map(|job| (job.name, compiled(job.name, (job.schema)()))).collect(),
        subscriptions: plugin.subscriptions.iter().map(|subscription| subscription.topic).collect(),
    }
}

impl Operation {
    fn new(operation: &Value, components: &Value) -> Self {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let parameters = operation.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
        let parameters = parameters.into_iter().map(|parameter| {
            let schema = parameter.get("schema").cloned().unwrap_or_default();
            Parameter {
                location: text(&parameter, "in"),
                name: text(&parameter, "name"),
                required: parameter.get("required") == Some(&Value::Bool(true)),
                validator: compile(&schema, components),
                schema,
            }
        });
        let body = operation.pointer("/requestBody/content/application~1json/schema");
        Self { parameters: parameters.collect(), body: body.map(|schema| compile(schema, components)) }
    }
}

/// Compiles a schema. References start with `#/components/schemas/`, so each document contains the components.
fn compile(schema: &Value, components: &Value) -> Validator {
    let document = json!({ "allOf": [schema], "components": components });
    let options = jsonschema::options().should_validate_formats(true);
    options.build(&document).unwrap_or_else(|error| panic!("not a JSON Schema: {error}\n{schema}"))
}

impl Parameter {
    fn check(&self, request: &wit::Request, errors: &mut Vec<FieldError>) {
        let text = match self.location.as_str() {
            "path" => request.params.iter().find(|(name, _)| *name == self.name).map(|(_, value)| value.clone()),
            _ => form_urlencoded::parse(request.query.as_bytes())
                .filter(|(name, _)| *name == self.name)
                .last()
                .map(|(_, value)| value.into_owned()),
        };
        match text {
            Some(text) => collect(&self.validator, &self.convert(text), &[&self.location, &self.name], errors),
            None if self.required => {
                errors.push(FieldError::new([self.location.as_str(), &self.name], "missing", "Field required"));
            }
            None => {}
        }
    }

    /// Converts a text to a number or a boolean if the schema expects one.
    fn convert(&self, text: String) -> Value {
        let expects = |wanted: &str| match self.schema.get("type") {
            Some(Value::String(name)) => name == wanted,
            Some(Value::Array(names)) => names.iter().any(|name| name == wanted),
            _ => false,
        };
        let parsed = match () {
            () if expects("integer") => {
                let number = text.trim();
                number.parse::<i64>().map(Value::from).or_else(|_| number.parse::<u64>().map(Value::from)).ok()
            }
            () if expects("number") => text.trim().parse::<f64>().ok().map(Value::from),
            () if expects("boolean") => text.trim().to_lowercase().parse::<bool>().ok().map(Value::from),
            () => None,
        };
        parsed.unwrap_or(Value::String(text))
    }
}

/// Writes the whole numbers of a JSON body as integers; `None` if there is nothing to change.
fn with_plain_integers(body: &[u8]) -> Option<Vec<u8>> {
    fn rewrite(value: &mut Value) -> bool {
        match value {
            Value::Number(number) if number.is_f64() => {
                let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 2_f64.powi(63));
                #[allow(clippy::cast_possible_truncation, reason = "it is whole and within the range")]
                let Some(whole) = whole.map(|float| float as i64) else { return false };
                *number = whole.into();
                true
            }
            // `any` would stop at the first.
            Value::Array(list) => list.iter_mut().map(rewrite).fold(false, |any, one| any | one),
            Value::Object(members) => members.values_mut().map(rewrite).fold(false, |any, one| any | one),
            _ => false,
        }
    }
    let mut value = serde_json::from_slice(body).ok()?;
    rewrite(&mut value).then(|| value.to_string().into_bytes())
}

fn collect(validator: &Validator, value: &Value, location: &[&str], errors: &mut Vec<FieldError>) {
    for error in validator.iter_errors(value) {
        let path = error.instance_path().to_string();
        let loc = location.iter().copied().chain(path.split('/').skip(1));
        let keyword = error.schema_path().to_string();
        let keyword = keyword.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap_or_default();
        errors.push(FieldError::new(loc, keyword, error.to_string()));
    }
}
