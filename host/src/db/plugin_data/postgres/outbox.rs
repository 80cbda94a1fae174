//! The outbox in a plugin's schema, which the plugin's role owns: only the checks of a statement's text keep the plugin
//! from it. So the host uses it with the rights of that role, on connections of the role, and never with its own.
//!
//! A transaction takes the lock of a lane before it takes an id, and keeps it until its end. The locks have two numbers,
//! and those of the host have one, so they are never the same. Plugins cannot call the functions that take locks.

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row as _};

use super::backend::Backend;
use super::{LeasedBackend, Postgres, Transaction, error_mapping, of_own_statement, with_deadline};
use crate::db::plugin_data::error::DataError;
use crate::db::plugin_data::outbox::{INSERT, MAX_BYTES, OutboxMessage, READ};
use crate::db::plugin_data::statement_limits::StatementLimits;
use crate::id::PluginName;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _wharf_outbox \
     (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL)";
const EXISTS: &str = "SELECT to_regclass('_wharf_outbox') IS NOT NULL";
const FORGET: &str = "DELETE FROM _wharf_outbox WHERE id = ANY ($1)";

/// The number of locks for the lanes of a plugin. Lanes share them: the server has one table of locks for all, and a
/// transaction may append in any number of lanes.
const LANE_LOCKS: u8 = 128;

/// The lock of the creation of the table.
const CREATION_LOCK: u8 = LANE_LOCKS;

impl Postgres {
    pub(in crate::db::plugin_data) async fn append_message(
        &self,
        limits: &StatementLimits,
        lane: Option<&str>,
        text: &str,
    ) -> Result<(), DataError> {
        self.admit_message(limits).await?;
        let mut leased = self.lease(limits).await?;
        let backend = leased.backend()?;
        if lane.is_none() {
            return insert(backend, text, limits).await;
        }
        with_deadline(limits, backend.begin("BEGIN", limits)).await?;
        // On an error, dropping the connection rolls back.
        self.append(backend, lane, text, limits).await?;
        with_deadline(limits, backend.end("COMMIT", limits)).await
    }

    pub(in crate::db::plugin_data) async fn outbox(&self, limit: i64) -> Result<Vec<OutboxMessage>, DataError> {
        let limits = &self.limits;
        let mut leased = self.lease_outbox().await?;
        let backend = leased.backend()?;
        if !self.has_outbox(backend).await? {
            return Ok(Vec::new());
        }
        let read = backend.query_host(sqlx::query(READ).bind(limit).bind(MAX_BYTES), limits);
        let rows = with_deadline(limits, read).await.map_err(of_own_statement)?;
        let message = |row: &sqlx::postgres::PgRow| {
            Ok::<_, sqlx::Error>(OutboxMessage { id: row.try_get(0)?, text: row.try_get(1)? })
        };
        let messages: Result<Vec<_>, _> = rows.iter().map(message).collect();
        messages.map_err(|error| error_mapping::to_data_error(error, limits))
    }

    pub(in crate::db::plugin_data) async fn forget(&self, ids: Vec<i64>) -> Result<(), DataError> {
        let mut leased = self.lease_outbox().await?;
        let backend = leased.backend()?;
        if !self.has_outbox(backend).await? {
            return Ok(());
        }
        let delete = backend.query_host(sqlx::query(FORGET).bind(ids), &self.limits);
        with_deadline(&self.limits, delete).await.map(drop).map_err(of_own_statement)
    }

    /// Creates the table if it is missing, and checks whether the schema may grow. Waits for no connection of the plugin's
    /// limit: the caller may hold the only one.
    async fn admit_message(&self, limits: &StatementLimits) -> Result<(), DataError> {
        self.outbox_exists.get_or_try_init(|| self.create_outbox()).await?;
        self.disk.admit(limits).await
    }

    /// Creates the table in a transaction of its own: that of the plugin may be rolled back, and until its end all others
    /// would wait. Several nodes may do so at the same time.
    async fn create_outbox(&self) -> Result<(), DataError> {
        let limits = &self.limits;
        let mut leased = self.lease_outbox().await?;
        let backend = leased.backend()?;
        if self.has_outbox(backend).await? {
            return Ok(());
        }
        let lock = lock_sql(&self.plugin, CREATION_LOCK);
        let create = async {
            backend.begin("BEGIN", limits).await?;
            backend.run_host(AssertSqlSafe(lock), limits).await?;
            backend.run_host(CREATE, limits).await?;
            backend.end("COMMIT", limits).await
        };
        with_deadline(limits, create).await.map_err(of_own_statement)
    }

    async fn has_outbox(&self, backend: &mut Backend) -> Result<bool, DataError> {
        if self.outbox_exists.initialized() {
            return Ok(true);
        }
        let limits = &self.limits;
        let rows = with_deadline(limits, backend.query_host(sqlx::query(EXISTS), limits)).await;
        let rows = rows.map_err(of_own_statement)?;
        let Some(row) = rows.first() else { return Err(DataError::Unavailable) };
        row.try_get(0).map_err(|error| error_mapping::to_data_error(error, limits))
    }

    async fn lease_outbox(&self) -> Result<LeasedBackend, DataError> {
        self.lease_from(&self.outbox, &self.limits, DataError::Unavailable).await
    }

    /// Appends a message in the transaction of the connection.
    async fn append(
        &self,
        backend: &mut Backend,
        lane: Option<&str>,
        text: &str,
        limits: &StatementLimits,
    ) -> Result<(), DataError> {
        if let Some(lane) = lane {
            let lock = AssertSqlSafe(lock_sql(&self.plugin, lane_lock(lane)));
            with_deadline(limits, backend.run_host(lock, limits)).await?;
        }
        insert(backend, text, limits).await
    }
}

impl Transaction {
    pub(in crate::db::plugin_data) async fn append_message(
        &mut self,
        lane: Option<&str>,
        text: &str,
    ) -> Result<(), DataError> {
        if self.failed {
            return Err(DataError::failed_transaction());
        }
        // As for a statement of the plugin: if this function ends early, the transaction has failed.
        self.failed = true;
        let limits = self.leased.limits.clone();
        self.database.admit_message(&limits).await?;
        let backend = self.leased.backend()?;
        self.database.append(backend, lane, text, &limits).await?;
        self.failed = false;
        Ok(())
    }
}

async fn insert(backend: &mut Backend, text: &str, limits: &StatementLimits) -> Result<(), DataError> {
    with_deadline(limits, backend.query_host(sqlx::query(INSERT).bind(text), limits)).await.map(drop)
}

/// Returns a statement that takes a lock of a plugin until the end of the transaction.
fn lock_sql(plugin: &PluginName, lock: u8) -> String {
    let digest = Sha256::digest(plugin.as_str().as_bytes());
    let number = digest.first_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes) & i32::MAX);
    format!("SELECT 1 FROM pg_advisory_xact_lock({number}, {lock})")
}

/// Returns the number of the lock of a lane.
fn lane_lock(lane: &str) -> u8 {
    Sha256::digest(lane.as_bytes()).first().map_or(0, |byte| byte % LANE_LOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_has_one_of_the_locks_of_its_plugin() {
        let locks: std::collections::HashSet<u8> = (0..10_000).map(|lane| lane_lock(&lane.to_string())).collect();
        assert_eq!(locks.len(), usize::from(LANE_LOCKS));
        assert!(!locks.contains(&CREATION_LOCK));
        let lock_of = |plugin: &str| lock_sql(&plugin.parse().unwrap(), 1);
        assert_eq!(lock_of("shop"), lock_of("shop"));
        assert_ne!(lock_of("shop"), lock_of("shop-2"));
    }
}
