//! HTTP: the only module that names axum, sets status codes and knows the wire format.
//!
//! A request passes one way: `server` (connections, limits) → `request_head` (target, host, framing) → `dispatch`
//! (route, body, access, validation) → a handler of the host (`http::resource`) or a plugin (`cached_call`,
//! `plugin_call`) → `reply` or `problem` → the client. Host routes and plugin routes share everything before the handler.
//!
//! Limits of requests: connections, headers and times in `server`, URLs in `request_head`, one body in `body` and
//! `content_coding`, all bodies together in `body_memory`, the work on large bodies in `body_work`, open files in
//! `static_files`.

mod accepted_codings;
mod access;
mod body;
pub mod body_memory;
mod body_stages;
pub mod body_work;
mod browser_rules;
mod byte_range;
mod cache_rules;
mod cached_call;
pub mod call;
mod client_origin;
mod compression;
mod conditional;
mod content_coding;
pub mod cors;
pub mod dispatch;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod host_route;
mod lingering_close;
pub mod live_events;
mod matched_route;
mod media_type;
mod openapi;
pub(crate) mod pace;
mod plugin_call;
mod preconditions;
pub mod problem;
mod release_choice;
pub mod reply;
pub mod request_head;
pub mod resource;
pub mod server;
mod session_cookie;
pub mod static_files;
pub mod traffic;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;

use crate::audit::AuditLog;
use crate::auth::{Auth, Oidc};
use crate::clock::{Clock, Random};
use crate::config::{Config, Setting};
use crate::db::Db;
use crate::email::Mailer;
use crate::plugin::Registry;

pub use dispatch::Dispatcher;

/// The services that handlers of the host use.
pub struct Host {
    /// The checked settings.
    pub config: Arc<Config>,
    /// The settings as people see them, each with its source.
    pub settings: Vec<Setting>,
    /// The time of day.
    pub clock: Clock,
    /// The source of randomness.
    pub random: Random,
    /// The host database.
    pub db: Db,
    /// Accounts, sessions and tokens.
    pub auth: Auth,
    /// The audit log.
    pub audit: AuditLog,
    /// Sign-in at OpenID Connect issuers.
    pub oidc: Oidc,
    /// Outgoing mail.
    pub mail: Mailer,
    /// The deployed plugins.
    pub plugins: Arc<Registry>,
    /// Counts of requests and connections.
    pub traffic: Arc<traffic::Traffic>,
    /// The memory limit of request and response bodies.
    pub body_memory: body_memory::BodyMemory,
    /// The work on large request bodies.
    pub body_work: body_work::BodyWork,
    /// The events on their way to clients.
    pub live_events: live_events::LiveEvents,
    /// The OpenAPI document.
    pub openapi: openapi::Publisher,
    /// Whether the host still deploys the plugins that it was started with. It serves meanwhile, and is not ready.
    pub starting: AtomicBool,
    /// Cancelled when the shutdown begins.
    pub stopping: CancellationToken,
}
