//! The schemas of a declaration, compiled: one operation for each route, and the check of the settings. A component
//! supplies them, so they are compiled on a blocking thread, and before a deploy takes the change lock. Those of topics and
//! jobs are only checked here: the capabilities compile them for the releases that they admit.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::artifact::{invalid, printable};
use super::declaration::{Declaration, DeclaredRoute};
use super::declared_messages;
use super::release::{CachedRoute, ReleaseRoute};
use crate::error::{Error, Result};
use crate::route::schemas::Validator;
use crate::route::{Operation, Schemas, Template};

/// The maximum number of errors in the settings that a refusal reports.
const MAX_ERRORS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct CompiledSchemas {
    operations: Vec<CompiledOperation>,
    settings: Option<Validator>,
}

/// The operation of one route, and the host's own members of it.
#[derive(Debug)]
struct CompiledOperation {
    operation: Arc<Operation>,
    /// `"x-wharf-cache": "shared"`
    is_shared: bool,
    /// `"x-wharf-smoke": true`
    smoke: bool,
}

impl CompiledSchemas {
    /// Compiles the schemas of a declaration, and returns both.
    ///
    /// # Errors
    /// A schema is not a JSON schema, or exceeds a bound.
    pub(super) async fn of(declaration: Declaration) -> Result<(Declaration, Self)> {
        let compiled = tokio::task::spawn_blocking(move || {
            let compiled = Self::compile(&declaration)?;
            Ok((declaration, compiled))
        });
        compiled.await.map_err(|error| Error::internal("the compiler of schemas panicked").with_source(error))?
    }

    /// Compiles the schemas of a declaration on this thread.
    ///
    /// # Errors
    /// As [`CompiledSchemas::of`].
    pub(super) fn compile(declaration: &Declaration) -> Result<Self> {
        let refuse = |here: String, error: String| invalid(format!("{here}: {}", printable(&error)));
        let mut schemas = Schemas::new(declaration.schemas())
            .map_err(|error| refuse("its schemas are not usable".to_owned(), error.to_string()))?;
        let operation = |route: &DeclaredRoute| -> Result<CompiledOperation> {
            let declared = route.operation.value();
            let operation = Operation::compile(&declared, &mut schemas, &route.path).map_err(|error| {
                let here = format!("route {} {}", route.method, printable(&route.path.to_string()));
                refuse(here, error.to_string())
            })?;
            Ok(CompiledOperation {
                operation: Arc::new(operation),
                is_shared: declared.get("x-wharf-cache").is_some_and(|word| word == "shared"),
                smoke: declared.get("x-wharf-smoke").and_then(Value::as_bool).unwrap_or_default(),
            })
        };
        let operations = declaration.routes.iter().map(operation).collect::<Result<_>>()?;
        let settings = declaration.settings_schema.as_ref().map(settings_validator).transpose()?;
        declared_messages::check_schemas(&declaration.messages)?;
        Ok(Self { operations, settings })
    }

    /// Returns the routes of the declaration below a mount.
    pub(super) fn routes(&self, declaration: &Declaration, mount: &Template) -> Vec<ReleaseRoute> {
        let routes = declaration.routes.iter().zip(&self.operations);
        routes
            .map(|(route, compiled)| ReleaseRoute {
                method: route.method.clone(),
                template: route.path.below(mount),
                access: route.access.clone(),
                operation: Arc::clone(&compiled.operation),
                cache: route.cache.clone().map(|policy| CachedRoute { policy, is_shared: compiled.is_shared }),
                smoke: compiled.smoke && route.method == "GET" && route.path.is_literal(),
            })
            .collect()
    }

    /// Checks the operator's settings against the declared schema.
    ///
    /// # Errors
    /// They do not match, or the plugin takes no settings.
    pub(super) fn check_settings(&self, settings: &Value) -> Result<()> {
        let Some(validator) = &self.settings else {
            let is_empty = settings.as_object().is_some_and(Map::is_empty);
            return if is_empty { Ok(()) } else { Err(invalid("it takes no settings, but some were given")) };
        };
        let mut errors = Vec::new();
        let is_complete = validator.errors(settings, |error| {
            if errors.len() < MAX_ERRORS {
                // The values can be secrets, and the text is kept in the record of the deploy.
                errors.push(format!("{}: {}", error.instance_path(), printable(&error.masked().to_string())));
            }
        });
        if !is_complete {
            errors.push("it takes too long to check them".to_owned());
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(invalid(format!("the settings do not match its schema: {}", errors.join("; "))))
        }
    }
}

fn settings_validator(schema: &Value) -> Result<Validator> {
    let compiled = Schemas::new(Map::new()).and_then(|mut schemas| schemas.validator(schema));
    compiled.map_err(|error| {
        invalid(format!("its settings schema is not a JSON Schema: {}", printable(&error.to_string())))
    })
}
