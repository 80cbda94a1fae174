//! The OpenAPI 3.1 document of the host and the live plugins.
//!
//! A schema of a plugin keeps its name unless the name is taken by a schema with other content. In that case, it gets
//! the name of the plugin as a prefix, and the references of the plugin follow. `portable` writes all schemas in the form
//! that generators of clients accept.

mod portable;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::session_cookie;
use crate::error::{Error, Result};
use crate::id::PluginName;
use crate::plugin::generation::Generation;
use crate::route::Access;

/// Provides the document of the current generation. Builds it at the first request for it, at most once per generation.
#[derive(Default)]
pub struct Publisher {
    host: Arc<OnceLock<HostDocument>>,
    published: Arc<tokio::sync::Mutex<Option<(u64, Bytes)>>>,
}

impl Publisher {
    /// Sets the part of the host, once.
    pub(super) fn describe_host(&self, document: HostDocument) {
        let _ = self.host.set(document);
    }

    /// Returns the document as JSON. With many plugins it takes long to build, so that is done on a blocking thread. The
    /// thread holds the lock until it has published the document: it outlives a client that leaves, and the next client
    /// waits for it, so that there is never more than one.
    pub(super) async fn document(&self, current: impl FnOnce() -> Arc<Generation>) -> Result<Bytes> {
        let mut published = Arc::clone(&self.published).lock_owned().await;
        let generation = current();
        if let Some((number, document)) = &*published
            && *number == generation.number
        {
            return Ok(document.clone());
        }
        let (number, host) = (generation.number, Arc::clone(&self.host));
        let building = tokio::task::spawn_blocking(move || -> Result<Bytes> {
            let host = host.get().ok_or_else(|| Error::internal("the host's operations are not described yet"))?;
            let document: Bytes = serde_json::to_vec(&host.with(&generation)).map_err(Error::internal)?.into();
            *published = Some((number, document.clone()));
            Ok(document)
        });
        building.await.map_err(|error| Error::internal("the document panicked").with_source(error))?
    }
}

/// The part of the document that does not change while the host runs.
pub(super) struct HostDocument {
    title: String,
    schemas: Map<String, Value>,
    paths: BTreeMap<String, Map<String, Value>>,
}

impl HostDocument {
    /// Builds the part of the host.
    pub(super) fn new<'a>(
        title: &str,
        schemas: Map<String, Value>,
        operations: impl Iterator<Item = (&'static str, &'static str, &'a Access, Value)>,
    ) -> Self {
        let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for (method, path, access, operation) in operations {
            let operation = complete(operation, access, None);
            paths.entry(path.to_owned()).or_default().insert(method.to_ascii_lowercase(), operation);
        }
        Self { title: title.to_owned(), schemas, paths }
    }

