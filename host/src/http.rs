//! HTTP: the only module that names axum, writes status codes and knows the wire.
//!
//! A request passes one way: `server` (connections, limits) → `dispatch` (route, body, access, validation) → a handler of
//! the host (`http::resource`) or a plugin call → `reply`/`problem` → the wire. Host routes and plugin routes share
//! everything before the handler.

mod access;
mod body;
pub mod body_memory;
pub mod call;
pub mod cors;
pub mod dispatch;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod host_route;
mod lingering_close;
mod openapi;
mod plugin_call;
pub mod problem;
pub mod reply;
pub mod resource;
pub mod server;
pub mod static_files;
pub mod traffic;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::clock::{Clock, Random};
use crate::config::Config;
use crate::db::Db;
use crate::email::Mailer;
use crate::plugin::Registry;

pub use dispatch::Dispatcher;

/// What the host's own handlers work with.
pub struct Host {
    /// Settings, checked at start.
    pub config: Arc<Config>,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// The host's tables.
    pub db: Db,
    /// Identity.
    pub auth: Auth,
    /// Outgoing mail.
    pub mail: Mailer,
    /// The plugins.
    pub plugins: Registry,
    /// Requests that were answered.
    pub traffic: Arc<traffic::Traffic>,
    /// Memory for bodies.
    pub body_memory: body_memory::BodyMemory,
    /// The OpenAPI document.
    pub openapi: openapi::Publisher,
    /// Cancelled when the host begins to stop.
    pub stopping: CancellationToken,
}
