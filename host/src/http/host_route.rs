//! A route of the host: declared like a route of a plugin, and handled by a function.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::call::Call;
use super::reply::Reply;
use crate::error::{Error, Result};
use crate::permission::HostPermission;
use crate::route::Access;

/// The work of a handler.
type Work<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The function that handles the requests to a route. `S` is the state that is passed to it.
pub enum RouteHandler<S> {
    /// Returns a response that is complete in memory.
    Reply(Arc<dyn Fn(Arc<S>, Call) -> Work<Reply> + Send + Sync>),
    /// Returns a response whose body comes into being while it is sent.
    Stream(Arc<dyn Fn(Arc<S>, Call) -> Work<Response> + Send + Sync>),
}

/// A route of the host: its path, access, input and handler. `S` is the state that is passed to handlers.
pub struct HostRoute<S> {
    /// Upper-case HTTP method.
    pub method: &'static str,
    /// Absolute path template.
    pub path: &'static str,
    /// The required access.
    pub access: Access,
    /// Whether the OpenAPI document contains it.
    pub documented: bool,
    /// Maximum size of a raw body. `None` means the limit of the server.
    pub body_limit: Option<usize>,
    /// Handles the request.
    pub handler: RouteHandler<S>,
    declare: Vec<Declaration>,
    operation: Map<String, Value>,
}

type Declaration = Box<dyn Fn(&mut SchemaGenerator, &mut Map<String, Value>) + Send + Sync>;

