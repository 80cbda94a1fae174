//! Tests of `wharf::db`.

mod plugin_data;
