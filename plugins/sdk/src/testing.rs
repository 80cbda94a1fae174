//! Stands in for the host in native tests.
pub(crate) mod auth {}
