//! The SQL limits of a plugin, for each statement, its connections and its disk. The defaults are settings of the host;
//! a release has the values of its grant.
//!
//! Enforced by `result_budget` (rows and bytes), `connection_pool` (connections), `sqlite::control` and
//! `postgres::backend` (time), `sqlite::connection` and `postgres::disk_usage` (disk).

use std::time::Duration;

use crate::config;

/// The SQL limits of a plugin.
#[derive(Debug, Clone)]
pub struct StatementLimits {
    /// Rows of one result (in a batch: of all results together).
    pub rows: usize,
    /// Bytes of one result, and of one statement's parameters.
    pub bytes: usize,
    /// Time of one statement; also the longest wait for a connection.
    pub time: Duration,
    /// Connections of one plugin.
    pub connections: u32,
    /// Bytes of disk that the database may use. Does not apply to migrations.
    pub disk: u64,
}

impl From<&config::Plugins> for StatementLimits {
    fn from(config: &config::Plugins) -> Self {
        Self {
            rows: config.sql_rows,
            bytes: config.sql_bytes,
            time: config.sql_time,
            connections: config.sql_connections.max(1),
            disk: config.sql_disk_bytes,
        }
    }
}
