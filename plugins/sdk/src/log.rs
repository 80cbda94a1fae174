//! Structured logs. The host adds plugin, release, request id and caller.
//!
//! A plugin that calls these functions needs the grant of `wharf:log`. Panics and [`Problem::internal`] do not need it:
//! they go to standard error, which the host keeps in the plugin's log.
//!
//! [`Problem::internal`]: crate::Problem::internal
//!
//! ```
//! use wharf_sdk::log;
//!
//! log::info("item created", &[("id", &17)]);
//! ```

use std::fmt::Display;

use crate::host::log as host;

pub use crate::bindings::imports::wharf::log::log::Level;

/// Names and values of an entry.
pub type Fields<'a> = [(&'a str, &'a dyn Display)];

/// Writes an entry of the given level.
pub fn write(level: Level, message: &str, fields: &Fields<'_>) {
    host::write(level, message, &texts(fields));
}

/// Writes an entry for following a single request.
pub fn trace(message: &str, fields: &Fields<'_>) {
    write(Level::Trace, message, fields);
}

/// Writes an entry for the author.
pub fn debug(message: &str, fields: &Fields<'_>) {
    write(Level::Debug, message, fields);
}

/// Writes an entry for the operator: an event.
pub fn info(message: &str, fields: &Fields<'_>) {
    write(Level::Info, message, fields);
}

/// Writes an entry for the operator: something is wrong, but the request succeeded.
pub fn warn(message: &str, fields: &Fields<'_>) {
    write(Level::Warn, message, fields);
}

/// Writes an entry for the operator: something failed.
pub fn error(message: &str, fields: &Fields<'_>) {
    write(Level::Error, message, fields);
}

pub(crate) fn texts(fields: &Fields<'_>) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
}