impl<S: Send + Sync + 'static> HostRoute<S> {
    /// Declares a route that requires a signed-in caller. Other methods change the access.
    pub fn new<F, A>(method: &'static str, path: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply>> + Send + 'static,
    {
        Self::with(method, path, RouteHandler::Reply(Arc::new(move |host, call| Box::pin(handler(host, call)))))
    }

    /// Declares a `GET` route whose response is a stream.
    pub fn stream<F, A>(path: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response>> + Send + 'static,
    {
        Self::with("GET", path, RouteHandler::Stream(Arc::new(move |host, call| Box::pin(handler(host, call)))))
    }

    fn with(method: &'static str, path: &'static str, handler: RouteHandler<S>) -> Self {
        Self {
            method,
            path,
            access: Access::Authenticated,
            documented: true,
            body_limit: None,
            handler,
            declare: Vec::new(),
            operation: Map::new(),
        }
    }

    /// Declares a `GET` route.
    pub fn get<F, A>(path: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply>> + Send + 'static,
    {
        Self::new("GET", path, handler)
    }

    /// Declares a `POST` route.
    pub fn post<F, A>(path: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply>> + Send + 'static,
    {
        Self::new("POST", path, handler)
    }

    /// Declares a `PATCH` route.
    pub fn patch<F, A>(path: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply>> + Send + 'static,
    {
        Self::new("PATCH", path, handler)
    }

    /// Declares a `PUT` route.
    pub fn put<F, A>(path: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply>> + Send + 'static,
    {
        Self::new("PUT", path, handler)
    }

    /// Declares a `DELETE` route.
    pub fn delete<F, A>(path: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply>> + Send + 'static,
    {
        Self::new("DELETE", path, handler)
    }

    /// Allows everybody to call the route.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.access = Access::Public;
        self
    }

    /// Allows only callers with this permission of the host to call the route.
    #[must_use]
    pub fn permission(mut self, permission: HostPermission) -> Self {
        self.access = Access::Host(permission);
        self
    }

    /// Allows only users by a session of their own to call the route, and no API key.
    #[must_use]
    pub fn session(mut self) -> Self {
        self.access = Access::Session;
        self
    }

    /// Runs the handler in its own task, so that a client that disconnects cannot leave the work half done. A stream ends
    /// with its client all the same: the handler only begins it.
    #[must_use]
    pub fn run_to_completion(mut self) -> Self {
        self.handler = match self.handler {
            RouteHandler::Reply(handler) => {
                RouteHandler::Reply(Arc::new(move |host, call| in_own_task(handler(host, call))))
            }
            RouteHandler::Stream(handler) => {
                RouteHandler::Stream(Arc::new(move |host, call| in_own_task(handler(host, call))))
            }
        };
        self
    }

    /// Leaves the route out of the OpenAPI document.
    #[must_use]
    pub fn undocumented(mut self) -> Self {
        self.documented = false;
        self
    }

    /// Sets tag, function name and summary. The operation id is `<tag>-<function>`.
    #[must_use]
    pub fn named(mut self, tag: &str, function: &str, summary: &str) -> Self {
        self.operation.insert("tags".into(), json!([tag]));
        self.operation.insert("summary".into(), json!(summary));
        self.operation.insert("operationId".into(), json!(format!("{tag}-{function}")));
        self
    }

    /// Sets the description in the OpenAPI document.
    #[must_use]
    pub fn described(mut self, description: &str) -> Self {
        self.operation.insert("description".into(), json!(description));
        self
    }

    /// Declares a path parameter of type `T`.
    #[must_use]
    pub fn path<T: JsonSchema>(self, name: &'static str) -> Self {
        self.declaring(move |generator, operation| {
            let schema = generator.subschema_for::<T>();
            push_parameter(operation, json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        })
    }

    /// Declares the members of `T` as query parameters.
    #[must_use]
    pub fn query<T: JsonSchema>(self) -> Self {
        self.declaring(|generator, operation| {
            let schema = T::json_schema(generator);
            let required: Vec<&str> = schema
                .get("required")
                .and_then(Value::as_array)
                .map(|names| names.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            for (name, member) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let required = required.contains(&name.as_str());
                push_parameter(
                    operation,
                    json!({ "name": name, "in": "query", "required": required, "schema": member }),
                );
            }
        })
    }

    /// Declares a required JSON body of type `T`.
    #[must_use]
    pub fn json<T: JsonSchema>(self) -> Self {
        self.body::<T>("application/json")
    }

    /// Declares a required form body of type `T`, URL-encoded or multipart.
    #[must_use]
    pub fn form<T: JsonSchema>(self) -> Self {
        self.body::<T>("application/x-www-form-urlencoded")
    }

    fn body<T: JsonSchema>(self, content_type: &'static str) -> Self {
        self.declaring(move |generator, operation| {
            let schema = generator.subschema_for::<T>();
            operation.insert(
                "requestBody".into(),
                json!({ "required": true, "content": { content_type: { "schema": schema } } }),
            );
        })
    }

    /// Declares a raw body of at most `limit` bytes, which is read after the access check.
    #[must_use]
    pub fn raw(mut self, content_type: &'static str, limit: usize) -> Self {
        self.body_limit = Some(limit);
        self.operation.insert("requestBody".into(), json!({ "required": true, "content": { content_type: {} } }));
        self
    }

    /// Declares a further content type of a raw body, with the schema of its content. The handler parses it.
    #[must_use]
    pub fn or_raw(mut self, content_type: &'static str, schema: Value) -> Self {
        let body = self.operation.get_mut("requestBody").and_then(|body| body.get_mut("content"));
        if let Some(content) = body.and_then(Value::as_object_mut) {
            content.insert(content_type.to_owned(), json!({ "schema": schema }));
        }
        self
    }

    /// Declares the content of a successful response with status 200.
    #[must_use]
    pub fn replies<T: JsonSchema>(self) -> Self {
        self.replies_with::<T>(200)
    }

    /// Declares the content of a successful response with the given status.
    #[must_use]
    pub fn replies_with<T: JsonSchema>(self, status: u16) -> Self {
        self.declaring(move |generator, operation| {
            let schema = generator.subschema_for::<T>();
            operation.insert(
                "responses".into(),
                json!({ status.to_string(): {
                    "description": "Successful Response",
                    "content": { "application/json": { "schema": schema } },
                } }),
            );
        })
    }

    /// Declares a successful response without content, besides those that are declared before.
    #[must_use]
    pub fn replies_empty(self, status: u16) -> Self {
        self.declaring(move |_, operation| {
            let responses = operation.entry("responses").or_insert_with(|| json!({}));
            if let Value::Object(responses) = responses {
                responses.insert(status.to_string(), json!({ "description": "Successful Response" }));
            }
        })
    }

    /// Declares a successful response with the status 200 whose content is a text of this type.
    #[must_use]
    pub fn replies_text(mut self, content_type: &'static str) -> Self {
        let content = json!({ content_type: { "schema": { "type": "string" } } });
        let response = json!({ "description": "Successful Response", "content": content });
        self.operation.insert("responses".into(), json!({ "200": response }));
        self
    }

    /// Returns the OpenAPI operation object. The schemas that it refers to are added to `generator`.
    pub fn operation(&self, generator: &mut SchemaGenerator) -> Value {
        let mut operation = self.operation.clone();
        for declare in &self.declare {
            declare(generator, &mut operation);
        }
        Value::Object(operation)
    }

    fn declaring(
        mut self,
        declare: impl Fn(&mut SchemaGenerator, &mut Map<String, Value>) + Send + Sync + 'static,
    ) -> Self {
        self.declare.push(Box::new(declare));
        self
    }
}

fn in_own_task<T: Send + 'static>(work: Work<T>) -> Work<T> {
    Box::pin(async move {
        let ended = tokio::spawn(work).await;
        ended.map_err(|error| Error::internal("a handler did not run to completion").with_source(error))?
    })
}

fn push_parameter(operation: &mut Map<String, Value>, parameter: Value) {
    let parameters = operation.entry("parameters").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = parameters {
        list.push(parameter);
    }
}
