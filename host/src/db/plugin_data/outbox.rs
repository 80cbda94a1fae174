//! The outbox of a plugin: messages in its own database, which the host takes out after their commit. A message is there
//! if and only if the transaction that appended it was committed. Owns the table `_wharf_outbox`, which no SQL of the
//! plugin reaches, and the interface to it. Does not know the meaning of a message.
//!
//! The ids of messages in one lane have the order of their commits, and no id is used twice. On SQLite there is one
//! writer, so this holds for all messages. On PostgreSQL the transactions of a lane take turns.
//!
//! The host reads on a connection of its own, beyond the plugin's limit. So a plugin whose connections are all in use
//! does not hold its messages up. Deleting does the same on PostgreSQL. On SQLite it takes its turn on the connection
//! that writes, because a file has one writer; until then, the messages are read again.

use std::sync::Arc;

use super::error::DataError;
use super::postgres::Postgres;
use super::{Engine, OpenTransaction, PluginData, PluginDatabase, Storage, Transaction};
use crate::error::{Error, Result};
use crate::id::PluginName;

/// The maximum bytes of the messages that are read together, unless one alone has more.
pub(super) const MAX_BYTES: i64 = 4 * 1024 * 1024;

pub(super) const INSERT: &str = "INSERT INTO _wharf_outbox (text) VALUES ($1)";

/// Reads the oldest messages: at most `$1`, and after the first only while those before have fewer than `$2` bytes.
pub(super) const READ: &str = "SELECT id, text FROM _wharf_outbox WHERE id IN (\
     SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS bytes_before \
     FROM (SELECT id, octet_length(text) AS bytes FROM _wharf_outbox ORDER BY id LIMIT $1) AS oldest) AS counted \
     WHERE bytes_before < $2) ORDER BY id";

/// A message of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// The id in the outbox of the plugin.
    pub id: i64,
    /// The message.
    pub text: String,
}

impl PluginDatabase {
    /// Appends a message to the plugin's outbox, in a transaction of its own.
    ///
    /// # Errors
    /// See the cases of [`DataError`]. [`DataError::Conflict`] if an open transaction has appended in the lane, or is the
    /// writer of the SQLite file, and stays open too long.
    pub async fn append_message(&self, lane: Option<&str>, text: String) -> Result<(), DataError> {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.append_message(&self.limits, text).await,
            Engine::Postgres(postgres) => postgres.append_message(&self.limits, lane, &text).await,
        }
    }
}

impl Transaction {
    /// Appends a message to the plugin's outbox when the transaction is committed. Other transactions of the lane wait
    /// from now on until this one ends. On SQLite the commit writes the message: until then it takes memory of the host
    /// ([`Transaction::message_memory`]), for which the caller has a bound.
    ///
    /// # Errors
    /// As [`PluginDatabase::append_message`]. The transaction has failed then. On SQLite only that it had failed before:
    /// the commit has the other errors.
    pub async fn append_message(&mut self, lane: Option<&str>, text: String) -> Result<(), DataError> {
        match &mut self.0 {
            OpenTransaction::Sqlite(transaction) => transaction.append_message(text),
            OpenTransaction::Postgres(transaction) => transaction.append_message(lane, &text).await,
        }
    }

    /// Returns the bytes of the host's memory that messages take until the end of the transaction. PostgreSQL has them
    /// already.
    pub fn message_memory(&self) -> usize {
        match &self.0 {
            OpenTransaction::Sqlite(transaction) => transaction.message_memory(),
            OpenTransaction::Postgres(_) => 0,
        }
    }
}

impl PluginData {
    /// Returns the oldest messages of a plugin in the order of their ids: at most `limit`, and fewer if they are large.
    /// Returns none if the plugin has no database, and never creates one. Returns none, too, while the plugin's role may
    /// not log in ([`PluginData::forbid_login`]): its messages stay until it may. A file has no logins.
    ///
    /// # Errors
    /// [`DataError::Unavailable`] if the database cannot be reached or does not respond in time.
    pub async fn outbox(&self, plugin: &PluginName, limit: usize) -> Result<Vec<OutboxMessage>, DataError> {
        let Some(database) = self.existing(plugin).await? else { return Ok(Vec::new()) };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        match &database.engine {
            Engine::Sqlite(sqlite) => sqlite.outbox(limit).await,
            Engine::Postgres(postgres) => postgres.outbox(limit).await,
        }
    }

    /// Makes the messages that were read survive the end of the machine, and the changes that they belong to. A commit in a
    /// file does not wait for the disk, so the host could otherwise act on a change that nobody has any more. PostgreSQL
    /// waits by itself.
    ///
    /// # Errors
    /// [`DataError::Unavailable`] if the disk does not confirm it.
    pub async fn make_durable(&self, plugin: &PluginName) -> Result<(), DataError> {
        let Some(database) = self.existing(plugin).await? else { return Ok(()) };
        match &database.engine {
            Engine::Sqlite(sqlite) => sqlite.make_durable().await,
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// Deletes messages of a plugin. Ids of messages that are not there any more have no effect.
    ///
    /// # Errors
    /// The messages are still there: the database cannot be reached, or the plugin's role may not log in, or on SQLite
    /// another transaction stays open too long. The call can be retried.
    pub async fn forget(&self, plugin: &PluginName, ids: &[i64]) -> Result<(), DataError> {
        if ids.is_empty() {
            return Ok(());
        }
        let Some(database) = self.existing(plugin).await? else {
            let is_there = self.exists(plugin).await.map_err(|error| unavailable(plugin, &error))?;
            return if is_there { Err(DataError::Unavailable) } else { Ok(()) };
        };
        match &database.engine {
            Engine::Sqlite(sqlite) => sqlite.forget(ids.to_vec()).await,
            Engine::Postgres(postgres) => postgres.forget(ids.to_vec()).await,
        }
    }

    /// Returns the database of a plugin if it exists and its own connections can reach it.
    async fn existing(&self, plugin: &PluginName) -> Result<Option<Arc<PluginDatabase>>, DataError> {
        if !self.is_reachable(plugin).await.map_err(|error| unavailable(plugin, &error))? {
            return Ok(None);
        }
        let cell = Arc::clone(self.lock().entry(plugin.clone()).or_default());
        match cell.get_or_try_init(|| self.open_existing(plugin)).await {
            Ok(database) => Ok(Some(Arc::clone(database))),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(unavailable(plugin, &error)),
        }
    }

    /// Opens the database for its cell. A deletion takes the same cell first, so the database cannot disappear between
    /// the check and the opening, which would create it again. The error is `None` if there is none.
    async fn open_existing(&self, plugin: &PluginName) -> Result<Arc<PluginDatabase>, Option<Error>> {
        if !self.is_reachable(plugin).await.map_err(Some)? {
            return Err(None);
        }
        let engine = self.create(plugin).await.map_err(Some)?;
        Ok(Arc::new(PluginDatabase { engine, limits: self.limits.clone() }))
    }

    async fn is_reachable(&self, plugin: &PluginName) -> Result<bool> {
        match &self.storage {
            Storage::Files { .. } => self.exists(plugin).await,
            Storage::Schemas { host, .. } => Postgres::accepts_login(host, plugin).await,
        }
    }
}

fn unavailable(plugin: &PluginName, error: &Error) -> DataError {
    tracing::warn!(%plugin, error = error as &dyn std::error::Error, "the outbox of a plugin cannot be reached");
    DataError::Unavailable
}
