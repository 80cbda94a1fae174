//! Declarations: the name, version, routes, schemas, permissions, settings schema, events and jobs of a component. The host
//! asks for the declaration once at deploy, checks it here, and keeps it with the release. `declared_messages` checks the
//! part about events and jobs.
//!
//! The component declares in an instance that has entered no capability, so its declaration cannot depend on data, on a
//! caller or on the date.

use serde_json::{Map, Value};

use super::artifact::{invalid, printable};
use super::declared_json::{DeclaredJson, check_length, parse};
use super::declared_messages::{self, DeclaredRoles};
use super::interface::describe::exports::wharf::plugin::{descriptor, http};
use super::schema_compatibility::MigrationStep;
use crate::capability::DeclaredMessages;
use crate::db::plugin_data::Migration;
use crate::error::Result;
use crate::route::template::InvalidTemplate;
use crate::route::{Access, Template};

/// The maximum number of routes of one plugin.
const MAX_ROUTES: usize = 256;
/// The maximum number of schemas of one plugin.
const MAX_SCHEMAS: usize = 1024;
/// The maximum number of permissions of one plugin.
const MAX_PERMISSIONS: usize = 128;
/// The maximum length of the summary in bytes.
const MAX_SUMMARY: usize = 1024;
/// Methods that a plugin may serve; the host serves the others.
const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE"];

/// The checked declaration of a component.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Declaration {
    /// The name that the plugin suggests for itself.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// The purpose of the plugin.
    pub summary: String,
    /// Permissions that it checks.
    pub permissions: Vec<Permission>,
    /// JSON Schema of its settings.
    pub settings_schema: Option<Value>,
    /// Routes below the mount.
    pub routes: Vec<DeclaredRoute>,
    /// Schemas that routes refer to: an object with one member for each.
    schemas: DeclaredJson,
    /// Events and jobs. Earlier versions stored none.
    #[serde(default)]
    pub messages: DeclaredMessages,
}

/// A permission a plugin defines.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Permission {
    /// The name, without the plugin's name.
    pub name: String,
    /// The actions that it permits.
    pub summary: String,
}

/// A route as declared.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DeclaredRoute {
    /// Upper-case HTTP method.
    pub method: String,
    /// Path below the mount.
    pub path: Template,
    /// The callers that may call it.
    pub access: Access,
    /// OpenAPI operation object.
    pub operation: DeclaredJson,
    /// Whether and how the host caches responses.
    pub cache: Option<CachePolicy>,
}

/// How the host caches the responses of a route.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CachePolicy {
    /// How long they are fresh.
    pub ttl_ms: u32,
    /// Whether responses differ by caller.
    pub per_caller: bool,
    /// Tags by which the plugin invalidates them.
    pub tags: Vec<String>,
}

/// A migration as a component declares it.
pub(super) struct DeclaredMigration {
    pub(super) step: MigrationStep,
    pub(super) sql: String,
}

impl DeclaredMigration {
    /// Returns it as the database applies it.
    pub(super) fn to_migration(&self) -> Migration {
        Migration { name: self.step.name.clone(), sql: self.sql.clone() }
    }
}

impl Declaration {
    /// Returns the schemas that routes refer to, by name.
    pub fn schemas(&self) -> Map<String, Value> {
        match self.schemas.value() {
            Value::Object(schemas) => schemas,
            _ => Map::new(),
        }
    }

    /// Returns the names of its permissions, without the plugin's name.
    pub fn permission_names(&self) -> Vec<String> {
        self.permissions.iter().map(|permission| permission.name.to_string()).collect()
    }

    /// Checks the declaration that a component returned.
    ///
    /// # Errors
    /// The first part of it that is not valid.
    pub(super) fn check(
        descriptor: descriptor::PluginDescriptor,
        api: http::Api,
        roles: DeclaredRoles,
    ) -> Result<Self> {
        semver::Version::parse(&descriptor.version).map_err(|error| {
            invalid(format!("its version '{}' is not a semantic version: {error}", printable(&descriptor.version)))
        })?;
        if descriptor.summary.len() > MAX_SUMMARY {
            return Err(invalid(format!("its summary is longer than {MAX_SUMMARY} bytes")));
        }
        if descriptor.permissions.len() > MAX_PERMISSIONS {
            return Err(invalid(format!("it declares more than {MAX_PERMISSIONS} permissions")));
        }
        let permissions: Vec<Permission> = descriptor
            .permissions
            .into_iter()
            .map(|permission| Permission { name: permission.name, summary: printable(&permission.summary) })
            .collect();
        for (index, permission) in permissions.iter().enumerate() {
            // Permission names have the syntax of plugin names.
            if permission.name.parse::<crate::id::PluginName>().is_err() {
                return Err(invalid(format!("'{}' is not a permission's name", printable(&permission.name))));
            }
            if permissions.iter().take(index).any(|earlier| earlier.name == permission.name) {
                return Err(invalid(format!("it declares the permission '{}' twice", permission.name)));
            }
        }
        let operations = api.routes.iter().map(|route| route.operation.len());
        let schemas = api.schemas.iter().map(|(_, text)| text.len());
        let settings = descriptor.settings_schema.as_ref().map(String::len);
        check_length(operations.chain(schemas).chain(settings).chain(roles.json_lengths()))?;
        let settings_schema = descriptor.settings_schema.map(|text| parse(&text, "its settings schema")).transpose()?;
        if api.routes.is_empty() {
            return Err(invalid("it declares no route"));
        }
        if api.routes.len() > MAX_ROUTES || api.schemas.len() > MAX_SCHEMAS {
            return Err(invalid(format!("it declares more than {MAX_ROUTES} routes or {MAX_SCHEMAS} schemas")));
        }
        let mut schemas = Map::new();
        for (name, text) in api.schemas {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                return Err(invalid(format!("'{}' is not a schema's name", printable(&name))));
            }
            let schema = parse(&text, &format!("schema '{name}'"))?;
            if schemas.insert(name.clone(), schema).is_some() {
                return Err(invalid(format!("it declares the schema '{name}' twice")));
            }
        }
        let routes = api
            .routes
            .into_iter()
            .map(|route| DeclaredRoute::check(route, &permissions))
            .collect::<Result<Vec<_>>>()?;
        let is_permission = |name: &str| permissions.iter().any(|permission| permission.name == name);
        let messages = declared_messages::check(roles, is_permission)?;
        Ok(Self {
            name: descriptor.name,
            version: descriptor.version,
            summary: printable(&descriptor.summary),
            permissions,
            settings_schema,
            routes,
            schemas: DeclaredJson::of(&Value::Object(schemas)),
            messages,
        })
    }
}

