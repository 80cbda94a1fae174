//! The host behind a component: the generated imports under the names that the SDK uses.

pub(crate) use crate::bindings::imports::wharf::{
    auth::caller as auth,
    cache::store as cache,
    config::settings,
    email::outbox as email,
    events::publisher as events,
    http::client as http,
    jobs::queue as jobs,
    log::{audit, log},
    sql::database as sql,
    users::directory as users,
};

/// Returns the current time.
pub(crate) fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Writes a message for the plugin's author to the plugin's log. It needs no capability: the host keeps a component's
/// standard error in that log.
pub(crate) fn diagnostic(message: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    // One write, because each write is a line of the plugin's log. A log that cannot be written cannot be reported
    // either.
    let _ = std::io::stderr().write_all(format!("{message}\n").as_bytes());
}
