//! OpenAPI operations and JSON Schemas, derived from the types of handlers.
//!
//! This module runs at deploy and in tests, never for a request. The host validates requests against its output and
//! adds the parts that are the same for all routes (security, shared error responses). A mistake that only the schemas
//! show is collected as a text for the author; it never results in an incomplete document.

mod schemas;

pub(crate) use schemas::{FIELD_MARK, Schemas};

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

/// The part of a route that its operation documents.
#[derive(Debug)]
pub(crate) struct Documentation<'a> {
    pub(crate) name: &'a str,
    pub(crate) tag: &'a str,
    pub(crate) summary: &'a str,
    pub(crate) description: &'a str,
    /// The parameters of the path, in its order.
    pub(crate) parameters: &'a [&'a str],
    /// The declared status of success.
    pub(crate) status: Option<u16>,
    pub(crate) smoke: bool,
    /// Whether the host may send a cached response to every caller.
    pub(crate) shared: bool,
}

/// One route's OpenAPI operation while it is written. Extractors and responses add themselves to it.
#[derive(Debug)]
pub struct Operation<'a> {
    route: Documentation<'a>,
    schemas: &'a mut Schemas,
    parameters: Vec<Value>,
    body: Option<Value>,
    response: (u16, Value),
}

impl<'a> Operation<'a> {
    pub(crate) fn new(route: Documentation<'a>, schemas: &'a mut Schemas) -> Self {
        let mut operation = Self { route, schemas, parameters: Vec::new(), body: None, response: (200, Value::Null) };
        operation.set_response(200, None);
        operation
    }

    /// Returns the finished OpenAPI operation object.
    pub(crate) fn finish(self) -> Value {
        let Self { route, parameters, body, response: (status, response), .. } = self;
        let tag = route.tag;
        let mut operation = Map::new();
        operation.insert("tags".to_owned(), json!([tag]));
        operation.insert("summary".to_owned(), json!(route.summary));
        if !route.description.is_empty() {
            operation.insert("description".to_owned(), json!(route.description));
        }
        operation.insert("operationId".to_owned(), json!(format!("{tag}-{}", route.name)));
        if route.smoke {
            operation.insert("x-wharf-smoke".to_owned(), Value::Bool(true));
        }
        if route.shared {
            operation.insert("x-wharf-cache".to_owned(), json!("shared"));
        }
        if !parameters.is_empty() {
            operation.insert("parameters".to_owned(), Value::Array(parameters));
        }
        if let Some(body) = body {
            operation.insert("requestBody".to_owned(), body);
        }
        operation.insert("responses".to_owned(), json!({ status.to_string(): response }));
        Value::Object(operation)
    }

    /// Documents the parameters of the path: one value, a tuple, or a struct with a member for each.
    pub fn path<T: JsonSchema>(&mut self) {
        let schema = self.schemas.input::<T>();
        let names = self.route.parameters;
        if let Some(members) = schema.get("properties").and_then(Value::as_object) {
            if members.len() != names.len() || names.iter().any(|name| !members.contains_key(*name)) {
                let known = members.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let type_name = T::schema_name();
                self.add_error(format!("its `Path<{type_name}>` has the members {known}: not the path's parameters"));
            }
            for name in names {
                self.parameter("path", name, true, members.get(*name).cloned().unwrap_or_default());
            }
            return;
        }
        let elements = match schema.get("prefixItems").and_then(Value::as_array) {
            Some(elements) => elements.clone(),
            None => vec![schema],
        };
        if elements.len() != names.len() {
            self.add_error(format!("its path has {} parameters, its `Path` takes {}", names.len(), elements.len()));
        }
        for (name, element) in names.iter().zip(elements) {
            self.parameter("path", name, true, element);
        }
    }

    /// Documents the query. Each member of the struct is a parameter.
    pub fn query<T: JsonSchema>(&mut self) {
        let schema = self.schemas.input::<T>();
        let Some(members) = schema.get("properties").and_then(Value::as_object) else {
            let type_name = T::schema_name();
            self.add_error(format!("its `Query<{type_name}>` is not a struct with named members"));
            return;
        };
        let required = schema.get("required").and_then(Value::as_array);
        for (name, member) in members {
            let required = required.is_some_and(|required| required.iter().any(|known| known == name));
            self.parameter("query", name, required, member.clone());
        }
    }

    /// Documents a required JSON body.
    pub fn body_json<T: JsonSchema>(&mut self) {
        let schema = self.schemas.input_reference::<T>();
        self.body = Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } }));
    }

    /// Documents a body of another content type, which the plugin gets as received.
    pub fn body(&mut self, content_type: &str) {
        self.body = Some(json!({ "required": true, "content": { content_type: {} } }));
    }

    /// Documents a JSON response.
    pub fn response_json<T: JsonSchema>(&mut self) {
        let schema = self.schemas.output_reference::<T>();
        self.set_response(200, Some(json!({ "application/json": { "schema": schema } })));
    }

    /// Documents a response of another content type.
    pub fn response(&mut self, content_type: &str) {
        self.set_response(200, Some(json!({ content_type: {} })));
    }

    /// Documents a response without a body.
    pub fn response_empty(&mut self) {
        self.set_response(204, None);
    }

    fn set_response(&mut self, default: u16, content: Option<Value>) {
        let status = self.route.status.unwrap_or(default);
        let response = match content {
            Some(content) => json!({ "description": "Successful Response", "content": content }),
            None => json!({ "description": "Successful Response" }),
        };
        self.response = (status, response);
    }

    fn parameter(&mut self, location: &str, name: &str, required: bool, mut schema: Value) {
        let description = schema.as_object_mut().and_then(|schema| schema.shift_remove("description"));
        let mut parameter = json!({ "name": name, "in": location, "required": required, "schema": schema });
        if let (Some(parameter), Some(description)) = (parameter.as_object_mut(), description) {
            parameter.insert("description".to_owned(), description);
        }
        self.parameters.push(parameter);
    }

    fn add_error(&mut self, message: String) {
        self.schemas.add_error(format!("`{}`: {message}", self.route.name));
    }
}
