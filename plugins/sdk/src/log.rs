//! Structured logs. The host adds plugin, release, request id and caller.
//!
//! A plugin that calls these functions asks the operator for `wharf:log`. Panics and [`Problem::internal`] do not need
//! it: they go to standard error, which the host keeps in the plugin's log.
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

/// Writes an entry of any level.
pub fn write(level: Level, message: &str, fields: &Fields<'_>) {
    host::write(level, message, &texts(fields));
}

/// For following a single request.
pub fn trace(message: &str, fields: &Fields<'_>) {
    write(Level::Trace, message, fields);
}

/// For the author.
pub fn debug(message: &str, fields: &Fields<'_>) {
    write(Level::Debug, message, fields);
}

/// For the operator: something happened.
pub fn info(message: &str, fields: &Fields<'_>) {
    write(Level::Info, message, fields);
}

/// For the operator: something is not as it should be, and the request was answered all the same.
pub fn warn(message: &str, fields: &Fields<'_>) {
    write(Level::Warn, message, fields);
}

/// For the operator: something failed.
pub fn error(message: &str, fields: &Fields<'_>) {
    write(Level::Error, message, fields);
}

pub(crate) fn texts(fields: &Fields<'_>) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
}