    /// Returns the whole document of a generation.
    pub(super) fn with(&self, generation: &Generation) -> Value {
        let mut schemas = self.schemas.clone();
        let mut paths = self.paths.clone();
        // An id that begins with the name of a plugin belongs to that plugin, whichever one is listed first.
        let is_own = |name: &str, id: &str| id.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
        let declared = generation.plugins.live.iter().flat_map(|(name, release)| {
            let ids = release.record.declaration.routes.iter().filter_map(|route| route.operation.operation_id());
            ids.filter(move |id| is_own(name.as_str(), id))
        });
        let reserved: HashSet<String> = declared.collect();
        let mut ids: HashSet<String> = paths.values().flat_map(Map::values).filter_map(id).collect();
        for (name, release) in generation.plugins.live.iter() {
            let own = release.record.declaration.schemas();
            let renamed: BTreeMap<&str, String> = own
                .iter()
                .filter(|(schema, content)| schemas.get(*schema).is_some_and(|taken| taken != *content))
                .map(|(schema, _)| (schema.as_str(), format!("{name}-{schema}")))
                .collect();
            for (schema, content) in &own {
                let mut content = content.clone();
                rename(&mut content, &renamed);
                schemas.insert(renamed.get(schema.as_str()).unwrap_or(schema).clone(), content);
            }
            let mut repeated: BTreeMap<String, usize> = BTreeMap::new();
            for route in &release.record.declaration.routes {
                let mut operation = complete(route.operation.value(), &route.access, Some(name));
                rename(&mut operation, &renamed);
                // Generators name functions by the id. Two plugins may have chosen the same one.
                if let Some(given) = id(&operation) {
                    let (mut unique, count) = (given.clone(), repeated.entry(given.clone()).or_insert(0));
                    while (reserved.contains(&unique) && !is_own(name.as_str(), &unique)) || !ids.insert(unique.clone())
                    {
                        *count += 1;
                        unique =
                            if *count == 1 { format!("{name}-{given}") } else { format!("{name}-{given}-{count}") };
                        if let Some(members) = operation.as_object_mut() {
                            members.insert("operationId".to_owned(), Value::String(unique.clone()));
                        }
                    }
                }
                let template = route.path.below(&release.record.mount);
                // The path of the mount itself ends with a slash, as in FastAPI's template.
                let root = template == release.record.mount;
                let path = if root { format!("{template}/") } else { template.to_string() };
                paths.entry(path).or_default().insert(route.method.to_ascii_lowercase(), operation);
            }
        }
        let nullable = portable::Nullable::find(&schemas);
        for operation in paths.values_mut().flat_map(Map::values_mut) {
            portable::rewrite_operation(operation, &nullable);
        }
        portable::rewrite_components(&mut schemas);
        json!({
            "openapi": "3.1.0",
            "info": { "title": self.title, "version": env!("CARGO_PKG_VERSION") },
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    "OAuth2PasswordBearer": {
                        "type": "oauth2",
                        "flows": { "password": { "scopes": {}, "tokenUrl": "/api/v1/login/access-token" } },
                    },
                    "SessionCookie": {
                        "type": "apiKey",
                        "in": "cookie",
                        "name": session_cookie::SESSION,
                        "description": "The access token of a session, set by a login with `cookie=true`. A request \
                            that changes something must come from a page of this host or of a frontend.",
                    },
                },
            },
        })
    }
}

/// Adds the security requirement, the required access and the problem responses to an operation.
fn complete(mut operation: Value, access: &Access, plugin: Option<&PluginName>) -> Value {
    let Value::Object(object) = &mut operation else { return operation };
    let required = match (access, plugin) {
        (Access::Permission(name), Some(plugin)) => format!("permission {plugin}:{name}"),
        (access, _) => access.to_string(),
    };
    object.insert("x-wharf-access".to_owned(), Value::String(required));
    let takes_input = object.contains_key("parameters") || object.contains_key("requestBody");
    let mut problems = vec![("default", "A problem")];
    if takes_input {
        problems.push(("422", "Validation Error"));
    }
    if *access != Access::Public {
        problems.push(("401", "Not authenticated"));
        object.insert("security".to_owned(), json!([{ "OAuth2PasswordBearer": [] }, { "SessionCookie": [] }]));
    }
    let responses =
        object.entry("responses").or_insert_with(|| json!({ "200": { "description": "Successful Response" } }));
    if let Value::Object(responses) = responses {
        for (status, description) in problems {
            responses.entry(status).or_insert_with(|| {
                json!({ "description": description, "content": { "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" } } } })
            });
        }
    }
    portable::complete_operation(object);
    operation
}

fn id(operation: &Value) -> Option<String> {
    operation.get("operationId").and_then(Value::as_str).map(ToOwned::to_owned)
}

fn rename(value: &mut Value, renamed: &BTreeMap<&str, String>) {
    if renamed.is_empty() {
        return;
    }
    match value {
        Value::Object(object) => {
            for (name, member) in object.iter_mut() {
                let target = match (name.as_str(), &*member) {
                    ("$ref", Value::String(text)) => {
                        text.strip_prefix("#/components/schemas/").and_then(|name| renamed.get(name))
                    }
                    _ => None,
                };
                match target {
                    Some(target) => *member = Value::String(format!("#/components/schemas/{target}")),
                    None => rename(member, renamed),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_document_is_built_to_its_end_after_its_client_has_left() {
        let publisher = Publisher::default();
        publisher.describe_host(HostDocument::new("a title", Map::new(), std::iter::empty()));
        // The client leaves while the document is built.
        let _ = publisher.document(Arc::default).now_or_never();
        let published = publisher.published.lock().await.clone();
        let (_, document) = published.expect("the document was published");
        assert_eq!(publisher.document(Arc::default).await.unwrap(), document);
    }
}
