//! The contract of a route, without HTTP: its path template, the callers that may use it, and the schemas of its input.
//!
//! Treats the host's own routes and the plugins' alike: `route::table` finds them by path, `route::operation` compiles
//! an OpenAPI operation into validators (`route::schemas`), and `route::finding` describes the input that they refuse.
//! `route::payload` checks payloads that belong to no route.
//! Never names a status code, a plugin or a handler.

mod bounded_json;
pub mod finding;
pub mod integers;
pub mod json_size;
mod nul;
pub mod operation;
pub mod payload;
pub mod scalar;
mod schema_bounds;
pub mod schemas;
pub mod table;
pub mod template;
mod unique;

pub use operation::{BodyKind, Inputs, Operation};
pub use schemas::Schemas;
pub use table::{Match, RouteTable};
pub use template::Template;

use crate::permission::HostPermission;

/// The callers that may use a route.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// All callers.
    Public,
    /// Any signed-in caller.
    Authenticated,
    /// Callers with this permission of the plugin, without the plugin's name. Superusers have all permissions.
    Permission(String),
    /// Superusers.
    Superuser,
    /// Callers with this permission of the host. Only routes of the host have it.
    #[serde(skip)]
    Host(HostPermission),
    /// Users by a session of their own, and no API key. Only routes of the host have it.
    #[serde(skip)]
    Session,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Permission(name) => write!(f, "permission {name}"),
            Self::Superuser => f.write_str("superuser"),
            Self::Host(permission) => write!(f, "permission {permission}"),
            Self::Session => f.write_str("session"),
        }
    }
}