impl DeclaredRoute {
    fn check(route: http::Route, permissions: &[Permission]) -> Result<Self> {
        let here = format!("route {} {}", printable(&route.method), printable(&route.path));
        if !METHODS.contains(&route.method.as_str()) {
            return Err(invalid(format!("{here}: the method is not one of {}", METHODS.join(", "))));
        }
        let path: Template = route
            .path
            .parse()
            .map_err(|error: InvalidTemplate| invalid(format!("{here}: {}", printable(&error.to_string()))))?;
        let access = match route.access {
            http::Access::Public => Access::Public,
            http::Access::Authenticated => Access::Authenticated,
            http::Access::Superuser => Access::Superuser,
            http::Access::Permission(name) => {
                if !permissions.iter().any(|permission| permission.name == name) {
                    return Err(invalid(format!("{here}: permission '{}' is not declared", printable(&name))));
                }
                Access::Permission(name)
            }
        };
        let cache = route.cache.map(|policy| CachePolicy {
            ttl_ms: policy.ttl_ms,
            per_caller: policy.per_caller,
            tags: policy.tags,
        });
        if cache.is_some() && route.method != "GET" {
            return Err(invalid(format!("{here}: only responses to GET can be cached")));
        }
        if let Some(policy) = &cache
            && (policy.tags.len() > crate::cache::MAX_TAGS
                || policy.tags.iter().any(|tag| tag.len() > crate::cache::MAX_TAG))
        {
            return Err(invalid(format!("{here}: too many or too long cache tags")));
        }
        let operation = DeclaredJson::of(&parse(&route.operation, &format!("{here}: its operation"))?);
        Ok(Self { method: route.method, path, access, operation, cache })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::declared_json::MAX_NESTING;

    fn check(path: &str, operation: &str) -> Result<Declaration> {
        let descriptor = descriptor::PluginDescriptor {
            name: "items".to_owned(),
            version: "1.0.0".to_owned(),
            summary: String::new(),
            permissions: Vec::new(),
            settings_schema: None,
        };
        let route = http::Route {
            method: "GET".to_owned(),
            path: path.to_owned(),
            access: http::Access::Public,
            operation: operation.to_owned(),
            cache: None,
        };
        let api = http::Api { routes: vec![route], schemas: Vec::new() };
        Declaration::check(descriptor, api, DeclaredRoles::default())
    }

    #[test]
    fn an_accepted_declaration_is_readable_again_at_the_maximum_nesting() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let declaration = check("/", &nested(MAX_NESTING - 1)).unwrap();
        let stored = serde_json::to_string(&declaration).unwrap();
        assert_eq!(serde_json::from_str::<Declaration>(&stored).unwrap(), declaration);
        for levels in [MAX_NESTING, 125] {
            let refused = check("/", &nested(levels)).unwrap_err();
            assert!(refused.public().ends_with("is nested deeper than 64 levels"), "{}", refused.public());
        }
    }

    #[test]
    fn operations_and_schemas_beyond_the_maximum_length_are_refused() {
        let of = |length: usize| format!("{{\"description\":\"{}\"}}", "x".repeat(length));
        let limit = 1024 * 1024;
        assert!(check("/", &of(limit - 100)).is_ok());
        let refused = check("/", &of(limit)).unwrap_err();
        assert!(refused.public().ends_with("are longer than 1048576 bytes together"), "{}", refused.public());
    }

    #[test]
    fn a_refusal_is_one_line_without_control_characters() {
        for path in ["/a\r\nb", "/\x1b[2J", "a\nb", "/{a\n}"] {
            let refused = check(path, "{}").unwrap_err();
            assert!(!refused.public().chars().any(char::is_control), "{:?}", refused.public());
        }
    }
}
