//! HTTP: the only module that names axum, writes status codes and knows the wire.
//!
//! A request passes one way: `server` (connections, limits) → `dispatch` (route, body, access, validation) → a handler of
//! the host (`http::resource`) or a plugin call → `reply`/`problem` → the wire. Host routes and plugin routes share
//! everything before the handler.

pub mod call;
pub mod host_route;
pub mod problem;
pub mod reply;
pub mod resource;

use std::sync::Arc;

use crate::auth::Auth;
use crate::clock::{Clock, Random};
use crate::config::Config;
use crate::db::Db;
use crate::email::Mailer;

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
}
