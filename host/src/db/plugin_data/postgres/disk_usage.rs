//! Measures the disk usage of a plugin's schema. PostgreSQL has no quota for a role, so the host measures before a
//! statement that may grow the schema, unless a measurement is still valid: the less space is left, the sooner it
//! expires. The time limit of a statement bounds the amount that it writes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use super::role;
use crate::db::host_pool::PgHostPool;
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::id::PluginName;

/// More bytes than one plugin can write in a second, so that the space left at one measurement lasts until the next.
const BYTES_PER_SECOND: u64 = 256 * 1024 * 1024;
const MIN_VALIDITY: Duration = Duration::from_millis(100);
const MAX_VALIDITY: Duration = Duration::from_secs(10);
/// The time limit of a measurement: a table under an exclusive lock cannot be measured.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// The size of tables with their indexes and TOAST data; partitions are tables of their own.
const MEASURE: &str = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
                       WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'm')";

/// The disk usage of one plugin.
pub(super) struct DiskUsage {
    host: PgHostPool,
    schema: String,
    measured: Mutex<Option<Measurement>>,
    /// Allows one measurement at a time.
    measuring: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy)]
struct Measurement {
    bytes: u64,
    until: Instant,
}

impl DiskUsage {
    pub(super) fn of(host: &PgHostPool, plugin: &PluginName) -> Self {
        Self {
            host: host.clone(),
            schema: role::schema(plugin),
            measured: Mutex::default(),
            measuring: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the latest measurement.
    pub(super) fn known(&self) -> Option<u64> {
        self.lock().as_ref().map(|measured| measured.bytes)
    }

    /// Checks whether a statement may grow the schema.
    ///
    /// # Errors
    /// The schema has reached its limit, or its size is unknown.
    pub(super) async fn admit(&self, limits: &StatementLimits) -> Result<(), DataError> {
        let bytes = match self.recent_measurement() {
            Some(bytes) => bytes,
            None => self.measure(limits.disk).await.ok_or(DataError::Unavailable)?,
        };
        if bytes < limits.disk { Ok(()) } else { Err(DataError::disk(limits)) }
    }

    fn recent_measurement(&self) -> Option<u64> {
        self.lock().filter(|measured| measured.until > Instant::now()).map(|measured| measured.bytes)
    }

    /// Measures the size; returns the latest known size if the measurement fails.
    async fn measure(&self, limit: u64) -> Option<u64> {
        let guard = match (self.measuring.try_lock(), self.known()) {
            (Ok(guard), _) => guard,
            // Another call is measuring.
            (Err(_), Some(bytes)) => return Some(bytes),
            (Err(_), None) => self.measuring.lock().await,
        };
        if let Some(bytes) = self.recent_measurement() {
            return Some(bytes);
        }
        let (bytes, validity) = match self.query_size().await {
            Ok(bytes) => {
                let left = limit.saturating_sub(bytes);
                let validity = Duration::from_millis(left.saturating_mul(1_000) / BYTES_PER_SECOND);
                (bytes, validity.clamp(MIN_VALIDITY, MAX_VALIDITY))
            }
            Err(error) => {
                tracing::warn!(
                    schema = self.schema,
                    error = &error as &dyn std::error::Error,
                    "cannot measure the size of a plugin's schema"
                );
                (self.known()?, QUERY_TIMEOUT)
            }
        };
        *self.lock() = Some(Measurement { bytes, until: Instant::now() + validity });
        drop(guard);
        Some(bytes)
    }

    /// Queries the size. The server ends the query after its time limit, so that it does not block a connection of the
    /// host.
    async fn query_size(&self) -> sqlx::Result<u64> {
        let mut transaction = self.host.begin().await?;
        let query_timeout = format!("SET LOCAL statement_timeout = {}", QUERY_TIMEOUT.as_millis());
        sqlx::raw_sql(AssertSqlSafe(query_timeout)).execute(&mut *transaction).await?;
        let bytes: i64 = sqlx::query_scalar(MEASURE).bind(&self.schema).fetch_one(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Measurement>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
