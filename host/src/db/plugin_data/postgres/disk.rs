//! How much disk a plugin's schema takes. PostgreSQL has no quota for a role, so it is measured before a statement that may
//! make it larger, unless that was done just now: the less is left, the sooner it is measured again. What one statement
//! writes is bounded by its time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;

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
}

#[derive(Clone, Copy)]
struct Measured {
    bytes: u64,
    until: Instant,
}

impl Disk {
    pub(super) fn of(host: &PgPool, plugin: &PluginName) -> Self {
        Self { host: host.clone(), schema: role::schema(plugin), measured: Mutex::default() }
    }

    /// What was measured last.
    pub(super) fn known(&self) -> Option<u64> {
        self.measured().as_ref().map(|measured| measured.bytes)
    }

    /// Lets a statement through that may take more.
    ///
    /// # Errors
    /// It takes as much as it may.
    pub(super) async fn admit(&self, limits: &Limits) -> Result<(), DataError> {
        let bytes = match self.to_measure() {
            Some(before) => self.measure(before, limits.disk).await,
            None => self.known().unwrap_or_default(),
        };
        if bytes < limits.disk { Ok(()) } else { Err(DataError::disk(limits)) }
    }

    /// What was known before, if it is time to measure; nobody else does so meanwhile.
    fn to_measure(&self) -> Option<u64> {
        let (mut measured, now) = (self.measured(), Instant::now());
        match &mut *measured {
            Some(measured) if measured.until > now => None,
            Some(measured) => {
                measured.until = now + PATIENCE;
                Some(measured.bytes)
            }
            none => {
                *none = Some(Measured { bytes: 0, until: now + PATIENCE });
                Some(0)
            }
        }
    }

    async fn measure(&self, before: u64, limit: u64) -> u64 {
        let measure = sqlx::query_scalar::<_, i64>(MEASURE).bind(&self.schema).fetch_one(&self.host);
        let bytes = match tokio::time::timeout(PATIENCE, measure).await {
            Ok(Ok(bytes)) => u64::try_from(bytes).unwrap_or_default(),
            // What the statement itself comes to says what is wrong.
            Ok(Err(_)) | Err(_) => before,
        };
        let left = limit.saturating_sub(bytes);
        let lasts = Duration::from_millis(left.saturating_mul(1_000) / BYTES_PER_SECOND).clamp(SHORTEST, LONGEST);
        *self.measured() = Some(Measured { bytes, until: Instant::now() + lasts });
        bytes
    }

    fn measured(&self) -> std::sync::MutexGuard<'_, Option<Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
