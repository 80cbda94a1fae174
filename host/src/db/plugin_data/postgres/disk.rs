//! How much disk a plugin's schema takes. PostgreSQL has no quota for a role, so it is measured before a statement that may
//! make it larger, unless that was done just now: the less is left, the sooner it is measured again. What one statement
//! writes is bounded by its time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgPool};

use super::role;
use crate::db::plugin_data::DataError;
use crate::db::plugin_data::value::Limits;
use crate::id::PluginName;

/// More than one plugin writes in a second, so that what is left at a measurement lasts until the next.
const BYTES_PER_SECOND: u64 = 256 * 1024 * 1024;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// A table that somebody holds for himself cannot be measured now.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tables with their indexes and what they keep aside; partitions count by themselves.
const MEASURE: &str = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
                       WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'm')";

/// The disk of one plugin.
pub(super) struct Disk {
    host: PgPool,
    schema: String,
    measured: Mutex<Option<Measured>>,
    /// One at a time.
    measuring: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy)]
struct Measured {
    bytes: u64,
    until: Instant,
}

impl Disk {
    pub(super) fn of(host: &PgPool, plugin: &PluginName) -> Self {
        Self {
            host: host.clone(),
            schema: role::schema(plugin),
            measured: Mutex::default(),
            measuring: tokio::sync::Mutex::default(),
        }
    }

    /// What was measured last.
    pub(super) fn known(&self) -> Option<u64> {
        self.measured().as_ref().map(|measured| measured.bytes)
    }

    /// Lets a statement through that may take more.
    ///
    /// # Errors
    /// It takes as much as it may, or nobody knows how much it takes.
    pub(super) async fn admit(&self, limits: &Limits) -> Result<(), DataError> {
        let bytes = match self.measured_lately() {
            Some(bytes) => bytes,
            None => self.measure(limits.disk).await.ok_or(DataError::Unavailable)?,
        };
        if bytes < limits.disk { Ok(()) } else { Err(DataError::disk(limits)) }
    }

    fn measured_lately(&self) -> Option<u64> {
        self.measured().filter(|measured| measured.until > Instant::now()).map(|measured| measured.bytes)
    }

    /// What it takes now, or took when that could be found out last.
    async fn measure(&self, limit: u64) -> Option<u64> {
        let turn = match (self.measuring.try_lock(), self.known()) {
            (Ok(turn), _) => turn,
            // Somebody else does so.
            (Err(_), Some(bytes)) => return Some(bytes),
            (Err(_), None) => self.measuring.lock().await,
        };
        if let Some(bytes) = self.measured_lately() {
            return Some(bytes);
        }
        let (bytes, lasts) = match self.ask().await {
            Ok(bytes) => {
                let left = limit.saturating_sub(bytes);
                let lasts = Duration::from_millis(left.saturating_mul(1_000) / BYTES_PER_SECOND);
                (bytes, lasts.clamp(SHORTEST, LONGEST))
            }
            Err(error) => {
                tracing::warn!(schema = self.schema, error = &error as &dyn std::error::Error, "its size is not known");
                (self.known()?, PATIENCE)
            }
        };
        *self.measured() = Some(Measured { bytes, until: Instant::now() + lasts });
        drop(turn);
        Some(bytes)
    }

    /// Ended by the server, so that it keeps no connection of the host's.
    async fn ask(&self) -> sqlx::Result<u64> {
        let mut transaction = self.host.begin().await?;
        let patience = format!("SET LOCAL statement_timeout = {}", PATIENCE.as_millis());
        sqlx::raw_sql(AssertSqlSafe(patience)).execute(&mut *transaction).await?;
        let bytes: i64 = sqlx::query_scalar(MEASURE).bind(&self.schema).fetch_one(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    fn measured(&self) -> std::sync::MutexGuard<'_, Option<Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
