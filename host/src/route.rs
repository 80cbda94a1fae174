//! What a route promises, without HTTP: its path template, who may call it, and the schemas its input must fit.
//!
//! The host's own routes and the plugins' are the same kind of thing here: `route::table` finds them by path,
//! `route::operation` turns an OpenAPI operation into compiled validators, and `route::finding` words what they refuse.
//! Never names a status code, a plugin or a handler.

pub mod finding;
pub mod operation;
pub mod scalar;
pub mod table;
pub mod template;

pub use operation::{BodyKind, Inputs, Operation};
pub use table::{Match, RouteTable};
pub use template::Template;

/// Who may call a route.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Everybody.
    Public,
    /// Any signed-in caller.
    Authenticated,
    /// Callers with this permission of the plugin, without the plugin's name; superusers have all.
    Permission(String),
    /// Superusers.
    Superuser,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Permission(name) => write!(f, "permission {name}"),
            Self::Superuser => f.write_str("superuser"),
        }
    }
}
