//! The SDK for Wharf plugins written in Rust. The author's guide is this crate's `README.md`.
//!
//! ```
//! use wharf_sdk::prelude::*;
//!
//! plugin! { name: "hello", summary: "Says hello", routes: [hello] }
//!
//! /// Greet a person
//! #[get("/{name}", access = public)]
//! fn hello(Path(name): Path<String>) -> Text {
//!     Text(format!("Hello {name}"))
//! }
//! ```
//!
//! The crate turns the interfaces of `wit/` into ordinary Rust. [`extract`] reads requests; [`IntoResponse`] and
//! [`Problem`] produce responses. [`sql`], [`cache`], [`http`], [`log`], [`audit`], [`users`], [`events`], [`jobs`] and
//! [`email`] are the capabilities of the host.
//! `testing` (a feature) stands in for the host in native tests.
//!
//! A component imports only the interfaces that its code calls, and its operator grants only these. The crate never
//! decides about access and never validates inputs. The host does both before a handler runs, from the declarations in
//! attributes and types.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Guide;

#[cfg(any(target_arch = "wasm32", test))]
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, unreachable_pub, reason = "only components allocate with it"))]
mod arena;
mod bindings;
mod field;
mod host;
mod plugin;
mod problem;
mod request;
mod response;
mod task;
mod timestamp;

pub mod audit;
pub mod cache;
pub mod email;
pub mod events;
pub mod extract;
pub mod http;
pub mod jobs;
pub mod log;
pub mod openapi;
pub mod sql;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub mod testing;
pub mod users;

pub use extract::{Authentication, Bytes, Caller, FromRequest, Json, Needs, Path, Query, Settings, Strength, Text};
pub use field::Field;
pub use plugin::Plugin;
pub use problem::{FieldError, Problem};
pub use request::Request;
pub use response::{IntoResponse, Response, Status};
pub use task::TaskError;
pub use timestamp::{NotATimestamp, Timestamp};
pub use uuid::Uuid;
pub use wharf_sdk_macros::{delete, get, job, patch, plugin, post, put, schedule, subscribe, topic};

/// Derives `JsonSchema`. The schema documents a type, and the host validates inputs against it.
pub use schemars;
pub use serde_json;

/// The result of a handler that can refuse a request. The error becomes a problem response.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

/// The names that nearly every plugin uses: `use wharf_sdk::prelude::*;`
pub mod prelude {
    pub use crate::events::Event;
    pub use crate::jobs::Job;
    pub use crate::schemars::{self, JsonSchema};
    pub use crate::{
        Bytes, Caller, Field, FieldError, IntoResponse, Json, Path, Problem, Query, Request, Response, Result,
        Settings, Status, TaskError, Text, Timestamp, Uuid,
    };
    pub use wharf_sdk_macros::{delete, get, job, patch, plugin, post, put, schedule, subscribe, topic};
}

/// For the code that the macros generate.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_arch = "wasm32")]
    pub use crate::__export_cabi_realloc as export_cabi_realloc;
    #[cfg(target_arch = "wasm32")]
    pub use crate::arena::{Arena, reallocate};
    pub use crate::bindings::http_role::{self, export_http};
    pub use crate::bindings::migrations_role::{self, export_migrations};
    pub use crate::bindings::subscriber_role::exports::wharf::events::subscriber::Event as Delivery;
    pub use crate::bindings::subscriber_role::{self, export_subscriber};
    pub use crate::bindings::topics_role::{self, export_topics};
    pub use crate::bindings::worker_role::exports::wharf::jobs::worker::{Missed, Task};
    pub use crate::bindings::worker_role::{self, export_worker};
    pub use crate::events::{EventOutcome, FromDelivery};
    pub use crate::jobs::{FromTask, JobOutcome, new_job};
    pub use crate::plugin::{
        Access, CachePolicy, Component, Exports, JobDeclaration, Migration, Route, ScheduleDeclaration,
        SubscriptionDeclaration, TopicDeclaration, default_payload, input_schema, output_schema,
        permission_is_declared, settings_schema,
    };
}
